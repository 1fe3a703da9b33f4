"""The action seam: a kind converts one leaf of an action space to a run of m integer tokens and back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from gymnasium import Space

from worldstream.errors import SpaceError
from worldstream.specs import ActionComponent


class ActionKind(ABC):
    """Stateless conversions of one kind of leaf space; all facts about the leaf are in its ``ActionComponent``."""

    @abstractmethod
    def matches(self, space: Space[Any]) -> bool:
        """Whether leaves of this space are of this kind; the first in the order of the registry is taken."""

    @abstractmethod
    def component_from_space(self, path: str, space: Space[Any], num_levels: int) -> ActionComponent:
        """Describe a leaf space that matches, at a flat path, with so many levels per continuous dimension.

        Raises SpaceError when it cannot be expressed as tokens, e.g. because it is unbounded.
        """

    @abstractmethod
    def encode(self, component: ActionComponent, action: Any) -> np.ndarray:
        """int64 ids (m,) of an action of the environment. Raises SpaceError for one outside of its space."""

    @abstractmethod
    def decode(self, component: ActionComponent, ids: np.ndarray) -> Any:
        """The environment's action for ids (m,), with the type, shape and dtype that the space samples."""


def numeric(component: ActionComponent, action: Any) -> np.ndarray:
    """``action`` as a finite array of the component's shape. Raises SpaceError."""
    try:
        array = np.asarray(action)
    except ValueError:  # nested lists of unequal lengths
        array = np.asarray(None)
    if array.dtype.kind not in "biuf" or array.shape != component.shape or not np.isfinite(array).all():
        raise SpaceError(
            f"action '{component.path}' must be finite numbers of shape {component.shape}, but got {action!r}."
        )
    return array
