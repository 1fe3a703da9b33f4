"""Requests to stop a run: SIGINT, SIGTERM or a limit of wall time.

Whoever works for long asks between two steps. Training is then saved; an evaluation changes nothing, so it is left
and repeated when the run is resumed. A second SIGINT leaves at once.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from math import inf
from typing import Any

from worldstream.errors import ConfigError, PersonInterrupt


class StopRequest:
    """Whether the run was told to stop.

    Args:
        time_limit: seconds of wall time from now; None: no limit.

    Raises ConfigError for a limit that is negative or not finite.
    """

    def __init__(self, time_limit: float | None = None) -> None:
        if time_limit is not None and not 0 <= time_limit < inf:
            raise ConfigError(
                f"time_limit must be at least 0 seconds and finite, not {time_limit}; leave it out for none."
            )
        self._time_limit = time_limit
        self._began = time.monotonic()
        self.reason: str | None = None
        """What told it to; None: nothing."""

    def is_due(self) -> bool:
        """Whether to stop; looks at the clock."""
        if self._time_limit is not None and time.monotonic() - self._began >= self._time_limit:
            self.reason = self.reason or f"the time limit of {self._time_limit:g} s"
        return self.reason is not None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take the first SIGINT or SIGTERM as a request; a second SIGINT interrupts at once."""
        if threading.current_thread() is not threading.main_thread():
            yield  # only the main thread may set handlers
            return

        def request(number: int, frame: Any) -> None:
            if self.reason is not None and number == signal.SIGINT:
                raise PersonInterrupt
            self.reason = self.reason or signal.Signals(number).name

        before = {number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM)}
        told_apart, PersonInterrupt.is_told_apart = PersonInterrupt.is_told_apart, True
        try:
            yield
        finally:
            PersonInterrupt.is_told_apart = told_apart
            for number, handler in before.items():
                signal.signal(number, handler)
