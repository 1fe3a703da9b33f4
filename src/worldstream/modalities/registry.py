"""The modalities by name. One line here enrols a modality in ``--modality`` and in the contract tests.

The order decides: a space whose modality is not chosen gets the first that matches it, so the narrower come first.
"""

from __future__ import annotations

from worldstream.modalities.base import Modality
from worldstream.registry import Registry
from worldstream.specs import KeySpec

MODALITIES = Registry(
    "modality",
    {
        "image": "worldstream.modalities.image:Image",
        "vector": "worldstream.modalities.vector:Vector",
        "categorical": "worldstream.modalities.categorical:Categorical",
        "grid": "worldstream.modalities.grid:Grid",
    },
)


def build(spec: KeySpec) -> Modality:
    """Rebuild a modality from its spec alone, without a space. Raises ConfigError for an unknown modality."""
    modality: Modality = MODALITIES[spec.modality](spec)
    return modality
