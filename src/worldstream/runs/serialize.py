"""Nested state to plain JSON plus named arrays, and back: nothing is ever pickled.

    {"policy": {"memory": tensor}, "steps": 7}  <->  {"policy": {"memory": {"$tensor": "policy/memory"}}, "steps": 7}
                                                     and {"policy/memory": array}
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

_TENSOR, _ARRAY = "$tensor", "$array"


def split(state: Any, path: str = "") -> tuple[Any, dict[str, np.ndarray]]:
    """Take tensors and arrays out of nested dicts (keys are strings), lists and tuples (which become lists).

    Raises TypeError for anything that JSON and arrays cannot hold.
    """
    if isinstance(state, Tensor):
        return {_TENSOR: path}, {path: state.detach().cpu().contiguous().numpy()}
    if isinstance(state, np.ndarray):
        return {_ARRAY: path}, {path: np.ascontiguousarray(state).reshape(state.shape)}
    if isinstance(state, np.generic):
        return state.item(), {}
    if state is None or isinstance(state, bool | int | float | str):
        return state, {}
    if isinstance(state, dict):
        if wrong := [key for key in state if not isinstance(key, str) or key in (_TENSOR, _ARRAY)]:
            raise TypeError(f"state at '{path}' has keys {wrong}; keys are strings")
        items: Any = state.items()
    elif isinstance(state, list | tuple):
        items = ((str(i), value) for i, value in enumerate(state))
    else:
        raise TypeError(f"state at '{path}' is a {type(state).__qualname__}; not plain or an array")
    plain, arrays = {}, {}
    for key, value in items:
        name = key.replace("~", "~0").replace("/", "~1")  # as JSON pointers do, so that no two paths are one
        plain[key], found = split(value, f"{path}/{name}" if path else name)
        arrays.update(found)
    return (plain if isinstance(state, dict) else list(plain.values())), arrays


def join(plain: Any, arrays: dict[str, np.ndarray]) -> Any:
    """Inverse of ``split``. Raises KeyError when an array is missing."""
    if isinstance(plain, list):
        return [join(value, arrays) for value in plain]
    if not isinstance(plain, dict):
        return plain
    if plain.keys() == {_TENSOR}:
        return torch.from_numpy(arrays[plain[_TENSOR]].copy())
    if plain.keys() == {_ARRAY}:
        return arrays[plain[_ARRAY]]
    return {key: join(value, arrays) for key, value in plain.items()}
