"""Requests to stop a run: SIGINT, SIGTERM or a limit of wall time.

Training is stopped between two steps. An evaluation changes nothing, so it is left where it is and repeated when the
run is resumed. A second SIGINT leaves at once.
"""

from __future__ import annotations

import _thread
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")


class Left(BaseException):
    """Leaves an evaluation. No Exception, for these are taken to be faults of the environment."""


class StopRequest:
    """Whether the run was told to stop.

    Args:
        time_limit: seconds of wall time from now; None: no limit. It is looked at between steps of training, and ends
            an evaluation like a signal.
    """

    def __init__(self, time_limit: float | None = None) -> None:
        self._time_limit = time_limit
        self._began = time.monotonic()
        self._leaves = False
        self.reason: str | None = None
        """What told it to; None: nothing."""

    def is_due(self) -> bool:
        """Whether to stop; looks at the clock."""
        if self._time_limit is not None and time.monotonic() - self._began >= self._time_limit:
            self.reason = self.reason or f"the time limit of {self._time_limit:g} s"
        return self.reason is not None

    def leaving(self, work: Callable[[], T]) -> T:
        """Do work that changes nothing. Raises Left where a request comes while it goes on, or has come before."""
        if self.is_due():
            raise Left
        timer = None
        if self._time_limit is not None:
            timer = threading.Timer(self._began + self._time_limit - time.monotonic(), self._run_out)
            timer.daemon = True
        self._leaves = True
        try:
            if timer is not None:
                timer.start()
            return work()
        finally:
            self._leaves = False
            if timer is not None:
                timer.cancel()

    def _run_out(self) -> None:
        """The time is over: the main thread is told as if by a signal, for which it has a handler while it listens."""
        self.is_due()
        _thread.interrupt_main(signal.SIGTERM)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take the first SIGINT or SIGTERM as a request; a second SIGINT interrupts at once."""
        if threading.current_thread() is not threading.main_thread():
            yield  # only the main thread may set handlers
            return

        def request(number: int, frame: Any) -> None:
            if self.reason is not None and number == signal.SIGINT:
                raise KeyboardInterrupt
            self.reason = self.reason or signal.Signals(number).name
            if self._leaves:
                raise Left

        before = {number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
