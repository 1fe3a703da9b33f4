"""Mixed observations and actions on a CPU: our own test environment with vectors, a category and a grid."""

from __future__ import annotations

from dataclasses import replace

from worldstream.config import Config
from worldstream.presets.demo import demo
from worldstream.tokenizers.bundle import TokenizerConfig
from worldstream.tokenizers.identity import IdentityConfig


def keys() -> Config:
    """The demo preset with a row of cells as one token, few action levels and a discount for immediate rewards.

    With 21 instead of 11 levels, and an entropy weight of 0.005, the dials settled on a few levels before they followed
    the vectors: 81 % of the best return.
    """
    base = demo()
    return replace(
        base,
        environment=replace(base.environment, num_action_levels=11),
        tokenizers=TokenizerConfig(by_modality={"grid": IdentityConfig(cells_per_token=4)}),
        losses=replace(
            base.losses, discount=0.5, entropy_weight=0.02, reward_weights={"extrinsic": 1.0, "disagreement": 0.0}
        ),
        world_model_learner=replace(base.world_model_learner, updates_per_step=0.15),
        actor_critic_learner=replace(
            base.actor_critic_learner, learning_rate=1e-3, updates_per_step=0.2, start_steps=1500
        ),
    )
