"""Two processes never write into one run, and the files of two runs are never taken for those of one."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import socket
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import worldstream
from tiny import tiny_config
from worldstream.errors import Interrupted, RunFolderError, WorldstreamError, WorldstreamWarning
from worldstream.report.sections import RunLog
from worldstream.runs.checkpoint import Checkpoints
from worldstream.runs.episodes import load_episodes
from worldstream.runs.folder import RunFolder
from worldstream.runs.lock import locked
from worldstream.runs.session import Session
from worldstream.runs.skipped import reproduce
from worldstream.runs.weights import load_run
from worldstream.training.experience import Experience


def config() -> worldstream.Config:
    """Learns from step 20 on, and saves every 15 steps."""
    base = tiny_config()
    return replace(
        base,
        world_model_learner=replace(base.world_model_learner, start_steps=20),
        checkpoint=replace(base.checkpoint, every_steps=15),
        evaluation=replace(base.evaluation, every_steps=10, max_episode_steps=3),
        log_every_steps=5,
    )


# The lock.


HOLD = """
import pathlib, signal, sys
from worldstream.runs.folder import RunFolder
from worldstream.runs.lock import locked
with locked(RunFolder(pathlib.Path(sys.argv[1]))):
    print("held", flush=True)
    signal.pause()
"""


def test_the_second_process_is_refused_until_the_first_has_died(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        worldstream.train("clock", steps=30, config=config(), output=tmp_path / "run", time_limit=0, quiet=True)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", HOLD, str(tmp_path / "run")]
    first = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        assert first.stdout is not None and first.stdout.readline() == "held\n"
        with pytest.raises(RunFolderError, match=rf"run is in use by process {first.pid} on {socket.gethostname()}"):
            worldstream.resume(tmp_path / "run", quiet=True)
    finally:
        first.kill()
        first.communicate()
    worldstream.resume(tmp_path / "run", quiet=True)


def test_a_folder_is_locked_while_a_run_is_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused: list[str] = []
    original = Session.after_step

    def after_step(session: Session, steps: int) -> bool:
        for attempt in (worldstream.resume, lambda path: RunFolder(path).require_unused()):
            with pytest.raises(RunFolderError) as error:
                attempt(tmp_path / "run")
            refused.append(str(error.value))
        session._request.reason = "a test"
        return original(session, steps)

    monkeypatch.setattr(Session, "after_step", after_step)
    with pytest.raises(Interrupted):
        worldstream.train("clock", steps=30, config=config(), output=tmp_path / "run", quiet=True)
    assert f"in use by process {os.getpid()}" in refused[0] and "not empty" in refused[1]


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_system_without_locks_is_told_of(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(*_: Any) -> None:
        raise OSError(number, "not here")

    monkeypatch.setattr(fcntl, "flock", flock)
    with (
        pytest.warns(WorldstreamWarning, match="run cannot be locked .*second process"),
        locked(RunFolder(tmp_path / "run")),
    ):
        pass


def test_a_lock_is_no_way_to_another_file(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("thesis")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "lock").symlink_to(tmp_path / "precious")
    with pytest.raises(RunFolderError, match="lock"), locked(RunFolder(tmp_path / "run")):
        pass
    assert (tmp_path / "precious").read_text() == "thesis"


# Files of two runs.


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two runs of one configuration and seed, with every kind of file, stopped and resumed."""
    patch = pytest.MonkeyPatch()
    original, count = Experience.batch, [0]

    def spoiled(self: Experience, segments: Any) -> Any:
        batch, count[0] = original(self, segments), count[0] + 1
        if count[0] == 1:
            batch.rewards[:, 1] = torch.nan
        return batch

    patch.setattr(Experience, "batch", spoiled)
    paths = [tmp_path_factory.mktemp("swaps") / name for name in "ab"]
    for path in paths:
        count[0] = 0
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", WorldstreamWarning)
            worldstream.train("clock", steps=30, config=config(), output=path, quiet=True)
    patch.undo()
    return paths


def read_all(path: Path) -> list[Any]:
    """All that the library reads of a run folder; its errors, and its warnings."""
    folder, found = RunFolder(path), []
    readers = [
        lambda: RunLog.read(path),
        lambda: load_run(path),
        lambda: load_run(path, best=True),
        lambda: load_episodes(folder),
        lambda: [reproduce(file) for file in folder.skipped.iterdir()],
        lambda: list(Checkpoints(folder, 2).latest().replay_parts()),  # type: ignore[union-attr]
    ]
    for read in readers:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            try:
                read()
            except WorldstreamError as error:
                found.append(str(error))
        found += [str(warning.message) for warning in told]
    return found


def test_no_file_of_another_run_is_taken(runs: list[Path], tmp_path: Path) -> None:
    ours, theirs = runs
    assert read_all(ours) == []
    unread = ("lock", "sittings.jsonl", "events")
    names = [file.relative_to(ours) for file in sorted(ours.rglob("*")) if file.is_file()]
    names = [name for name in names if name.parts[0] not in unread]
    assert len({name.parts[0] for name in names}) == 9 and len(names) == 11
    for name in names:
        copy = tmp_path / str(name).replace("/", "_")
        shutil.copytree(ours, copy)
        shutil.copyfile(theirs / name, copy / name)
        if name.parent.name == "checkpoints":
            for newer in (copy / name).parent.iterdir():
                if newer.name > name.name:  # else the older one is not read
                    newer.unlink()
        problems = read_all(copy)
        assert any("another run" in problem or "not what was written" in problem for problem in problems), name
        if name.suffix == ".jsonl":
            assert any("lines belong to another run and are left out" in problem for problem in problems)


def test_a_checkpoint_under_another_name_is_refused(runs: list[Path], tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(runs[0], copy)
    oldest, newest = sorted((copy / "checkpoints").iterdir())
    shutil.copyfile(oldest, newest)
    with pytest.warns(WorldstreamWarning, match=f"{newest.name} was written as {oldest.name}, and renamed"):
        found = Checkpoints(RunFolder(copy), 2).latest()
    assert found is not None and found.name == oldest.stem
