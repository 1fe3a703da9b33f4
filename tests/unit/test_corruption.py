"""Hostile run folders: whatever is flipped, cut or deleted, the right data come out, or a message does."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import worldstream
from tiny import tiny_config
from worldstream.cli import main
from worldstream.errors import Interrupted, RunFolderError, WorldstreamWarning
from worldstream.runs.archive import array_digest, split
from worldstream.runs.checkpoint import Checkpoints
from worldstream.runs.episodes import load_episodes
from worldstream.runs.folder import RunFolder
from worldstream.runs.log import read_lines
from worldstream.runs.saving import Saver
from worldstream.runs.skipped import reproduce
from worldstream.runs.weights import load_weights
from worldstream.training.experience import Experience

CASES = 500


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with every kind of file, finished, and with one update that was skipped."""
    patch = pytest.MonkeyPatch()
    original, count = Experience.batch, [0]

    def spoiled(self: Experience, segments: Any) -> Any:
        batch, count[0] = original(self, segments), count[0] + 1
        if count[0] == 1:  # of the world model
            batch.rewards[:, 1] = torch.nan
        return batch

    patch.setattr(Experience, "batch", spoiled)
    base = tiny_config()
    config = replace(base, checkpoint=replace(base.checkpoint, every_steps=50), log_every_steps=10)
    path = tmp_path_factory.mktemp("corruption") / "run"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", WorldstreamWarning)
        worldstream.train("clock", steps=120, config=config, output=path, quiet=True)
    patch.undo()
    main(["report", str(path)])
    return path


def checkpoint(folder: RunFolder) -> Any:
    """Everything that a run would resume from, as one string."""
    found = Checkpoints(folder, 2).latest()
    assert found is not None
    plain, arrays = split(found.state)
    parts = [array_digest(part) for part in found.replay_parts()]
    return hashlib.sha256(json.dumps([plain, array_digest(arrays), parts]).encode()).hexdigest()


def episodes(folder: RunFolder) -> Any:
    return [
        (array_digest({**episode.observations, "a": episode.actions, "r": episode.rewards}), episode.terminated)
        for episode in load_episodes(folder)
    ]


def skipped(folder: RunFolder) -> Any:
    (path,) = folder.skipped.iterdir()
    return {name: f"{value:.6g}" for name, value in reproduce(path).items()}


def nothing(folder: RunFolder) -> Any:
    return None


def weights(path: Path) -> str:
    return array_digest({name: tensor.numpy() for name, tensor in load_weights(path).items()})


def reader(folder: RunFolder, path: Path) -> Callable[[RunFolder], Any]:
    """How the library reads a file."""
    top = path.relative_to(folder.path).parts[0]
    if top in ("metrics.jsonl", "evaluations.jsonl", "sittings.jsonl"):
        return lambda folder: read_lines(path)
    return {
        "run.json": RunFolder.read_description,
        "weights.safetensors": lambda folder: weights(folder.weights),
        "best.safetensors": lambda folder: weights(folder.best_weights),
        "episodes.safetensors": episodes,
        "checkpoints": checkpoint,
        "replay": checkpoint,
        "skipped": skipped,
        "events": nothing,  # TensorBoard's; the library only writes it
        "report.html": nothing,
        "lock": nothing,
    }[top]


def damaged(data: bytes, rng: random.Random) -> bytes | None:
    """Flip a few bits, cut, zero, append or empty; None: delete."""
    kind = rng.choice(["flip", "flip", "flip", "cut", "zero", "append", "empty", "delete"])
    changed = bytearray(data)
    if kind == "flip":
        for _ in range(rng.randint(1, 4)):
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    elif kind == "cut":
        del changed[rng.randrange(len(changed)) :]
    elif kind == "zero":
        start = rng.randrange(len(changed))
        changed[start : start + 64] = bytes(len(changed[start : start + 64]))
    elif kind == "append":
        changed += rng.randbytes(rng.randint(1, 40))
    return None if kind == "delete" else bytes(changed) if kind != "empty" else b""


def test_damage_is_noticed(run: Path) -> None:
    folder, rng = RunFolder(run), random.Random(0)
    files = sorted(path for path in run.rglob("*") if path.is_file())
    kinds = {path.relative_to(run).parts[0] for path in files}
    assert kinds == {
        "run.json", "metrics.jsonl", "evaluations.jsonl", "sittings.jsonl", "weights.safetensors", "best.safetensors",
        "episodes.safetensors", "checkpoints", "replay", "skipped", "events", "report.html", "lock",
    }  # fmt: skip
    intact = {path: reader(folder, path)(folder) for path in files}
    newest = sorted((run / "checkpoints").iterdir())[-1]
    newest.rename(run / "aside")
    with pytest.warns(WorldstreamWarning, match=rf"{newest.name} is newer.* Falling back to"):
        older = checkpoint(folder)
    (run / "aside").rename(newest)
    outcomes: Counter[str] = Counter()
    for _ in range(CASES):
        path = rng.choice(files)
        data = path.read_bytes()
        new = damaged(data, rng)
        path.unlink() if new is None else path.write_bytes(new)
        outcomes[outcome(folder, path, intact[path], older, changed=new != data)] += 1
        path.write_bytes(data)
    assert outcomes.total() == CASES and min(outcomes[kind] for kind in ("refused", "fallback", "left out")) > 10


def outcome(folder: RunFolder, path: Path, intact: Any, older: str, *, changed: bool) -> str:
    """Read what a damaged file is part of; anything but the truth, an older truth with a warning or a refusal fails."""
    read = reader(folder, path)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            found = read(folder)
        except RunFolderError as error:
            assert str(path) in str(error) or path.name in str(error) or str(folder.path) in str(error)
            return "refused"
        except ValueError:
            # ``skipped`` could not find its file, because it was deleted.
            assert not path.exists() and path.parent == folder.skipped
            return "refused"
    if path.suffix == ".jsonl":
        assert all(record in intact for record in found)
        return "left out" if len(found) < len(intact) else "intact"
    if found == intact:
        return "intact"
    assert changed and found == older and any("Falling back" in str(warning.message) for warning in told), path
    return "fallback"


@pytest.mark.filterwarnings("ignore::worldstream.errors.WorldstreamWarning", "ignore:.*not what was written")
def test_no_command_shows_a_traceback(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One damaged file of each kind, all commands that read a run folder."""
    rng = random.Random(1)
    names = ["run.json", "metrics.jsonl", "evaluations.jsonl", "weights.safetensors", "episodes.safetensors",
             "checkpoints/*", "replay/*"]  # fmt: skip
    for i, name in enumerate(names):
        copy = tmp_path / str(i)
        shutil.copytree(run, copy)
        finished = copy / "evaluations.jsonl"
        finished.write_text("".join(finished.read_text().splitlines(keepends=True)[:-1]))  # so that it is resumed
        path = sorted(copy.rglob(name))[-1]
        path.write_bytes(damaged(path.read_bytes(), rng) or b"")
        commands = (["evaluate", str(copy), "--episodes", "1"], ["report", str(copy)], ["train", "--resume", str(copy)])
        for command in commands:
            try:
                main(command)
            except SystemExit as end:
                assert end.code == 4
    assert "Traceback" not in capsys.readouterr().err


def test_a_run_killed_before_its_first_checkpoint_begins_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = tiny_config()
    worldstream.train("clock", steps=80, config=base, output=tmp_path / "whole", quiet=True)

    def gone(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Saver, "save", gone)
        with pytest.raises((KeyboardInterrupt, Interrupted)):
            worldstream.train("clock", steps=80, config=base, output=tmp_path / "run", quiet=True)
    worldstream.resume(tmp_path / "run", quiet=True)
    ours, theirs = (load_weights(tmp_path / name / "weights.safetensors") for name in ("run", "whole"))
    assert all(np.array_equal(ours[name].numpy(), theirs[name].numpy()) for name in theirs)
