"""Arrays of golden files as tensors: checked by name, shape, type and range before anything is computed from them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from parity.spaces import PublishedSpaces
from worldstream.actions import encode
from worldstream.errors import WeightsError
from worldstream.specs import ActionSpec, KeySpec

Arrays = dict[str, np.ndarray]

FLAGS = ("mask_padding", "ends", "returns_ends")
"""Inputs that say yes or no."""
RETURNS = ("returns_rewards", "returns_ends", "returns_values")
"""Inputs of the lambda returns."""


def tensor_of(name: str, array: np.ndarray) -> Tensor:
    """A copy of an array of numbers, whatever its layout and byte order. Raises WeightsError when it is none."""
    array = np.asarray(array)
    if array.dtype.kind not in "biufc":
        raise WeightsError(f"'{name}' is an array of {array.dtype}, not of numbers.")
    dtype = array.dtype.newbyteorder("=")
    if dtype.kind == "f" and dtype.itemsize > 8:
        dtype = np.dtype(np.float64)
    if dtype.kind == "u" and dtype.itemsize > 1:  # PyTorch computes little with these
        dtype = np.dtype(np.int64)
    return torch.from_numpy(np.array(array, dtype, order="C"))


def prepared(inputs: Arrays, spaces: PublishedSpaces) -> dict[str, Tensor]:
    """Inputs as tensors of the types that we compute with: single precision, int64 for ids, bool for masks and ends.

    Raises WeightsError, which names the input, for shapes that do not fit the spaces or each other, and for values that
    cannot be.
    """
    tensors: dict[str, Tensor] = {}
    lengths: tuple[str, tuple[int, ...]] | None = None
    for name, array in inputs.items():
        spec = spaces.keys.get(name.removeprefix("observations/")) if name.startswith("observations/") else None
        if spec is None and name not in ("actions", "rewards", "return_scale_inputs", *FLAGS, *RETURNS):
            continue  # golden files may hold what no agent of these spaces reads
        x = _finite(name, tensor_of(name, array))
        if spec is not None:
            x = _observation(name, x, spec)
        elif name == "actions":
            x = _actions(x, spaces)
        elif name == "return_scale_inputs":
            _require(x.ndim >= 2 and x.numel() > 0, name, x, "(updates, returns), neither of them empty")
            x = x.float()
        else:
            _require(x.ndim == 2 and x.numel() > 0, name, x, "(segments, blocks), neither of them empty")
            x = _flags(name, x) if name in FLAGS else x.float()
        tensors[name] = x
        if not name.startswith("return"):
            shape = tuple(x.shape[:2])
            lengths = lengths or (name, shape)
            _require(shape == lengths[1], name, x, f"{lengths[1]} in its first two axes, as '{lengths[0]}' is")
    first, *others = [name for name in RETURNS if name in tensors] or [""]
    for name in others:
        shape = tuple(tensors[first].shape)
        _require(tuple(tensors[name].shape) == shape, name, tensors[name], f"that of '{first}', {shape}")
    return tensors


def tokenizer_input(kind: str, x: Tensor) -> Tensor:
    """An observation, which is pre-processed already, as the tokenizer of its key takes it."""
    if kind == "image":
        return 255 * x  # the tokenizer takes bytes; it minds no fractions of them
    return x.unsqueeze(-1) if kind == "token" else x


def action_ids(spec: ActionSpec, raw: Tensor) -> Tensor:
    """(B, T, M) ids of actions (B, T, M)."""
    rows = raw.flatten(0, 1).numpy()
    ids = [encode(spec, row if spec.ordinal[0] else row[0]) for row in rows]
    return torch.as_tensor(np.stack(ids)).unflatten(0, raw.shape[:2])


def _observation(name: str, x: Tensor, spec: KeySpec) -> Tensor:
    if spec.modality == "image":
        height, width, channels = spec.shape
        inner: tuple[int, ...] = (channels, height, width)
    else:
        inner = (spec.shape[0],) if spec.key in ("vector", "token") else spec.shape
    expected = f"(segments, blocks, {', '.join(map(str, inner))})"
    _require(x.ndim >= 2 and tuple(x.shape[2:]) == inner and x.numel() > 0, name, x, expected)
    if spec.modality == "grid":
        return _ids(name, x, spec.vocabulary)
    if spec.modality == "image" and not x.is_floating_point() and bool((x.long() > 1).any()):
        raise WeightsError(f"input '{name}' holds bytes; pictures are numbers in [0, 1]. Divide them by 255.")
    return x.float()


def _actions(x: Tensor, spaces: PublishedSpaces) -> Tensor:
    """(B, T, M): numbers, or the id of one category."""
    if spaces.continuous:
        expected = f"(segments, blocks, {spaces.num_actions})"
        _require(x.ndim == 3 and x.shape[2] == spaces.num_actions and x.numel() > 0, "actions", x, expected)
        return x.float()
    x = x.unsqueeze(-1) if x.ndim == 2 else x
    _require(x.ndim == 3 and x.shape[2] == 1 and x.numel() > 0, "actions", x, "(segments, blocks)")
    return _ids("actions", x, (spaces.num_actions,))


def _ids(name: str, x: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """int64 ids, whose last axis counts the sizes unless there is one size."""
    numbers = x.double()
    outside = (numbers < 0) | (numbers >= torch.tensor(sizes)) | (numbers != numbers.round())
    if outside.any():
        allowed = ", ".join(f"0 to {size - 1}" for size in dict.fromkeys(sizes))
        raise WeightsError(f"input '{name}' holds {numbers[outside][0]:g}; its values are whole numbers, {allowed}.")
    return x.to(torch.int64)


def _flags(name: str, x: Tensor) -> Tensor:
    if ((x != 0) & (x != 1)).any():
        raise WeightsError(f"input '{name}' holds other values than 0 and 1.")
    return x.to(torch.bool)


def _finite(name: str, x: Tensor) -> Tensor:
    if x.is_complex() or not x.double().isfinite().all():
        raise WeightsError(f"input '{name}' holds complex numbers, or some that are not finite.")
    return x


def _require(holds: bool, name: str, x: Tensor, expected: str) -> None:
    """Raises WeightsError unless the shape of an input is as expected."""
    if not holds:
        raise WeightsError(f"input '{name}' has the shape {tuple(x.shape)}; it must be {expected}.")


def weights_of(arrays: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """Weights as tensors. Raises WeightsError for what is no array of numbers."""
    return {name: tensor_of(name, array) for name, array in arrays.items()}
