"""Held-out episodes: how well the world model predicts play that it never trains on, and updates paced by that."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from worldstream.config import Config
from worldstream.replay.samplers import UniformSampler
from worldstream.replay.segments import AnchorRule
from worldstream.training.cadence import Paced
from worldstream.training.experience import Experience
from worldstream.training.phases import Phase, WorldModelPhase
from worldstream.training.randomness import random_stream

FASTER, SLOWER = 1.05, 1.1
"""Factors of the rate of updates at a measurement that finds the loss falling, or rising."""
FAST, SLOW = 0.7, 0.95
"""Decays of two averages of the loss: it falls while the fast one lies below the slow one."""


class HeldOut:
    """Measures the world model on held-out episodes; with a pace, the updates of its phase become more frequent while
    the loss there falls and rarer while it rises, so that a small recording is not learned by heart."""

    def __init__(self, config: Config, experience: Experience, phases: Iterable[Phase], seed: int) -> None:
        self.config, self.experience = config, experience
        (self.phase,) = (phase for phase in phases if isinstance(phase, WorldModelPhase))
        rule = AnchorRule.first(config.world_model.context_length)
        self.sampler = UniformSampler(experience.store, random_stream(seed, 4), rule.held_out(config.held_out.share))
        self.averages: tuple[float, float] | None = None

    def measure(self) -> dict[str, Tensor]:
        """Mean losses by head, () each, on a batch of held-out segments; nothing while there is none, or no update."""
        if not self.config.held_out.share or not self.phase.cadence.mark or not self.sampler.num_anchors:
            return {}
        size, length = self.config.world_model_learner.batch_size, self.config.segment_length
        batch = self.experience.segments(self.sampler, size, length, "first")
        model = self.experience.models.world_model.eval()
        with torch.no_grad():
            losses = model.losses(batch)
        if isinstance(cadence := self.phase.cadence, Paced):
            self._pace(cadence, float(losses.total))
            return {**losses.means, "pace": torch.tensor(cadence.factor)}
        return losses.means

    def _pace(self, cadence: Paced, loss: float) -> None:
        fast, slow = self.averages or (loss, loss)
        fast, slow = FAST * fast + (1 - FAST) * loss, SLOW * slow + (1 - SLOW) * loss
        self.averages = fast, slow
        factor = cadence.factor * FASTER if fast < slow else cadence.factor / SLOWER
        cadence.factor = min(max(factor, 1 / self.config.held_out.pace), self.config.held_out.pace)

    def state_dict(self) -> dict[str, Any]:
        """The state, beside that of the cadence."""
        return {"sampler": self.sampler.state_dict(), "averages": None if self.averages is None else [*self.averages]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state_dict``; load the experience first."""
        self.sampler.load_state_dict(state["sampler"])
        averages = state["averages"]
        self.averages = None if averages is None else (float(averages[0]), float(averages[1]))
