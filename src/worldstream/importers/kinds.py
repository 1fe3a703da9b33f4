"""Which of the published agent's kinds of observation each key is."""

from __future__ import annotations

from collections.abc import Mapping

from worldstream.errors import WeightsError
from worldstream.specs import KeySpec

KINDS = ("image", "vector", "token", "token_2d")
"""Kinds of observation in the order in which the published agent lays them out."""


def published_kinds(specs: Mapping[str, KeySpec], observed: list[str], cells: tuple[int, ...]) -> dict[str, str]:
    """Published kind of observation by key.

    Args:
        specs: the keys.
        observed: kinds that the agent observes.
        cells: number of values of each channel of its "token_2d"; () without one.

    Raises WeightsError when a key is of no kind.
    """
    return {key: _kind(spec, observed, cells) for key, spec in specs.items()}


def _kind(spec: KeySpec, observed: list[str], cells: tuple[int, ...]) -> str:
    if spec.modality in ("image", "vector"):
        return spec.modality
    single = len(spec.vocabulary) == 1
    if spec.modality == "categorical" and single:
        return "token"
    if spec.modality == "grid" and spec.space_shape is not None and len(spec.space_shape) == 1:
        return "token"
    if spec.modality == "grid":
        # Cells of one channel may be a list of categories or a matrix of one column: what the agent observes decides.
        column = spec.space_shape is not None and spec.space_shape[1:] == (1,)
        listed = len(cells) != 1 or ("token" in observed and not column)
        return "token" if single and listed else "token_2d"
    raise WeightsError(
        f"key '{spec.key}' ({spec.modality}, shape {spec.shape}) is nothing that the published agent reads: it has "
        "pictures, vectors, categories, and lists and grids of categories. Leave the key out "
        f"(--modality {spec.key}=ignore)."
    )


def lists_of_tokens(specs: Mapping[str, KeySpec]) -> dict[str, str]:
    """Modality of the keys that are lists of categories: a token for each entry, not one with as many channels.

    The published agent takes the number of values of the first entry for all (C29).
    """
    return {
        key: f"grid:{spec.vocabulary[0]}"
        for key, spec in specs.items()
        if spec.modality == "categorical" and len(spec.vocabulary) > 1
    }


def in_published_order(specs: Mapping[str, KeySpec], kinds: Mapping[str, str]) -> dict[str, KeySpec]:
    """The keys as the published agent lays them out: by kind, otherwise in their own order."""
    return dict(sorted(specs.items(), key=lambda item: KINDS.index(kinds[item[0]])))
