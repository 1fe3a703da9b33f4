"""Vectors: real numbers of any shape and range, stored flat as float32 and read in symlog space.

Floats slightly outside of their declared bounds occur in many real environments and are harmless here, so only
shape and finiteness are checked.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Self, final

import numpy as np
from gymnasium import Space, spaces

from worldstream.errors import SpaceError
from worldstream.modalities.base import Modality
from worldstream.specs import KeySpec

if TYPE_CHECKING:
    from torch import Tensor

_LARGEST = float(np.finfo(np.float32).max)
_PICTURE_HEIGHT = 65
_PICTURE_WIDTH = 256
_UP, _DOWN, _AXIS = (88, 166, 255), (255, 151, 77), (110, 118, 129)


@final
class Vector(Modality):
    """A Box of D floats. Stored (D,) float32; loaded as float32 (..., D), each entry sign(x) ln(1 + |x|)."""

    tokenizer = "fitted_levels"

    @classmethod
    def matches(cls, space: Space[Any]) -> bool:
        return isinstance(space, spaces.Box) and np.dtype(space.dtype).kind == "f"

    @classmethod
    def from_space(cls, key: str, space: Space[Any], options: tuple[int, ...] = ()) -> Self:
        if not isinstance(space, spaces.Box):
            raise SpaceError(f"observation key '{key}': a vector must be a Box, but the space is {space}.")
        if options:
            raise SpaceError(f"observation key '{key}': 'vector' takes no numbers; write '{key}=vector'.")
        size = math.prod(space.shape)
        return cls(KeySpec(key=key, modality="vector", shape=(size,), dtype="float32", space_shape=space.shape))

    def store(self, value: Any) -> np.ndarray:
        array = self._checked(value).astype(np.float64).reshape(self.spec.shape)
        return np.clip(array, -_LARGEST, _LARGEST).astype(np.float32)  # float64 may exceed what float32 holds

    def load(self, stored: np.ndarray) -> Tensor:
        import torch

        from worldstream.nn.numerics import symlog

        return symlog(torch.from_numpy(np.array(stored, dtype=np.float32)))

    def unload(self, tensor: Tensor) -> np.ndarray:
        from worldstream.nn.numerics import symexp

        stored: np.ndarray = symexp(tensor).cpu().numpy()
        return stored

    def render(self, stored: np.ndarray) -> np.ndarray:
        """A bar chart: one bar per entry, its height x / (1 + |x|), which keeps any range inside the picture."""
        values = np.asarray(stored, dtype=np.float64)
        heights = values / (1 + np.abs(values))
        columns = np.arange(_PICTURE_WIDTH) * len(values) // _PICTURE_WIDTH  # entry under each pixel column
        middle = _PICTURE_HEIGHT // 2
        extent = np.rint(heights[columns] * middle)
        above = middle - np.arange(_PICTURE_HEIGHT)[:, None]  # signed height of each pixel row
        picture = np.full((_PICTURE_HEIGHT, _PICTURE_WIDTH, 3), 16, np.uint8)
        picture[(above > 0) & (above <= extent)] = _UP
        picture[(above < 0) & (above >= extent)] = _DOWN
        picture[middle] = _AXIS
        return picture
