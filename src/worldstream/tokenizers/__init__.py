"""Tokenizers: one per observation key, from tensors of its modality to token ids (..., K, C) and back."""

from worldstream.registry import Registry

TOKENIZERS = Registry(
    "tokenizer",
    {
        "fixed_levels": "worldstream.tokenizers.levels:FixedLevelsConfig",
        "fitted_levels": "worldstream.tokenizers.fitted_levels:FittedLevelsConfig",
        "identity": "worldstream.tokenizers.identity:IdentityConfig",
        "image_vq": "worldstream.tokenizers.image:ImageVQConfig",
        "image_patches": "worldstream.tokenizers.exact:ImagePatchesConfig",
        "image_palette": "worldstream.tokenizers.exact:ImagePaletteConfig",
        "image_fsq": "worldstream.tokenizers.image:ImageFSQConfig",
    },
)
"""Options of each tokenizer, which build it."""
