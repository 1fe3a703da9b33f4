"""Checkpoints: everything that decides how a run goes on, written so that no crash and no bit flip goes unnoticed.

    checkpoints/000000012000/   manifest.json    what belongs to the checkpoint, with sizes and SHA-256
                                state.json       plain values
                                arrays.safetensors
    replay/000000012000.safetensors              the rows that were written since the checkpoint before

A checkpoint is written under a temporary name, flushed to disk and renamed, the manifest last. Replay is a chain of
such parts, each written once: a checkpoint costs what is new. ``latest`` verifies all that it reads, and falls back
to the checkpoint before when anything is torn or changed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from worldstream.errors import RunFolderError, warn
from worldstream.runs import serialize as tree
from worldstream.runs.folder import RunFolder, checksummed, read_checksummed, replace_file, writing

FORMAT = 4
_MANIFEST, _STATE, _ARRAYS = "manifest.json", "state.json", "arrays.safetensors"
_TEMPORARY = ".tmp-"


class CorruptCheckpointError(RunFolderError):
    """A checkpoint that is incomplete, or not what was written."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was read and verified."""

    steps: int
    state: dict[str, Any]
    replay_names: list[str]
    folder: RunFolder

    def replay_parts(self) -> Iterator[dict[str, np.ndarray]]:
        """The parts of replay, oldest first, one at a time in memory. They have been verified."""
        for name in self.replay_names:
            yield safetensors.numpy.load_file(self.folder.replay / name)


class Checkpoints:
    """Those of one run.

    Args:
        folder: of the run.
        keep: the newest that are kept; older ones are deleted, with the parts of replay that nobody needs any more.
    """

    def __init__(self, folder: RunFolder, keep: int) -> None:
        self._folder = folder
        self._keep = keep
        self._parts: dict[str, list[Any]] = {}  # of replay, oldest first: name -> [bytes, sha256]
        self._newest_numbers: dict[str, list[int]] = {}  # name -> (N,) number of the newest row of each stream in it

    def save(self, steps: int, state: dict[str, Any], replay: dict[str, np.ndarray], oldest: np.ndarray) -> Path:
        """Write a checkpoint. Raises RunFolderError when it cannot be written; all older ones are then intact.

        Args:
            steps: environment steps taken, which name the checkpoint.
            state: nested plain values, arrays and tensors.
            replay: rows since the last checkpoint that was saved or loaded, with their "ids".
            oldest: (N,) number of the oldest row of each stream that replay still keeps.
        """
        plain, arrays = tree.split(state)
        name = f"{steps:012d}"
        final, temporary = self._folder.checkpoints / name, self._folder.checkpoints / f"{_TEMPORARY}{name}"
        part = f"{name}.safetensors"
        with writing(final):
            for folder in (self._folder.checkpoints, self._folder.replay):
                folder.mkdir(exist_ok=True)
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir()
        try:
            parts = {key: value for key, value in self._parts.items() if self._needed(key, oldest) and key != part}
            parts[part] = _write(self._folder.replay / part, safetensors.numpy.save(replay))
            files = {
                _STATE: _write(temporary / _STATE, json.dumps(plain).encode()),
                _ARRAYS: _write(temporary / _ARRAYS, safetensors.numpy.save(arrays)),
            }
            manifest = {
                "format": FORMAT,
                "steps": steps,
                "files": files,
                "num_streams": len(oldest),
                "replay": parts,
            }
            _write(temporary / _MANIFEST, checksummed(manifest).encode())
            with writing(final):
                shutil.rmtree(final, ignore_errors=True)  # of a run that was resumed from before it
                os.replace(temporary, final)
                _sync_folder(self._folder.checkpoints)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        self._parts = parts
        self._newest_numbers[part] = _newest_numbers(replay["ids"], len(oldest))
        self._prune(name)
        return final

    def latest(self) -> Checkpoint | None:
        """The newest checkpoint that is intact; None when there is none at all.

        Warns of each that is not, and raises RunFolderError when there are checkpoints but none is intact.
        """
        problems = []
        for path in reversed(self._all()):
            try:
                found = self._read(path)
            except CorruptCheckpointError as error:
                problems.append(str(error))
                warn(f"{error} Falling back to the checkpoint before.")
                continue
            return found
        if problems:
            raise RunFolderError(f"no checkpoint in {self._folder.checkpoints} is intact. {' '.join(problems)}")
        return None

    def _all(self) -> list[Path]:
        if not self._folder.checkpoints.is_dir():
            return []
        return sorted(path for path in self._folder.checkpoints.iterdir() if path.name.isdigit())

    def _read(self, path: Path) -> Checkpoint:
        manifest = _read_manifest(path)
        for name, expected in manifest["files"].items():
            _verify(path / _inside(path, name), expected)
        replay = manifest["replay"]
        for name, expected in replay.items():
            _verify(self._folder.replay / _inside(path, name), expected)
        try:
            arrays = safetensors.numpy.load_file(path / _ARRAYS)
            state = tree.join(json.loads((path / _STATE).read_text()), arrays)
        except (ValueError, KeyError, OSError, safetensors.SafetensorError) as error:
            raise CorruptCheckpointError(f"{path} cannot be read: {error}.") from error
        self._parts = dict(replay)
        for name in replay:
            with safetensors.safe_open(self._folder.replay / name, "numpy") as file:
                self._newest_numbers[name] = _newest_numbers(file.get_tensor("ids"), manifest["num_streams"])
        return Checkpoint(int(manifest["steps"]), state, list(replay), self._folder)

    def _needed(self, part: str, oldest: np.ndarray) -> bool:
        """Whether replay still keeps any row of a part."""
        return bool((np.array(self._newest_numbers[part]) >= oldest).any())

    def _prune(self, newest: str) -> None:
        """Delete all but the newest checkpoints, then the parts of replay that no checkpoint names.

        One with more steps than the ``newest`` was damaged when the run was resumed from before it.
        """
        kept = [path for path in self._all() if path.name <= newest][-self._keep :]
        for path in self._all():
            if path not in kept:
                shutil.rmtree(path, ignore_errors=True)
        named = set(self._parts)
        for path in self._all():
            try:
                named |= _read_manifest(path)["replay"].keys()
            except CorruptCheckpointError:
                continue
        for file in self._folder.replay.iterdir():
            if file.name not in named:
                with contextlib.suppress(OSError):  # a file too many does no harm
                    file.unlink()
                self._newest_numbers.pop(file.name, None)


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = read_checksummed(path / _MANIFEST, FORMAT)
    except RunFolderError as error:
        raise CorruptCheckpointError(str(error)) from error
    try:
        numbers = [manifest["steps"], manifest["num_streams"], *(int(size) for size, _ in manifest["replay"].values())]
        is_ours = manifest["files"].keys() == {_STATE, _ARRAYS} and all(isinstance(n, int) and n >= 0 for n in numbers)
    except (KeyError, TypeError, ValueError, AttributeError):
        is_ours = False
    if not is_ours:
        raise CorruptCheckpointError(f"{path / _MANIFEST} does not describe a checkpoint.")
    return manifest


def _write(path: Path, data: bytes) -> list[Any]:
    """Write, flush to disk and rename; returns [bytes, sha256]."""
    replace_file(path, lambda file: file.write(data))
    return [len(data), hashlib.sha256(data).hexdigest()]


def _verify(path: Path, expected: list[Any]) -> None:
    """Raises CorruptCheckpointError unless the file has the size and SHA-256 that the manifest says."""
    size, digest = expected
    try:
        if path.stat().st_size != size:
            raise CorruptCheckpointError(f"{path} has {path.stat().st_size} bytes, {size} were written.")
        with open(path, "rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CorruptCheckpointError(f"{path} cannot be read: {error.strerror}.") from error
    if found != digest:
        raise CorruptCheckpointError(f"{path} is not what was written: its SHA-256 differs.")


def _inside(path: Path, name: str) -> str:
    """A file name of a manifest. Raises CorruptCheckpointError for one that leads out of its folder."""
    if Path(name).name != name or name in ("", ".", ".."):
        raise CorruptCheckpointError(f"{path / _MANIFEST} names the file '{name}', which is not in its folder.")
    return name


def _newest_numbers(ids: np.ndarray, num_streams: int) -> list[int]:
    numbers, streams = np.divmod(ids, num_streams)
    newest = np.full(num_streams, -1)
    np.maximum.at(newest, streams, numbers)
    return [int(number) for number in newest]


def _sync_folder(path: Path) -> None:
    """Flush a rename to disk, where the system can."""
    if os.name == "posix":
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
