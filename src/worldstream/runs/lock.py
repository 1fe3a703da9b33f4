"""A lock of the operating system on a run folder: two processes never write into one run. It ends with its process."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from worldstream.errors import RunFolderError, warn
from worldstream.runs.files import plain_descriptor, writing
from worldstream.runs.folder import RunFolder

try:
    import fcntl
except ImportError:  # not POSIX
    fcntl = None  # type: ignore[assignment]

_TAKEN = (errno.EAGAIN, errno.EACCES)
"""What the system answers when another process holds the lock; anything else: it has none to give here."""


@contextmanager
def locked(folder: RunFolder) -> Iterator[None]:
    """Make the folder where there is none, and keep other processes from writing into it.

    Where the system cannot lock it, a warning says so. Raises RunFolderError, with host and process, when it is in use.
    """
    with writing(folder.lock):
        folder.path.mkdir(parents=True, exist_ok=True)
        file = plain_descriptor(folder.lock, os.O_RDWR | os.O_CREAT)
    try:
        _take(file, folder.path)
        _write(file, json.dumps({"host": socket.gethostname(), "process": os.getpid()}))
        folder.prepare_writing()
        yield
    finally:  # the file stays: one that is deleted could be locked twice
        os.close(file)


def _take(file: int, path: Path) -> None:
    try:
        if fcntl is None:
            raise OSError("this system has no file locks")
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _TAKEN:
            raise RunFolderError(
                f"{path} is in use by {_holder(file)}: two processes must not write into one run. Wait until it has "
                "ended, or stop it."
            ) from None
        warn(f"{path} cannot be locked ({error.strerror or error}): see to it yourself that no second process uses it.")


def _holder(file: int) -> str:
    """Who wrote into the lock file."""
    try:
        holder = json.loads(os.pread(file, 1000, 0))
        return f"process {holder['process']} on {holder['host']}"
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return "another process"  # which has only just begun, or ended


def _write(file: int, text: str) -> None:
    """Say who holds the lock. A full disk keeps nobody from training: then the message of the second says less."""
    with contextlib.suppress(OSError):
        os.ftruncate(file, 0)
        os.pwrite(file, text.encode(), 0)
