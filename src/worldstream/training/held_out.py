"""Held-out episodes: how well the world model predicts play that it never trains on, and updates paced by that."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from worldstream.config import Config
from worldstream.replay.samplers import UniformSampler
from worldstream.replay.segments import AnchorRule
from worldstream.training.cadence import Every, Paced
from worldstream.training.experience import Experience
from worldstream.training.phases import Phase, WorldModelPhase
from worldstream.training.randomness import random_stream

EVERY_UPDATES = 100
"""Updates of the world model between measurements."""
FASTER, SLOWER = 1.05, 1.1
"""Factors of the rate of updates at a measurement that finds the loss falling, or rising."""
FAST, SLOW = 0.7, 0.95
"""Decays of two averages of the loss: it falls while the fast one lies below the slow one."""
DEAD_BAND = 0.01
"""Share of the slow average by which the fast one has to differ."""


class HeldOut:
    """Measures the world model on held-out episodes; with a pace, the updates of its phase become more frequent while
    the loss there falls and rarer while it rises, so that a small recording is not learned by heart."""

    def __init__(self, config: Config, experience: Experience, phases: Iterable[Phase], seed: int) -> None:
        self.config, self.experience = config, experience
        self.phase = next(phase for phase in phases if phase.name == WorldModelPhase.name)
        rule = AnchorRule.first(config.world_model.context_length)
        self.sampler = UniformSampler(experience.store, random_stream(seed, 4), rule.held_out(config.held_out.share))
        self.measurements = Every(EVERY_UPDATES)
        self.averages: tuple[float, float] | None = None
        self.version = 0  # of the tokens that the averages are about

    def due(self) -> bool:
        """Whether to measure now, after some updates more and where there are held-out episodes."""
        due = self.measurements.due(self.phase.cadence.mark)
        return due and self.config.held_out.share > 0 and self.sampler.num_anchors > 0

    def measure(self) -> dict[str, Tensor | float]:
        """Mean losses by head, () each, on a batch of held-out segments, and the pace where there is one."""
        size, length = self.config.world_model_learner.batch_size, self.config.segment_length
        batch = self.experience.segments(self.sampler, size, length, "first")
        model = self.experience.models.world_model.eval()
        with torch.no_grad():
            losses = model.losses(batch)
        if isinstance(cadence := self.phase.cadence, Paced):
            self._pace(cadence, float(losses.total))
            return {**losses.means, "pace": cadence.factor}
        return {**losses.means}

    def _pace(self, cadence: Paced, loss: float) -> None:
        if self.version != (version := int(self.experience.models.tokenizers.version)):
            self.version, self.averages = version, None
        fast, slow = self.averages or (loss, loss)
        fast, slow = FAST * fast + (1 - FAST) * loss, SLOW * slow + (1 - SLOW) * loss
        self.averages, factor = (fast, slow), cadence.factor
        if abs(fast - slow) > DEAD_BAND * abs(slow):
            factor = factor * FASTER if fast < slow else factor / SLOWER
        cadence.factor = min(max(factor, 1 / self.config.held_out.pace), self.config.held_out.pace)

    def state_dict(self) -> dict[str, Any]:
        """The state, beside that of the cadence."""
        return {
            "sampler": self.sampler.state_dict(),
            "measurements": self.measurements.state_dict(),
            "averages": None if self.averages is None else [*self.averages],
            "version": self.version,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state_dict``; load the experience first."""
        self.sampler.load_state_dict(state["sampler"])
        self.measurements.load_state_dict(state["measurements"])
        averages = state["averages"]
        self.averages = None if averages is None else (float(averages[0]), float(averages[1]))
        self.version = int(state["version"])
