"""Metrics stay on the device until a logging step, then go to JSON lines, TensorBoard and whoever listens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from worldstream.errors import warn
from worldstream.line_log import LineLog


class MetricMeans:
    """Running means of named scalars, without reading the device."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor | float] = {}
        self._counts: dict[str, int] = {}

    def add(self, prefix: str, values: dict[str, Any]) -> None:
        """Add scalars (numbers or () tensors) under ``prefix/name``."""
        for name, value in values.items():
            key = f"{prefix}/{name}"
            self._sums[key] = self._sums.get(key, 0.0) + value
            self._counts[key] = self._counts.get(key, 0) + 1

    def pop(self) -> dict[str, float]:
        """Means since the last call; this reads the device once."""
        names = list(self._sums)
        if not names:
            return {}
        on_device = [name for name in names if isinstance(self._sums[name], Tensor)]
        read = torch.stack([self._sums[name].float() for name in on_device]).tolist() if on_device else []  # type: ignore[union-attr]
        sums = {**self._sums, **dict(zip(on_device, read, strict=True))}
        means = {name: float(sums[name]) / self._counts[name] for name in names}
        self._sums, self._counts = {}, {}
        return means

    def state_dict(self) -> dict[str, list[float]]:
        """[sum, count] by name; reads the device."""
        return {name: [float(total), self._counts[name]] for name, total in self._sums.items()}

    def load_state_dict(self, state: dict[str, list[float]]) -> None:
        """Continue from ``state_dict``."""
        self._sums = {name: total for name, (total, _) in state.items()}
        self._counts = {name: int(count) for name, (_, count) in state.items()}


class MetricLog:
    """Writes records of metrics to a log, to TensorBoard and to listeners.

    Args:
        log: receives all records.
        events: folder of TensorBoard's files. When they cannot be written they end, with a warning.
        listeners: called with each record; the progress display is one.
        from_steps: of a run that was resumed there; TensorBoard forgets what came after.
    """

    def __init__(
        self,
        log: LineLog,
        events: Path,
        listeners: list[Callable[[dict[str, Any]], None]],
        *,
        from_steps: int = 0,
    ) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._log = log
        self._listeners = listeners
        self._writer: SummaryWriter | None = None
        with self._tensorboard():
            self._writer = SummaryWriter(str(events), purge_step=from_steps + 1 if from_steps else None)

    def write(self, record: dict[str, Any]) -> None:
        """Write one record; it must hold "steps"."""
        self._log.append(record)
        if self._writer is not None:
            with self._tensorboard():
                for name, value in record.items():
                    if name != "steps" and isinstance(value, int | float):
                        self._writer.add_scalar(name, value, record["steps"])
        for listener in self._listeners:
            listener(record)

    def close(self) -> None:
        """Flush TensorBoard's files."""
        if self._writer is not None:
            with self._tensorboard():
                self._writer.close()

    @contextmanager
    def _tensorboard(self) -> Iterator[None]:
        """Do without TensorBoard's files once they cannot be written: they only repeat the log."""
        try:
            yield
        except OSError as error:
            self._writer = None
            warn(f"TensorBoard's files end here: {error}.")
