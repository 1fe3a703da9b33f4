"""The true environment in the place of the world model: what the agent could learn if every prediction were right.

Environments that can give their state (``environments/state.py``) are restored to states of recorded play, and answer
``WorldModel.step``; imagination and losses are those of training. Only the environment's own reward counts.
"""

from __future__ import annotations

import copy
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from worldstream.acting import act
from worldstream.agent.losses import actor_critic_losses
from worldstream.environments.flat import FlatEnvironment
from worldstream.errors import ConfigError
from worldstream.evaluation.diagnosis import DiagnosisConfig, TrueSimulator
from worldstream.evaluation.evaluate import SEED_STREAM, Evaluation, evaluate
from worldstream.imagination import Start, imagine
from worldstream.models import Models
from worldstream.tokenizers.bundle import TokenizerBundle
from worldstream.training.experiment import Experiment
from worldstream.training.learner import Learner
from worldstream.types import EXTRINSIC, Observations, Tokens
from worldstream.world_model.model import Imagined

NUM_MOMENTS = 1000
"""Steps of play, at each of which trajectories may begin."""


@dataclass(frozen=True)
class Moment:
    """One moment of play: the state of the environment, and what the policy's memory read in the P steps before."""

    state: dict[str, Any]
    observations: Observations
    """(P + 1, *shape) by key; the last is that of the moment."""
    actions: np.ndarray
    """(P, M) ids."""
    acted: np.ndarray
    """(P,) bool: False before the episode began."""

    @staticmethod
    def of(state: dict[str, Any], seen: list[Observations], acted: list[np.ndarray], nothing: np.ndarray) -> Moment:
        """From the observations so far, and the actions between them; before the first, ``nothing`` (P, M) was done."""
        past = len(nothing)
        seen, acted = seen[-past - 1 :], acted[-past:]
        missing = past - len(acted)
        seen = [seen[0]] * missing + seen
        return Moment(
            state,
            {key: np.stack([observation[key] for observation in seen]) for key in seen[0]},
            np.stack([*nothing[:missing], *acted]),
            np.arange(past) >= missing,
        )


class TrueWorld:
    """Answers as a world model does; its state is the list of the B states of the environment, None after an end."""

    def __init__(self, environment: FlatEnvironment, tokenizers: TokenizerBundle) -> None:
        self._environment, self._tokenizers = environment, tokenizers

    def step(
        self,
        tokens: Tokens,
        actions: Tensor,
        state: list[dict[str, Any] | None],
        generator: torch.Generator | None = None,
        *,
        rewards: Collection[str] | None = None,
    ) -> tuple[Imagined, list[dict[str, Any] | None]]:
        """See ``WorldModel.step``. What has ended stays as it is, and a truncated episode goes on: it did not end."""
        following: list[dict[str, Any] | None] = []
        found: list[tuple[Observations | None, float, bool]] = []
        for saved, action in zip(state, actions.cpu().numpy(), strict=True):
            if saved is None:
                found.append((None, 0.0, False))
                following.append(None)
                continue
            self._environment.saved_state = saved
            observation, reward, terminated, _, _ = self._environment.step(action)
            found.append((observation, reward, terminated))
            following.append(None if terminated else self._environment.saved_state)
        device = self._tokenizers.version.device
        return Imagined(
            tokens=self._after(tokens, [observation for observation, _, _ in found]),
            rewards={EXTRINSIC: torch.tensor([reward for _, reward, _ in found], device=device)},
            terminated=torch.tensor([ended for _, _, ended in found], device=device),
        ), following

    def _after(self, tokens: Tokens, observations: list[Observations | None]) -> Tokens:
        """Tokens of what was observed, and as before where nothing was."""
        there = [i for i, observation in enumerate(observations) if observation is not None]
        if not there:
            return tokens
        known = [observation for observation in observations if observation is not None]
        stacked = {key: np.stack([observation[key] for observation in known]) for key in tokens}
        encoded = self._tokenizers.encode(stacked)
        return {
            key: ids.index_copy(0, torch.tensor(there, device=ids.device), encoded[key]) for key, ids in tokens.items()
        }


def learn_in_truth(models: Models, experiment: Experiment, options: DiagnosisConfig) -> TrueSimulator:
    """Let a copy of the agent learn for ``options.simulator_updates`` in the true environment, and compare its returns.

    Raises ConfigError when the environment cannot give its state, and as ``evaluate``.
    """
    twin, config = copy.deepcopy(models), experiment.config
    losses = replace(config.losses, reward_weights={EXTRINSIC: config.losses.reward_weights.get(EXTRINSIC) or 1.0})
    learner = Learner(twin.actor_critic, config.actor_critic_learner)
    generator = torch.Generator(models.device).manual_seed(experiment.seed)
    environment = experiment.environment.make()
    try:
        moments = _play(models, experiment, environment)
        before = evaluate(twin, experiment, options.simulator_episodes)
        world, rng = TrueWorld(environment, twin.tokenizers), np.random.default_rng(experiment.seed)
        for _ in range(options.simulator_updates):
            chosen = [moments[i] for i in rng.integers(len(moments), size=config.actor_critic_learner.batch_size)]
            policy, start = twin.policy_of_tokens(), _start(twin, chosen)
            horizon = config.imagination.horizon
            trajectories = imagine(world, policy, start, horizon=horizon, generator=generator)
            learner.step(actor_critic_losses(twin.actor_critic, twin.return_scale, losses, trajectories).total)
    finally:
        environment.close()
    after = evaluate(twin, experiment, options.simulator_episodes)
    return TrueSimulator(options.simulator_updates, _mean(before), _mean(after), _deviation(before, after))


def _mean(evaluation: Evaluation) -> float:
    return float(np.mean(evaluation.returns))


def _deviation(*evaluations: Evaluation) -> float:
    """Standard error of the difference of two mean returns."""
    return float(np.sqrt(sum(np.var(each.returns) / len(each.returns) for each in evaluations)))


@torch.no_grad()
def _play(models: Models, experiment: Experiment, environment: FlatEnvironment) -> list[Moment]:
    """Moments of the agent's play at temperature 1, as in imagination."""
    seed = (experiment.seed + 2 * SEED_STREAM) & 0x7FFFFFFF
    nothing = np.zeros((experiment.config.imagination.burn_in, models.action_spec.num_tokens), np.int64)
    generator = torch.Generator(models.device).manual_seed(seed)
    policy, moments = models.actor_critic.policy(), list[Moment]()
    observation, _ = environment.reset(seed=seed)
    seen, acted, carry = [observation], list[np.ndarray](), models.actor_critic.initial_carry(1)
    while len(moments) < NUM_MOMENTS:
        state = environment.saved_state
        if state is None:
            raise ConfigError(
                f"environment '{environment.name}' cannot give its state, so it cannot stand in for the world model. "
                "Leave out --true-simulator, or give it state_dict() and load_state_dict(), as "
                "worldstream.environments.state says."
            )
        moments.append(Moment.of(state, seen, acted, nothing))
        stored = {key: value[None] for key, value in seen[-1].items()}
        ids, carry = act(models.tokenizers, policy, stored, carry, generator)
        observation, _, terminated, truncated, _ = environment.step(ids[0])
        seen.append(observation)
        acted.append(ids[0])
        if terminated or truncated:
            observation, _ = environment.reset()
            seen, acted, carry = [observation], [], models.actor_critic.initial_carry(1)
    return moments


def _start(models: Models, moments: list[Moment]) -> Start:
    """Where trajectories begin, with the policy's memory as it was; the state of the world is that of each moment."""
    device = models.device
    seen = {key: np.stack([moment.observations[key] for moment in moments]) for key in models.key_specs}
    tokens = models.tokenizers.encode(seen)
    actions = torch.as_tensor(np.stack([moment.actions for moment in moments])).to(device)
    acted = torch.as_tensor(np.stack([moment.acted for moment in moments])).to(device)
    features = models.tokenizers.features({key: ids[:, :-1] for key, ids in tokens.items()})
    carry = models.actor_critic.burn_in(features, actions, acted)
    return Start({key: ids[:, -1] for key, ids in tokens.items()}, [moment.state for moment in moments], carry)
