"""The three phases of training: tokenizers, world model and actor-critic; what they learn from, when and how."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from worldstream.config import Config
from worldstream.models import Models
from worldstream.replay.samplers import Sampler
from worldstream.replay.segments import AnchorRule
from worldstream.training.cadence import Ratio
from worldstream.training.experience import Experience
from worldstream.training.learner import Learner
from worldstream.training.updates import past_length, update_actor_critic, update_tokenizers, update_world_model
from worldstream.types import Batch

Update = Callable[[Any], tuple[dict[str, Tensor], Tensor | None]]
"""One gradient step on what was drawn -> metrics, () each, and the priorities (B,) of what was drawn."""


@dataclass(frozen=True)
class Phase:
    """One component that learns."""

    name: str
    """Name of the component; its metrics begin with it."""
    learner: Learner
    cadence: Ratio
    draw: Callable[[], Any]
    """What the next update learns from."""
    update: Update
    sampler: Sampler | None = None
    """Draws the segments, and is told their priorities."""

    def learned(self, drawn: Batch, priorities: Tensor | None) -> None:
        """Take back what an update found out about what was drawn: priorities (B,), where it has any."""
        if self.sampler is not None and self.sampler.learns and priorities is not None:
            self.sampler.update(drawn.anchors, priorities.cpu().numpy())

    @property
    def _parts(self) -> dict[str, Any]:
        drawn = {} if self.sampler is None else {"draws": self.sampler}
        return {"learner": self.learner, "cadence": self.cadence, **drawn}

    def state_dict(self) -> dict[str, Any]:
        """The state, beside the weights."""
        return {name: part.state_dict() for name, part in self._parts.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state_dict``; load the models and the experience first."""
        for name, part in self._parts.items():
            part.load_state_dict(state[name])


def tokenizers_phase(config: Config, models: Models, experience: Experience) -> Phase:
    """Tokenizers, on stored observations."""
    learner = Learner(models.tokenizers, config.tokenizer_learner)

    def update(observations: Any) -> tuple[dict[str, Tensor], None]:
        return update_tokenizers(models.tokenizers, learner, observations), None

    draw = partial(experience.observations, config.tokenizer_learner.batch_size)
    return Phase("tokenizers", learner, learner.cadence(), draw, update)


def world_model_phase(config: Config, models: Models, experience: Experience, rng: np.random.Generator) -> Phase:
    """World model, on replayed segments; their losses become their priorities."""
    learner, replay = Learner(models.world_model, config.world_model_learner), config.replay
    sampler = replay.sampler.build(experience.store, rng, AnchorRule.first(config.world_model.context_length))
    draw = partial(experience.segments, sampler, learner.config.batch_size, config.segment_length, "first")
    update = partial(update_world_model, models.world_model, learner)
    return Phase("world_model", learner, learner.cadence(), draw, update, sampler)


def actor_critic_phase(
    config: Config, models: Models, experience: Experience, rng: np.random.Generator, generator: torch.Generator
) -> Phase:
    """Actor-critic, on trajectories imagined from observations of replay; ``generator`` samples them."""
    learner, replay = Learner(models.actor_critic, config.actor_critic_learner), config.replay
    rule = AnchorRule.last(max(config.world_model.context_length - 1, 0))
    sampler = replay.start_sampler.build(experience.store, rng, rule)
    length = past_length(config.imagination) + 1
    draw = partial(experience.segments, sampler, learner.config.batch_size, length, "last")
    update = partial(update_actor_critic, models, learner, config=config, generator=generator)
    return Phase("actor_critic", learner, learner.cadence(), draw, update, sampler)
