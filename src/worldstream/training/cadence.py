"""Cadences decide *when*: they count environment steps."""

from __future__ import annotations


class Ratio:
    """So many repetitions for each environment step, from a first step on.

    Args:
        per_step: repetitions for each step; may be below one.
        start_steps: steps before the first repetition.
    """

    def __init__(self, per_step: float, start_steps: int) -> None:
        self.per_step = per_step
        self.start_steps = start_steps
        self.done = 0

    def due(self, steps: int) -> int:
        """Repetitions due now that the clock shows ``steps``; they count as done."""
        due = max(0, int((steps - self.start_steps) * self.per_step) - self.done)
        self.done += due
        return due


class Every:
    """Once when the clock reaches or passes each multiple of ``period`` steps."""

    def __init__(self, period: int) -> None:
        self.period = period
        self.last = 0

    def due(self, steps: int) -> bool:
        """True when a multiple of the period was reached since the last time it was due."""
        if self.period <= 0 or steps // self.period <= self.last:
            return False
        self.last = steps // self.period
        return True


class Doubling:
    """At ``first`` steps (at least 1), and at each doubling of it, up to ``last`` steps."""

    def __init__(self, first: int, last: int) -> None:
        self.next = max(first, 1)  # doubling 0 would never end
        self.last = last

    def due(self, steps: int) -> bool:
        """True when the next mark was reached since the last time it was due."""
        if steps < self.next or self.next > self.last:
            return False
        while self.next <= steps:
            self.next *= 2
        return True
