"""A fourth phase is a class and one line: the trainer, messages and what is kept of skipped updates know it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import worldstream
from tiny import tiny_config
from worldstream.errors import OutOfMemoryError
from worldstream.models import Models
from worldstream.runs.folder import RunFolder
from worldstream.runs.log import read_lines
from worldstream.runs.skipped import reproduce
from worldstream.training.phases import PHASES, Updated, WorldModelPhase
from worldstream.training.randomness import random_stream
from worldstream.types import Batch


class HeadsPhase(WorldModelPhase):
    """Trains the heads of the world model once more; every update from the second on is not finite."""

    name = "heads"
    settings = "world_model_learner"
    memory_settings = "the size of the heads"
    num_updates = 0

    def update(self, drawn: Batch) -> Updated:
        type(self).num_updates += 1
        loss = sum((p.square().sum() for p in self.models.world_model.heads.parameters()), drawn.rewards.sum())
        norm = self.learner.step(loss * (1 if self.num_updates == 1 else torch.nan))
        return {"norm": loss.detach(), "gradient_norm": norm}, None


@pytest.fixture
def fourth(monkeypatch: pytest.MonkeyPatch) -> type[HeadsPhase]:
    monkeypatch.setattr(Models, "heads", property(lambda models: models.world_model.heads), raising=False)
    monkeypatch.setattr(HeadsPhase, "num_updates", 0)
    monkeypatch.setitem(PHASES, HeadsPhase.name, HeadsPhase)
    return HeadsPhase


@pytest.mark.filterwarnings("ignore:an update of the heads")
def test_a_fourth_phase_learns_and_its_skipped_updates_can_be_reproduced(
    fourth: type[HeadsPhase], tmp_path: Path
) -> None:
    with pytest.raises(worldstream.WorldstreamError, match=r"of the heads.*Lower world_model_learner\.learning_rate"):
        worldstream.train("clock", steps=160, config=tiny_config(), output=tmp_path / "run", quiet=True)
    folder = RunFolder(tmp_path / "run")
    (first, *_) = [Path(r["kept"]) for r in read_lines(folder.sittings) if r["event"] == "update skipped"]
    assert first.name.startswith("heads-")
    fourth.num_updates = 0  # the fault was in the phase, not in what is kept
    assert reproduce(first)["gradient_norm"] > 0


def test_memory_that_a_fourth_phase_lacks_is_told_in_its_words(
    fourth: type[HeadsPhase], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr(fourth, "update", fails)
    with pytest.raises(OutOfMemoryError, match=r"part 'heads'.*Lower the size of the heads\."):
        worldstream.train("clock", steps=160, config=tiny_config(), output=tmp_path / "run", quiet=True)


def test_streams_of_a_run_are_the_children_of_its_seed() -> None:
    """So they are independent, and a further one changes none of the others."""
    children = [np.random.default_rng(child) for child in np.random.SeedSequence(7).spawn(4)]
    for number, child in enumerate(children):
        assert (random_stream(7, number).integers(1 << 60, size=8) == child.integers(1 << 60, size=8)).all()
