"""The run folder is an interface: this module names every file in it, and is the only one that does."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from worldstream.errors import RunFolderError
from worldstream.runs.archive import text_digest
from worldstream.runs.files import (
    TEMPORARY,
    open_plain,
    parse_json,
    reading,
    replace_file,
    require_plain,
    writing,
)

FORMAT = 6
"""Version of the format of everything in a run folder; run.json states it."""
_RUN, _CHECKSUM = "run", "sha256"


class RunFolder:
    """Paths of one run. What is replaced stays until the new file is whole (``runs/files.py``).

    They are absolute, so that an environment that changes the current directory does not move the run.
    """

    def __init__(self, path: Path) -> None:
        with writing(path):  # a current directory that is gone
            path = path.absolute()
        self.path = path
        # Written first, once: format, id, version, environment, origin, seed, configuration, specs.
        self.description = path / "run.json"
        # Appended: one object per logging step, the same for TensorBoard, one object per evaluation, and when the run
        # was stopped and resumed, with what failed meanwhile.
        self.metrics = path / "metrics.jsonl"
        self.events = path / "events"
        self.evaluations = path / "evaluations.jsonl"
        self.sittings = path / "sittings.jsonl"
        # Replaced: tokenizers, world model, actor-critic; the same at the best evaluation during training.
        self.weights = path / "weights.safetensors"
        self.best_weights = path / "best.safetensors"
        # Written once each: all that decides how the run goes on, newest last; replay, in parts that these name;
        # updates whose loss was not finite, to be looked at.
        self.checkpoints = path / "checkpoints"
        self.replay = path / "replay"
        self.skipped = path / "skipped"
        # Replaced: a few real episodes of the latest evaluation, and what ``worldstream report`` makes.
        self.episodes = path / "episodes.safetensors"
        self.report = path / "report.html"
        # Replaced: what ``worldstream diagnose`` found.
        self.diagnosis = path / "diagnosis.json"
        # Locked by whoever writes into the folder, and says who that is.
        self.lock = path / "lock"

    @cached_property
    def run_id(self) -> str:
        """Of the run, in every file of it, so that files of two runs are never mixed; a new one where there is none.

        Raises as ``read_description``.
        """
        with reading(self.path):
            is_run = self.description.exists()
        return str(self.read_description().get(_RUN, "")) if is_run else secrets.token_hex(8)

    def require_plain(self) -> None:
        """Raises RunFolderError when a file of the run is a link, a pipe or a device; the folder itself may be a link.

        Files that are none of the run's are not looked at.
        """
        for path in (each for each in vars(self).values() if isinstance(each, Path) and each != self.path):
            require_plain(path)
            with reading(path):
                for name in sorted(os.listdir(path)) if path.is_dir() else []:
                    require_plain(path / name)

    def prepare_writing(self) -> None:
        """Delete what a killed process has left of files that it was replacing.

        Raises as ``require_plain``, and when logs cannot be appended to, or have a second name elsewhere.
        """
        self.require_plain()
        for log in (self.metrics, self.evaluations, self.sittings):
            with writing(log):
                if log.exists():
                    open_plain(log, "ab").close()
        replaced = (self.description, self.weights, self.best_weights, self.episodes)
        pattern = re.compile(TEMPORARY.format(name=f"({'|'.join(re.escape(path.name) for path in replaced)})"))
        with contextlib.suppress(OSError):  # a file too many does no harm
            for name in filter(pattern.fullmatch, os.listdir(self.path)):
                (self.path / name).unlink()

    def require_unused(self) -> None:
        """Raises RunFolderError when the path holds anything already."""
        with writing(self.path):
            used = self.path.exists() and (not self.path.is_dir() or any(p != self.lock for p in self.path.iterdir()))
        if used:
            raise RunFolderError(f"{self.path} exists and is not empty. Choose another --output, or move it away.")

    def create(self, description: dict[str, Any]) -> None:
        """Make the folder and write run.json. Raises RunFolderError when it holds anything or cannot be written."""
        self.require_unused()
        with writing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        text = checksummed({"format": FORMAT, _RUN: self.run_id, **description})
        replace_file(self.description, lambda file: file.write(text.encode()))

    def read_description(self) -> dict[str, Any]:
        """Content of run.json. Raises RunFolderError when it is missing, of another format, or not what was written."""
        path = self.description
        with reading(self.path):
            if not self.path.is_dir():
                raise RunFolderError(f"{self.path} is not a folder. Give the folder that `worldstream train` wrote.")
            self.require_plain()
            if not path.is_file():
                raise RunFolderError(
                    f"{self.path} is not a run folder: it has no {path.name}. "
                    "Give the folder that `worldstream train` wrote."
                )
            with open_plain(path, "rb") as file:
                text = file.read()
        try:
            data = parse_json(text)
        except ValueError as error:
            raise RunFolderError(f"{path} cannot be read as JSON: {error}.") from error
        found = data.get("format") if isinstance(data, dict) else None
        if found != FORMAT:
            version = data.get("worldstream", "another version") if isinstance(data, dict) else "something else"
            raise RunFolderError(
                f"{path} has format {found}, written by worldstream {version}; this version reads format "
                f"{FORMAT}. Use the version that wrote it, or train again."
            )
        if data.pop(_CHECKSUM, None) != _digest(data):
            raise RunFolderError(f"{path} is not what was written: its checksum differs.")
        return cast(dict[str, Any], data)


def checksummed(data: dict[str, Any]) -> str:
    """JSON text of a dictionary with the SHA-256 of itself, as run.json holds it."""
    return json.dumps({**data, _CHECKSUM: _digest(data)}, indent=1)


def content_of(text: bytes) -> dict[str, Any]:
    """Inverse of ``checksummed``. Raises ValueError when the text is not what was written."""
    data = json.loads(text)
    if not isinstance(data, dict) or data.pop(_CHECKSUM, None) != _digest(data):
        raise ValueError("its checksum differs")
    return data


def _digest(data: dict[str, Any]) -> str:
    return text_digest(json.dumps(data, sort_keys=True))
