"""The golden files: numbers of the published agent (``tests/golden/README.md``)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

FOLDER = Path(__file__).parents[1] / "golden"
FILES = sorted(path.stem for path in FOLDER.glob("*.npz"))
"""Names of those that are there."""


class Golden(NamedTuple):
    """A golden file; names are without the prefix."""

    weights: dict[str, np.ndarray]
    inputs: dict[str, np.ndarray]
    outputs: dict[str, np.ndarray]
    settings: dict[str, Any]


def read(name: str) -> Golden:
    """A golden file, read anew, so that it may be changed."""
    with np.load(FOLDER / f"{name}.npz") as file:
        parts = [
            {key.removeprefix(prefix): file[key] for key in file.files if key.startswith(prefix)}
            for prefix in ("w/", "in/", "out/")
        ]
    return Golden(*parts, json.loads((FOLDER / f"{name}.json").read_text()))
