"""Many environments at once, in this process or one process each, without automatic resets.

The caller resets what has ended (``reset_where``), so ``step`` always returns the true next observation: the final
one of an episode included. An environment that fails is made anew, up to a limit, while the others go on: its episode
ends as truncated, and nobody but the callback ``on_fault`` is told.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from worldstream.environments.config import WorkerConfig
from worldstream.environments.factory import EnvironmentFactory
from worldstream.environments.pool import OnFault, WorkerPool
from worldstream.errors import EnvironmentFault, WorldstreamError, warn
from worldstream.specs import ActionSpec, KeySpec, Specs

if TYPE_CHECKING:
    from worldstream.types import Observations  # which imports torch

_NO_RESTARTS = WorkerConfig(max_restarts=0)


class StepResult(NamedTuple):
    """One step of N environments."""

    observations: Observations  # (N, *shape) by key: what followed the actions, also where the episode has ended
    rewards: np.ndarray  # (N,) float32
    terminated: np.ndarray  # (N,) bool
    truncated: np.ndarray  # (N,) bool


class VectorEnvironment:
    """N environments of one kind.

    Seeds: environment i owns the i-th child of ``np.random.SeedSequence(seed)``, and every call of ``reset`` seeds it
    with the next child of that, as does every restart. So environments differ from each other, runs with the same seed
    are equal, and environment i does not depend on N. ``reset_where`` lets each environment go on with its own random
    numbers.

    Faults: the environment is made anew. Where it failed in a step, that transition closes the episode: it repeats the
    last observation, earns 0 and is truncated. Where it failed in a reset, it is reset again. ``workers`` say how many
    failures are survived (by default none), and ``on_fault`` is called before each restart.

    Raises as ``WorkerPool``.
    """

    def __init__(
        self,
        environment: EnvironmentFactory,
        num_envs: int = 1,
        seed: int = 0,
        workers: WorkerConfig = _NO_RESTARTS,
        *,
        on_fault: OnFault = lambda index, error: None,
    ) -> None:
        self.num_envs = num_envs
        self._pool = WorkerPool(environment, num_envs, workers, on_fault)
        self.observation_specs: dict[str, KeySpec] = self._pool.observation_specs
        self.action_spec: ActionSpec = self._pool.action_spec
        self.protocol: dict[str, Any] = self._pool.protocol
        self._seeds = np.random.SeedSequence(seed).spawn(num_envs)
        self.latest: Observations = {}
        """(N, *shape) by key: the newest observation of every environment."""
        self._ended = np.ones(num_envs, bool)
        self.closes_refused = False
        """Whether an episode is closed whose environment refuses its saved state; else that is an error."""
        self._is_new = np.zeros(num_envs, bool)  # made anew, and not reset since

    @property
    def num_restarts(self) -> int:
        """Failures so far."""
        return self._pool.num_restarts

    def reset(self) -> Observations:
        """Begin an episode everywhere, with fresh seeds. Observations (N, *shape) by key; EnvironmentFault."""
        everywhere = np.ones(self.num_envs, bool)
        return self._reset(everywhere, seeded=everywhere)

    def reset_where(self, mask: np.ndarray) -> Observations:
        """Begin an episode where ``mask`` (N,) is True; rows of all others are as last seen.

        Observations (N, *shape) by key. Raises EnvironmentFault, and ValueError when the mask is empty.
        """
        mask = np.asarray(mask, bool)
        if not mask.any():
            raise ValueError("no environment to reset: the mask is empty")
        return self._reset(mask, seeded=self._is_new)

    def step(self, actions: np.ndarray) -> StepResult:
        """Act with token ids (N, M) everywhere. Raises EnvironmentFault, and RuntimeError before a due reset."""
        if self._ended.any():
            raise RuntimeError(f"environments {np.flatnonzero(self._ended).tolist()} must be reset before they step")
        actions = np.asarray(actions, dtype=np.int64)
        if actions.shape != (self.num_envs, self.action_spec.num_tokens):
            raise ValueError(f"actions have shape {actions.shape}, not {(self.num_envs, self.action_spec.num_tokens)}")
        answers = self._pool.ask(range(self.num_envs), "step", list(actions))
        for i, answer in enumerate(answers):
            if isinstance(answer, WorldstreamError):
                self._make_anew(i, answer)
                answers[i] = ({key: array[i] for key, array in self.latest.items()}, 0.0, False, True)
            else:
                self._pool.failures_in_a_row[i] = 0
        observations, rewards, terminated, truncated = zip(*answers, strict=True)
        self._ended = np.array(terminated) | np.array(truncated)
        seen = self._seen(dict(enumerate(observations)))
        return StepResult(seen, np.array(rewards, np.float32), np.array(terminated), np.array(truncated))

    def close(self) -> None:
        """Close all environments and end their processes; harmless when closed already."""
        self._pool.close()

    def __enter__(self) -> VectorEnvironment:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to continue the episodes under way, as plain values and arrays.

        An environment that fails to give its state counts as one that cannot.
        """
        return {
            "states": [self._state(i) for i in range(self.num_envs)],
            "num_seeds": [seeds.n_children_spawned for seeds in self._seeds],
            "num_restarts": self._pool.num_restarts,
            "failures_in_a_row": self._pool.failures_in_a_row.copy(),
            "ended": self._ended.copy(),
            "observations": dict(self.latest),
        }

    def load_state_dict(self, saved: dict[str, Any]) -> np.ndarray:
        """Continue from ``state_dict``; returns (N,) bool: the episodes that go on.

        The others could not be saved; those environments were reset, with seeds that the run had not used, and
        ``latest`` shows where they begin. Raises EnvironmentFault, and ValueError for the state of another N.
        """
        if len(saved["states"]) != self.num_envs:
            raise ValueError(f"the state of {len(saved['states'])} environments, not {self.num_envs}")
        self._seeds = [
            np.random.SeedSequence(seeds.entropy, spawn_key=seeds.spawn_key, n_children_spawned=count)
            for seeds, count in zip(self._seeds, saved["num_seeds"], strict=True)
        ]
        self._pool.num_restarts = int(saved["num_restarts"])
        self._pool.failures_in_a_row = saved["failures_in_a_row"].copy()
        goes_on = np.array([state is not None for state in saved["states"]])
        # Seeds are only used up where an episode really begins, so that what comes later is as it would have been.
        self._reset(np.ones(self.num_envs, bool), seeded=~goes_on)
        refused = np.array([not self._continues(i, saved["states"][i]) for i in range(self.num_envs)]) & goes_on
        if refused.any():
            self._reset(refused, seeded=refused)
            goes_on &= ~refused
        self._ended = np.where(goes_on, saved["ended"], False)
        observations = {key: np.asarray(saved["observations"][key]) for key in self.observation_specs}
        self._seen({int(i): {key: array[i] for key, array in observations.items()} for i in np.flatnonzero(goes_on)})
        return goes_on

    @property
    def specs(self) -> Specs:
        """What is observed, by key, and what is done."""
        return self.observation_specs, self.action_spec

    def _reset(self, mask: np.ndarray, seeded: np.ndarray) -> Observations:
        """Begin an episode where ``mask`` (N,), where ``seeded`` (N,) with a fresh seed."""
        chosen = np.flatnonzero(mask).tolist()
        answers = self._pool.ask(chosen, "reset", [self._next_seed(i) if seeded[i] else None for i in chosen])
        observations = {}
        for i, answer in zip(chosen, answers, strict=True):
            while isinstance(answer, WorldstreamError):
                self._make_anew(i, answer)
                (answer,) = self._pool.ask([i], "reset", [self._next_seed(i)])
            observations[i] = answer
        self._ended &= ~mask
        self._is_new &= ~mask
        return self._seen(observations)

    def _seen(self, observations: dict[int, Observations]) -> Observations:
        """Note the observations of some environments, all at first, as their newest; returns the newest of all."""
        old = self.latest
        self.latest = {
            key: np.stack([observations[i][key] if i in observations else old[key][i] for i in range(self.num_envs)])
            for key in self.observation_specs
        }
        return self.latest

    def _next_seed(self, index: int) -> int:
        """31 bits: some simulators keep the seed in a signed integer."""
        return int(self._seeds[index].spawn(1)[0].generate_state(1)[0]) & 0x7FFFFFFF

    def _make_anew(self, index: int, error: WorldstreamError) -> None:
        self._pool.replace(index, error)
        self._is_new[index] = True

    def _continues(self, index: int, state: Any) -> bool:
        """Whether environment ``index`` takes its saved state, None where there is none. Raises EnvironmentFault."""
        try:
            if state is not None:
                self._pool.workers[index].ask("set_state", state)
        except WorldstreamError as error:
            if not self.closes_refused:
                raise EnvironmentFault(f"{error} Its episode can be closed as truncated: --close-episodes.") from error
            warn(f"{error} Its episode is closed as truncated.")
            return False
        return True

    def _state(self, index: int) -> Any:
        """State of an environment, None when it cannot give it, or was made anew and has nothing to go on with."""
        if self._is_new[index]:
            return None
        try:
            return self._pool.workers[index].ask("state")
        except WorldstreamError as error:
            warn(f"{error} A resumed run would close its episode as truncated.")
            return None
