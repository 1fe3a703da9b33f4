"""What categorical keys and grids share: integers with a finite range, stored as ids that count from 0."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from gymnasium import Space, spaces

from worldstream.errors import SpaceError
from worldstream.modalities.base import Modality
from worldstream.specs import KeySpec, smallest_dtype

if TYPE_CHECKING:
    from torch import Tensor

MAX_VOCABULARY = 1024
"""Largest number of values per channel that is accepted without an explicit size: more is rarely meant to be one."""


class IntegerModality(Modality):
    """Ids of C channels, in the last axis of the stored shape (..., C)."""

    tokenizer = "identity"
    name: ClassVar[str]
    """Name in the registry of modalities."""

    @classmethod
    def _described(
        cls,
        key: str,
        space: Space[Any],
        bounds: tuple[np.ndarray, np.ndarray],
        options: tuple[int, ...],
        grid: tuple[int, int] | None = None,
    ) -> Self:
        """A space whose channels have the lowest and highest values ``bounds``, (C,) each; see ``_channel_sizes``."""
        vocabulary, offset = _channel_sizes(key, cls.name, space, bounds, options)
        return cls(
            KeySpec(
                key=key,
                modality=cls.name,
                shape=(len(vocabulary),) if grid is None else (grid[0] * grid[1], len(vocabulary)),
                dtype=smallest_dtype(max(vocabulary)).name,
                vocabulary=vocabulary,
                grid=grid,
                offset=offset,
                space_shape=space.shape,
            )
        )

    def store(self, value: Any) -> np.ndarray:
        array = self._checked(value)
        if array.dtype.kind == "f" and (array != np.rint(array)).any():
            offender = array[array != np.rint(array)].ravel()[0]
            raise self._fault(f"contains {offender}, which is not an integer", "Return integers.")
        if array.dtype.kind == "f":
            array = np.clip(array.astype(np.float64), -(2.0**53), 2.0**53)  # so that the cast cannot overflow
        values = array.astype(np.int64).reshape(self.spec.shape)
        sizes = np.asarray(self.spec.vocabulary)
        low = np.asarray(self.spec.offset or np.zeros_like(sizes), dtype=np.int64)
        ids = values - low
        outside = (ids < 0) | (ids >= sizes)
        if outside.any():
            channel = int(np.argwhere(outside)[0][-1])
            raise self._fault(
                f"contains {values[outside][0]} in channel {channel}, whose values are {low[channel]} to "
                f"{low[channel] + sizes[channel] - 1}",
                f"Correct the observation space, or give larger sizes than "
                f"--modality {self.spec.key}={self.spec.modality}:{','.join(map(str, sizes))}.",
            )
        return ids.astype(self.spec.dtype)

    def load(self, stored: np.ndarray) -> Tensor:
        """int64 ids (..., K, C)."""
        import torch

        ids = np.asarray(stored).astype(np.int64)
        num_positions = 1 if self.spec.grid is None else self.spec.grid[0] * self.spec.grid[1]
        leading = ids.shape[: ids.ndim - len(self.spec.shape)]
        return torch.from_numpy(ids.reshape(*leading, num_positions, len(self.spec.vocabulary)))

    def unload(self, tensor: Tensor) -> np.ndarray:
        ids: np.ndarray = tensor.cpu().numpy()
        return ids.reshape(*ids.shape[:-2], *self.spec.shape).astype(self.spec.dtype)


def is_integer_box(space: Space[Any]) -> bool:
    """Whether the space is a Box of integers or booleans."""
    return isinstance(space, spaces.Box) and np.dtype(space.dtype).kind in "iub"


def integer_bounds(key: str, space: Space[Any]) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest value of every entry, both of the space's shape. Raises SpaceError unless discrete."""
    if isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
        sizes = space.n if isinstance(space, spaces.Discrete) else space.nvec
        low = np.asarray(space.start, dtype=np.int64)
        return low, np.asarray(low + sizes - 1, dtype=np.int64)
    if isinstance(space, spaces.MultiBinary):
        return np.zeros(space.shape, np.int64), np.ones(space.shape, np.int64)
    if is_integer_box(space):
        assert isinstance(space, spaces.Box)
        low, high = space.low, space.high
        if space.dtype == np.uint64:  # does not fit int64; anything near the limit is too many values in any case
            low, high = (np.minimum(bound, np.uint64(np.iinfo(np.int64).max)) for bound in (low, high))
        return low.astype(np.int64), high.astype(np.int64)
    raise SpaceError(f"observation key '{key}': {space} does not hold integers. Use '{key}=vector' or '{key}=ignore'.")


def _channel_sizes(
    key: str, modality: str, space: Space[Any], bounds: tuple[np.ndarray, np.ndarray], options: tuple[int, ...]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Vocabulary and offset, both (C,), of channels whose lowest and highest values are ``bounds``, (C,) each.

    ``options`` replace the sizes. Bounds which are merely the range of the dtype then say nothing about where the
    values start, so counting starts at 0. Raises SpaceError for too many values without options, and for options of the
    wrong number or below 1.
    """
    low, high = bounds
    channels = len(low)
    offset = tuple(int(value) for value in low) if low.any() else ()
    if not options:
        sizes = [int(top) - int(bottom) + 1 for bottom, top in zip(low, high, strict=True)]
        if max(sizes) > MAX_VOCABULARY:
            example = ",".join(["N"] * min(channels, 4)) + (",..." if channels > 4 else "")
            raise SpaceError(
                f"observation key '{key}': {space} has {max(sizes)} values in a channel, more than {MAX_VOCABULARY}. "
                f"Give the number of values that occur per channel (--modality {key}={modality}:{example}), "
                f"or use '{key}=ignore'" + (f" or '{key}=vector'." if isinstance(space, spaces.Box) else ".")
            )
        return tuple(sizes), offset
    if len(options) != channels or min(options) < 1:
        raise SpaceError(
            f"observation key '{key}': '{modality}' needs {channels} positive sizes, one per channel, "
            f"but got {','.join(map(str, options))}."
        )
    whole_range = is_integer_box(space) and np.dtype(space.dtype).kind != "b"
    if whole_range and (low == np.iinfo(np.dtype(space.dtype)).min).all():
        return options, ()
    return options, offset
