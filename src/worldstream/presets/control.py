"""Continuous control from state vectors on a CPU."""

from __future__ import annotations

from dataclasses import replace

from worldstream.config import Config
from worldstream.presets.demo import demo


def control() -> Config:
    """Few action levels, a shorter memory of rewards, and the world model ahead of the policy.

    With 11 instead of 51 levels a dimension the policy gradient has a fifth of the choices to tell apart, which on
    these budgets matters more than resolution. Returns of dense costs spread widely, so advantages after scaling are
    small and the entropy weight must keep the policy from collapsing on their noise.
    """
    base = demo()
    return replace(
        base,
        environment=replace(base.environment, num_action_levels=11),
        losses=replace(base.losses, discount=0.97, entropy_weight=0.005),
        world_model_learner=replace(base.world_model_learner, updates_per_step=0.4),
        actor_critic_learner=replace(base.actor_critic_learner, learning_rate=7e-4, updates_per_step=0.2),
    )
