"""What happens while a trainer runs, told to whoever keeps the run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from worldstream.errors import WorldstreamError
from worldstream.types import Batch, Observations


@dataclass(frozen=True)
class SkippedUpdate:
    """One update that changed nothing, because its loss or gradient was not finite."""

    component: str
    """Name of the phase: "tokenizers", "world_model" or "actor_critic"."""
    steps: int
    """Environment steps taken."""
    count: int
    """Updates of the run that were skipped so far, this one included."""
    batch: Batch | Observations
    """What it learned from; of the tokenizers: stored observations (B, T, *shape) by key."""
    random: dict[str, Any]
    """``RandomState.networks`` before the update."""
    metrics: dict[str, float]


class Events:
    """Ignores everything; a subclass overrides what it wants to be told."""

    def metrics(self, record: dict[str, Any]) -> None:
        """Means since the last record, by name; "steps" is among them."""

    def evaluate(self, steps: int) -> None:
        """An evaluation is due when the clock shows ``steps``."""

    def incident(self, index: int, error: WorldstreamError) -> None:
        """Environment number ``index`` has failed, and will be made anew."""

    def unsuited(self, verdict: str) -> None:
        """The random phase is over, and a tokenizer turned out not to suit what it showed."""

    def skipped(self, update: SkippedUpdate) -> None:
        """An update was skipped."""

    def after_update(self) -> bool:
        """One update is done. True ends the run here; what else the step brings is done when it goes on."""
        return False

    def after_step(self, steps: int) -> bool:
        """All that a step brought is done: the moment for a checkpoint. True ends the run here."""
        return False
