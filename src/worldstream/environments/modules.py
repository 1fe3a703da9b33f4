"""Where the code of a module lies, found without running any of it, and importing a user's module by name."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType

from worldstream.errors import EnvironmentFault


def files_of(module_name: str) -> list[Path] | None:
    """Files that importing a module by name would run: its packages and itself; None where they cannot be told.

    Nothing is imported: a package's ``__path__`` is taken to be where the package lies.
    """
    parts = module_name.split(".")
    if not all(part.isidentifier() for part in parts):
        return None
    files: list[Path] = []
    spec = _top_level(parts[0])
    for i in range(1, len(parts) + 1):
        if spec is None:
            return None
        if spec.has_location and spec.origin is not None:
            files.append(Path(spec.origin).resolve())
        elif spec.submodule_search_locations is None:  # built in or frozen: of no file
            return None
        if i < len(parts):
            spec = _inside(spec, ".".join(parts[: i + 1]))
    return files


def _top_level(name: str) -> ModuleSpec | None:
    """Found as ``import_user_module`` finds it: imported already, in the current directory, or installed."""
    if name not in sys.modules:
        importlib.invalidate_caches()
        if (found := PathFinder.find_spec(name, [os.getcwd(), *sys.path])) is not None:
            return found
    try:
        return importlib.util.find_spec(name)
    except (ImportError, ValueError, AttributeError):  # ValueError: imported, but it does not say from where
        return None


def _inside(package: ModuleSpec, name: str) -> ModuleSpec | None:
    """The spec of a module of a package, from the folders of the package."""
    try:
        folders = list(package.submodule_search_locations or [])
    except KeyError:  # a namespace within a namespace that is not imported yet
        return None
    return PathFinder.find_spec(name, folders)


def import_user_module(name: str, module_name: str) -> ModuleType:
    """Import the module of the environment ``name``, also from the current directory; EnvironmentFault if it fails.

    The current directory joins the path only when the module lies there: none of its files stands in for another.
    """
    here = os.getcwd()
    if here not in sys.path and any(file.is_relative_to(Path(here).resolve()) for file in files_of(module_name) or ()):
        sys.path.insert(0, here)
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and (module_name == error.name or module_name.startswith(f"{error.name}.")):
            raise EnvironmentFault(
                f"environment '{name}': there is no module '{module_name}', neither installed nor in the current "
                f"directory. Write 'module:factory', with dots between packages."
            ) from None
        raise EnvironmentFault(f"environment '{name}': importing '{module_name}' failed: {error}") from error
    except (Exception, SystemExit) as error:
        raise EnvironmentFault(
            f"environment '{name}': importing '{module_name}' raised {type(error).__name__}: {error}"
        ) from error
