"""A configuration small enough to train in a second."""

from __future__ import annotations

from dataclasses import replace

import worldstream
from worldstream.tokenizers.bundle import TokenizerConfig
from worldstream.tokenizers.image import ImageVQConfig


def tiny_config() -> worldstream.Config:
    """One layer of width 16, learning after 50 steps."""
    config = worldstream.PRESETS["demo"]()
    model = config.world_model
    image = ImageVQConfig(channels=(8, 8, 8), code_size=8, codebook_size=8)
    return replace(
        config,
        environment=replace(config.environment, sizes={"image": (8, 8)}),
        tokenizers=TokenizerConfig(by_modality={"image": image}),
        tokenizer_learner=replace(config.tokenizer_learner, start_steps=20, batch_size=4, every_steps=10),
        world_model=replace(model, sequence=replace(model.sequence, width=16, num_layers=1)),
        actor_critic=replace(config.actor_critic, hidden=(16,)),
        world_model_learner=replace(config.world_model_learner, start_steps=50, batch_size=4),
        actor_critic_learner=replace(config.actor_critic_learner, start_steps=50, batch_size=4),
        evaluation=replace(config.evaluation, final_episodes=2, every_steps=40, episodes=1),
    )
