"""Archives: named arrays and plain values in one safetensors file, verified when it is read. Nothing is ever pickled.

The header of the file holds a line of JSON, with the SHA-256 of itself before it: the plain values, the SHA-256 of the
arrays, and the id of the run. Nested state is such a pair, in which the plain part names the arrays::

    {"memory": tensor, "steps": 7}  <->  {"memory": {"$tensor": "memory"}, "steps": 7}  and  {"memory": array}

A line above ``MAX_HEADER_BYTES`` stands in an array of its own, and its SHA-256 alone in the header.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
import torch
from torch import Tensor

from worldstream.errors import RunFolderError
from worldstream.runs.files import MAX_NESTING, parse_json, replace_file, require_plain, writing

MAX_HEADER_BYTES = 1_000_000
"""Longest line of JSON in a header: safetensors writes no header above 100 MB, names of arrays and escapes included."""

_HEADER = "worldstream"  # one entry alone: safetensors writes several in any order
_TENSOR, _ARRAY, _LINE = "$tensor", "$array", "$line"


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray], plain: Any = None, *, run: str = "") -> str:
    """Replace an archive, atomically, by arrays and what JSON can hold, of the run with that id.

    Returns the SHA-256 of its content. Raises RunFolderError.
    """
    text = json.dumps({"run": run, "plain": plain, "arrays": array_digest(arrays)})
    digest, stored = text_digest(text), dict(arrays)
    if len(text) > MAX_HEADER_BYTES:
        stored[_LINE], text = np.frombuffer(text.encode(), np.uint8), ""
    with writing(path):
        try:
            data = safetensors.numpy.save(stored, {_HEADER: digest + text})
        except safetensors.SafetensorError as error:
            raise ValueError(error) from error
    replace_file(path, lambda file: file.write(data))
    return digest


def read_arrays(path: Path, digest: str | None = None, *, run: str | None = None) -> tuple[dict[str, np.ndarray], Any]:
    """Arrays and plain values of an archive.

    Raises RunFolderError when it is missing, not what was written, not the content with that SHA-256, or another run's.
    """
    with _opened(path, run) as (file, found, content):
        arrays = {name: file.get_tensor(name) for name in file.keys() if name != _LINE}  # noqa: SIM118  (no dict)
        if digest not in (None, found) or array_digest(arrays) != content["arrays"]:
            raise _changed(path)
        return arrays, content["plain"]


def read_plain(path: Path, *, run: str | None = None) -> Any:
    """The plain values of an archive alone. Raises RunFolderError when they are not what was written, or another's."""
    with _opened(path, run) as (_, _, content):
        return content["plain"]


def write_state(path: Path, state: Any, *, run: str = "") -> str:
    """Replace an archive of nested state; see ``split`` and ``write_arrays``."""
    plain, arrays = split(state)
    return write_arrays(path, arrays, plain, run=run)


def read_state(path: Path, *, run: str | None = None) -> Any:
    """Inverse of ``write_state``; raises as ``read_arrays``."""
    arrays, plain = read_arrays(path, run=run)
    try:
        return join(plain, arrays)
    except (KeyError, TypeError) as error:
        raise RunFolderError(f"{path} names an array that it does not hold: {error}.") from error


@contextmanager
def _opened(path: Path, run: str | None) -> Iterator[tuple[Any, str, dict[str, Any]]]:
    """The open archive, the digest of its content, and that content without the arrays."""
    require_plain(path)
    try:
        with safetensors.safe_open(path, "numpy") as file:
            header = (file.metadata() or {}).get(_HEADER, "")
            digest, text = header[:64], header[64:]
            if not text:
                text = file.get_tensor(_LINE).tobytes().decode()
            if digest != text_digest(text):
                raise _changed(path)
            content = parse_json(text)
            if not (isinstance(content, dict) and content.keys() >= {"plain", "arrays"}):
                raise ValueError("its header does not describe an archive")
            if run not in (None, content.get("run", "")):
                raise RunFolderError(f"{path} belongs to another run than the folder that it is in.")
            yield file, digest, content
    except (safetensors.SafetensorError, OSError, ValueError, TypeError, KeyError) as error:
        raise RunFolderError(f"{path} cannot be read: {error}.") from error


def _changed(path: Path) -> RunFolderError:
    return RunFolderError(f"{path} is not what was written: its checksum differs.")


def text_digest(text: str) -> str:
    """SHA-256 of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


def array_digest(arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of named arrays: names, types, shapes and values."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype} {arrays[name].shape};".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def split(state: Any, path: str = "") -> tuple[Any, dict[str, np.ndarray]]:
    """Take tensors and arrays out of nested dicts (keys are strings), lists and tuples (which become lists).

    Raises TypeError for anything that JSON and arrays cannot hold, and for what is nested too deeply to be read again.
    """
    if path.count("/") > MAX_NESTING - 10:  # what is around it counts too
        raise TypeError(f"state at '{path[:80]}...' is nested deeper than {MAX_NESTING - 10} levels")
    if isinstance(state, Tensor):
        return {_TENSOR: path}, {path: state.detach().cpu().contiguous().numpy()}
    if isinstance(state, np.ndarray):
        return {_ARRAY: path}, {path: np.ascontiguousarray(state).reshape(state.shape)}
    if isinstance(state, np.generic):
        return state.item(), {}
    if state is None or isinstance(state, bool | int | float | str):
        return state, {}
    if isinstance(state, dict):
        if wrong := [key for key in state if not isinstance(key, str) or key in (_TENSOR, _ARRAY, _LINE)]:
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


def join(plain: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    """Inverse of ``split``. Raises KeyError or TypeError when an array is missing, or no tensor."""
    if isinstance(plain, list):
        return [join(value, arrays) for value in plain]
    if not isinstance(plain, dict):
        return plain
    if plain.keys() == {_TENSOR}:
        return torch.from_numpy(arrays[plain[_TENSOR]].copy())
    if plain.keys() == {_ARRAY}:
        return arrays[plain[_ARRAY]]
    return {key: join(value, arrays) for key, value in plain.items()}
