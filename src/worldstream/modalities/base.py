"""The modality seam: one object per observation key converts between environment, replay, tensors and pictures.

    environment value --store--> replay array (*shape) --load--> Tensor          (what tokenizers read)
                                                       <-unload-
                                                       --render-> uint8 (h, w, 3) (what people see)

A modality is wholly described by its ``KeySpec``, hence can be rebuilt from JSON.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from gymnasium import Space

from worldstream.errors import EnvironmentFault
from worldstream.specs import KeySpec

if TYPE_CHECKING:
    from torch import Tensor


class Modality(ABC):
    """Conversions of one observation key, as ``spec`` says that it is stored."""

    tokenizer: str
    """Name of the tokenizer that keys of this modality get by default."""

    def __init__(self, spec: KeySpec) -> None:
        self.spec = spec

    @classmethod
    @abstractmethod
    def matches(cls, space: Space[Any]) -> bool:
        """Whether this modality suits a leaf space; the first in the order of the registry is taken."""

    @classmethod
    def missed_by(cls, space: Space[Any]) -> str:
        """What a leaf space that was surely meant for this modality lacks to match, and the remedy; "": nothing."""
        return ""

    @classmethod
    @abstractmethod
    def from_space(cls, key: str, space: Space[Any], options: tuple[int, ...] = ()) -> Self:
        """Describe a leaf space, which need not match: a user may choose another modality that can express it.

        ``options`` are the numbers behind the colon of an override such as "grid:11,6,4". Raises SpaceError when the
        space cannot be expressed, or the options do not fit it.
        """

    @abstractmethod
    def store(self, value: Any) -> np.ndarray:
        """Validate one value of the environment and convert it to ``spec.shape`` and ``spec.dtype`` (a new array).

        Raises EnvironmentFault for a wrong shape, NaN or infinity, or a value outside of the space.
        """

    @abstractmethod
    def load(self, stored: np.ndarray) -> Tensor:
        """Convert stored items (..., *shape) to the tensor that the key's tokenizer reads."""

    @abstractmethod
    def unload(self, tensor: Tensor) -> np.ndarray:
        """Inverse of ``load``: what a tokenizer decoded, as items (..., *shape) that ``render`` can draw."""

    @abstractmethod
    def render(self, stored: np.ndarray) -> np.ndarray:
        """Draw one stored item (*shape) as a uint8 picture (height, width, 3)."""

    def _checked(self, value: Any) -> np.ndarray:
        """``value`` as a finite numeric array of the space's shape; raises EnvironmentFault."""
        try:
            array = np.asarray(value)
        except ValueError:  # nested lists of unequal lengths
            array = np.asarray(None)
        if array.dtype.kind not in "biuf":
            raise self._fault(f"is not numeric but {type(value).__name__}", "Return numbers as the space declares.")
        expected = self.spec.space_shape
        if array.size != math.prod(self.spec.shape) if expected is None else array.shape != expected:
            wanted = tuple(self.spec.shape if expected is None else expected)
            remedy = "Make the observation space and what reset() and step() return agree."
            raise self._fault(f"has shape {array.shape}, but its space has shape {wanted}", remedy)
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            offender = array[~np.isfinite(array)].ravel()[0]
            raise self._fault(f"contains {offender}", "Replace or clip it in the environment or in a wrapper.")
        return array

    def _fault(self, problem: str, remedy: str) -> EnvironmentFault:
        return EnvironmentFault(f"observation key '{self.spec.key}' {problem}. {remedy}")
