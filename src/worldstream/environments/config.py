"""Options of an environment that a user may set; the same for every suite."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from worldstream.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class EnvironmentConfig:
    """How an environment is made and read."""

    modality: dict[str, str] = field(default_factory=dict)
    """Observation key -> "kind", "kind:11,6,4" (sizes per channel) or "ignore", where the space does not say it."""
    sizes: dict[str, tuple[int, ...]] = field(default_factory=lambda: {"image": (64, 64)})
    """Modality -> the numbers that its keys get where ``modality`` gives none. Images: the height and width, in pixels,
    to which they are resized where they enter."""
    kwargs: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of the environment's constructor."""
    evaluation_kwargs: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments that replace or join those above where the agent is evaluated."""
    max_episode_steps: int | None = None
    """Frames after which an episode is truncated. None: as the environment is registered."""
    num_action_levels: int = 51
    """Levels into which each dimension of a continuous action is cut."""
    action_repeat: int | None = None
    """Frames for which each action is repeated; frames = environment steps x action_repeat. None: as is usual for the
    suite, 4 in Atari games and 1 elsewhere."""

    def __post_init__(self) -> None:
        if self.num_action_levels < 2:
            raise ConfigError(f"num_action_levels must be at least 2, not {self.num_action_levels}.")
        if self.action_repeat is not None and self.action_repeat < 1:
            raise ConfigError(f"action_repeat must be at least 1, not {self.action_repeat}.")
        if self.max_episode_steps is not None and self.max_episode_steps < 1:
            raise ConfigError(f"max_episode_steps must be at least 1, not {self.max_episode_steps}.")

    def for_evaluation(self) -> EnvironmentConfig:
        """The same with the keyword arguments of evaluation."""
        return replace(self, kwargs={**self.kwargs, **self.evaluation_kwargs})
