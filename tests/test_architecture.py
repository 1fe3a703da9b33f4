"""The architecture, enforced: who may import whom, which words may occur where, and how long things may get.

Each rule is a function from a source root to a list of violations, so that it can be shown to find planted ones.
When a rule is in your way, read CONTRIBUTING.md first; then change the code, or the table here with its reason.
"""

from __future__ import annotations

import ast
import graphlib
import importlib
import io
import os
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

from worldstream.errors import ConfigError
from worldstream.registry import Registry

REPOSITORY = Path(__file__).resolve().parents[1]
SOURCE = REPOSITORY / "src"

# --- The tables ------------------------------------------------------------------------------------------------------

BASE = {"errors", "specs", "types", "registry", "options", "nn", "version"}
PARTS = {"modalities", "actions", "environments", "replay", "tokenizers", "world_model", "agent"}
JOINED = BASE | PARTS | {"acting", "imagination", "models", "config"}
ALGORITHM = JOINED | {"training", "evaluation"}

LAYERS: dict[str, set[str]] = {
    # part of the package (file or folder) -> the parts it may import, besides itself
    **dict.fromkeys(BASE, BASE),  # layer 0
    "modalities": BASE,  # layer 1
    "actions": BASE,
    "environments": BASE | {"modalities", "actions"},  # layer 2; see ONLY_IN
    "replay": BASE,
    "tokenizers": BASE | {"modalities"},  # layer 3; see ONLY_IN
    "world_model": BASE,  # layer 4
    "agent": BASE | {"actions"},  # layer 5
    "acting": BASE | {"tokenizers", "world_model"},  # layer 6: a policy is a function, never the agent package
    "imagination": BASE | {"tokenizers", "world_model"},
    "models": BASE | {"tokenizers", "world_model", "agent", "config"},  # it alone joins them; never environments
    "config": BASE | {"environments", "replay", "tokenizers", "world_model", "agent"},  # layer 7: never training
    "training": JOINED,  # layer 8: never runs
    "evaluation": JOINED | {"training"},  # never runs
    "runs": ALGORITHM,  # layer 9
    "report": ALGORITHM | {"runs"},  # layer 10: never each other
    "importers": ALGORITHM | {"runs"},
    "presets": JOINED,  # layer 11
    "api": ALGORITHM | {"runs", "report", "importers", "presets"},
    "cli": ALGORITHM | {"runs", "report", "importers", "presets", "api"},
    "__init__": {"api", "config", "environments", "presets", "errors", "version"},
    "__main__": {"cli"},
}

ONLY_IN = {
    ("tokenizers", "modalities"): {"tokenizers/bundle.py"},
    ("environments", "modalities"): {"environments/flat.py"},  # the adapter around the user's environment
    ("environments", "actions"): {"environments/flat.py"},
}
"""(importer, imported) -> the only files in which that import is allowed."""

TOKENS_ONLY = ("world_model", "imagination.py", "agent")
"""Where everything is integer ids plus a TokenSpec, and no modality or benchmark has a name."""

FORBIDDEN_WORDS = frozenset(
    {"image", "vector", "camera", "pixel", "picture", "audio", "video", "rgb", "grayscale", "sprite", "proprioception"}
    | {"atari", "craftax", "crafter", "minigrid", "mujoco", "dmc", "cartpole", "lidar"}
)
THIRD_PARTY_NAMES = frozenset({"vector_norm", "parameters_to_vector", "vector_to_parameters"})
"""Identifiers of torch that contain a forbidden word."""

HOT_PATHS = ("nn", "world_model", "agent", "imagination.py", "acting.py", "tokenizers")
HOST_COPY_ALLOWED: dict[str, str] = {}
""""file::function" -> why a host copy or device literal is right there. Stale entries fail."""

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
MAX_PARAMETERS = 6
"""Of a function, without self. More than that travel together and want a name."""
PUBLIC_INTERFACE = {"worldstream/api.py", "worldstream/runs/diagnosis.py"}
"""Where every option of a command is a keyword, and a clump would only be in a user's way."""

NOT_AT_IMPORT = {"matplotlib", "tensorboard", "torch.utils.tensorboard", "minigrid", "pygame", "ale_py", "jax"}
"""Third-party modules that are imported inside the functions that need them."""

# --- The rules -------------------------------------------------------------------------------------------------------


def python_files(root: Path, parts: tuple[str, ...] = ("",)) -> list[Path]:
    """Files under the given parts of the package at ``root``."""
    found: set[Path] = set()
    for part in parts:
        place = root / "worldstream" / part
        found.update([place] if place.is_file() else place.rglob("*.py"))
    return sorted(found)


def part_of(file: Path, root: Path) -> str:
    """Name of the file or folder directly under the package to which the file belongs."""
    return file.relative_to(root / "worldstream").parts[0].removesuffix(".py")


def imported_parts(file: Path, root: Path) -> Iterator[tuple[int, str]]:
    """(line, part) for every import of our own package, wherever in the file it stands."""
    package = list(file.relative_to(root).with_suffix("").parts[:-1])  # the package that the file is in
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            modules = [f"{module}.{alias.name}" for alias in node.names] if module == "worldstream" else [module]
        else:
            continue
        for module in modules:
            names = module.split(".")
            if names[0] == "worldstream":
                known = len(names) > 1 and names[1] in LAYERS
                yield node.lineno, names[1] if known else "__init__"


def layer_violations(root: Path) -> list[str]:
    """Files that belong to no part, and imports that the table does not allow."""
    found = []
    for file in python_files(root):
        part, name = part_of(file, root), str(file.relative_to(root / "worldstream"))
        if part not in LAYERS:
            found.append(f"{name}: '{part}' is in no layer; add it to LAYERS")
            continue
        for line, imported in imported_parts(file, root):
            if imported != part and imported not in LAYERS[part]:
                found.append(f"{name}:{line}: '{part}' must not import '{imported}'")
            elif name not in ONLY_IN.get((part, imported), {name}):
                found.append(f"{name}:{line}: only {ONLY_IN[part, imported]} may import '{imported}'")
    return found


def words_in(text: str) -> set[str]:
    """Lower-case words of a text or identifier, cut at underscores, camel case and punctuation; plurals twice."""
    words = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", text)
    return {word.lower() for word in words} | {word.lower().removesuffix("s") for word in words}


def word_violations(root: Path) -> list[str]:
    """Names of modalities and benchmarks, in code, strings and comments, where only tokens may be known."""
    found = []
    for file in python_files(root, TOKENS_ONLY):
        for word in sorted(words_in(file.stem) & FORBIDDEN_WORDS):
            found.append(f"{file.relative_to(root / 'worldstream')}: its name contains '{word}'")
        for token in tokenize.generate_tokens(io.StringIO(file.read_text()).readline):
            if token.type == tokenize.OP or token.string in THIRD_PARTY_NAMES:
                continue
            for offset, line in enumerate(token.string.split("\n")):
                for word in sorted(words_in(line) & FORBIDDEN_WORDS):
                    at = f"{file.relative_to(root / 'worldstream')}:{token.start[0] + offset}"
                    found.append(f"{at}: '{word}' ({line.strip()[:60]})")
    return found


def functions_of(tree: ast.AST, prefix: str = "") -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """(qualified name, node) for every function and method."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield prefix + node.name, node
        inner = f"{prefix}{node.name}." if hasattr(node, "name") and hasattr(node, "body") else prefix
        yield from functions_of(node, inner)


def length_violations(folder: Path) -> list[str]:
    """Files and functions that are too long to be read in one go."""
    found = []
    for file in sorted(folder.rglob("*.py")):
        text, name = file.read_text(), file.relative_to(folder)
        lines = len(text.splitlines())
        if lines > MAX_FILE_LINES:
            found.append(f"{name}: {lines} lines (at most {MAX_FILE_LINES})")
        for function, node in functions_of(ast.parse(text)):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > MAX_FUNCTION_LINES:
                found.append(f"{name}:{node.lineno}: {function} has {lines} lines (at most {MAX_FUNCTION_LINES})")
    return found


def parameter_violations(root: Path) -> list[str]:
    """Functions that take too many parameters."""
    found = []
    for file in python_files(root):
        name = str(file.relative_to(root))
        for function, node in functions_of(ast.parse(file.read_text())) if name not in PUBLIC_INTERFACE else ():
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            number = sum(argument.arg not in ("self", "cls") for argument in arguments)
            if number > MAX_PARAMETERS:
                found.append(f"{name}:{node.lineno}: {function} has {number} parameters (at most {MAX_PARAMETERS})")
    return found


def import_cycle(root: Path) -> list[str]:
    """Parts of the package that import each other in a circle; empty where there are none."""
    graph: dict[str, set[str]] = {}
    for file in python_files(root):
        part = part_of(file, root)
        graph.setdefault(part, set()).update(imported for _, imported in imported_parts(file, root))
        graph[part].discard(part)
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return list(error.args[1])
    return []


def host_copies(root: Path) -> Iterator[tuple[str, str]]:
    """("file::function", what and where) for ``.item()``, ``.cuda()`` and "cuda" literals on the hot paths."""
    for file in python_files(root, HOT_PATHS):
        tree, name = ast.parse(file.read_text()), str(file.relative_to(root / "worldstream"))
        spans = [(node.lineno, node.end_lineno or node.lineno, function) for function, node in functions_of(tree)]
        for node in ast.walk(tree):
            what = ""
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                what = f".{node.func.attr}()" if node.func.attr in ("item", "cuda") else ""
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("cuda"):
                what = repr(node.value)
            if what:
                line = node.lineno
                inside = [function for first, last, function in spans if first <= line <= last]
                yield f"{name}::{inside[-1] if inside else '<module>'}", f"{name}:{line}: {what}"


def host_copy_violations(root: Path, allowed: dict[str, str]) -> list[str]:
    """Host copies outside of the allow-list, and entries of the allow-list that nothing needs."""
    copies = list(host_copies(root))
    stale = sorted(set(allowed) - {place for place, _ in copies})
    found = [text for place, text in copies if place not in allowed]
    return found + [f"{place}: allowed, not needed" for place in stale]


def module_names() -> list[str]:
    """Every module of the package but ``__main__``."""
    paths = [file.relative_to(SOURCE).with_suffix("") for file in python_files(SOURCE) if file.stem != "__main__"]
    return [".".join(path.parts).removesuffix(".__init__") for path in paths]


def registries() -> dict[str, Registry]:
    """module:name -> registry, for every registry that a module of ours makes at its top level."""
    found = {}
    for module in module_names():
        held = vars(importlib.import_module(module))
        file = held.get("__file__")  # None: a folder without __init__.py
        made = re.findall(r"^(\w+)(?:: [^=]+)? = Registry\(", Path(file).read_text(), re.MULTILINE) if file else []
        found.update({f"{module}:{name}": held[name] for name in made})
    return found


def registry_violations(place: str, registry: Registry) -> list[str]:
    """Entries that cannot be imported, or that lie outside of the part of the package that holds the registry."""
    found, part = [], ".".join(place.split(":")[0].split(".")[:2])
    for name in registry:
        try:
            home = registry[name].__module__
        except (ImportError, AttributeError, ValueError) as error:
            found.append(f"{place}: {registry.family} '{name}': {type(error).__name__}: {error}")
            continue
        if not f"{home}.".startswith(f"{part}."):
            found.append(f"{place}: {registry.family} '{name}' lives in {home}")
    return found


def modules_after(statement: str) -> set[str]:
    """Names of the modules that a fresh interpreter holds after the statement."""
    path = os.pathsep.join([str(SOURCE), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-c", f"{statement}\nimport sys\nprint(*sys.modules)"]
    run = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=240)
    assert run.returncode == 0, run.stderr
    return set(run.stdout.splitlines()[-1].split())


# --- They hold -------------------------------------------------------------------------------------------------------


def test_imports_go_down() -> None:
    assert python_files(SOURCE), "no source found: the tests below would be empty"
    assert layer_violations(SOURCE) == []


def test_no_modality_is_named_where_only_tokens_are_known() -> None:
    assert word_violations(SOURCE) == []


@pytest.mark.parametrize("folder", ["src", "benchmarks"])
def test_files_and_functions_are_short(folder: str) -> None:
    assert length_violations(REPOSITORY / folder) == []


def test_functions_take_few_parameters() -> None:
    assert parameter_violations(SOURCE) == []


def test_no_parts_import_each_other() -> None:
    assert import_cycle(SOURCE) == []


def test_no_host_copies_on_hot_paths() -> None:
    assert host_copy_violations(SOURCE, HOST_COPY_ALLOWED) == []


def test_every_registry_entry_resolves() -> None:
    found = registries()
    assert {"tokenizer", "sequence model", "head"} <= {registry.family for registry in found.values()}
    assert [line for place, registry in found.items() for line in registry_violations(place, registry)] == []


def test_importing_the_package_stays_light() -> None:
    loaded = modules_after("import worldstream.registry")
    assert "worldstream.registry" in loaded
    assert loaded.isdisjoint(NOT_AT_IMPORT)
    assert modules_after("import worldstream").isdisjoint(NOT_AT_IMPORT)


def test_no_module_imports_simulators_or_loggers_at_the_top() -> None:
    names = module_names()
    assert "worldstream.errors" in names
    loaded = modules_after("\n".join(f"import {name}" for name in names))
    assert loaded.issuperset(names)
    assert loaded.isdisjoint(NOT_AT_IMPORT)


# --- They find what is planted ---------------------------------------------------------------------------------------


def plant(root: Path, name: str, text: str) -> None:
    file = root / "worldstream" / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("world_model/x.py", "from worldstream.agent import actor", "'world_model' must not import 'agent'"),
        ("agent/x.py", "def f():\n    import worldstream.world_model.model", "'agent' must not import 'world_model'"),
        ("nn/x.py", "from ..replay import store", "'nn' must not import 'replay'"),
        ("nn/x.py", "from worldstream import training", "'nn' must not import 'training'"),
        ("nn/x.py", "import worldstream", "'nn' must not import '__init__'"),
        ("tokenizers/levels.py", "from worldstream.modalities import base", "{'tokenizers/bundle.py'} may import"),
        ("imagination.py", "from worldstream.agent.actor import Actor", "'imagination' must not import 'agent'"),
        ("environments/suite/gym.py", "from worldstream import actions", "{'environments/flat.py'} may import"),
        ("actions/x.py", "from worldstream.environments import flat", "'actions' must not import 'environments'"),
        ("training/x.py", "from worldstream.runs.folder import RunFolder", "'training' must not import 'runs'"),
        ("evaluation/x.py", "from worldstream import runs", "'evaluation' must not import 'runs'"),
        ("models.py", "from worldstream.environments import vector", "'models' must not import 'environments'"),
        ("config.py", "from worldstream.training import learner", "'config' must not import 'training'"),
        ("report/x.py", "from worldstream.importers import weights", "'report' must not import 'importers'"),
        ("helpers.py", "", "'helpers' is in no layer"),
    ],
)
def test_a_forbidden_import_is_found(tmp_path: Path, name: str, text: str, complaint: str) -> None:
    plant(tmp_path, name, text)
    violations = layer_violations(tmp_path)
    assert len(violations) == 1
    assert complaint in violations[0]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("tokenizers/bundle.py", "from worldstream.modalities import base"),
        ("agent/x.py", "from worldstream.actions import base\nfrom . import losses\nfrom worldstream.agent.y import z"),
        ("world_model/heads/x.py", "import torch\nfrom ...specs import TokenSpec\nfrom ..block import BlockLayout"),
        ("runs/x.py", "from worldstream.training import trainer\nfrom worldstream import acting"),
        ("__main__.py", "from worldstream.cli import main"),
    ],
)
def test_an_allowed_import_is_not_found(tmp_path: Path, name: str, text: str) -> None:
    plant(tmp_path, name, text)
    assert list(imported_parts(tmp_path / "worldstream" / name, tmp_path))
    assert layer_violations(tmp_path) == []


@pytest.mark.parametrize(
    "line",
    ["image_encoder = 1", "class ImageEncoder: ...", "x = 'Atari'", "# two cameras", '"""Vectors."""', "f'{x} pixels'"],
)
def test_a_forbidden_word_is_found(tmp_path: Path, line: str) -> None:
    for name in ("world_model/x.py", "imagination.py", "agent/x.py", "tokenizers/x.py"):  # allowed in the last
        plant(tmp_path, name, f"x = 0\n{line}\n")
    violations = word_violations(tmp_path)
    assert len(violations) == 3
    assert all(":2: " in violation for violation in violations)


def test_other_words_are_not_found(tmp_path: Path) -> None:
    text = "# vectorised, vectorized, imagination, eigenvectors\nx = torch.linalg.vector_norm(y)\n"
    plant(tmp_path, "agent/x.py", text)
    assert word_violations(tmp_path) == []


def test_long_files_and_functions_are_found(tmp_path: Path) -> None:
    body = "\n".join("        x = 0" for _ in range(MAX_FUNCTION_LINES))
    plant(tmp_path, "nn/long.py", f"class A:\n    def fits(self):\n{body[:-14]}\n    def f(self):\n{body}\n")
    plant(tmp_path, "nn/longer.py", "x = 0\n" * (MAX_FILE_LINES + 1))
    plant(tmp_path, "nn/longest_allowed.py", "x = 0\n" * MAX_FILE_LINES)
    violations = length_violations(tmp_path)
    assert len(violations) == 2
    assert "A.f has 61 lines" in violations[0]
    assert "longer.py: 401 lines" in violations[1]


def test_many_parameters_are_found(tmp_path: Path) -> None:
    methods = "    def f(self, a, b, c, d, e, f): ...\n    def g(self, a, b, c, *, d, e, f, g): ...\n"
    plant(tmp_path, "nn/x.py", f"class A:\n{methods}")
    (violation,) = parameter_violations(tmp_path)
    assert ":3: A.g has 7 parameters" in violation


def test_a_circle_of_imports_is_found(tmp_path: Path) -> None:
    plant(tmp_path, "nn/x.py", "from worldstream import specs")
    plant(tmp_path, "specs.py", "from worldstream.types import Batch")
    assert import_cycle(tmp_path) == []
    plant(tmp_path, "types.py", "from worldstream.nn import x")
    assert set(import_cycle(tmp_path)) == {"nn", "specs", "types"}


def test_host_copies_are_found_unless_allowed(tmp_path: Path) -> None:
    code = "class A:\n    def f(self, x):\n        return x.item()\n\nx = y.cuda()\nz = x.to('cuda:0')\n"
    plant(tmp_path, "nn/x.py", code + "d.items()\n")
    plant(tmp_path, "training/x.py", code)  # not a hot path
    violations = host_copy_violations(tmp_path, {})
    assert {text.split(": ")[0] for text in violations} == {"nn/x.py:3", "nn/x.py:5", "nn/x.py:6"}
    assert len(host_copy_violations(tmp_path, {"nn/x.py::A.f": "tested"})) == 2
    assert "nn/x.py::A.g: allowed, not needed" in host_copy_violations(tmp_path, {"nn/x.py::A.g": "stale"})


def test_broken_registry_entries_are_found() -> None:
    place = "worldstream.registry:THINGS"
    assert registry_violations(place, Registry("thing", {"good": "worldstream.registry:Registry"})) == []
    broken = {
        "module": "worldstream.no_such_module:X",
        "attribute": "worldstream.registry:NoSuchClass",
        "elsewhere": "worldstream.errors:ConfigError",
    }
    violations = registry_violations(place, Registry("thing", broken))
    assert [violation.split("'")[1] for violation in violations] == list(broken)


def test_an_unknown_name_lists_the_choices() -> None:
    with pytest.raises(ConfigError, match=r"unknown thing 'god'.*Did you mean 'good'.*Available: good"):
        Registry("thing", {"good": "worldstream.registry:Registry"})["god"]


def test_modules_after_sees_imports() -> None:
    assert "json" in modules_after("import json")
    assert "json" not in modules_after("pass")
