"""The modalities by name. One line here enrols a modality in ``--modality`` and in the contract tests."""

from __future__ import annotations

from worldstream.modalities.base import Modality
from worldstream.registry import Registry
from worldstream.specs import KeySpec

MODALITIES = Registry(
    "modality",
    {
        "vector": "worldstream.modalities.vector:Vector",
        "categorical": "worldstream.modalities.categorical:Categorical",
        "grid": "worldstream.modalities.grid:Grid",
        "image": "worldstream.modalities.image:Image",
    },
)


def build(spec: KeySpec) -> Modality:
    """Rebuild a modality from its spec alone, without a space. Raises ConfigError for an unknown modality."""
    modality: Modality = MODALITIES[spec.modality](spec)
    return modality
