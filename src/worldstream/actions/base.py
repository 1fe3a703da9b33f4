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
        """Describe a leaf space that matches.

        Args:
            path: flat path of the leaf.
            space: the leaf.
            num_levels: levels per continuous dimension.

        Raises:
            SpaceError: the space matches but cannot be expressed as tokens, e.g. because it is unbounded.
        """

    @abstractmethod
    def encode(self, component: ActionComponent, action: Any) -> np.ndarray:
        """int64 ids (m,) of an action of the environment. Raises SpaceError for one outside of its space."""

    @abstractmethod
    def decode(self, component: ActionComponent, ids: np.ndarray) -> Any:
        """The environment's action for ids (m,), with the type, shape and dtype that the space samples."""


class IntegerKind(ActionKind):
    """Leaves of integers, one token for each entry, whose id 0 stands for ``component.low`` (absent: 0)."""

    def encode(self, component: ActionComponent, action: Any) -> np.ndarray:
        array = numeric(component, action)
        if (array != np.rint(array)).any():
            raise SpaceError(f"action '{component.path}' must be integers, but got {action!r}.")
        if array.dtype.kind == "f":
            array = np.clip(array.astype(np.float64), -(2.0**53), 2.0**53)  # so that the cast cannot overflow
        ids: np.ndarray = array.ravel().astype(np.int64) - _start(component)
        if (ids < 0).any() or (ids >= np.asarray(component.sizes)).any():
            raise SpaceError(f"action '{component.path}' is outside of its space: {action!r}.")
        return ids

    def decode(self, component: ActionComponent, ids: np.ndarray) -> Any:
        return (ids + _start(component)).astype(component.dtype).reshape(component.shape)


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


def _start(component: ActionComponent) -> np.ndarray:
    """int64: the values that id 0 of each token stands for; (m,), or () where all are 0."""
    return np.asarray(component.low or 0, dtype=np.int64)


def start_of(low: np.ndarray) -> tuple[float, ...]:
    """``low`` of a component whose id 0 stands for these values; zeros are written as ()."""
    return tuple(float(value) for value in low.ravel()) if low.any() else ()
