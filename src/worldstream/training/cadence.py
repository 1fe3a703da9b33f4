"""Cadences decide *when*: they count environment steps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


class Cadence:
    """What all cadences share: one number is the state of most."""

    mark: int

    def state_dict(self) -> Any:
        """The state."""
        return self.mark

    def load_state_dict(self, state: Any) -> None:
        """Continue from ``state_dict``."""
        self.mark = int(state)


@dataclass
class Ratio(Cadence):
    """So many repetitions for each environment step, from a first step on. State: repetitions done."""

    per_step: float  # may be below one
    start_steps: int  # before the first repetition
    every_steps: int = 1  # what is due is held back until the clock reaches or passes a multiple of this
    stop_steps: int = 0  # nothing becomes due after these steps; 0: until the end
    mark: int = 0

    def due(self, steps: int) -> Iterator[float]:
        """For each repetition due now that the clock shows ``steps``, when its turn began; it counts as done when it
        is taken, so that whoever leaves in between finds the others still due.

        Turns lie evenly between the start and the end, also of repetitions that were held back.
        """
        reached = steps // self.every_steps * self.every_steps
        if self.stop_steps:
            reached = min(reached, self.stop_steps)
        while self.mark < int((reached - self.start_steps) * self.per_step):
            self.mark += 1
            yield self.start_steps + (self.mark - 1) / self.per_step


@dataclass
class Paced(Ratio):
    """A ratio whose rate is changed on the way: ``factor`` times ``per_step`` for the steps to come."""

    factor: float = 1.0
    credit: float = 0.0  # repetitions that have become due so far
    counted_steps: int = 0  # steps that are in the credit

    def due(self, steps: int) -> Iterator[float]:
        """As of ``Ratio``; a turn is when the credit reached it, at the present rate."""
        reached = steps // self.every_steps * self.every_steps
        if self.stop_steps:
            reached = min(reached, self.stop_steps)
        new_steps = reached - max(self.counted_steps, self.start_steps)
        if new_steps > 0:
            self.credit += new_steps * self.per_step * self.factor
            self.counted_steps = reached
        while self.mark < int(self.credit):
            turn = self.counted_steps - (self.credit - self.mark) / (self.per_step * self.factor)
            self.mark += 1
            yield max(turn, float(self.start_steps))

    def state_dict(self) -> dict[str, float]:
        return {name: getattr(self, name) for name in ("mark", "factor", "credit", "counted_steps")}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.mark, self.counted_steps = int(state["mark"]), int(state["counted_steps"])
        self.factor, self.credit = float(state["factor"]), float(state["credit"])


@dataclass
class Every(Cadence):
    """Once when the clock reaches or passes each multiple of ``period`` steps. State: multiples reached."""

    period: int
    mark: int = 0

    def due(self, steps: int) -> bool:
        """True when a multiple of the period was reached since the last time it was due."""
        if self.period <= 0 or steps // self.period <= self.mark:
            return False
        self.mark = steps // self.period
        return True


class Doubling(Cadence):
    """At ``first`` steps (at least 1), and at each doubling of it up to ``last`` steps. State: the next mark."""

    def __init__(self, first: int, last: int) -> None:
        self.mark = max(first, 1)  # doubling 0 would never end
        self.last = max(last, self.mark)

    def due(self, steps: int) -> bool:
        """True when the next mark was reached since the last time it was due."""
        if steps < self.mark or self.mark > self.last:
            return False
        while self.mark <= steps:
            self.mark *= 2
        return True
