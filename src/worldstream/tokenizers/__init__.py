"""Tokenizers: one per observation key, from tensors of its modality to integer ids (..., K, C) and back."""

from worldstream.registry import Registry

TOKENIZERS = Registry(
    "tokenizer",
    {
        "fixed_levels": "worldstream.tokenizers.fixed_levels:FixedLevels",
        "fitted_levels": "worldstream.tokenizers.fitted_levels:FittedLevels",
        "identity": "worldstream.tokenizers.identity:Identity",
        "image_vq": "worldstream.tokenizers.image:ImageVQ",
        "image_fsq": "worldstream.tokenizers.image:ImageFSQ",
    },
)
