"""Where metrics go: JSON lines, TensorBoard and whoever listens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex
from typing import Any

from worldstream.errors import warn
from worldstream.runs.log import LineLog


class MetricLog:
    """Writes records of metrics to a log, to TensorBoard's files in the folder ``events``, and to listeners.

    TensorBoard forgets what came after ``from_steps``, where a run was resumed.
    """

    def __init__(
        self, log: LineLog, events: Path, listeners: list[Callable[[dict[str, Any]], None]], *, from_steps: int = 0
    ) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._log = log
        self._listeners = listeners
        self._writer: SummaryWriter | None = None
        with self._tensorboard():
            # Its own name could be known before, and is opened whatever it leads to.
            self._writer = SummaryWriter(
                str(events), purge_step=from_steps + 1 if from_steps else None, filename_suffix=f".{token_hex(8)}"
            )

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
