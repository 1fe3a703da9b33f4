"""Which of the published agent's observation types each key of an environment is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from worldstream.environments import FlatEnvironment
from worldstream.errors import WeightsError
from worldstream.importers.published import OBSERVATION_TYPES
from worldstream.importers.tensors import ForeignTensors
from worldstream.modalities.integers import integer_bounds
from worldstream.modalities.observation import leaves_of
from worldstream.specs import KeySpec


def modalities(environment: FlatEnvironment, tensors: ForeignTensors, chosen: Mapping[str, str]) -> dict[str, str]:
    """Modality, by key, of the chosen keys and of what the published agent reads otherwise than we would: lists of
    categories are a token for each entry, all with as many values as the first (C29); in a matrix with a column for
    each channel of a cell, each row is a cell."""
    found, spaces, channels = dict(chosen), leaves_of(environment.environment.observation_space), _num_channels(tensors)
    for key, spec in environment.observation_specs.items():
        if spec.modality == "categorical" and len(spec.vocabulary) > 1:
            found[key] = f"grid:{spec.vocabulary[0]}"
        elif spec.modality == "grid" and spec.space_shape is not None and spec.space_shape[1:] == (channels,):
            low, high = integer_bounds(key, spaces[key])
            found.setdefault(key, f"grid:{','.join(map(str, high.max(0) - low.min(0) + 1))}")
    return found


def published_types(
    specs: Mapping[str, KeySpec], observed: tuple[str, ...], tensors: ForeignTensors, environment: str
) -> dict[str, str]:
    """Published observation type by key, in the order in which the published agent lays keys out.

    Raises WeightsError when a key is of no type, and when the types are not those ``observed`` by the agent.
    """
    single_channel = _num_channels(tensors) == 1
    unsorted = {key: _observation_type(spec, observed, single_channel) for key, spec in specs.items()}
    types = dict(sorted(unsorted.items(), key=lambda item: OBSERVATION_TYPES.index(item[1])))
    there = ", ".join(f"'{key}' ({each}, shape {specs[key].shape})" for key, each in unsorted.items())
    if set(types.values()) != set(observed):
        raise WeightsError(
            f"{tensors.source} observes {', '.join(observed)}; the keys of '{environment}' are {there}. "
            "Name the environment that the weights were trained on, or say what its keys are (--modality KEY=KIND)."
        )
    counts = Counter(types.values())
    if several := [each for each in ("image", "token_2d") if counts[each] > 1]:
        raise WeightsError(
            f"{tensors.source} observes one {several[0]}, but '{environment}' has several: {there}. "
            "Leave the others out (--modality KEY=ignore)."
        )
    return types


def joined_keys(types: Mapping[str, str]) -> list[str]:
    """What a user should compare: the order of keys that the agent reads as one, which no tensor shows."""
    by_type = {each: [key for key in types if types[key] == each] for each in types.values()}
    return [
        f"note: the agent reads {', '.join(keys)} one behind the other as one {each}, in this order. It must be the "
        "order of its training."
        for each, keys in by_type.items()
        if len(keys) > 1
    ]


def _observation_type(spec: KeySpec, observed: tuple[str, ...], single_channel: bool) -> str:
    if spec.modality in ("image", "vector"):
        return spec.modality
    single = len(spec.vocabulary) == 1
    if spec.modality == "categorical" and single:
        return "token"
    if spec.modality == "grid":
        shape = spec.space_shape or ()
        # Cells of one channel may be a list of categories or a matrix of one column: what the agent observes decides.
        listed = not single_channel or ("token" in observed and shape[1:] != (1,))
        return "token" if len(shape) == 1 or (single and listed) else "token_2d"
    raise WeightsError(
        f"key '{spec.key}' ({spec.modality}, shape {spec.shape}) is nothing that the published agent reads: it has "
        "pictures, vectors, categories, and lists and grids of categories. Leave the key out "
        f"(--modality {spec.key}=ignore)."
    )


def _num_channels(tensors: ForeignTensors) -> int:
    """Channels of a cell that the agent observes; 0 when it observes none."""
    return len(tensors.numbers("world_model.obs_embeddings.token_2d.embeddings.embeddings."))
