"""The run folder is an interface: this module names every file in it, and is the only one that does.

::

    run.json             format, version, environment, origin, seed, configuration, specs  (written first)
    metrics.jsonl        one object per logging step                                       (appended)
    evaluations.jsonl    one object per evaluation                                         (appended)
    sittings.jsonl       when the run was stopped and resumed, and what failed meanwhile (appended)
    events/              the same metrics for TensorBoard
    weights.safetensors  tokenizers, world model, actor-critic                             (replaced atomically)
    best.safetensors     the same, at the best evaluation during training                  (replaced atomically)
    checkpoints/         everything that decides how the run goes on, newest last          (written once each)
    replay/              replay, in parts that the checkpoints name                        (written once each)
    skipped/             updates whose loss was not finite, to be looked at       (written once each)
    episodes.npz         a few real episodes of the latest evaluation, for the report      (replaced atomically)
    report.html          made by ``worldstream report``                                    (replaced atomically)

A file that is replaced is written under a temporary name, flushed to disk and renamed, so that whatever was there
stays until the new one is whole.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np

from worldstream.errors import RunFolderError
from worldstream.specs import ActionComponent, ActionSpec, KeySpec

FORMAT = 4


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


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """Paths of one run."""

    path: Path

    @property
    def description(self) -> Path:
        """run.json"""
        return self.path / "run.json"

    @property
    def metrics(self) -> Path:
        """metrics.jsonl"""
        return self.path / "metrics.jsonl"

    @property
    def evaluations(self) -> Path:
        """evaluations.jsonl"""
        return self.path / "evaluations.jsonl"

    @property
    def events(self) -> Path:
        """events/"""
        return self.path / "events"

    @property
    def weights(self) -> Path:
        """weights.safetensors"""
        return self.path / "weights.safetensors"

    @property
    def best_weights(self) -> Path:
        """best.safetensors"""
        return self.path / "best.safetensors"

    @property
    def checkpoints(self) -> Path:
        """checkpoints/"""
        return self.path / "checkpoints"

    @property
    def replay(self) -> Path:
        """replay/"""
        return self.path / "replay"

    @property
    def sittings(self) -> Path:
        """sittings.jsonl"""
        return self.path / "sittings.jsonl"

    @property
    def skipped(self) -> Path:
        """skipped/"""
        return self.path / "skipped"

    @property
    def episodes(self) -> Path:
        """episodes.npz"""
        return self.path / "episodes.npz"

    @property
    def report(self) -> Path:
        """report.html"""
        return self.path / "report.html"

    def require_unused(self) -> None:
        """Raises RunFolderError when the path holds anything already."""
        with writing(self.path):
            used = self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir()))
        if used:
            raise RunFolderError(f"{self.path} exists and is not empty. Choose another --output, or move it away.")

    def create(self, description: dict[str, Any]) -> None:
        """Make the folder and write run.json. Raises RunFolderError when it holds anything or cannot be written."""
        self.require_unused()
        with writing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        text = checksummed({"format": FORMAT, **description})
        replace_file(self.description, lambda file: file.write(text.encode()))

    def read_description(self) -> dict[str, Any]:
        """Content of run.json. Raises RunFolderError when this is not a run folder of a format that we know."""
        if not self.path.is_dir():
            raise RunFolderError(f"{self.path} is not a folder. Give the folder that `worldstream train` wrote.")
        if not self.description.is_file():
            raise RunFolderError(
                f"{self.path} is not a run folder: it has no {self.description.name}. "
                "Give the folder that `worldstream train` wrote."
            )
        return read_checksummed(self.description, FORMAT)


_CHECKSUM = "sha256"


def checksummed(data: dict[str, Any]) -> str:
    """JSON text of a dictionary with the SHA-256 of itself."""
    return json.dumps({**data, _CHECKSUM: _digest(data)}, indent=1)


def read_checksummed(path: Path, expected_format: int) -> dict[str, Any]:
    """Inverse of ``checksummed`` for data that state their "format".

    Raises RunFolderError when the file is missing, of another format, or not what was written.
    """
    try:
        data = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise RunFolderError(f"{path} cannot be read as JSON: {error}.") from error
    found = data.get("format") if isinstance(data, dict) else None
    if found != expected_format:
        version = data.get("worldstream", "another version") if isinstance(data, dict) else "something else"
        raise RunFolderError(
            f"{path} has format {found}, written by worldstream {version}; this version reads format "
            f"{expected_format}. Use the version that wrote it, or train again."
        )
    if data.pop(_CHECKSUM, None) != _digest(data):
        raise RunFolderError(f"{path} is not what was written: its checksum differs.")
    return cast(dict[str, Any], data)


def _digest(data: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def array_digest(arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of named arrays: names, types, shapes and values."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype} {arrays[name].shape};".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def specs_to_json(key_specs: dict[str, KeySpec], action_spec: ActionSpec) -> dict[str, Any]:
    """Specs as plain values, for run.json."""
    return {
        "observation": [dataclasses.asdict(spec) for spec in key_specs.values()],
        "action": dataclasses.asdict(action_spec),
    }


def specs_from_json(data: dict[str, Any]) -> tuple[dict[str, KeySpec], ActionSpec]:
    """Inverse of ``specs_to_json``. Raises RunFolderError when a field is missing or unknown."""
    try:
        keys = {item["key"]: KeySpec(**_tuples(item)) for item in data["observation"]}
        components = tuple(ActionComponent(**_tuples(item)) for item in data["action"]["components"])
        return keys, ActionSpec(components=components, structure=data["action"]["structure"])
    except (KeyError, TypeError) as error:
        raise RunFolderError(f"run.json describes its observations or actions in an unknown way: {error}.") from error


def _tuples(item: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in item.items()}
