"""Where metrics go: JSON lines, TensorBoard and whoever listens."""

from __future__ import annotations

import io
import socket
import time
from collections.abc import Callable
from pathlib import Path
from secrets import token_hex
from typing import Any

from worldstream.errors import RunFolderError, warn
from worldstream.runs.files import make_folder, open_plain, writing
from worldstream.runs.log import LineLog


class MetricLog:
    """Writes records of metrics to a log, to TensorBoard's files in the folder ``events``, and to listeners.

    TensorBoard forgets what came after ``from_steps``, where a run was resumed. Its files are done without once they
    cannot be written: they only repeat the log.
    """

    def __init__(
        self, log: LineLog, events: Path, listeners: list[Callable[[dict[str, Any]], None]], *, from_steps: int = 0
    ) -> None:
        self._log = log
        self._listeners = listeners
        self._events: EventFile | None = EventFile(events)
        self._tell("begin", from_steps)

    def write(self, record: dict[str, Any]) -> None:
        """Write one record; it must hold "steps"."""
        self._log.append(record)
        self._tell("scalars", record["steps"], {name: value for name, value in record.items() if name != "steps"})
        for listener in self._listeners:
            listener(record)

    def _tell(self, what: str, *arguments: Any) -> None:
        if self._events is not None:
            try:
                getattr(self._events, what)(*arguments)
            except RunFolderError as error:
                self._events = None
                warn(f"TensorBoard's files end here: {error}")


class EventFile:
    """A file of TensorBoard's records, written by us: its own writer is a thread, which nobody hears when it fails."""

    def __init__(self, folder: Path) -> None:
        name = f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}.{token_hex(8)}"
        self._path = folder / name.replace("/", "_")

    def begin(self, from_steps: int) -> None:
        """Make the file; TensorBoard forgets what came after ``from_steps`` unless that is 0. Raises RunFolderError."""
        from tensorboard.compat.proto.event_pb2 import SessionLog

        make_folder(self._path.parent)
        self._append(file_version="brain.Event:2")
        if from_steps:
            self._append(step=from_steps + 1, session_log=SessionLog(status=SessionLog.START))

    def scalars(self, steps: int, values: dict[str, Any]) -> None:
        """Append numbers by name; what is no number is left out. Raises RunFolderError."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        numbers = {name: float(value) for name, value in values.items() if isinstance(value, int | float)}
        summary = Summary(value=[Summary.Value(tag=name, simple_value=number) for name, number in numbers.items()])
        self._append(step=steps, summary=summary)

    def _append(self, **event: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.summary.writer.record_writer import RecordWriter

        record = io.BytesIO()
        RecordWriter(record).write(Event(wall_time=time.time(), **event).SerializeToString())
        with writing(self._path), open_plain(self._path, "ab") as file:
            file.write(record.getvalue())
