"""A run whose checkpoints are gone is not begun anew unasked."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import worldstream
from tiny import tiny_config
from worldstream.cli import main
from worldstream.errors import Interrupted, RunFolderError
from worldstream.runs.session import Session

STEPS = 40


def config() -> worldstream.Config:
    """Logs and evaluates every 5 steps, saves every 10, and learns nothing."""
    base = tiny_config()
    return replace(
        base,
        checkpoint=replace(base.checkpoint, every_steps=10),
        evaluation=replace(base.evaluation, every_steps=5, max_episode_steps=3),
        log_every_steps=5,
    )


def train_until(
    steps: int, path: Path, monkeypatch: pytest.MonkeyPatch, how: type[BaseException] | None = None
) -> Path:
    """A run that was told to stop after so many steps, or killed by an exception."""
    original = Session.after_step

    def after_step(session: Session, clock: int) -> bool:
        if clock == steps and how is not None:
            raise how
        session._request.reason = "a test" if clock == steps else None
        return original(session, clock)

    with monkeypatch.context() as patch, pytest.raises(how or Interrupted):
        patch.setattr(Session, "after_step", after_step)
        worldstream.train("clock", steps=STEPS, config=config(), output=path, quiet=True)
    return path


def contents(path: Path) -> dict[str, bytes]:
    files = (file for file in sorted(path.rglob("*")) if file.is_file() and file.name != "lock")
    return {str(file.relative_to(path)): file.read_bytes() for file in files}


def missing(path: Path) -> None:
    shutil.rmtree(path)


def empty(path: Path) -> None:
    missing(path)
    path.mkdir()


@pytest.mark.filterwarnings("default::worldstream.errors.WorldstreamWarning")
@pytest.mark.parametrize("lose", [missing, empty])
def test_a_run_without_its_checkpoints_is_refused_and_kept(
    lose: Callable[[Path], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = train_until(17, tmp_path / "run", monkeypatch)
    lose(run / "checkpoints")
    before = contents(run)
    said = r"holds no checkpoint, .* 15 steps.* --force .*metrics.jsonl, evaluations.jsonl, weights.safetensors, best"
    with pytest.raises(RunFolderError, match=said):
        worldstream.resume(run, quiet=True)
    assert contents(run) == before
    if lose is empty:
        main(["train", "--resume", str(run), "--force", "--quiet"])
        assert "warning: " in (said := capsys.readouterr().err)
        assert "destroys what there was in metrics.jsonl, evaluations.jsonl, weights.safetensors, best" in said


def test_logs_alone_show_that_a_run_was_further(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = train_until(17, tmp_path / "run", monkeypatch)
    missing(run / "checkpoints")
    for name in ("weights.safetensors", "best.safetensors", "evaluations.jsonl"):
        (run / name).unlink()
    with pytest.raises(RunFolderError, match=r"destroys what there is in metrics.jsonl\."):
        worldstream.resume(run, quiet=True)


@pytest.mark.parametrize("steps", [7, 10])
def test_a_run_that_died_before_its_first_checkpoint_begins_anew(
    steps: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also between the log and the checkpoint of the same step: there is nothing that it could have kept."""
    run = train_until(steps, tmp_path / "run", monkeypatch, KeyboardInterrupt)
    assert (run / "metrics.jsonl").stat().st_size and not list((run / "checkpoints").iterdir())
    worldstream.resume(run, quiet=True)


def test_training_does_not_begin_where_checkpoints_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = train_until(17, tmp_path / "run", monkeypatch)
    before, synced = contents(run), os.fsync

    def fsync(descriptor: int) -> None:
        if "checkpoints" in os.readlink(f"/proc/self/fd/{descriptor}"):
            raise OSError(errno.ENOSPC, "No space left on device")
        synced(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(RunFolderError, match="checkpoints: No space left"):
        worldstream.resume(run, quiet=True)
    assert contents(run) == before

    def step(*_: Any) -> None:
        raise AssertionError("it trains")

    monkeypatch.setattr(Session, "after_step", step)
    with pytest.raises(RunFolderError, match="checkpoints: No space left"):
        worldstream.train("clock", steps=STEPS, config=config(), output=tmp_path / "new", quiet=True)
    assert not list((tmp_path / "new" / "checkpoints").iterdir())
