"""One environment in this process, or in a process of its own, where it may hang or die without harm to the run.

A worker answers one request at a time. ``begin`` hands it over and ``finish`` waits, so that several workers work at
once. A process is started afresh rather than forked (fork is unsafe once threads or a GPU are in use). As always with
Python processes, a script that starts them must guard its entry with ``if __name__ == "__main__":``.
"""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import signal
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from gymnasium.vector.utils import CloudpickleWrapper

from worldstream.environments.flat import FlatEnvironment
from worldstream.errors import EnvironmentFault, PersonInterrupt, WorldstreamError

Make = Callable[[], FlatEnvironment]
_CLOSE_SECONDS, _WATCH_SECONDS = 5.0, 1.0
_PR_SET_PDEATHSIG = 1
_UNKNOWN = 255
"""Exit code of a process whose fork server has died, for then nobody knows."""

REQUESTS: dict[str, Callable[[FlatEnvironment, Any], Any]] = {
    "specs": lambda environment, _: (environment.observation_specs, environment.action_spec, environment.protocol),
    "reset": lambda environment, seed: environment.reset(seed=seed)[0],
    "step": lambda environment, ids: environment.step(ids)[:4],
    "state": lambda environment, _: environment.saved_state,
    "set_state": lambda environment, state: setattr(environment, "saved_state", state),
}
"""What a worker can be asked for, each with one argument. Infos stay behind: nobody reads them."""


class Worker(ABC):
    """Runs one environment."""

    @abstractmethod
    def begin(self, request: str, argument: Any = None) -> None:
        """Hand over one of ``REQUESTS``; ``finish`` must follow."""

    @abstractmethod
    def finish(self) -> Any:
        """Wait for the answer. Raises WorldstreamError for what the environment did wrong."""

    @abstractmethod
    def release(self) -> None:
        """Ask the environment to close, without waiting for it; ``close`` must follow."""

    @abstractmethod
    def close(self) -> None:
        """Close the environment, by force when it does not."""

    def ask(self, request: str, argument: Any = None) -> Any:
        """``begin`` and ``finish``."""
        self.begin(request, argument)
        return self.finish()


class LocalWorker(Worker):
    """In this process: fastest for cheap environments, but one that hangs or dies takes the run with it."""

    def __init__(self, make: Make) -> None:
        self._make = make
        self._environment: FlatEnvironment | None = None
        self._request: tuple[str, Any] = ("specs", None)

    def begin(self, request: str, argument: Any = None) -> None:
        self._request = (request, argument)

    def finish(self) -> Any:
        request, argument = self._request
        if self._environment is None:
            self._environment = self._make()
        return REQUESTS[request](self._environment, argument)

    def release(self) -> None:
        pass

    def close(self) -> None:
        if self._environment is not None:
            with contextlib.suppress(Exception):  # it may be what has just failed
                self._environment.close()


class ProcessWorker(Worker):
    """In a process of its own, which is taken to hang when it does not answer within ``timeout`` seconds."""

    def __init__(self, make: Make, name: str, timeout: float) -> None:
        self._name, self._timeout = name, timeout
        context: Any = multiprocessing.get_context(_start_method())
        theirs: Connection
        self._pipe: Connection
        self._pipe, theirs = context.Pipe()
        arguments = (theirs, CloudpickleWrapper(make), os.getpid())
        self._process = context.Process(target=_serve, args=arguments, daemon=True)
        self._process.start()
        theirs.close()
        self._is_made = False

    def begin(self, request: str, argument: Any = None) -> None:
        with contextlib.suppress(OSError):  # of a process that has died; ``finish`` says so
            self._pipe.send((request, argument))

    def finish(self) -> Any:
        deadline = time.monotonic() + self._timeout
        if not self._is_made:
            self._receive(deadline)
            self._is_made = True
        return self._receive(deadline)

    def _receive(self, deadline: float) -> Any:
        try:
            if not self._pipe.poll(max(deadline - time.monotonic(), 0)):
                self._end()
                raise self._fault(
                    f": it did not answer within {self._timeout:g} s (collection.timeout), so it was taken to hang."
                )
            succeeded, answer = self._pipe.recv()
        except (EOFError, OSError) as error:
            self._process.join(_CLOSE_SECONDS)
            code = self._process.exitcode
            self._end()
            if self._is_made:
                raise self._fault(
                    f": its process ended unexpectedly (exit code {code}; negative: killed by that signal, e.g. for "
                    "want of memory). Use fewer environments, or collection.backend 'sync' to see the error."
                ) from error
            raise self._fault(
                " cannot be made in a process of its own, whose error is above. If it is defined in a script, guard "
                "its entry with 'if __name__ == \"__main__\":', or use collection.backend 'sync'."
            ) from error
        if not succeeded:
            raise answer
        return answer

    def _fault(self, problem: str) -> EnvironmentFault:
        return EnvironmentFault(f"environment '{self._name}'{problem}")

    def release(self) -> None:
        self._pipe.close()  # which the process takes as the request to end

    def close(self) -> None:
        self.release()
        self._process.join(_CLOSE_SECONDS)
        self._end()

    def _end(self) -> None:
        """End the process without asking it."""
        if self._process.exitcode in (None, _UNKNOWN):  # not known to have ended
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, signal.SIGKILL)
        self._process.join(_CLOSE_SECONDS)
        self._pipe.close()


def _serve(pipe: Connection, make: Make, run: int) -> None:
    """The process: make the environment, then answer requests until the pipe is closed."""
    for number in (signal.SIGINT, signal.SIGTERM):  # meant for the run, which decides when its environments end
        signal.signal(number, signal.SIG_IGN)
    PersonInterrupt.is_told_apart = True
    _end_with(run)
    environment: FlatEnvironment | None = None
    with contextlib.suppress(EOFError, OSError):  # the pipe is closed
        try:
            environment = make()
        except WorldstreamError as error:
            return pipe.send((False, error))
        pipe.send((True, None))
        while True:
            request, argument = pipe.recv()
            try:
                reply = (True, REQUESTS[request](environment, argument))
            except WorldstreamError as error:
                reply = (False, error)
            pipe.send(reply)
    if environment is not None:
        with contextlib.suppress(Exception):
            environment.close()


def _end_with(run: int) -> None:
    """End this process when that of the ``run`` has gone, however busy or deaf its environment is."""
    if sys.platform == "linux":  # when the parent ends, which is the run or the fork server, and that goes with the run
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    threading.Thread(target=_watch, args=(run,), daemon=True).start()


def _watch(run: int) -> None:
    """For systems without such a signal, and where the fork server outlives the run."""
    parent = os.getppid()
    while _is_there(run) and os.getppid() == parent:
        time.sleep(_WATCH_SECONDS)
    os._exit(1)


def _is_there(process: int) -> bool:
    """Whether a process has not ended; one whose end nobody has taken note of yet has."""
    try:
        os.kill(process, 0)
        with open(f"/proc/{process}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] not in (b"Z", b"X")
    except ProcessLookupError:
        return False
    except OSError:  # another's process, or no such file on this system
        return True


def _start_method() -> str:
    """A fork server starts workers fastest, but not every system has one."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return "spawn"
    multiprocessing.get_context("forkserver").set_forkserver_preload(["worldstream.environments"])
    return "forkserver"
