"""Logs of a run: JSON objects, one a line, each with the id of the run and the CRC-32 of its text.

A full disk makes them wait.
"""

from __future__ import annotations

import json
import os
import zlib
from pathlib import Path
from typing import Any

from worldstream.errors import RunFolderError, warn
from worldstream.runs.files import open_plain, parse_json, reading, writing

_RUN, _CRC = "run", "crc"


class LineLog:
    """Appends to one file. What a full disk refuses waits in memory until there is space again.

    Args:
        path: of the file; it need not exist yet.
        run: id of the run.
        held: lines wait until ``release``.
    """

    def __init__(self, path: Path, run: str = "", *, held: bool = False) -> None:
        self.path = path
        self._run, self._held = run, held
        self._waiting: list[bytes] = []
        self._warned = False

    def append(self, record: dict[str, Any]) -> None:
        """Write one line. When that fails, it is kept and written with the next one, and a warning says so once."""
        text = json.dumps({**record, _RUN: self._run})
        self._waiting.append(f'{text[:-1]}, "{_CRC}": {zlib.crc32(text.encode())}}}\n'.encode())
        if not self._held:
            self._try_to_flush()

    def release(self) -> None:
        """Write the lines that were held, and each later one when it is appended."""
        self._held = False
        self._try_to_flush()

    def _try_to_flush(self) -> None:
        try:
            self.flush()
        except RunFolderError as error:
            if not self._warned:
                warn(f"{error} Lines are kept in memory until there is space.")
            self._warned = True

    def flush(self) -> None:
        """Write what is waiting. Raises RunFolderError when that fails; the file is then what it was."""
        if not self._waiting:
            return
        before = self.size
        with writing(self.path):
            try:
                with open_plain(self.path, "ab") as file:
                    # A line that a killed run left incomplete must not swallow the next one.
                    file.write((b"" if self._is_whole() else b"\n") + b"".join(self._waiting))
            except OSError:
                self.cut(before)
                raise
        self._waiting.clear()
        self._warned = False

    def sync(self) -> None:
        """Make sure that what is written survives a loss of power. Raises RunFolderError."""
        if self.path.is_file():
            with writing(self.path), open_plain(self.path, "rb") as file:
                os.fsync(file.fileno())

    def _is_whole(self) -> bool:
        if not self.size:
            return True
        with open_plain(self.path, "rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read(1) == b"\n"

    @property
    def size(self) -> int:
        """Bytes that are written."""
        return self.path.stat().st_size if self.path.is_file() else 0

    def cut(self, size: int) -> None:
        """Cut the file back to its first ``size`` bytes; a shorter one stays, with a warning. Raises RunFolderError."""
        with writing(self.path):
            if self.size > size:
                with open_plain(self.path, "r+b") as file:
                    file.truncate(size)
            elif self.size < size:
                warn(f"{self.path} has {self.size} bytes, {size} were written: its last lines are lost.")


def read_lines(path: Path, run: str | None = None) -> list[dict[str, Any]]:
    """Objects of a log, [] when there is none.

    Lines that are incomplete, were changed, or are not of the ``run`` with that id (None: any) are left out, with a
    warning; only the last line of a run that was killed is expected to be incomplete, and goes without one. Raises
    RunFolderError when the file cannot be read.
    """
    with reading(path):
        if not path.exists():
            return []
        with open_plain(path, "rb") as file:
            lines = file.read().split(b"\n")
    read = [_read_line(line) for line in lines]
    if broken := [i for i, line in enumerate(lines[:-1]) if line and not read[i]]:
        numbers = ", ".join(str(i + 1) for i in broken)
        warn(f"{path}: lines {numbers} are not what was written and are left out.")
    records = [record for record in read if record is not None]
    owners = [record.pop(_RUN, "") for record in records]
    ours = [record for record, owner in zip(records, owners, strict=True) if run in (None, owner)]
    if len(ours) < len(records):
        warn(f"{path}: {len(records) - len(ours)} lines belong to another run and are left out.")
    return ours


def _read_line(line: bytes) -> dict[str, Any] | None:
    """One line of ``append``; None when it is not what was written."""
    text, separator, crc = line.rpartition(f', "{_CRC}": '.encode())
    if not separator or crc != f"{zlib.crc32(text + b'}')}}}".encode():
        return None
    try:
        record = parse_json(text + b"}")
    except ValueError:
        return None
    return record if isinstance(record, dict) else None
