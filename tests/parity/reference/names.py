"""Names of the published agent: its kinds of observation, and the prefixes of its tensors."""

from __future__ import annotations

import numpy as np

KINDS = ("image", "vector", "token", "token_2d")
"""In the order of a block."""
PICTURES, MODEL, AGENT = "tokenizer.tokenizers.image.", "world_model.", "actor_critic."
SEQUENCE = f"{MODEL}_model."
Arrays = dict[str, np.ndarray]
