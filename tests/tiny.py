"""A configuration small enough to train in a second, and a notebook for what a trainer tells."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import worldstream
from worldstream.tokenizers.bundle import TokenizerConfig
from worldstream.tokenizers.image import ImageVQConfig
from worldstream.training.events import Events


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


class Recorded(Events):
    """What a trainer told: its records of metrics, and the steps at which an evaluation was due."""

    def __init__(self) -> None:
        self.records: list[dict[str, Any]] = []
        self.evaluations: list[int] = []

    def metrics(self, record: dict[str, Any]) -> None:
        self.records.append(record)

    def evaluate(self, steps: int) -> None:
        self.evaluations.append(steps)
