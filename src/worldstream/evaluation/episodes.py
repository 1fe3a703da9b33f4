"""Recorded episodes: what an agent really saw, did and got, kept for reports."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np

from worldstream.environments.pool import OnFault
from worldstream.evaluation.evaluate import Played, never, play, warn_of_fault
from worldstream.models import Models
from worldstream.training.experiment import Experiment
from worldstream.types import Observations

RECORDED_EPISODES = 5
"""Real episodes of an agent that are kept for the report."""


@dataclass(frozen=True)
class RecordedEpisode:
    """One real episode of T steps. When neither terminated nor truncated, the recording was cut before its end."""

    observations: Observations
    """(T + 1, *shape) stored arrays by key."""
    actions: np.ndarray
    """(T, M) action ids."""
    rewards: np.ndarray
    """(T,) float32."""
    terminated: bool
    truncated: bool

    @property
    def length(self) -> int:
        """T."""
        return len(self.rewards)


def record_episodes(
    models: Models,
    experiment: Experiment,
    episodes: int,
    *,
    max_steps: int = 500,
    on_fault: OnFault = warn_of_fault,
    stop: Callable[[], bool] = never,
) -> list[RecordedEpisode]:
    """Play episodes of at most ``max_steps`` as ``evaluate`` does, and keep everything; see ``play``."""
    return joined(play(models, shortened(experiment, max_steps), episodes, on_fault=on_fault, stop=stop))


def shortened(experiment: Experiment, max_steps: int) -> Experiment:
    """The experiment with evaluations whose episodes are cut after ``max_steps``, if not before."""
    evaluation = experiment.config.evaluation
    evaluation = replace(evaluation, max_episode_steps=min(max_steps, evaluation.max_episode_steps))
    return replace(experiment, config=replace(experiment.config, evaluation=evaluation))


def joined(steps: Iterable[Played]) -> list[RecordedEpisode]:
    """The episodes of what was played, in the order in which they ended."""
    running: dict[int, list[tuple[Played, int]]] = {}
    recorded = []
    for step in steps:
        for i in np.flatnonzero(step.counted):
            running.setdefault(int(i), []).append((step, int(i)))
            if step.ended[i]:
                recorded.append(_episode(running.pop(int(i))))
    return recorded


def _episode(steps: list[tuple[Played, int]]) -> RecordedEpisode:
    """Join the steps (step of N environments, number of the environment) of one episode."""
    last, i = steps[-1]
    return RecordedEpisode(
        observations={
            key: np.stack([*(step.observations[key][i] for step, _ in steps), final[i]])
            for key, final in last.result.observations.items()
        },
        actions=np.stack([step.actions[i] for step, _ in steps]),
        rewards=np.array([step.result.rewards[i] for step, _ in steps], np.float32),
        terminated=bool(last.result.terminated[i]),
        truncated=bool(last.result.truncated[i]),
    )
