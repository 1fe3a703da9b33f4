"""Whole actions: Dict and Tuple spaces, nested to any depth, become one run of M tokens cut into components."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium import Space, spaces

from worldstream.actions.registry import ACTION_KINDS, kind_of
from worldstream.errors import SpaceError
from worldstream.specs import ActionComponent, ActionSpec

if TYPE_CHECKING:
    from torch import Tensor

ROOT_PATH = "action"


def spec_from_space(space: Space[Any], num_levels: int = 51) -> ActionSpec:
    """Describe an action space.

    Args:
        space: any nesting of Dict and Tuple around Discrete, MultiDiscrete, MultiBinary and bounded Box.
        num_levels: levels per continuous dimension.

    Raises:
        SpaceError: a leaf that cannot be expressed, two leaves of one name, or no leaf at all.
    """
    components: dict[str, ActionComponent] = {}

    def visit(path: str, node: Space[Any]) -> Any:
        if isinstance(node, spaces.Dict):
            return {"dict": {name: visit(_join(path, name), child) for name, child in node.spaces.items()}}
        if isinstance(node, spaces.Tuple):
            return {"tuple": [visit(_join(path, index), child) for index, child in enumerate(node.spaces)]}
        path = path or ROOT_PATH
        if path in components:
            raise SpaceError(f"two parts of the action space are both called '{path}'. Rename one of them.")
        components[path] = _component(path, node, num_levels)
        return path

    structure = visit("", space)
    if not components:
        raise SpaceError(f"the action space {space} offers no action.")
    return ActionSpec(components=tuple(components.values()), structure=structure)


def encode(spec: ActionSpec, action: Any) -> np.ndarray:
    """int64 ids (M,) of an action of the environment; continuous parts take the nearest level.

    Raises:
        SpaceError: the action is not nested as the space, or a part is outside of its space.
    """
    leaves: dict[str, Any] = {}

    def visit(structure: Any, node: Any) -> None:
        if isinstance(structure, str):
            leaves[structure] = node
        elif "dict" in structure:
            if not isinstance(node, Mapping) or set(node) != set(structure["dict"]):
                raise SpaceError(f"the action must have the keys {', '.join(structure['dict'])}, but got {node!r}.")
            for name, child in structure["dict"].items():
                visit(child, node[name])
        else:
            if not isinstance(node, tuple | list) or len(node) != len(structure["tuple"]):
                raise SpaceError(f"the action must be a tuple of {len(structure['tuple'])}, but got {node!r}.")
            for child, part in zip(structure["tuple"], node, strict=True):
                visit(child, part)

    visit(spec.structure, action)
    parts = [kind_of(component).encode(component, leaves[component.path]) for component in spec.components]
    return np.concatenate(parts)


def decode(spec: ActionSpec, ids: np.ndarray) -> Any:
    """The environment's action, nested as its space, for integer ids (M,).

    Raises:
        ValueError: wrong number of ids, or an id out of range.
    """
    ids = np.asarray(ids, dtype=np.int64)
    sizes = spec.sizes
    if ids.shape != (len(sizes),) or (ids < 0).any() or (ids >= np.asarray(sizes)).any():
        raise ValueError(f"action ids {ids} do not fit the sizes {sizes}")
    leaves: dict[str, Any] = {}
    first = 0
    for component in spec.components:
        last = first + len(component.sizes)
        leaves[component.path] = kind_of(component).decode(component, ids[first:last])
        first = last

    def nest(structure: Any) -> Any:
        if isinstance(structure, str):
            return leaves[structure]
        if "dict" in structure:
            return {name: nest(child) for name, child in structure["dict"].items()}
        return tuple(nest(child) for child in structure["tuple"])

    return nest(spec.structure)


def values(component: ActionComponent, ids: Tensor) -> Tensor:
    """Ids (..., m) of an ordinal component as float32 in [-1, 1]. Raises ValueError when it is not ordinal."""
    return kind_of(component).values(component, ids)


def _join(path: str, name: object) -> str:
    return f"{path}/{name}" if path else str(name)


def _component(path: str, space: Space[Any], num_levels: int) -> ActionComponent:
    if space.shape is not None and math.prod(space.shape) == 0:
        raise SpaceError(f"action '{path}': {space} is empty. Leave it out of the action space with a wrapper.")
    for kind in ACTION_KINDS.values():
        if kind().matches(space):
            component: ActionComponent = kind().component_from_space(path, space, num_levels)
            return component
    raise SpaceError(
        f"action '{path}': {space} is not supported. Wrap the environment so that its action is made of Discrete, "
        "MultiDiscrete, MultiBinary, bounded Box, and Dict or Tuple of these (gymnasium.wrappers.TransformAction)."
    )
