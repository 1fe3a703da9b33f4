"""Returns of a policy over whole episodes, in environments of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from worldstream.acting import act
from worldstream.environments.compatibility import require_specs
from worldstream.environments.pool import OnFault
from worldstream.environments.vector import StepResult, VectorEnvironment
from worldstream.errors import WorldstreamError, warn
from worldstream.models import Models
from worldstream.training.experiment import Experiment
from worldstream.types import Observations, Policy

SEED_STREAM = 1_000_003
"""Keeps the seeds of evaluation apart from those of training (C20)."""


class Stopped(Exception):
    """Raised in an evaluation when the run was asked to stop."""


@dataclass(frozen=True)
class Evaluation:
    """Undiscounted returns and lengths of whole episodes, in the order in which they ended."""

    returns: list[float]
    lengths: list[int]
    incidents: int = 0
    """Environments that failed meanwhile; their episodes count as truncated, with the returns so far."""

    @property
    def reservation(self) -> str:
        """What a user should know beside the returns; empty when nothing happened."""
        return incidents_in_words(self.incidents) if self.incidents else ""

    @property
    def summary(self) -> dict[str, float]:
        """Mean, deviation and quartiles of the return; mean length; share of episodes with a positive return."""
        returns = np.array(self.returns)
        low, median, high = np.percentile(returns, (25, 50, 75))
        return {
            "episodes": len(returns),
            "return_mean": float(returns.mean()),
            "return_std": float(returns.std()),
            "return_quartile_low": float(low),
            "return_median": float(median),
            "return_quartile_high": float(high),
            "length_mean": float(np.mean(self.lengths)),
            "positive_share": float((returns > 0).mean()),
        }

    def record(self, *, steps: int, environment_steps: int, final: bool, training_seconds: float) -> dict[str, Any]:
        """Line of ``evaluations.jsonl``.

        Args:
            steps: environment steps on the training's clock, which goes on while the learners do.
            environment_steps: those that were taken.
            final: whether it is trained no longer.
            training_seconds: wall time of that training.
        """
        where = {"steps": steps, "environment_steps": environment_steps, "final": final}
        return {**where, "training_seconds": training_seconds, "incidents": self.incidents, **self.summary}


@dataclass(frozen=True)
class Played:
    """One step of N environments under a policy."""

    observations: Observations  # (N, *shape) by key: what the actions were chosen at
    actions: np.ndarray  # (N, M) ids
    result: StepResult
    counted: np.ndarray  # (N,) bool: the step belongs to one of the episodes that were asked for
    ended: np.ndarray  # (N,) bool: the episode terminated, was truncated or was cut for its length


class Actor(Protocol):
    """Who chooses actions: the agent, or what stands in for it."""

    def policy(self, temperature: float) -> Policy:
        """See ``ActorCritic.policy``."""

    def initial_carry(self, batch_size: int) -> Any:
        """Carry at the beginning of an episode; ``where`` joins the rows of two."""


def incidents_in_words(count: int) -> str:
    """How failing environments change the mean return."""
    return f"incidents: {count} (environments that failed; their episodes count as truncated, with the returns so far)"


def never() -> bool:
    """Nobody asks an evaluation to stop."""
    return False


def warn_of_fault(index: int, error: WorldstreamError) -> None:
    """Say that an environment failed and is made anew."""
    warn(f"{error} It is made anew; its episode counts as truncated.")


@torch.no_grad()
def play(
    models: Models,
    experiment: Experiment,
    episodes: int,
    *,
    actor: Actor | None = None,
    on_fault: OnFault = warn_of_fault,
    stop: Callable[[], bool] = never,
) -> Iterator[Played]:
    """Play whole episodes without exploration, and yield every step. The one loop of evaluation and recording.

    Every environment plays a fixed share of the episodes, so that short episodes are not counted more often; an
    episode is cut where it terminates or is truncated (C19). Environments that have played their share go on until
    the last has, uncounted. An environment that fails is made anew, and its episode counts as truncated.

    Args:
        models: in any mode; nothing is changed.
        experiment: environment, seed, and how it is evaluated.
        episodes: number of whole episodes, at least 1.
        actor: who plays. None: the agent of the models.
        on_fault: called when an environment has failed, before it is made anew.
        stop: whether to stop; asked before each step.

    Raises:
        Stopped: asked to stop.
        ConfigError: the observations or actions of the environment are not those of the models.
        EnvironmentFault: environments fail more often than ``config.collection.max_restarts``.
    """
    config, seed = experiment.config, experiment.seed + SEED_STREAM
    num = min(config.evaluation.num_environments, episodes)
    generator = torch.Generator(models.device).manual_seed(seed)
    actor = models.actor_critic if actor is None else actor
    policy = actor.policy(config.evaluation.temperature)
    quota = np.array([episodes // num + (i < episodes % num) for i in range(num)])
    steps = np.zeros(num, dtype=np.int64)
    evaluated = experiment.environment.for_evaluation()
    with VectorEnvironment(evaluated, num, seed, config.collection, on_fault=on_fault) as vector:
        require_specs(experiment.environment.label, vector.specs, models.specs)
        observations, carry = vector.reset(), actor.initial_carry(num)
        while quota.any():
            if stop():
                raise Stopped
            actions, carry = act(models.tokenizers, policy, observations, carry, generator)
            result = vector.step(actions)
            steps += 1
            ended = result.terminated | result.truncated | (steps >= config.evaluation.max_episode_steps)
            yield Played(observations, actions, result, quota > 0, ended)
            observations = result.observations
            if not ended.any():
                continue
            quota -= ended & (quota > 0)
            steps[ended] = 0
            if quota.any():
                observations = vector.reset_where(ended)
                mask = torch.as_tensor(ended).to(models.device)
                carry = actor.initial_carry(num).where(mask, carry)


def protocol_card(experiment: Experiment, training: dict[str, Any]) -> dict[str, Any]:
    """How an environment is played, by what the training one says; empty for one that says nothing about it."""
    if not training:
        return {}
    evaluated, evaluation = experiment.environment.for_evaluation().make(), experiment.config.evaluation
    card = {
        "training": training,
        "evaluation": {
            **evaluated.protocol,
            "temperature": evaluation.temperature,
            "episodes": evaluation.episodes,
            "final_episodes": evaluation.final_episodes,
            "max_episode_steps": evaluation.max_episode_steps,
        },
    }
    evaluated.close()
    return card


def evaluate(
    models: Models,
    experiment: Experiment,
    episodes: int,
    *,
    on_fault: OnFault = warn_of_fault,
    on_progress: Callable[[int, int], Any] | None = None,
    stop: Callable[[], bool] = never,
) -> Evaluation:
    """Returns and lengths of whole episodes without exploration; arguments are those of ``play``.

    ``on_progress`` is called after each step with the episodes that have ended and the steps of all environments.
    """
    taken = incidents = 0

    def count(index: int, error: WorldstreamError) -> None:
        nonlocal incidents
        incidents += 1
        on_fault(index, error)

    totals: np.ndarray = np.zeros(0)
    steps: np.ndarray = np.zeros(0, dtype=np.int64)
    returns: list[float] = []
    lengths: list[int] = []
    for step in play(models, experiment, episodes, on_fault=count, stop=stop):
        if not len(totals):
            totals, steps = np.zeros(len(step.ended)), np.zeros(len(step.ended), dtype=np.int64)
        totals += step.result.rewards
        steps += 1
        for i in np.flatnonzero(step.ended & step.counted):
            returns.append(float(totals[i]))
            lengths.append(int(steps[i]))
        totals[step.ended], steps[step.ended] = 0.0, 0
        taken += len(steps)
        if on_progress is not None:
            on_progress(len(returns), taken)
    return Evaluation(returns, lengths, incidents)
