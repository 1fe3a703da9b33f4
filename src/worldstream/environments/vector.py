"""Many environments at once, in this process or one process each, without automatic resets.

The caller resets what has ended (``reset_where``), so ``step`` always returns the true next observation: the final
one of an episode included. An environment that fails is made anew, up to a limit, while the others go on: its episode
ends as truncated, and nobody but the callback ``on_fault`` is told.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from worldstream.environments.factory import EnvironmentFactory
from worldstream.environments.worker import LocalWorker, ProcessWorker, Worker
from worldstream.errors import ConfigError, EnvironmentFault, WorldstreamError, warn
from worldstream.specs import ActionSpec, KeySpec, Specs

BACKENDS = ("sync", "process")
MAX_FAILURES_IN_A_ROW = 10
"""An environment that fails so often without taking a step in between is broken for good."""

OnFault = Callable[[int, WorldstreamError], None]


@dataclass(frozen=True)
class StepResult:
    """One step of N environments."""

    observations: dict[str, np.ndarray]
    """(N, *shape) by key: what followed the actions, also where the episode has ended."""
    rewards: np.ndarray
    """(N,) float32."""
    terminated: np.ndarray
    """(N,) bool."""
    truncated: np.ndarray
    """(N,) bool."""


class VectorEnvironment:
    """N environments of one kind.

    Seeds: environment i owns the i-th child of ``np.random.SeedSequence(seed)``, and every call of ``reset`` seeds it
    with the next child of that, as does every restart. So environments differ from each other, runs with the same seed
    are equal, and environment i does not depend on N. ``reset_where`` lets each environment go on with its own random
    numbers.

    Faults: the environment is made anew. Where it failed in a step, that transition closes the episode: it repeats the
    last observation, earns 0 and is truncated. Where it failed in a reset, it is reset again.

    Args:
        make_worker: makes an environment.
        num_envs: N.
        seed: root of all seeds.
        max_restarts: failures that are survived by making the environment anew; fewer when one environment fails
            ``MAX_FAILURES_IN_A_ROW`` times.
        on_fault: called with the number of the environment and the error before each restart.
    """

    def __init__(
        self,
        make_worker: Callable[[], Worker],
        num_envs: int,
        seed: int,
        *,
        max_restarts: int = 0,
        on_fault: OnFault = lambda index, error: None,
    ) -> None:
        self.num_envs = num_envs
        self.num_restarts = 0
        self._make_worker = make_worker
        self._max_restarts = max_restarts
        self._on_fault = on_fault
        self._seeds = np.random.SeedSequence(seed).spawn(num_envs)
        self._num_seeds = [0] * num_envs
        self._latest: dict[str, np.ndarray] = {}
        self._ended = np.ones(num_envs, bool)
        self._is_new = np.zeros(num_envs, bool)  # made anew, and not reset since
        self._failures_in_a_row = np.zeros(num_envs, np.int64)
        self._workers: list[Worker] = []
        try:
            for _ in range(num_envs):
                self._workers.append(make_worker())
                self._workers[-1].begin("specs")
            specs = [worker.finish() for worker in self._workers]
        except BaseException:
            self.close()
            raise
        self.observation_specs: dict[str, KeySpec] = specs[0][0]
        self.action_spec: ActionSpec = specs[0][1]
        self.protocol: dict[str, Any] = specs[0][2]

    def reset(self) -> dict[str, np.ndarray]:
        """Begin an episode everywhere, with fresh seeds. Observations (N, *shape) by key; EnvironmentFault."""
        everywhere = np.ones(self.num_envs, bool)
        return self._reset(everywhere, seeded=everywhere)

    def reset_where(self, mask: np.ndarray) -> dict[str, np.ndarray]:
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
        answers = self._ask(range(self.num_envs), "step", list(actions))
        for i, answer in enumerate(answers):
            if isinstance(answer, WorldstreamError):
                self._make_anew(i, answer)
                answers[i] = ({key: array[i] for key, array in self._latest.items()}, 0.0, False, True)
            else:
                self._failures_in_a_row[i] = 0
        observations, rewards, terminated, truncated = zip(*answers, strict=True)
        self._ended = np.array(terminated) | np.array(truncated)
        seen = self._seen(dict(enumerate(observations)))
        return StepResult(seen, np.array(rewards, np.float32), np.array(terminated), np.array(truncated))

    def close(self) -> None:
        """Close all environments and end their processes; harmless when closed already."""
        for worker in self._workers:
            worker.release()
        for worker in self._workers:
            worker.close()
        self._workers = []

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
            "num_seeds": list(self._num_seeds),
            "num_restarts": self.num_restarts,
            "failures_in_a_row": self._failures_in_a_row.copy(),
            "ended": self._ended.copy(),
            "observations": dict(self._latest),
        }

    def load_state_dict(self, saved: dict[str, Any]) -> np.ndarray:
        """Continue from ``state_dict``.

        Returns:
            (N,) bool: the episodes that go on. The others could not be saved; those environments were reset, with
            seeds that the run had not used, and ``latest`` shows where they begin.

        Raises EnvironmentFault, and ValueError for the state of another number of environments.
        """
        if len(saved["states"]) != self.num_envs:
            raise ValueError(f"the state of {len(saved['states'])} environments, not {self.num_envs}")
        for i, count in enumerate(saved["num_seeds"]):
            while self._num_seeds[i] < count:
                self._next_seed(i)
        self.num_restarts = int(saved["num_restarts"])
        self._failures_in_a_row = saved["failures_in_a_row"].copy()
        goes_on = np.array([state is not None for state in saved["states"]])
        # Seeds are only used up where an episode really begins, so that what comes later is as it would have been.
        self._reset(np.ones(self.num_envs, bool), seeded=~goes_on)
        for worker, state in zip(self._workers, saved["states"], strict=True):
            if state is not None:
                worker.ask("set_state", state)
        self._ended = np.where(goes_on, saved["ended"], False)
        observations = {key: np.asarray(saved["observations"][key]) for key in self.observation_specs}
        self._seen({int(i): {key: array[i] for key, array in observations.items()} for i in np.flatnonzero(goes_on)})
        return goes_on

    @property
    def specs(self) -> Specs:
        """What is observed, by key, and what is done."""
        return self.observation_specs, self.action_spec

    @property
    def latest(self) -> dict[str, np.ndarray]:
        """(N, *shape) by key: the newest observation of every environment."""
        return self._latest

    def _reset(self, mask: np.ndarray, seeded: np.ndarray) -> dict[str, np.ndarray]:
        """Begin an episode where ``mask`` (N,), where ``seeded`` (N,) with a fresh seed."""
        chosen = np.flatnonzero(mask).tolist()
        answers = self._ask(chosen, "reset", [self._next_seed(i) if seeded[i] else None for i in chosen])
        observations = {}
        for i, answer in zip(chosen, answers, strict=True):
            while isinstance(answer, WorldstreamError):
                self._make_anew(i, answer)
                (answer,) = self._ask([i], "reset", [self._next_seed(i)])
            observations[i] = answer
        self._ended &= ~mask
        self._is_new &= ~mask
        return self._seen(observations)

    def _seen(self, observations: dict[int, dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        """Note the observations of some environments, all at first, as their newest; returns the newest of all."""

        def newest(key: str) -> np.ndarray:
            rows = [observations[i][key] if i in observations else self._latest[key][i] for i in range(self.num_envs)]
            return np.stack(rows)

        self._latest = {key: newest(key) for key in self.observation_specs}
        return self._latest

    def _next_seed(self, index: int) -> int:
        """31 bits: some simulators keep the seed in a signed integer."""
        self._num_seeds[index] += 1
        return int(self._seeds[index].spawn(1)[0].generate_state(1)[0]) & 0x7FFFFFFF

    def _ask(self, chosen: Sequence[int], request: str, arguments: list[Any]) -> list[Any]:
        """Ask some environments at once. Answers in their order; of one that failed the error."""
        for i, argument in zip(chosen, arguments, strict=True):
            self._workers[i].begin(request, argument)
        answers = []
        for i in chosen:
            try:
                answers.append(self._workers[i].finish())
            except WorldstreamError as error:
                answers.append(error)
        return answers

    def _make_anew(self, index: int, error: WorldstreamError) -> None:
        """Replace environment ``index`` after an error; raises it, with all closed, beyond the limits of restarts."""
        while True:
            self._failures_in_a_row[index] += 1
            hopeless = self._failures_in_a_row[index] >= MAX_FAILURES_IN_A_ROW
            if hopeless or self.num_restarts >= self._max_restarts:
                self.close()
                if self.num_restarts == 0:
                    raise error
                raise EnvironmentFault(
                    f"{error} Environments were restarted {self.num_restarts} times before "
                    f"(collection.max_restarts is {self._max_restarts})."
                ) from error
            self.num_restarts += 1
            self._on_fault(index, error)
            self._workers[index].close()
            try:
                self._workers[index] = self._make_worker()
                if self._workers[index].ask("specs")[:2] != (self.observation_specs, self.action_spec):
                    raise EnvironmentFault(f"environment {index}, made anew, has other spaces than before.")
            except WorldstreamError as again:
                error = again
                continue
            self._is_new[index] = True
            return

    def _state(self, index: int) -> Any:
        """State of an environment, None when it cannot give it, or was made anew and has nothing to go on with."""
        if self._is_new[index]:
            return None
        try:
            return self._workers[index].ask("state")
        except WorldstreamError as error:
            warn(f"{error} A resumed run would close its episode as truncated.")
            return None


def make_vector(
    environment: EnvironmentFactory,
    num_envs: int = 1,
    seed: int = 0,
    backend: str = "sync",
    *,
    timeout: float = 300.0,
    max_restarts: int = 0,
    on_fault: OnFault = lambda index, error: None,
) -> VectorEnvironment:
    """Make ``num_envs`` times the same environment.

    Args:
        environment: makes one.
        num_envs: N.
        seed: root of the environments' seeds.
        backend: "sync" (this process, one after the other) or "process" (one process each).
        timeout: seconds after which an environment in a process of its own is taken to hang.
        max_restarts, on_fault: see ``VectorEnvironment``.

    Raises:
        ConfigError: unknown backend or ``num_envs`` below 1.
        EnvironmentFault: the environment cannot be made.
        SpaceError: a space that is not supported.
    """
    if backend not in BACKENDS:
        raise ConfigError(f"unknown backend '{backend}' of environments. Choose one of: {', '.join(BACKENDS)}.")
    if num_envs < 1:
        raise ConfigError(f"num_envs must be at least 1, not {num_envs}.")
    make_worker: Callable[[], Worker] = (
        functools.partial(LocalWorker, environment.make)
        if backend == "sync"
        else functools.partial(ProcessWorker, environment.make, environment.label, timeout)
    )
    return VectorEnvironment(make_worker, num_envs, seed, max_restarts=max_restarts, on_fault=on_fault)
