"""Whole actions: Dict and Tuple spaces, nested to any depth, become one run of M tokens cut into components."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from gymnasium import Space, spaces

from worldstream.actions.registry import ACTION_KINDS, kind_of
from worldstream.errors import SpaceError
from worldstream.specs import ActionComponent, ActionSpec

ROOT_PATH = "action"


def spec_from_space(space: Space[Any], num_levels: int = 51) -> ActionSpec:
    """Describe an action space, with so many levels per continuous dimension.

    Raises SpaceError for a leaf that cannot be expressed, two leaves of one name, or no leaf at all.
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

    Raises SpaceError for an action that is not nested as the space, or has a part outside of its space.
    """
    leaves = dict(_leaves(spec.structure, action))
    return np.concatenate([kind_of(part).encode(part, leaves[part.path]) for part in spec.components])


def _leaves(structure: Any, action: Any) -> Iterator[tuple[str, Any]]:
    """(path, leaf) of an action that must be nested as ``structure``."""
    if isinstance(structure, str):
        yield structure, action
    elif "dict" in structure:
        if not isinstance(action, Mapping) or set(action) != set(structure["dict"]):
            raise SpaceError(f"the action must have the keys {', '.join(structure['dict'])}, but got {action!r}.")
        for name, child in structure["dict"].items():
            yield from _leaves(child, action[name])
    else:
        if not isinstance(action, tuple | list) or len(action) != len(structure["tuple"]):
            raise SpaceError(f"the action must be a tuple of {len(structure['tuple'])}, but got {action!r}.")
        for child, part in zip(structure["tuple"], action, strict=True):
            yield from _leaves(child, part)


def decode(spec: ActionSpec, ids: np.ndarray) -> Any:
    """The environment's action, nested as its space, for ids (M,). Raises ValueError for ids out of range."""
    ids, sizes = np.asarray(ids, dtype=np.int64), spec.sizes
    if ids.shape != (len(sizes),) or (ids < 0).any() or (ids >= np.asarray(sizes)).any():
        raise ValueError(f"action ids {ids} do not fit the sizes {sizes}")
    ends = np.cumsum([len(part.sizes) for part in spec.components])
    parts = zip(spec.components, np.split(ids, ends[:-1]), strict=True)
    leaves = {part.path: kind_of(part).decode(part, part_ids) for part, part_ids in parts}

    def nest(structure: Any) -> Any:
        if isinstance(structure, str):
            return leaves[structure]
        if "dict" in structure:
            return {name: nest(child) for name, child in structure["dict"].items()}
        return tuple(nest(child) for child in structure["tuple"])

    return nest(spec.structure)


def _join(path: str, name: object) -> str:
    return f"{path}/{name}" if path else str(name)


def _component(path: str, space: Space[Any], num_levels: int) -> ActionComponent:
    if space.shape is not None and math.prod(space.shape) == 0:
        raise SpaceError(f"action '{path}': {space} is empty. Leave it out of the action space with a wrapper.")
    for kind in (kind() for kind in ACTION_KINDS.values()):
        if kind.matches(space):
            component: ActionComponent = kind.component_from_space(path, space, num_levels)
            return component
    raise SpaceError(
        f"action '{path}': {space} is not supported. Wrap the environment so that its action is made of Discrete, "
        "MultiDiscrete, MultiBinary, bounded Box, and Dict or Tuple of these (gymnasium.wrappers.TransformAction)."
    )
