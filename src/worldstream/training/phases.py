"""The three phases of training: tokenizers, world model and actor-critic; what they learn from, when and how."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from worldstream.config import Config
from worldstream.models import Models
from worldstream.replay.samplers import Sampler
from worldstream.replay.segments import AnchorRule
from worldstream.training.cadence import Paced
from worldstream.training.experience import Experience
from worldstream.training.learner import Learner
from worldstream.training.randomness import random_stream
from worldstream.training.updates import past_length, update_actor_critic, update_tokenizers, update_world_model
from worldstream.types import Batch, Observations

Updated = tuple[dict[str, Tensor], Tensor | None]
"""Metrics, () each, and the priorities (B,) of what was drawn, where it has any."""


class Phase(ABC):
    """One component that learns. A subclass joins ``PHASES``; ``generator`` samples what its updates imagine."""

    name: ClassVar[str]
    """Name of the component in ``Models``; its metrics begin with it."""
    settings: ClassVar[str]
    """Name of its learner's options in ``Config``."""
    memory_settings: ClassVar[str]
    """Options to lower when an update takes too much memory."""
    draw: Callable[[], Any]
    """What the next update learns from."""
    sampler: Sampler | None = None
    """Draws the segments, and is told their priorities."""

    def __init__(self, config: Config, models: Models, generator: torch.Generator) -> None:
        self.config, self.models, self.generator = config, models, generator
        self.learner = Learner(getattr(models, self.name), getattr(config, self.settings))
        self.cadence = self.learner.cadence()

    @classmethod
    def is_needed(cls, models: Models) -> bool:
        """Whether the component has anything to learn."""
        return True

    @abstractmethod
    def learn_from(self, experience: Experience, seed: int) -> None:
        """Set ``draw``, and ``sampler`` where there is one; random choices follow from the seed of the run."""

    @abstractmethod
    def update(self, drawn: Any) -> Updated:
        """One gradient step on what was drawn."""

    def restored(self, drawn: dict[str, Any]) -> Batch | Observations:
        """What ``draw`` returned, from the mapping as which it was kept."""
        return Batch(**drawn)

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


class TokenizersPhase(Phase):
    """Tokenizers, on stored observations."""

    name = "tokenizers"
    settings = "tokenizer_learner"
    memory_settings = "tokenizer_learner.batch_size"

    def __init__(self, config: Config, models: Models, generator: torch.Generator) -> None:
        models.tokenizers.prepare_training()
        super().__init__(config, models, generator)

    @classmethod
    def is_needed(cls, models: Models) -> bool:
        return models.tokenizers.trainable

    def learn_from(self, experience: Experience, seed: int) -> None:
        self.draw = partial(experience.observations, self.learner.config.batch_size)

    def update(self, drawn: Observations) -> Updated:
        return update_tokenizers(self.models.tokenizers, self.learner, drawn), None

    def restored(self, drawn: dict[str, Any]) -> Observations:
        return drawn


class WorldModelPhase(Phase):
    """World model, on replayed segments; their losses become their priorities."""

    name = "world_model"
    settings = "world_model_learner"
    memory_settings = "world_model_learner.batch_size or segment_length"

    def __init__(self, config: Config, models: Models, generator: torch.Generator) -> None:
        super().__init__(config, models, generator)
        if config.held_out.pace > 1:
            self.cadence = Paced(**vars(self.cadence))

    def learn_from(self, experience: Experience, seed: int) -> None:
        rule = AnchorRule.first(self.config.world_model.context_length).trained(self.config.held_out.share)
        self.sampler = self.config.replay.sampler.build(experience.store, random_stream(seed, 0), rule)
        size, length = self.learner.config.batch_size, self.config.segment_length
        correction = self.config.replay.correction
        self.draw = partial(experience.segments, self.sampler, size, length, "first", correction=correction)

    def update(self, drawn: Batch) -> Updated:
        return update_world_model(self.models.world_model, self.learner, drawn)


class ActorCriticPhase(Phase):
    """Actor-critic, on trajectories imagined from observations of replay."""

    name = "actor_critic"
    settings = "actor_critic_learner"
    memory_settings = "actor_critic_learner.batch_size or imagination.horizon"

    def learn_from(self, experience: Experience, seed: int) -> None:
        rule = AnchorRule.last(max(self.config.world_model.context_length - 1, 0))
        self.sampler = self.config.replay.start_sampler.build(experience.store, random_stream(seed, 1), rule)
        size, length = self.learner.config.batch_size, past_length(self.config.imagination) + 1
        self.draw = partial(experience.segments, self.sampler, size, length, "last")

    def update(self, drawn: Batch) -> Updated:
        return update_actor_critic(self.models, self.learner, drawn, self.config, self.generator)


PHASES: dict[str, type[Phase]] = {phase.name: phase for phase in (TokenizersPhase, WorldModelPhase, ActorCriticPhase)}
"""By name, in the order in which they learn in a step."""
