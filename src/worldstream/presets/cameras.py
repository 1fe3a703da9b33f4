"""Pictures, vectors and categories together on a CPU: our own test environment with two cameras."""

from __future__ import annotations

from dataclasses import replace

from worldstream.config import Config
from worldstream.presets.keys import keys
from worldstream.tokenizers.image import ImageVQConfig


def cameras() -> Config:
    """The keys preset with pictures of 16 x 16 pixels as 2 x 2 tokens each."""
    base = keys()
    return replace(
        base,
        environment=replace(base.environment, sizes={"image": (16, 16)}),
        tokenizers=replace(
            base.tokenizers,
            by_modality={
                **base.tokenizers.by_modality,
                "image": ImageVQConfig(channels=(16, 32, 32, 32), code_size=32, codebook_size=32),
            },
        ),
        tokenizer_learner=replace(base.tokenizer_learner, updates_per_step=0.5, every_steps=500, stop_steps=5000),
        world_model_learner=replace(base.world_model_learner, start_steps=1000),
    )
