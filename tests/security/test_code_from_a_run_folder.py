"""A run folder is data: what it names is made unasked only where that runs no code of a stranger."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import site
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import pytest

import worldstream
from tiny import tiny_config
from worldstream.cli import main
from worldstream.environments import make_environment
from worldstream.environments.modules import files_of
from worldstream.errors import EnvironmentFault, Interrupted
from worldstream.runs.description import recorded_environment
from worldstream.runs.folder import RunFolder, checksummed
from worldstream.runs.trust import EnvironmentCode

pytestmark = pytest.mark.filterwarnings("ignore:.*were under way whose environment cannot give")
STEPS = 20
OWN = """
import gymnasium

class Own(gymnasium.Env):
    observation_space = gymnasium.spaces.Discrete(3)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, render_mode=None):
        self.render_mode = render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return 0, {}

    def step(self, action):
        self.time += 1
        return self.time % 3, 1.0, False, self.time >= 3, {}

def make(**kwargs):
    return Own()
"""


def evil(marker: Path) -> str:
    """Code that says when it was run."""
    return f"import pathlib\npathlib.Path({str(marker)!r}).touch()\n{OWN}"


def config() -> worldstream.Config:
    """Learns nothing, and saves every 10 steps."""
    base = tiny_config()
    return replace(base, checkpoint=replace(base.checkpoint, every_steps=10))


def stopped(environment: Any, path: Path) -> Path:
    """A run of this person on this machine that was told to stop."""
    with pytest.raises(Interrupted):
        worldstream.train(environment, steps=STEPS, config=config(), output=path, time_limit=0, quiet=True)
    return path


def rename(run: Path, environment: str, /, **kwargs: Any) -> None:
    """What a stranger who can compute a checksum makes a run folder say."""
    description = json.loads((run / "run.json").read_text())
    description.pop("sha256")
    description["environment"] = environment
    description["config"]["environment"]["kwargs"] = kwargs
    (run / "run.json").write_text(checksummed(description))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current directory of somebody, who has a state directory; modules that a test imports are forgotten."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    known = set(sys.modules)
    yield tmp_path / "work"
    for name in set(sys.modules) - known:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.fixture
def gift(here: Path) -> Path:
    """A run folder from a stranger, in the current directory."""
    return stopped("clock", here / "gift")


def refused(run: Path, match: str) -> None:
    """The ways to have an environment made by a run folder."""
    with pytest.raises(EnvironmentFault, match=match) as error:
        worldstream.evaluate(run, episodes=1, quiet=True)
    assert "--env module:factory" in str(error.value)
    with pytest.raises(EnvironmentFault, match=match):
        worldstream.resume(run, quiet=True)


# What a stranger may try.


def test_a_module_in_the_folder_is_not_imported(gift: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    marker = gift.parent / "called"
    (gift / "evil.py").write_text(evil(marker))
    rename(gift, "gift.evil:make")
    refused(gift, "named by .*run.json and would be imported from inside of that folder")
    for arguments in (["evaluate", str(gift)], ["train", "--resume", str(gift)]):
        with pytest.raises(SystemExit) as end:
            main(arguments)
        assert end.value.code == EnvironmentFault.exit_code
    monkeypatch.chdir(gift)
    for name in ("evil:make", "evil:Evil-v0"):
        rename(gift, name)
        refused(gift, "inside of that folder")
    (gift / "MiniGrid-evil.py").write_text(evil(marker))
    rename(gift, "MiniGrid-evil:Thing-v0")
    refused(gift, "have not trained")
    assert not marker.exists()


def test_nor_in_a_new_process(gift: Path) -> None:
    marker = gift.parent / "called"
    (gift / "evil.py").write_text(evil(marker))
    for name, folder in (("gift.evil:make", gift.parent), ("evil:make", gift)):
        rename(gift, name)
        environment = {**os.environ, "PYTHONPATH": str(Path(worldstream.__file__).parents[1])}
        command = [sys.executable, "-m", "worldstream", "evaluate", str(gift), "--episodes", "1"]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=240)
        assert done.returncode == EnvironmentFault.exit_code, done.stderr
        assert "inside of that folder" in done.stderr and "Traceback" not in done.stderr
    assert not marker.exists()


def test_a_module_beside_the_folder_is_not_imported(gift: Path) -> None:
    marker = gift.parent / "called"
    (gift.parent / "beside.py").write_text(evil(marker))
    for name in ("beside:make", "beside:Own", "beside:Thing-v0"):
        rename(gift, name)
        refused(gift, "you have not trained this run with")
    assert not marker.exists()


@pytest.mark.parametrize(
    ("name", "kwargs"),
    [
        ("os:system", {"command": "touch called"}),
        ("shutil:rmtree", {"path": "."}),
        ("tools:system", {"command": "touch called"}),
        ("worldstream.api:train", {"environment": "clock", "steps": 1, "output": "called"}),
        ("gymnasium.envs.classic_control:CartPoleEnv", {}),
        ("unittest.__main__:x", {}),
        ("unittest.__main__:Thing-v0", {}),
        ("antigravity:Thing-v0", {}),
        ("GymV21Environment-v0", {"env_id": "tools:Thing-v0"}),
        ("gymnasium:GymV26Environment-v0", {"env_id": "tools:Thing-v0"}),
        ("..:x", {}),
        ("\x1b[2J:x", {}),
    ],
)
def test_no_name_calls_just_any_code(name: str, kwargs: dict[str, Any], gift: Path) -> None:
    (gift.parent / "tools.py").write_text("from os import system")
    if name.startswith("tools"):  # a module that this person uses
        sys.path.insert(0, str(gift.parent))
        importlib.import_module("tools")
    rename(gift, name, **kwargs)
    before = set(sys.modules)
    refused(gift, "named by")
    assert not (gift.parent / "called").exists() and gift.exists()
    assert {"unittest.__main__", "antigravity"}.isdisjoint(set(sys.modules) - before)


def test_deciding_imports_no_package(here: Path) -> None:
    marker = here / "called"
    for name in ("outer/__init__.py", "outer/inner/__init__.py", "outer/inner/leaf.py"):
        (here / name).parent.mkdir(exist_ok=True)
        (here / name).write_text(evil(marker))
    assert files_of("outer.inner.leaf") == [
        here / "outer/__init__.py", here / "outer/inner/__init__.py", here / "outer/inner/leaf.py"
    ]  # fmt: skip
    assert len(EnvironmentCode.of("outer.inner.leaf:make").files) == 3
    assert files_of("outer.nothing") is None and files_of("sys") is None and files_of("__main__.x") is None
    assert not marker.exists() and "outer" not in sys.modules


def test_modules_that_end_the_program_are_faults(here: Path) -> None:
    (here / "ending.py").write_text("raise SystemExit(0)")
    with pytest.raises(EnvironmentFault, match="importing 'ending' raised SystemExit"):
        make_environment("ending:make")


def test_the_current_directory_does_not_stand_in_for_installed_modules(here: Path) -> None:
    make_environment("gymnasium.envs.classic_control:CartPole-v1")
    assert str(here) not in sys.path


# What asks nothing.


def test_registered_ids_are_data(gift: Path) -> None:
    for name in ("clock", "CartPole-v1", "gymnasium:CartPole-v1", "gymnasium.envs.classic_control:CartPole-v1"):
        rename(gift, name)
        folder = RunFolder(gift)
        assert recorded_environment(folder, folder.read_description()) == name


def test_ids_of_an_installed_package_are_data(gift: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = tmp_path / "site"
    (installed / "many_worlds-1.0.dist-info").mkdir(parents=True)
    (installed / "many_worlds").mkdir()
    code = f"{OWN}\ngymnasium.register('Many/World-v0', Own)"
    (installed / "many_worlds" / "__init__.py").write_text(code)
    (installed / "many_worlds-1.0.dist-info" / "top_level.txt").write_text("many_worlds")
    metadata = installed / "many_worlds-1.0.dist-info" / "METADATA"
    metadata.write_text("Metadata-Version: 2.1\nName: many_worlds\nVersion: 1.0\n")
    monkeypatch.syspath_prepend(installed)
    rename(gift, "many_worlds:Many/World-v0")
    refused(gift, "have not trained")
    monkeypatch.setattr(site, "getsitepackages", lambda: [str(installed)])
    refused(gift, "have not trained")  # of a package that does not need Gymnasium
    metadata.write_text(metadata.read_text() + "Requires-Dist: gymnasium>=1.0\n")
    try:
        with pytest.raises(worldstream.ConfigError, match="observ"):  # made: it is not that of the run
            worldstream.resume(gift, quiet=True)
        rename(gift, "many_worlds:make")
        refused(gift, "have not trained")
    finally:
        gymnasium.registry.pop("Many/World-v0", None)


@pytest.mark.parametrize("environment", ["own:make", "own:Own", "own:Own-v0"])
def test_what_this_person_trained_asks_nothing(environment: str, here: Path) -> None:
    (here / "own.py").write_text(f"{OWN}\ngymnasium.register('Own-v0', Own)")
    try:
        run = stopped(environment, here / "run")
        worldstream.evaluate(run, episodes=1, quiet=True)
        worldstream.resume(run, quiet=True)
    finally:
        gymnasium.registry.pop("Own-v0", None)
    (record,) = (here.parent / "state" / "worldstream" / "trained").iterdir()
    assert list(json.loads(record.read_text())["files"]) == [str(here / "own.py")]
    assert str(here.parent / "state") not in "".join(file.read_text() for file in run.glob("*.json*"))


def test_a_function_from_python_asks_nothing(here: Path) -> None:
    (here / "own.py").write_text(OWN)
    sys.path.insert(0, str(here))
    run = stopped(importlib.import_module("own").make, here / "run")
    worldstream.evaluate(run, episodes=1, quiet=True)


# What is asked for.


def test_code_that_was_changed_must_be_confirmed(here: Path) -> None:
    (here / "own.py").write_text(OWN)
    run = stopped("own:make", here / "run")
    (here / "own.py").write_text(OWN + "\n# a thought\n")
    refused(run, "was changed after the run was trained")
    worldstream.evaluate(run, environment="own:make", episodes=1, quiet=True)
    refused(run, "was changed")  # evaluating is not training
    worldstream.resume(run, environment="own:make", quiet=True)
    worldstream.evaluate(run, episodes=1, quiet=True)


def test_the_record_is_of_this_run_these_arguments_and_this_machine(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "own.py").write_text(OWN)
    run = stopped("own:make", here / "run")
    other = stopped("clock", here / "other")
    rename(other, "own:make")
    refused(other, "have not trained")
    description = (run / "run.json").read_bytes()
    for name, kwargs in (("own:make", {"path": "elsewhere"}), ("own:Own", {})):
        rename(run, name, **kwargs)
        refused(run, "have not trained")
    (run / "run.json").write_bytes(description)
    worldstream.evaluate(run, episodes=1, quiet=True)
    monkeypatch.setenv("XDG_STATE_HOME", str(here / "another"))
    refused(run, "have not trained")


def test_a_record_lets_nothing_in_from_the_folder_itself(here: Path) -> None:
    (here / "own.py").write_text(OWN)
    run = stopped("own:make", here / "run")
    sys.modules.pop("own")
    shutil.move(here / "own.py", run / "own.py")
    os.chdir(run)
    sys.path.remove(str(here))
    refused(run, "inside of that folder")
    os.chdir(here)
    refused(run, "not found here")


def test_a_factory_that_its_module_only_imports_must_be_confirmed(here: Path) -> None:
    (here / "own.py").write_text(OWN)
    (here / "door.py").write_text("from own import make")
    run = stopped("door:make", here / "run")
    refused(run, "have not trained")
    worldstream.evaluate(run, environment="door:make", episodes=1, quiet=True)


def test_training_goes_on_where_nothing_can_be_remembered(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "own.py").write_text(OWN)
    (here / "file").write_text("no folder")
    monkeypatch.setenv("XDG_STATE_HOME", str(here / "file"))
    with pytest.warns(UserWarning, match="cannot note which code"):
        run = stopped("own:make", here / "run")
    refused(run, "have not trained")


# Where a run lies.


def test_an_environment_that_changes_the_directory_does_not_move_the_run(here: Path) -> None:
    (here / "moving.py").write_text(f"import os\n{OWN}".replace("return Own()", "os.chdir('/'); return Own()"))
    whole = replace(config(), replay=replace(config().replay, memory_map="scratch"))
    result = worldstream.train("moving:make", steps=STEPS, config=whole, output="run", quiet=True)
    assert Path.cwd() == Path("/")
    assert result.folder == here / "run" and (here / "run" / "episodes.safetensors").is_file()
    assert (here / "scratch").is_dir()
    os.chdir(here)
    worldstream.evaluate("run", episodes=1, quiet=True)
