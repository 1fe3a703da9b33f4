"""Random play, as it is collected before anything is learned: uniform actions, which may be held for some steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from worldstream.types import Features, Policy


@dataclass(frozen=True)
class Held:
    """Which random action each of B environments holds, and for how long still."""

    action: Tensor
    """(B, M) ids."""
    steps: Tensor
    """(B,) steps for which it goes on."""

    def where(self, mask: Tensor, other: Held) -> Held:
        """Rows of this where mask (B,) is true, rows of ``other`` elsewhere."""
        action = torch.where(mask.unsqueeze(-1), self.action, other.action)
        return Held(action, torch.where(mask, self.steps, other.steps))


class RandomActor:
    """Plays instead of an agent.

    Args:
        sizes: number of values of each of the M action tokens.
        hold: keep an action for n steps with a probability proportional to 1 / n^2, as in collection.
        seed: of the actions.
        device: where they are.
    """

    def __init__(self, sizes: tuple[int, ...], *, hold: bool, seed: int, device: torch.device) -> None:
        self.sizes, self.hold, self.device = sizes, hold, device
        self._rng = np.random.default_rng(seed)

    def initial_carry(self, batch_size: int) -> Held:
        """Nothing is held."""
        action = torch.zeros(batch_size, len(self.sizes), dtype=torch.int64, device=self.device)
        return Held(action, torch.zeros(batch_size, dtype=torch.int64, device=self.device))

    def policy(self, temperature: float) -> Policy:
        """The policy function; a temperature changes nothing."""

        def act(features: Features, carry: Held, generator: torch.Generator | None) -> tuple[Tensor, Held, Any]:
            num = len(carry.steps)
            steps = self._rng.zipf(2.0, num) if self.hold else np.ones(num, np.int64)
            drawn = self._rng.integers(0, self.sizes, size=(num, len(self.sizes)))
            new = Held(torch.as_tensor(drawn).to(self.device), torch.as_tensor(steps).to(self.device))
            held = new.where(carry.steps == 0, carry)
            return held.action, Held(held.action, held.steps - 1), {}

        return act
