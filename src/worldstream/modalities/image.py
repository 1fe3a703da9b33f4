"""Images: uint8 pictures of any size, grey or colour, rows first or channels first. Resized once, where they enter.

Resizing is exact area averaging: each new pixel is the mean of the area that it covers, so that a thin bright object
becomes fainter but never vanishes, as it may when pixels are picked or interpolated. Replay holds the small picture.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, Self, final

import numpy as np
from gymnasium import Space, spaces

from worldstream.errors import SpaceError
from worldstream.modalities.base import Modality
from worldstream.specs import KeySpec

if TYPE_CHECKING:
    from torch import Tensor

SMALLEST_SIDE = 16
"""Boxes of bytes with shorter sides are grids of categories, unless ``--modality KEY=image`` says otherwise."""
CHANNELS = (1, 3, 4)
_SMALLEST_PICTURE = 128


@final
class Image(Modality):
    """A picture. Stored (height, width, channels) uint8; loaded as uint8 (..., channels, height, width).

    The tensor is a view of the stored layout, which convolutions on a CPU prefer (channels last). Scaling to floats is
    the tokenizer's business, so that only bytes travel to the device.
    """

    tokenizer = "image_vq"

    @classmethod
    def matches(cls, space: Space[Any]) -> bool:
        if not isinstance(space, spaces.Box) or space.dtype != np.uint8 or (space.high < 255).all():
            return False
        axis = _channel_axis(space.shape)
        return axis is not None and min(_sides(space.shape, axis)) >= SMALLEST_SIDE

    @classmethod
    def missed_by(cls, space: Space[Any]) -> str:
        """Remedy for a Box of another type than bytes with the shape of an image with channels and bounds of pixels."""
        if not isinstance(space, spaces.Box) or space.dtype == np.uint8 or len(space.shape) != 3:
            return ""
        axis = _channel_axis(space.shape)
        if axis is None or min(_sides(space.shape, axis)) < SMALLEST_SIDE:
            return ""
        brightest = (1.0, 255.0) if np.dtype(space.dtype).kind == "f" else (255.0,)
        if float(space.high.max()) not in brightest or float(space.low.min()) < -1.0:
            return ""
        return (
            "has the shape of an image, but an image is a Box of uint8 from 0 to 255. Convert it in a wrapper (floats "
            "from 0 to 1: multiply by 255 and round)"
        )

    @classmethod
    def from_space(cls, key: str, space: Space[Any], options: tuple[int, ...] = ()) -> Self:
        """Options: (), (side,) or (height, width) to store. (): as large as the space says."""
        if not isinstance(space, spaces.Box) or np.dtype(space.dtype) != np.uint8:
            raise SpaceError(
                f"observation key '{key}': an image is a Box of uint8 from 0 to 255, but the space is {space}. "
                "Convert it in a wrapper (floats from 0 to 1: multiply by 255 and round)."
            )
        axis = _channel_axis(space.shape)
        if axis is None:
            raise SpaceError(
                f"observation key '{key}': an image has shape (height, width), (height, width, channels) or "
                f"(channels, height, width) with {', '.join(map(str, CHANNELS))} channels, but the space is {space}."
            )
        if len(options) > 2 or any(side < 1 for side in options):
            raise SpaceError(
                f"observation key '{key}': 'image' takes one side or height,width in pixels, at least 1, "
                f"but got {','.join(map(str, options))}."
            )
        height, width = options * 2 if len(options) == 1 else options or _sides(space.shape, axis)
        channels = space.shape[axis] if len(space.shape) == 3 else 1
        shape = (height, width, channels)
        return cls(KeySpec(key=key, modality="image", shape=shape, dtype="uint8", space_shape=space.shape))

    def store(self, value: Any) -> np.ndarray:
        array = self._checked(value)
        if array.dtype.kind not in "iu":
            raise self._fault(f"is {array.dtype}, but an image is uint8", "Return bytes from 0 to 255.")
        if array.dtype != np.uint8 and ((array < 0) | (array > 255)).any():
            offender = array[(array < 0) | (array > 255)].ravel()[0]
            raise self._fault(f"contains {offender}, but an image holds 0 to 255", "Return uint8.")
        if array.ndim == 2:
            array = array[..., None]
        elif _channel_axis(array.shape) == 0:
            array = np.moveaxis(array, 0, -1)
        return resize(array.astype(np.uint8), self.spec.shape[:2])

    def load(self, stored: np.ndarray) -> Tensor:
        import torch

        return torch.from_numpy(np.array(stored, dtype=np.uint8)).movedim(-1, -3)

    def unload(self, tensor: Tensor) -> np.ndarray:
        stored: np.ndarray = tensor.movedim(-3, -1).cpu().numpy()
        return stored

    def render(self, stored: np.ndarray) -> np.ndarray:
        """The picture itself, enlarged by a whole factor when it is small; a fourth channel is left out."""
        picture = stored.repeat(3, axis=-1) if stored.shape[-1] == 1 else stored[..., :3]
        scale = max(1, _SMALLEST_PICTURE // max(picture.shape[:2]))
        return np.ascontiguousarray(picture.repeat(scale, axis=0).repeat(scale, axis=1))


def resize(image: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """Area averaging of uint8 (height, width, channels) to ``size`` (height, width), a new array."""
    height, width, channels = image.shape
    if (height, width) == tuple(size):
        return image.copy()
    rows, columns = _area_weights(height, size[0]), _area_weights(width, size[1])
    narrow = rows @ image.reshape(height, width * channels).astype(np.float32)
    small = columns @ narrow.reshape(size[0], width, channels)
    return np.rint(small).astype(np.uint8)


@cache
def _area_weights(old: int, new: int) -> np.ndarray:
    """(new, old) share of each old pixel in each new one; rows sum to 1."""
    edges = np.arange(new + 1) * (old / new)
    pixels = np.arange(old)
    covered = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    weights: np.ndarray = np.clip(covered, 0.0, None)
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)


def _channel_axis(shape: tuple[int, ...]) -> int | None:
    """Axis of the channels, 2 for a grey image without one; None when the shape is not that of an image.

    Channels last wins where both ends could be channels.
    """
    if len(shape) == 2:
        return 2
    if len(shape) != 3:
        return None
    return 2 if shape[2] in CHANNELS else 0 if shape[0] in CHANNELS else None


def _sides(shape: tuple[int, ...], axis: int) -> tuple[int, int]:
    """(height, width) in pixels."""
    height, width = (shape[i] for i in range(len(shape)) if i != axis)
    return height, width
