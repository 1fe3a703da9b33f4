"""Grids of categories with sparse rewards on a CPU: MiniGrid and its like."""

from __future__ import annotations

from dataclasses import replace

from worldstream.config import Config
from worldstream.presets.demo import demo


def grid() -> Config:
    """A row of cells is one token; replay looks for what is rare; rewards and ends weigh more.

    With a dozen draws for a hundred new steps, an initial priority of 10 would spend the prioritised share of every
    batch on unseen segments alone, and the one segment in a thousand with a reward would never come back: the initial
    priority lies just above a typical loss, and a low temperature makes small differences count.
    """
    base = demo()
    model = base.world_model
    return replace(
        base,
        tokenizers=replace(base.tokenizers, cells_per_token=7),
        world_model=replace(model, loss_weights={**model.loss_weights, "reward": 3.0, "termination": 2.0}),
        replay=replace(
            base.replay,
            sampler_options={"uniform_fraction": 0.5, "initial_priority": 1.7, "temperature": 0.1},
        ),
        losses=replace(base.losses, extrinsic_weight=10.0, entropy_weight=0.01),
        collection=replace(base.collection, random_steps=8000),
        world_model_learner=replace(base.world_model_learner, updates_per_step=0.12, start_steps=3000),
        actor_critic_learner=replace(
            base.actor_critic_learner, learning_rate=5e-4, updates_per_step=0.08, start_steps=8000
        ),
    )
