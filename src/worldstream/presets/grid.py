"""Grids of categories with sparse rewards on a CPU: MiniGrid and its like."""

from __future__ import annotations

from dataclasses import replace

from worldstream.config import Config
from worldstream.presets.demo import demo
from worldstream.replay.samplers import PrioritizedConfig
from worldstream.tokenizers.bundle import TokenizerConfig
from worldstream.tokenizers.identity import IdentityConfig


def grid() -> Config:
    """A grid is one token; replay looks for rewards that are predicted badly, and these weigh more.

    A MiniGrid view of 49 cells is then one token of 147 channels; with a token a row an update takes three times as
    long. For grids much larger than that, set ``cells_per_token``.

    With a dozen draws for a hundred new steps, an initial priority of 10 would spend the prioritised share of every
    batch on unseen segments alone, and the one segment in a thousand with a reward would never come back. So only the
    reward's loss gives priority, the initial one lies just above that of a reward which is known (the cross-entropy of
    HL-Gauss ends at 1.2 nats), a low temperature makes small differences count, and importance weights keep what is
    drawn often from being believed to be frequent.

    Imagination begins as often where the critic was most mistaken as anywhere: of uniform starts one in a hundred leads
    to a reward within the horizon.
    """
    base = demo()
    model = base.world_model
    return replace(
        base,
        tokenizers=TokenizerConfig(by_modality={"grid": IdentityConfig(cells_per_token=0)}),
        world_model=replace(
            model,
            sequence=replace(model.sequence, width=128),
            loss_weights={**model.loss_weights, "reward": 3.0, "termination": 2.0},
            priority_weights={"reward": 1.0},
        ),
        replay=replace(
            base.replay,
            sampler=PrioritizedConfig(uniform_fraction=0.5, initial_priority=1.25, temperature=0.1),
            correction=1.0,
            start_sampler=PrioritizedConfig(uniform_fraction=0.5, initial_priority=0.0),
        ),
        losses=replace(
            base.losses,
            discount=0.95,
            reward_weights={"extrinsic": 1.0, "disagreement": 0.001},
            entropy_weight=0.02,
        ),
        collection=replace(base.collection, random_steps=6000),
        world_model_learner=replace(base.world_model_learner, updates_per_step=0.12, start_steps=2000),
        actor_critic_learner=replace(
            base.actor_critic_learner, learning_rate=1e-3, updates_per_step=0.1, start_steps=6000
        ),
    )
