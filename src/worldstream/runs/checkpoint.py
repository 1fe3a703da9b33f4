"""Checkpoints: everything that decides how a run goes on, written so that no crash and no bit flip goes unnoticed.

    checkpoints/000000012000.safetensors    state, and the parts of replay that belong to it with their SHA-256
    replay/000000012000.safetensors         the rows that were written since the checkpoint before

One that was written between two updates of a step has the number of updates of the run behind the steps, and comes
before that of the whole step.

Both are archives. Replay is a chain of such parts, each written once: a checkpoint costs what is new. ``latest``
verifies all that it reads, and falls back to the checkpoint before when anything is torn or changed.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from worldstream.environments.pool import MAX_ENVIRONMENTS
from worldstream.errors import RunFolderError, warn
from worldstream.runs.archive import read_arrays, read_plain, read_state, write_arrays, write_state
from worldstream.runs.files import (
    TEMPORARY,
    make_folder,
    open_plain,
    reading,
    require_plain,
    temporary_name,
    writing,
)
from worldstream.runs.folder import RunFolder

_SUFFIX, _PROBE = ".safetensors", "probe"
_FILE = r"[0-9]{12,}(-[0-9]{9,})?\.safetensors"
_OWN = re.compile(f"{_FILE}|{TEMPORARY.format(name=f'({_PROBE}|{_FILE})')}")
"""Names of files in ``checkpoints/`` and ``replay/``; what has another name is not ours to delete."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was read and verified."""

    name: str
    """Of the file, without suffix: steps, and updates where the step was left between two of them."""
    state: dict[str, Any]
    parts: dict[str, str]
    """Parts of replay, oldest first: name of the file and SHA-256."""
    folder: RunFolder

    def replay_parts(self) -> Iterator[dict[str, np.ndarray]]:
        """The parts of replay, oldest first, one at a time in memory."""
        for name, digest in self.parts.items():
            yield read_arrays(self.folder.replay / name, digest, run=self.folder.run_id)[0]


class Checkpoints:
    """The checkpoints of one run.

    The newest, ``keep`` of them, are kept; older ones are deleted, with the parts of replay that nobody needs any more.
    """

    def __init__(self, folder: RunFolder, keep: int) -> None:
        self._folder, self._keep = folder, keep
        # Of the newest checkpoint, oldest first: name -> SHA-256, and (N,) serial number of the newest row
        # of each environment.
        self._parts: dict[str, tuple[str, np.ndarray]] = {}

    def save(self, name: str, state: dict[str, Any], replay: dict[str, np.ndarray], oldest: np.ndarray) -> Path:
        """Write a checkpoint. Raises RunFolderError when it cannot be written; all older ones are then intact.

        Args:
            name: later ones are greater.
            state: nested plain values, arrays and tensors.
            replay: rows since the last checkpoint that was saved or loaded, with their "serials".
            oldest: (N,) serial number of the oldest row of each environment that replay still keeps.
        """
        file = f"{name}.safetensors"
        path = self._folder.checkpoints / file
        for folder in (self._folder.checkpoints, self._folder.replay):
            make_folder(folder)
        parts = {part: kept for part, kept in self._parts.items() if (kept[1] >= oldest).any() and part != file}
        digest = write_arrays(self._folder.replay / file, replay, run=self._folder.run_id)
        parts[file] = digest, _newest_serials(replay["serials"], len(oldest))
        digests = {part: digest for part, (digest, _) in parts.items()}
        content = {"name": name, "num_environments": len(oldest), "replay": digests, "state": state}
        write_state(path, content, run=self._folder.run_id)
        self._parts = parts
        self._prune(file)
        return path

    def require_writable(self) -> None:
        """Write and delete a file where checkpoints go. Raises RunFolderError when that fails."""
        folder = self._folder.checkpoints
        make_folder(folder)
        probe = temporary_name(folder / _PROBE)
        with writing(folder), open_plain(probe, "xb") as file:
            try:
                file.write(b"probe")
                file.flush()
                os.fsync(file.fileno())
            finally:
                probe.unlink()

    def latest(self) -> Checkpoint | None:
        """The newest checkpoint that is intact; None when there is none at all. Warns and raises as ``intact``."""
        return next(self.intact(), None)

    def intact(self) -> Iterator[Checkpoint]:
        """Checkpoints that are intact, newest first; the next one to be saved builds on the last one that was taken.

        Warns of each that is not, or that is gone while its part of replay is there, and in the end raises
        RunFolderError when there are checkpoints but none is intact.
        """
        problems, paths = [], _numbered(self._folder.checkpoints)
        for part in _numbered(self._folder.replay)[-1:]:
            if paths and part.name > paths[-1].name:
                warn(
                    f"{part} is newer than every checkpoint: the run was killed before it wrote that checkpoint, or it "
                    f"was deleted. Falling back to {paths[-1].name}."
                )
        for path in reversed(paths):
            try:
                found = self._read(path)
            except RunFolderError as error:
                problems.append(str(error))
                warn(f"{error} Falling back to the checkpoint before.")
            else:
                yield found
        if problems and len(problems) == len(paths):
            raise RunFolderError(f"no checkpoint in {self._folder.checkpoints} is intact. {' '.join(problems)}")

    def _read(self, path: Path) -> Checkpoint:
        parts = self._parts_of(path)
        content = read_state(path, run=self._folder.run_id)
        self._parts = {}
        for part, digest in parts.items():
            rows, _ = read_arrays(self._folder.replay / part, digest, run=self._folder.run_id)
            serials = rows.get("serials")
            if serials is None or serials.dtype != np.int64 or serials.ndim != 1:
                raise RunFolderError(f"{self._folder.replay / part} does not hold rows of replay.")
            self._parts[part] = digest, _newest_serials(serials, content["num_environments"])
        return Checkpoint(content["name"], content["state"], parts, self._folder)

    def _prune(self, newest: str) -> None:
        """Delete all but the newest checkpoints, then the parts of replay that no checkpoint names.

        One that comes after the ``newest`` was damaged when the run was resumed from before it.
        """
        kept = [path for path in _numbered(self._folder.checkpoints) if path.name <= newest][-self._keep :]
        named = set(self._parts)
        for path in kept:
            with contextlib.suppress(RunFolderError):
                named |= self._parts_of(path).keys()
        unwanted = [path for path in _own(self._folder.checkpoints) if path not in kept]
        unwanted += [path for path in _own(self._folder.replay) if path.name not in named]
        for path in unwanted:
            with contextlib.suppress(OSError):  # a file too many does no harm
                path.unlink()

    def _parts_of(self, path: Path) -> dict[str, str]:
        """Parts of replay that a checkpoint names, with their SHA-256. RunFolderError when it is no checkpoint."""
        match read_plain(path, run=self._folder.run_id):
            case {"name": str(name)} if name != path.stem:
                raise RunFolderError(f"{path} was written as {name}{path.suffix}, and renamed.")
            case {"name": str(), "num_environments": int(n), "replay": dict(parts), "state": dict()} if (
                0 < n <= MAX_ENVIRONMENTS
            ):
                if all(Path(name).name == name and isinstance(digest, str) for name, digest in parts.items()):
                    return parts
        raise RunFolderError(f"{path} does not describe a checkpoint.")


def _numbered(folder: Path) -> list[Path]:
    """Checkpoints or parts of replay, by steps. Raises RunFolderError when the folder is a link or cannot be read."""
    return [path for path in _own(folder) if path.suffix == _SUFFIX]


def _own(folder: Path) -> list[Path]:
    """Files of a folder that a run has written itself, by their names, in order. Raises RunFolderError."""
    require_plain(folder)
    with reading(folder):
        names = os.listdir(folder) if folder.is_dir() else []
    return [folder / name for name in sorted(names) if _OWN.fullmatch(name)]


def _newest_serials(serials: np.ndarray, num_environments: int) -> np.ndarray:
    """(N,) serial number of each environment's newest row among ``serials``; -1 where it has none."""
    newest = np.full(num_environments, -1)
    np.maximum.at(newest, serials % num_environments, serials)
    return newest
