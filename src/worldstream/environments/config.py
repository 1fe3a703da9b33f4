"""Options of environments that a user may set; the same for every suite."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

from worldstream.options import Between


@dataclass(frozen=True, kw_only=True)
class EnvironmentConfig:
    """How an environment is made and read."""

    modality: dict[str, str] = field(default_factory=dict)
    """Observation key -> "kind", "kind:11,6,4" (sizes per channel) or "ignore", where the space does not say it."""
    sizes: dict[str, tuple[int, ...]] = field(default_factory=lambda: {"image": (64, 64)})
    """Modality -> the numbers that its keys get where ``modality`` gives none. Images: height and width, in pixels, to
    which they are resized where they enter, whatever the suite."""
    kwargs: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of the environment's constructor."""
    evaluation_kwargs: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments that replace or join those above where the agent is evaluated."""
    max_episode_steps: Annotated[int | None, Between(1)] = None
    """Frames after which an episode is truncated. None: as the environment is registered."""
    num_action_levels: Annotated[int, Between(2)] = 51
    """Levels into which each dimension of a continuous action is cut."""
    action_repeat: Annotated[int | None, Between(1)] = None
    """Frames for which each action is repeated; frames = environment steps x action_repeat. None: as is usual for the
    suite, 4 in Atari games and 1 elsewhere."""

    def for_evaluation(self) -> EnvironmentConfig:
        """The same with the keyword arguments of evaluation."""
        return replace(self, kwargs={**self.kwargs, **self.evaluation_kwargs})


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerConfig:
    """Where environments run, and how many of their failures are survived."""

    backend: Literal["sync", "process"] = "sync"
    """"sync" steps them in this process, "process" gives each its own, where they may crash or hang."""
    max_restarts: Annotated[int, Between(0)] = 100
    """Failures of environments that a run survives by making them anew; the episode counts as truncated."""
    timeout: Annotated[float, Between(0, 1e6)] = 300.0
    """Seconds after which an environment in a process of its own is taken to hang."""
