"""Bounds that are stated and kept: memory and disk before the start, replay on disk, logs that wait for space."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import worldstream
from tiny import tiny_config
from worldstream.cli import main
from worldstream.errors import ConfigError, RunFolderError, WorldstreamWarning
from worldstream.replay.rows import GrowingArrays
from worldstream.runs import capacity
from worldstream.runs import log as line_log
from worldstream.runs import session as session_module
from worldstream.runs.log import LineLog, read_lines
from worldstream.runs.session import Session
from worldstream.runs.weights import load_weights, save_weights


def test_a_run_that_does_not_fit_into_memory_is_refused_unless_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(capacity, "available_memory", lambda: 100_000)
    command = ["train", "--env", "clock", "--steps", "20", "--quiet", "--output"]
    with pytest.raises(SystemExit) as end:
        main([*command, str(tmp_path / "a")])
    assert end.value.code == 2 and not (tmp_path / "a").exists()
    message = capsys.readouterr().err
    for word in ("memory has 0.00 GB free", "replay.max_steps", "replay.memory_map", "--force"):
        assert word in message
    main([*command, str(tmp_path / "b"), "--force", "--evaluation.final-episodes", "1"])


def test_a_run_that_does_not_fit_onto_the_disk_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capacity.shutil, "disk_usage", lambda path: _Usage())
    with pytest.raises(ConfigError, match=r"checkpoints with replay need .* the disk of .* 0\.00 GB free.*--output"):
        worldstream.train("clock", steps=10, config=tiny_config(), output=tmp_path / "run", quiet=True)


class _Usage:
    free = 1000


def test_available_memory_is_believable() -> None:
    available = capacity.available_memory()
    assert available is not None and 10e6 < available < 1e14


# Replay on disk.


def test_mapped_columns_hold_what_memory_holds(tmp_path: Path) -> None:
    columns: Any = {"picture": ((4, 4), np.uint8), "number": ((), np.float32)}
    ours, theirs = GrowingArrays(columns, 3000, tmp_path / "map"), GrowingArrays(columns, 3000)
    rng = np.random.default_rng(0)
    for rows in (1, 700, 3000):
        ours.ensure(rows), theirs.ensure(rows)
        for name in columns:
            values = rng.integers(0, 200, theirs[name][:rows].shape)
            ours[name][:rows] = values
            theirs[name][:rows] = values
            np.testing.assert_array_equal(ours[name][:rows], theirs[name][:rows])
    assert list((tmp_path / "map").iterdir()) == []  # nothing is left behind by a process that dies


def test_a_disk_without_space_for_the_map_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(ConfigError, match=r"cannot reserve .* No space left on device. Lower replay.max_steps"):
        GrowingArrays({"x": ((2,), np.uint8)}, 100, tmp_path).ensure(1)
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"cannot reserve"):
        GrowingArrays({"x": ((2,), np.uint8)}, 100, tmp_path / "file").ensure(1)


def test_a_run_with_replay_on_disk_is_the_run_with_replay_in_memory(tmp_path: Path) -> None:
    mapped = replace(tiny_config(), replay=replace(tiny_config().replay, memory_map=str(tmp_path), max_steps=500))
    plain = replace(tiny_config(), replay=replace(tiny_config().replay, max_steps=500))
    for name, config in (("mapped", mapped), ("plain", plain)):
        worldstream.train("clock", steps=120, config=config, output=tmp_path / name, quiet=True)
    ours, theirs = (load_weights(tmp_path / name / "weights.safetensors") for name in ("mapped", "plain"))
    assert all(np.array_equal(ours[name].numpy(), theirs[name].numpy()) for name in theirs)


# A full disk.


class FullDisk:
    """Lets ``open(..., "ab")`` of the logs write half of the bytes and fail, while ``full``."""

    full = False

    def __call__(self, path: Any, mode: str = "r", *arguments: Any) -> Any:
        file = open(path, mode, *arguments)  # noqa: SIM115  (the log closes it)
        if self.full and mode == "ab":
            write = file.write

            def half(data: bytes) -> int:
                write(data[: len(data) // 2])
                file.flush()
                raise OSError(errno.ENOSPC, "No space left on device")

            return _Half(file, half)
        return file


class _Half:
    def __init__(self, file: Any, write: Any) -> None:
        self._file, self.write = file, write

    def __enter__(self) -> _Half:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def test_a_log_waits_for_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = FullDisk()
    monkeypatch.setattr(line_log, "open_plain", disk)
    log = LineLog(tmp_path / "log.jsonl")
    log.append({"steps": 0})
    disk.full = True
    with pytest.warns(WorldstreamWarning, match=r"log.jsonl: No space left on device.*kept in memory"):
        log.append({"steps": 1})
    log.append({"steps": 2})  # it warns once
    assert read_lines(log.path) == [{"steps": 0}]  # no torn line
    with pytest.raises(RunFolderError, match="No space left"):
        log.flush()
    disk.full = False
    log.append({"steps": 3})
    assert read_lines(log.path) == [{"steps": i} for i in range(4)]


def test_a_torn_last_line_swallows_nothing(tmp_path: Path) -> None:
    log = LineLog(tmp_path / "log.jsonl")
    log.append({"steps": 0})
    with open(log.path, "ab") as file:
        file.write(b'{"steps": 1, "cr')
    LineLog(log.path).append({"steps": 2})
    with pytest.warns(WorldstreamWarning, match="lines 2 are not what was written"):
        assert read_lines(log.path) == [{"steps": 0}, {"steps": 2}]
    with pytest.warns(WorldstreamWarning, match="its last lines are lost"):
        log.cut(1000)


def save_unless_full(disk: FullDisk, path: Path, models: Any) -> None:
    if disk.full:
        raise RunFolderError(f"cannot write {path}: No space left on device.")
    save_weights(path, models)


@pytest.mark.filterwarnings("ignore::worldstream.errors.WorldstreamWarning")
def test_a_disk_that_is_full_for_a_while_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(tiny_config(), log_every_steps=10, checkpoint=replace(tiny_config().checkpoint, every_steps=20))
    worldstream.train("clock", steps=120, config=config, output=tmp_path / "whole", quiet=True)
    disk, original = FullDisk(), Session.after_step

    def after_step(self: Session, steps: int) -> bool:
        disk.full = 35 <= steps < 90
        return original(self, steps)

    monkeypatch.setattr(line_log, "open_plain", disk)
    monkeypatch.setattr(Session, "after_step", after_step)
    monkeypatch.setattr(session_module, "save_weights", lambda path, models, run: save_unless_full(disk, path, models))
    worldstream.train("clock", steps=120, config=config, output=tmp_path / "run", quiet=True)
    ours, theirs = (read_lines(tmp_path / name / "metrics.jsonl") for name in ("run", "whole"))
    assert [{k: v for k, v in r.items() if "seconds" not in k} for r in ours] == [
        {k: v for k, v in r.items() if "seconds" not in k} for r in theirs
    ]
