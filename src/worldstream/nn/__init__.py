"""Modality-free building blocks: numerics, outputs that carry their own loss, retention, ensembles, encoders."""

from worldstream.registry import Registry

SCALAR_OUTPUTS = Registry(
    "scalar output",
    {
        "hl_gauss": "worldstream.nn.scalars:HLGaussHead",
        "squared_error": "worldstream.nn.scalars:SquaredErrorHead",
    },
)
