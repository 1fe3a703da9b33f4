"""The live display of a run: how far, how fast, how long still, and how the agent does."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

PLAIN_PERIOD_SECONDS = 15.0
"""Lines are printed this often: about evaluations, and where the output is not a terminal about training."""


class ProgressDisplay:
    """Shows each record of metrics: a bar on a terminal, a line now and then elsewhere.

    Args:
        total_steps: environment steps of the whole run.
        console: where to print.
    """

    def __init__(self, total_steps: int, console: Console) -> None:
        self._total = total_steps
        self._console = console
        self._began = self._printed = time.monotonic()
        self._first: int | None = None
        self._return: float | None = None
        self._bar: Progress | None = None
        if console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]:.0f} steps/s"),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                console=console,
            )
            self._task = self._bar.add_task("training", total=total_steps, rate=0.0)
            self._bar.start()

    def update(self, record: dict[str, Any]) -> None:
        """Take notice of a record of metrics, which holds "steps"."""
        now, steps = time.monotonic(), record["steps"]
        if self._first is None:  # of this sitting
            self._first, self._began = steps, now
        rate = (steps - self._first) / max(now - self._began, 1e-9)
        if "episode/return" in record:
            self._return = record["episode/return"]
        text = "no episode has ended" if self._return is None else f"return {self._return:.4g}"
        for name, label in (("world_model/observation", "model loss"), ("actor_critic/entropy", "entropy")):
            if name in record:
                text += f"  {label} {record[name]:.3f}"
        if self._bar is not None:
            self._bar.update(self._task, completed=steps, description=text, rate=rate)
        elif now - self._printed >= PLAIN_PERIOD_SECONDS or steps >= self._total:
            self._printed = now
            pace = f"{rate:.3g} steps/s  {(self._total - steps) / rate:.0f} s left  " if rate else ""  # first record: 0
            self._console.print(f"{steps}/{self._total} steps  {pace}{text}")

    def close(self) -> None:
        """Stop drawing."""
        if self._bar is not None:
            self._bar.stop()


def evaluation_progress(episodes: int, say: Callable[[str], Any]) -> Callable[[int, int], None]:
    """For ``evaluate``: a line now and then about how many episodes have ended, and how many steps that took."""
    said = time.monotonic()

    def on_progress(ended: int, steps: int) -> None:
        nonlocal said
        if time.monotonic() - said >= PLAIN_PERIOD_SECONDS:
            said = time.monotonic()
            say(f"evaluating: {ended} of {episodes} episodes have ended, {steps} steps")

    return on_progress


def console(*, quiet: bool) -> Console:
    """Standard output, or nowhere."""
    return Console(quiet=quiet, highlight=False, markup=False, soft_wrap=True, file=sys.stdout)
