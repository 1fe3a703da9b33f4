"""Modality-free building blocks: layers, attention, retention, numerics, and outputs that carry their own loss."""

from worldstream.registry import Registry

SCALAR_OUTPUTS = Registry(
    "scalar output",
    {
        "hl_gauss": "worldstream.nn.scalars:HLGaussHead",
        "hl_gauss_symlog": "worldstream.nn.scalars:SymlogHLGaussHead",
        "squared_error": "worldstream.nn.scalars:SquaredErrorHead",
    },
)
