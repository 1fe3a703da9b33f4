"""The three phases of training: tokenizers, world model and actor-critic; what they learn from, when and how."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from worldstream.config import Config
from worldstream.models import Models
from worldstream.replay.segments import AnchorRule
from worldstream.training.cadence import Ratio
from worldstream.training.experience import Draws, Experience, ObservationDraws, SegmentDraws
from worldstream.training.learner import Learner
from worldstream.training.updates import past_length, update_actor_critic, update_tokenizers, update_world_model

Update = Callable[[Any], tuple[dict[str, Tensor], Tensor | None]]
"""One gradient step on what was drawn -> metrics, () each, and the priorities (B,) of what was drawn."""


@dataclass(frozen=True)
class Phase:
    """One component that learns."""

    name: str
    """Of the component, and of its metrics."""
    learner: Learner
    cadence: Ratio
    draws: Draws
    update: Update

    def state_dict(self) -> dict[str, Any]:
        """The state, beside the weights."""
        return {part: getattr(self, part).state_dict() for part in ("learner", "cadence", "draws")}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state_dict``; load the models and the experience first."""
        for part, saved in state.items():
            getattr(self, part).load_state_dict(saved)


def tokenizers_phase(config: Config, models: Models, experience: Experience) -> Phase:
    """Tokenizers, on stored observations."""
    learner = Learner(models.tokenizers, config.tokenizer_learner)

    def update(observations: Any) -> tuple[dict[str, Tensor], None]:
        return update_tokenizers(models.tokenizers, learner, observations), None

    draws = ObservationDraws(experience, config.tokenizer_learner.batch_size)
    return Phase("tokenizers", learner, learner.cadence(), draws, update)


def world_model_phase(config: Config, models: Models, experience: Experience, rng: np.random.Generator) -> Phase:
    """World model, on replayed segments; their losses become their priorities."""
    learner, replay = Learner(models.world_model, config.world_model_learner), config.replay
    sampler = replay.sampler.build(experience.store, rng, AnchorRule.first(config.world_model.context_length))
    draws = SegmentDraws(experience, sampler, config.world_model_learner.batch_size, config.segment_length, "first")
    return Phase(
        "world_model", learner, learner.cadence(), draws, lambda batch: update_world_model(models, learner, batch)
    )


def actor_critic_phase(
    config: Config, models: Models, experience: Experience, rng: np.random.Generator, generator: torch.Generator
) -> Phase:
    """Actor-critic, on trajectories imagined from observations of replay; ``generator`` samples them."""
    learner, replay = Learner(models.actor_critic, config.actor_critic_learner), config.replay
    rule = AnchorRule.last(max(config.world_model.context_length - 1, 0))
    sampler = replay.start_sampler.build(experience.store, rng, rule)
    length = past_length(config.imagination) + 1
    draws = SegmentDraws(experience, sampler, config.actor_critic_learner.batch_size, length, "last")

    def update(batch: Any) -> tuple[dict[str, Tensor], Tensor]:
        return update_actor_critic(models, learner, batch, config, generator)

    return Phase("actor_critic", learner, learner.cadence(), draws, update)
