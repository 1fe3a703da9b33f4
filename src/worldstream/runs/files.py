"""Files of runs: written whole, under a temporary name, flushed to disk, then renamed over what was there.

Nothing here follows a link or waits for a pipe: a run folder may come from elsewhere, and what lies in it must not lead
outside of it.
"""

from __future__ import annotations

import json
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Literal

from worldstream.errors import RunFolderError

TEMPORARY = r"\.{name}\.[0-9a-f]{{16}}\.tmp"
"""Pattern of temporary names of a file; only a killed process leaves one."""
MAX_NESTING = 100
"""Objects and lists within each other that JSON of a run may hold: more exhaust the stack of whoever looks at them."""
_CAREFULLY = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)  # a pipe would be waited for


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


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn errors of the file system (no permission, a failing disk) into one message about ``path``."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise RunFolderError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}.") from error


def parse_json(text: bytes | str) -> Any:
    """What JSON says. Raises ValueError when it is none, or nested deeper than ``MAX_NESTING``."""
    try:
        value = json.loads(text)
    except RecursionError as error:
        raise ValueError(f"it is nested too deeply ({error})") from None
    level = [value]
    for _ in range(MAX_NESTING + 1):
        inner = [each.values() if isinstance(each, dict) else each for each in level if isinstance(each, dict | list)]
        if not inner:
            return value
        level = [item for items in inner for item in items]
    raise ValueError(f"it is nested deeper than {MAX_NESTING} levels")


def require_plain(path: Path) -> None:
    """Raises RunFolderError when ``path`` is a link, a pipe or a device; a file, a folder and nothing are welcome."""
    with reading(path):
        try:
            found = os.lstat(path)
        except (FileNotFoundError, NotADirectoryError):
            return
        _require_plain(path, found)


def _require_plain(path: Path | str, found: os.stat_result) -> None:
    if stat.S_ISLNK(found.st_mode):
        raise RunFolderError(
            f"{path} is a symbolic link. Links inside of a run folder are not followed, for they may lead anywhere: "
            "put what it leads to in its place, or remove it. (The run folder itself may be a link.)"
        )
    if not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)):
        raise RunFolderError(f"{path} is a pipe, a socket or a device, not a file. Remove it.")


def open_plain(path: Path, mode: Literal["rb", "ab", "xb", "r+b"]) -> BinaryIO:
    """Open a file that is one. Raises RunFolderError for links, pipes and devices, and OSError."""
    return open(path, mode, opener=plain_descriptor)


def plain_descriptor(path: str | Path, flags: int) -> int:
    """``os.open`` for a file that is one. What is written in place must have no second name, as hard links do.

    Raises RunFolderError for links, pipes and devices, and OSError.
    """
    require_plain(Path(path))  # opening a device may already do something
    descriptor = os.open(path, flags | _CAREFULLY, 0o666)
    try:
        found = os.fstat(descriptor)
        _require_plain(path, found)
        if flags & (os.O_WRONLY | os.O_RDWR) and found.st_nlink > 1:
            raise RunFolderError(
                f"{path} has {found.st_nlink} names (hard links), and is written in place: replace it by a copy of it."
            )
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def make_folder(path: Path) -> None:
    """Make a folder inside of a run folder where there is none. Raises RunFolderError, also when it is a link."""
    require_plain(path)
    with writing(path):
        path.mkdir(exist_ok=True)


def replace_file(path: Path, write: Callable[[BinaryIO], Any]) -> None:
    """Write a file under a temporary name, flush it to disk, then rename it over ``path``.

    Raises RunFolderError when it cannot be written; ``path`` is then what it was.
    """
    require_plain(path)
    temporary = temporary_name(path)
    with writing(path):
        try:
            with open_plain(temporary, "xb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        _flush_folder(path.parent)


def temporary_name(path: Path) -> Path:
    """A name beside ``path`` that nobody can know before."""
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")


def _flush_folder(path: Path) -> None:
    """Flush a rename to disk, where the system can."""
    if os.name == "posix":
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
