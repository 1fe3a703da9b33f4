"""Atari: the published benchmark of 100,000 decisions, the same with sticky actions, and a tier for two CPU cores."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from worldstream.agent.actor_critic import ActorCriticConfig
from worldstream.agent.losses import ActorCriticLossConfig
from worldstream.agent.return_scale import ReturnScaleConfig
from worldstream.config import (
    CheckpointConfig,
    CollectionConfig,
    Config,
    EvaluationConfig,
    ImaginationConfig,
    LearnerConfig,
)
from worldstream.environments.config import EnvironmentConfig
from worldstream.replay import ReplayConfig
from worldstream.replay.samplers import PrioritizedConfig
from worldstream.tokenizers.bundle import TokenizerConfig
from worldstream.tokenizers.exact import ImagePatchesConfig
from worldstream.tokenizers.image import ImageFSQConfig, ImageVQConfig
from worldstream.tokenizers.lpips import LpipsConfig
from worldstream.world_model.heads.termination import TerminationConfig
from worldstream.world_model.model import WorldModelConfig
from worldstream.world_model.sequence.retention import RetentionConfig

TRAINED: dict[str, Any] = {
    "noops": [1, 30], "life_loss": True, "clip_rewards": True, "max_frames": 20_000, "resize": "bilinear",
}  # fmt: skip
EVALUATED: dict[str, Any] = {"noops": [1, 1], "life_loss": False, "clip_rewards": False, "max_frames": 108_000}
"""What differs in the published evaluations."""


def atari100k() -> Config:
    """Every published hyper-parameter for Atari, version M3 (retention, VQ by gradient, LPIPS).

    Rates are updates for each decision: 1 of the tokenizer from 1000 decisions on, 1 of the world model from 5000, 0.4
    of the actor-critic from 10,000, the tokenizer in bursts of 200 as in the published epochs. After the last decision
    learning goes on for the published 100 epochs: 20,000 updates of tokenizer and world model, 8000 of the
    actor-critic.
    """
    return Config(
        environment=EnvironmentConfig(action_repeat=4, kwargs=TRAINED, evaluation_kwargs=EVALUATED),
        tokenizers=TokenizerConfig(
            by_modality={
                "image": ImageVQConfig(
                    channels=(64, 128, 256, 512),
                    code_size=256,
                    codebook_size=512,
                    ema_decay=0.0,
                    revive_below=0.0,
                    batch_norm=True,
                    perceptual=LpipsConfig(),
                )
            }
        ),
        world_model=WorldModelConfig(
            sequence=RetentionConfig(num_layers=10, width=256, num_heads=4, dropout=0.1, decay_blocks=(4.0, 16.0)),
            context_length=2,
            heads={**WorldModelConfig().heads, "termination": TerminationConfig(num_logits=2)},
            slot_embedding=False,
            unit_codes=False,
        ),
        actor_critic=ActorCriticConfig(hidden=(512,), grid_channels=(128, 64)),
        replay=ReplayConfig(sampler=PrioritizedConfig(uniform_fraction=0.7, initial_priority=10.0)),
        losses=ActorCriticLossConfig(return_scale=ReturnScaleConfig(floor=1.0)),
        imagination=ImaginationConfig(horizon=8, context_length=1, burn_in=20),
        collection=CollectionConfig(epsilon=0.01, random_steps=0),
        evaluation=EvaluationConfig(every_steps=4000, episodes=16, final_episodes=100, temperature=0.5),
        checkpoint=CheckpointConfig(every_steps=5000),
        tokenizer_learner=LearnerConfig(
            batch_size=128, learning_rate=1e-4, clip_norm=10.0, updates_per_step=1.0, start_steps=1000, every_steps=200
        ),
        world_model_learner=LearnerConfig(
            batch_size=32, learning_rate=2e-4, weight_decay=0.05, updates_per_step=1.0, start_steps=5000
        ),
        actor_critic_learner=LearnerConfig(
            batch_size=128, learning_rate=2e-4, updates_per_step=0.4, start_steps=10_000
        ),
        segment_length=10,
        tail_share=0.2,
    )


def atari_sticky() -> Config:
    """``atari100k`` with the protocol of Machado et al. (2018): each frame repeats the action before with probability
    0.25, all 18 actions, an episode is a whole game, no frames without action, at most 5 minutes (18,000 frames)."""
    base = atari100k()
    whole_games = {"sticky": 0.25, "full_action_space": True, "noops": [0, 0], "life_loss": False, "max_frames": 18_000}
    return replace(
        base,
        environment=replace(
            base.environment,
            kwargs={**TRAINED, **whole_games},
            evaluation_kwargs={"clip_rewards": False},
        ),
    )


def atari_small() -> Config:
    """Two CPU cores, one thread a run, 100,000 decisions in two to three hours: 4 x 4 tokens a frame, three narrow
    layers, a quarter of the updates of much smaller batches. docs/log.md has what each of the following bought.

    The tokenizer learns during the first 5000 decisions, in which actions are random and held for a while, and then
    rests: a world model cannot follow ids whose meaning moves. A token comes from its own 16 x 16 pixels and has four
    ids of 64 values; half of the weight of pixels goes by rarity, so that small moving things stay in the picture.
    Rewards, which are rare, weigh a hundred times the disagreement, and imagination favours what was mistaken about
    them, as replay does, whose losses are corrected by importance weights. The sequence model multiplies in bfloat16:
    on a processor without units for that, ``--world-model.precision single`` is faster.
    """
    base = atari100k()
    return replace(
        base,
        tokenizers=TokenizerConfig(
            by_modality={
                "image": ImageFSQConfig(
                    local=True, patch=4, channels=(64, 128, 128), code_size=128, levels=(8, 8), ids_per_token=4,
                    rarity=0.5,
                )
            }
        ),
        world_model=replace(
            base.world_model,
            precision="bfloat16",
            sequence=replace(base.world_model.sequence, num_layers=3, width=128),
            slot_embedding=True,
            unit_codes=True,
            loss_weights={**base.world_model.loss_weights, "reward": 3.0},
            priority_weights={"reward": 1.0},
        ),
        actor_critic=ActorCriticConfig(hidden=(256,), grid_channels=(64,)),
        losses=ActorCriticLossConfig(entropy_weight=0.01, reward_weights={"extrinsic": 1.0, "disagreement": 0.01}),
        replay=replace(
            base.replay,
            sampler=PrioritizedConfig(uniform_fraction=0.5, initial_priority=1.25, temperature=0.1),
            correction=1.0,
            start_sampler=PrioritizedConfig(uniform_fraction=0.5, initial_priority=0.0),
        ),
        imagination=ImaginationConfig(horizon=8, context_length=3, burn_in=8),
        segment_length=12,
        collection=CollectionConfig(epsilon=0.01, random_steps=5000, hold_random_actions=True),
        evaluation=replace(base.evaluation, every_steps=20_000, episodes=8),
        tail_share=0.0,
        tokenizer_learner=LearnerConfig(
            batch_size=32, learning_rate=1e-3, cooldown=0.5, clip_norm=10.0, updates_per_step=1.2, start_steps=0,
            every_steps=500, stop_steps=5000,
        ),
        world_model_learner=LearnerConfig(
            batch_size=8, learning_rate=1.2e-3, cooldown=0.4, weight_decay=0.05, updates_per_step=0.25, start_steps=5000
        ),
        actor_critic_learner=LearnerConfig(
            batch_size=32, learning_rate=5e-4, cooldown=0.4, updates_per_step=0.07, start_steps=8000
        ),
    )  # fmt: skip


def atari_exact() -> Config:
    """``atari_small`` with tokens that lose nothing and that nothing trains: every second row and column of the screen,
    16 patches a frame, each the number of one in a codebook that grows. For games with few different patches, which
    ``worldstream tokens GAME --preset atari-exact`` tells; where there are too many it names what to choose instead."""
    base = atari_small()
    return replace(
        base,
        environment=replace(
            base.environment, kwargs={**base.environment.kwargs, "resize": "decimate"}, sizes={"image": (104, 80)}
        ),
        tokenizers=TokenizerConfig(by_modality={"image": ImagePatchesConfig(patch_size=(26, 20), codes=4096)}),
        actor_critic=replace(base.actor_critic, code_width=64),
    )
