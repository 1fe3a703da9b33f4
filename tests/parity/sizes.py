"""The agent of a golden file: its sizes are those that its settings state, and otherwise those of its tensors.

The importer has published sizes where none are stated; golden files are of agents of any size.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from worldstream.importers.published import Parts, PublishedAgent, Settings
from worldstream.importers.settings import merged, settings_from
from worldstream.importers.sizes import shown_sizes
from worldstream.importers.tensors import ForeignTensors


def sized_agent(tensors: ForeignTensors, settings: Mapping[str, Any]) -> PublishedAgent:
    """The agent whose tensors these are. Raises WeightsError when there is none."""
    parts = Parts.of(tensors)
    shown: dict[str, Any] = {"world_model": {"obs_emb_dim": 0}}
    for place, size in shown_sizes(PublishedAgent(parts, Settings()), tensors).items():
        shown = merged(shown, nested(place, list(size) if isinstance(size, tuple) else size))
    if channels := policy_convolutions(tensors):
        shown["policy_convolutions"] = channels
    return PublishedAgent(parts, settings_from(shown, settings, strict=False))


def nested(place: str, value: Any) -> dict[str, Any]:
    """A setting as JSON holds it."""
    for name in reversed(place.split(".")):
        value = {name: value}
    return dict(value)


def policy_convolutions(tensors: ForeignTensors) -> list[int]:
    """Their channels, which no golden file states: weights and biases tell them, the smaller of two that differ."""
    prefix = "actor_critic.obs_encoders.image.model."
    layers = tensors.numbers(prefix)
    told = [
        [len(x) for x in (tensors.look(f"{prefix}{i}.0.{name}") for i in layers) if x.ndim == axes and len(x)]
        for name, axes in (("weight", 4), ("bias", 1))
    ]
    return min((channels for channels in told if len(channels) == len(layers)), default=[])
