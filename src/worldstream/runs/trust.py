"""Which environment a run folder may have made unasked: data, or code that this person trained the run with here.

run.json comes from whoever sent the folder. A registered id of an installed package is data. A "module:factory" is
code, and is run when the person types it, or when it is what they trained this run with: then the user's state
directory, never the run folder, holds a record of the module's files. Deciding imports nothing.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import re
import secrets
import site
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import gymnasium

from worldstream.environments.modules import files_of
from worldstream.environments.suites import suite_of
from worldstream.errors import EnvironmentFault, warn
from worldstream.runs.archive import text_digest
from worldstream.runs.folder import RunFolder

_MAKE_ANYTHING = ("GymV21Environment", "GymV26Environment")
"""Registered ids that make whatever environment, from whatever module, their arguments name."""


def require_trusted(folder: RunFolder, description: dict[str, Any]) -> None:
    """Raises EnvironmentFault where making the environment that run.json names could run code of a stranger."""
    name = str(description["environment"])
    if objection := _objection(folder, description, name):
        raise EnvironmentFault(
            f"environment {name!r} is named by {folder.description} and {objection}. If you know that code and want it "
            "to run, name it yourself: --env module:factory."
        )


@dataclass(frozen=True)
class EnvironmentCode:
    """The files of the module that the name of an environment names."""

    name: str
    files: dict[str, str]
    """SHA-256 by path, the packages of the module included; empty for names that are data, modules that cannot be
    found, and factories that the module only imports."""

    @staticmethod
    def of(name: str) -> EnvironmentCode:
        """Look at the files as they are now, before any of them runs."""
        module, colon, attribute = name.partition(":")
        files = files_of(module) if colon else None
        if not files or (attribute.isidentifier() and not _defines(files[-1], attribute)):
            return EnvironmentCode(name, {})
        try:
            return EnvironmentCode(name, {str(file): hashlib.sha256(file.read_bytes()).hexdigest() for file in files})
        except OSError:
            return EnvironmentCode(name, {})

    def remember(self, folder: RunFolder) -> None:
        """Note that this person trains the run with this code, where it is what run.json names."""
        description = folder.read_description()
        if not self.files or self.name != description["environment"]:
            return
        try:
            path = _record(folder, description)
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            temporary = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
            temporary.write_text(json.dumps({"run": str(folder.path), "environment": self.name, "files": self.files}))
            os.replace(temporary, path)
        except (OSError, RuntimeError) as error:
            warn(f"cannot note which code this run is trained with ({error}): evaluating it will need --env.")


def _objection(folder: RunFolder, description: dict[str, Any], name: str) -> str:
    """Why the environment is not made unasked; empty where it is."""
    module, colon, attribute = name.partition(":")
    if not colon:
        return _objection_to_id(folder, name)
    if objection := _objection_to_module(folder, module):
        return objection
    if module == suite_of(name)[1].package:
        return ""
    if not attribute.isidentifier() and (module in sys.modules or _registers_environments(module)):
        return _objection_to_id(folder, attribute)
    try:
        trained_with = json.loads(_record(folder, description).read_bytes())["files"]
    except (OSError, RuntimeError, ValueError, TypeError, KeyError):
        return "is code that you have not trained this run with on this machine"
    code = EnvironmentCode.of(name)
    if not code.files:
        return "is code that is not found here, neither installed nor in the current directory"
    return "" if code.files == trained_with else "is code that was changed after the run was trained"


def _objection_to_id(folder: RunFolder, gym_id: str) -> str:
    """The same of a registered id, or one that a suite claims."""
    if gym_id.startswith(_MAKE_ANYTHING):
        return "makes whatever environment its arguments name"
    entry = gymnasium.registry[gym_id].entry_point if gym_id in gymnasium.registry else None
    module = suite_of(gym_id)[1].package or (entry.partition(":")[0] if isinstance(entry, str) else "")
    return _objection_to_module(folder, module)


def _objection_to_module(folder: RunFolder, module: str) -> str:
    """The same of a module that would be imported: it must not lie in the run folder or below."""
    inside = any(file.is_relative_to(folder.path.resolve()) for file in files_of(module) or ())
    return "would be imported from inside of that folder" if inside else ""


def _registers_environments(module: str) -> bool:
    """Whether importing a module only lets an installed package register its environments: it needs Gymnasium."""
    files, sites = files_of(module), [*site.getsitepackages(), site.getusersitepackages()]
    if "." in module or not files or not any(files[0].is_relative_to(Path(each).resolve()) for each in sites):
        return False
    packages = metadata.packages_distributions().get(module, ())
    needed = [requirement for package in packages for requirement in metadata.requires(package) or ()]
    return any(re.match(r"gymnasium\b", requirement, re.IGNORECASE) for requirement in needed)


def _defines(file: Path, name: str) -> bool:
    """Whether a module defines a function or class itself, rather than importing it from elsewhere."""
    try:
        statements: list[Any] = list(ast.parse(file.read_bytes()).body)
    except (OSError, ValueError, SyntaxError, RecursionError):  # also a compiled module
        return False
    while statements:
        statement = statements.pop()
        if isinstance(statement, ast.FunctionDef | ast.ClassDef):
            if statement.name == name:
                return True
        else:  # "if", "try" and "with" hold statements
            statements.extend(ast.iter_child_nodes(statement))
    return False


def _record(folder: RunFolder, description: dict[str, Any]) -> Path:
    """Where it is noted what the run was trained with, by its id, its environment and the arguments of that."""
    key = [folder.run_id, description["environment"], description["config"].get("environment")]
    return _state_folder() / "trained" / f"{text_digest(json.dumps(key, sort_keys=True))}.json"


def _state_folder() -> Path:
    """Where programs keep what they remember for this user."""
    if os.name == "nt":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "worldstream"
    given = Path(os.environ.get("XDG_STATE_HOME", ""))  # a relative one is to be ignored, says its specification
    return (given if given.is_absolute() else Path.home() / ".local" / "state") / "worldstream"
