"""Collection: steps the environments with the policy and writes what happens to replay."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch

from worldstream.acting import act
from worldstream.agent.actor_critic import Carry
from worldstream.config import CollectionConfig
from worldstream.environments.vector import VectorEnvironment
from worldstream.models import Models
from worldstream.replay.store import ReplayStore


class Collector:
    """Runs N environments, freshly made, forever, episode after episode; ``rng`` decides random actions."""

    def __init__(
        self,
        environments: VectorEnvironment,
        store: ReplayStore,
        models: Models,
        config: CollectionConfig,
        *,
        rng: np.random.Generator,
        generator: torch.Generator,
    ) -> None:
        self._environments, self._store, self._models, self._config = environments, store, models, config
        self._policy = models.actor_critic.policy()
        self._rng, self._generator = rng, generator
        self.steps = 0
        num = environments.num_envs
        self._returns = np.zeros(num)
        self._lengths = np.zeros(num, dtype=np.int64)
        self._carry = models.actor_critic.initial_carry(num)
        self._held = np.zeros((num, len(environments.action_spec.sizes)), dtype=np.int64)
        self._hold = np.zeros(num, dtype=np.int64)  # steps for which the held random action goes on
        self._observations = environments.reset()
        self._begin(np.ones(num, dtype=bool))

    def step(self) -> list[dict[str, float]]:
        """One step of every environment. Returns a record {"return", "length"} for each episode that ended."""
        actions = self._choose()
        result = self._environments.step(actions)
        self._models.tokenizers.grow(result.observations)
        self._store.append(actions, result.rewards, result.terminated, result.truncated, result.observations)
        self.steps += len(actions)
        self._returns += result.rewards
        self._lengths += 1
        ended = result.terminated | result.truncated
        self._observations = result.observations
        if not ended.any():
            return []
        which = np.flatnonzero(ended)
        episodes = [{"return": float(self._returns[i]), "length": float(self._lengths[i])} for i in which]
        self._observations = self._environments.reset_where(ended)
        self._begin(ended)
        return episodes

    def _choose(self) -> np.ndarray:
        """(N, M) actions to execute; the carry is told about those that exploration replaced (C8)."""
        actions, self._carry = act(
            self._models.tokenizers, self._policy, self._observations, self._carry, self._generator
        )
        explore = self._explore()
        if explore.any():
            actions = np.where(explore[:, None], self._held, actions)
            self._carry = self._carry.with_action(torch.as_tensor(actions).to(self._carry.action))
        return actions

    def _explore(self) -> np.ndarray:
        """(N,) bool: whose action is the held random one in this step."""
        num, sizes = self._environments.num_envs, self._environments.action_spec.sizes
        share = 1.0 if self.steps < self._config.random_steps else self._config.epsilon
        begins = (self._hold == 0) & (self._rng.random(num) < share)
        if begins.any():
            self._held[begins] = self._rng.integers(0, sizes, size=(num, len(sizes)))[begins]
            self._hold[begins] = self._rng.zipf(2.0, num)[begins] if self._config.hold_random_actions else 1
        explores = self._hold > 0
        self._hold -= explores
        return explores

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to continue the episodes under way; raises EnvironmentFault."""
        return {
            "steps": self.steps,
            "rng": self._rng.bit_generator.state,
            "carry": dataclasses.asdict(self._carry),
            **{name: getattr(self, f"_{name}").copy() for name in ("returns", "lengths", "held", "hold")},
            "environments": self._environments.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> int:
        """Continue from ``state_dict``; load the store and the models first.

        Returns the number of episodes closed as truncated, because their environments cannot give their state.
        """
        self.steps = int(state["steps"])
        self._rng.bit_generator.state = state["rng"]
        self._returns, self._lengths = state["returns"].copy(), state["lengths"].copy()
        self._held, self._hold = state["held"].copy(), state["hold"].copy()
        device, carry = self._carry.acted.device, state["carry"]
        memory = tuple(x.to(device) for x in carry["memory"])
        self._carry = Carry(memory, carry["action"].to(device), carry["acted"].to(device))
        goes_on = self._environments.load_state_dict(state["environments"])
        self._observations = self._environments.latest
        if goes_on.all():
            return 0
        self._store.truncate(~goes_on)
        self._begin(~goes_on)
        return int((~goes_on).sum())

    def _begin(self, where: np.ndarray) -> None:
        """The environments ``where`` (N,) are at the beginning of an episode, which ``_observations`` shows."""
        self._returns[where], self._lengths[where], self._hold[where] = 0.0, 0, 0
        self._store.start(self._observations, where)
        self._models.tokenizers.grow({key: values[where] for key, values in self._observations.items()})
        mask = torch.as_tensor(where).to(self._carry.acted.device)
        self._carry = self._models.actor_critic.initial_carry(len(where)).where(mask, self._carry)
