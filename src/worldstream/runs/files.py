"""Writing files whole: under a temporary name, flushed to disk, then renamed over what was there."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from worldstream.errors import RunFolderError


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn errors of the file system (full disk, no permission) into one message about ``path``."""
    try:
        yield
    except (OSError, ValueError) as error:  # ValueError: a path that no system takes
        raise RunFolderError(
            f"cannot write {path}: {getattr(error, 'strerror', None) or error}. What was there before is kept. "
            "Free space or choose another --output."
        ) from error


def replace_file(path: Path, write: Callable[[BinaryIO], Any]) -> None:
    """Write a file under a temporary name, flush it to disk, then rename it over ``path``.

    Raises RunFolderError when it cannot be written; ``path`` is then what it was.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    with writing(path):
        try:
            with open(temporary, "wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        _flush_folder(path.parent)


def _flush_folder(path: Path) -> None:
    """Flush a rename to disk, where the system can."""
    if os.name == "posix":
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
