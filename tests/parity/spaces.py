"""The spaces that the published agent's golden files describe, in our terms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces

from worldstream.actions import spec_from_space
from worldstream.errors import WeightsError
from worldstream.specs import ActionSpec, KeySpec

MOST = 65_536
"""Largest size that settings may give: what is beyond it is a mistake, and nothing is allocated for it."""

FORMS = {
    "image": "[1, channels, height, width]",
    "vector": "[features]",
    "token": "the number of values of each entry, such as [4, 4]",
    "token_2d": "the number of values of each channel, for each cell, such as [[7, 3], [7, 3]]",
}
"""How settings give the size of each kind of observation."""


@dataclass(frozen=True)
class PublishedSpaces:
    """What an agent observes and does."""

    keys: dict[str, KeySpec]
    """One key for each kind of observation, called like it."""
    continuous: bool
    """Whether actions are numbers in [-1, 1] instead of a category."""
    num_actions: int
    """Categories, or dimensions."""

    @staticmethod
    def from_json(settings: Mapping[str, Any]) -> PublishedSpaces:
        """Read "spaces" and "action_space" of the settings. Raises WeightsError when they are not there or no sizes."""
        keys = {kind: _key_spec(kind, size) for kind, size in _described(settings, "spaces", tuple(FORMS)).items()}
        actions = _described(settings, "action_space", ("discrete", "continuous"))
        if len(actions) > 1:
            raise WeightsError(f"the settings describe several kinds of actions, {', '.join(actions)}: name one.")
        ((kind, size),) = actions.items()
        if not _is_size(size):
            raise WeightsError(
                f"the settings say that the action space is {kind} {_shortened(size)}; it must be a whole number "
                f"from 1 to {MOST}."
            )
        return PublishedSpaces(keys, kind == "continuous", size)

    def action_spec(self, num_levels: int) -> ActionSpec:
        """The actions; continuous ones are cut into levels."""
        if self.continuous:
            return spec_from_space(spaces.Box(-1.0, 1.0, (self.num_actions,), np.float32), num_levels)
        return spec_from_space(spaces.Discrete(self.num_actions))


def _key_spec(kind: str, size: Any) -> KeySpec:
    """Key of a kind of observation. Raises WeightsError when that is not its size."""
    listed = isinstance(size, list | tuple) and len(size) > 0
    rows = size if listed and kind == "token_2d" else [size]
    right = listed and all(isinstance(row, list | tuple) and len(row) > 0 and all(map(_is_size, row)) for row in rows)
    if right and kind == "image":
        right = len(size) >= 3 and all(leading == 1 for leading in size[:-3])
    elif right:
        right = len({len(row) for row in rows}) == 1 and (kind != "vector" or len(size) == 1)
    if not right:
        raise WeightsError(
            f"the settings say that the space of {kind} is {_shortened(size)}; it must be {FORMS[kind]}, each a whole "
            f"number from 1 to {MOST}."
        )
    if kind == "image":
        channels, height, width = size[-3:]
        return KeySpec(key=kind, modality="image", shape=(height, width, channels), dtype="uint8")
    if kind == "vector":
        return KeySpec(key=kind, modality="vector", shape=tuple(size), dtype="float32")
    # The published agent takes the vocabulary of the first entry for all (C29).
    vocabulary = tuple(size[0]) if kind == "token_2d" else (size[0],)
    shape, grid = (len(size), len(vocabulary)), (len(size), 1)
    return KeySpec(key=kind, modality="grid", shape=shape, dtype="int64", vocabulary=vocabulary, grid=grid)


def _described(settings: Mapping[str, Any], name: str, known: tuple[str, ...]) -> dict[str, Any]:
    """Sizes by kind. Raises WeightsError for none, and for an unknown kind."""
    described = settings.get(name)
    if not isinstance(described, dict) or not described:
        raise WeightsError(f"the settings describe no '{name}': give sizes by kind ({', '.join(known)}).")
    if unknown := [kind for kind in described if kind not in known]:
        raise WeightsError(f"the settings describe '{name}' of the kind '{unknown[0]}'. Known: {', '.join(known)}.")
    return described


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MOST


def _shortened(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."
