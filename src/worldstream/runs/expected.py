"""What a checkpoint holds, compared with what the trainer would save now, before any of it is loaded.

A checksum says that a file is what somebody wrote, not that it makes sense: another version, a slip or a stranger may
have written it.
"""

from __future__ import annotations

from math import isfinite
from typing import Any

import numpy as np
from torch import Tensor

_ANYTHING = ("states", "metrics")
"""Names of what is looked at elsewhere: states of environments, and sums of metrics that have come since."""
_GROWING = ("priorities", "serials", "tokens")
"""Names of arrays, or of what holds arrays, with one row for each row of replay."""


def require_like(found: Any, expected: Any, place: str = "state") -> None:
    """Raises ValueError that names the first place where a state is of another form than the one that is expected:
    other types, shapes, lengths or missing names, and numbers that are negative or not finite where none should be."""
    if place.rpartition("/")[2] in _ANYTHING:
        if type(found) is not type(expected) or (isinstance(found, list) and len(found) != len(expected)):
            raise ValueError(f"{place} is a {type(found).__name__} of another form than {type(expected).__name__}")
    elif isinstance(expected, dict):
        _require_type(found, dict, place)
        if missing := sorted(expected.keys() - found.keys()):
            raise ValueError(f"{place} lacks {missing[0]}")
        if "device" in expected and found["device"] != expected["device"]:  # generators of another kind are not loaded
            expected = {name: value for name, value in expected.items() if name not in ("generator", "cuda")}
        for name, value in expected.items():
            require_like(found[name], value, f"{place}/{name}")
    elif isinstance(expected, list):
        _require_type(found, list, place)
        if len(found) != len(expected):
            raise ValueError(f"{place} has {len(found)} entries instead of {len(expected)}")
        for i, value in enumerate(expected):
            require_like(found[i], value, f"{place}/{i}")
    elif isinstance(expected, Tensor | np.ndarray):
        _require_array(found, expected, place)
    elif isinstance(expected, float):
        _require_type(found, float | int, place)
        if isfinite(expected) and not isfinite(found):
            raise ValueError(f"{place} is {found}")
    elif expected is None:
        for number in found if isinstance(found, list) else [found]:  # what was not known yet: numbers
            _require_type(number, float | int | None, place)
    else:
        _require_type(found, type(expected), place)
        if isinstance(found, int) and found < 0:
            raise ValueError(f"{place} is {found}")


def _require_type(found: Any, kind: Any, place: str) -> None:
    if not isinstance(found, kind) or (isinstance(found, bool) and kind is not bool):
        raise ValueError(f"{place} is a {type(found).__name__} instead of a {getattr(kind, '__name__', kind)}")


def _require_array(found: Any, expected: Tensor | np.ndarray, place: str) -> None:
    _require_type(found, Tensor if isinstance(expected, Tensor) else np.ndarray, place)
    grows = any(part in _GROWING for part in place.split("/"))
    shape, wanted = tuple(found.shape), tuple(expected.shape)
    if grows and found.ndim == expected.ndim and found.ndim:
        shape, wanted = shape[1:], wanted[1:]
    if found.dtype != expected.dtype or shape != wanted:
        ours = f"{expected.dtype} {tuple(expected.shape)}"
        raise ValueError(f"{place} is {found.dtype} {tuple(found.shape)} instead of {ours}")
    if _is_finite(expected) and not _is_finite(found):
        raise ValueError(f"{place} holds numbers that are not finite")


def _is_finite(array: Tensor | np.ndarray) -> bool:
    if isinstance(array, Tensor):
        return not array.is_floating_point() or bool(array.isfinite().all())
    return array.dtype.kind != "f" or bool(np.isfinite(array).all())
