"""Many environments at once, in this process or one process each, without automatic resets.

The caller resets what has ended (``reset_where``), so ``step`` always returns the true next observation: the final
one of an episode included.

Processes are started afresh rather than forked (fork is unsafe once threads or a GPU are in use). As always with
Python processes, a script that starts them must guard its entry with ``if __name__ == "__main__":``.
"""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv

from worldstream.environments.config import EnvironmentConfig
from worldstream.environments.suites import EnvironmentName, make_environment
from worldstream.errors import ConfigError, EnvironmentFault, WorldstreamError
from worldstream.specs import ActionSpec, KeySpec

BACKENDS = ("sync", "process")
_CLOSE_SECONDS = 5.0


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
    with the next child of that. So environments differ from each other, runs with the same seed are equal, and
    environment i does not depend on N. ``reset_where`` lets each environment go on with its own random numbers.

    Args:
        vector: Gymnasium's vector environment of FlatEnvironments, made with ``AutoresetMode.DISABLED``.
        name: what error messages call the environment.
        seed: root of all seeds.
    """

    def __init__(self, vector: SyncVectorEnv | AsyncVectorEnv, name: str, seed: int) -> None:
        self._vector = vector
        self._name = name
        self._seeds = np.random.SeedSequence(seed).spawn(vector.num_envs)
        self._num_resets = 0
        self._latest: dict[str, np.ndarray] = {}
        self.num_envs = vector.num_envs
        with self._reported():
            self.observation_specs: dict[str, KeySpec] = vector.call("observation_specs")[0]
            self.action_spec: ActionSpec = vector.call("action_spec")[0]
            self.protocol: dict[str, Any] = vector.call("protocol")[0]
        self._ended = np.ones(self.num_envs, bool)

    def reset(self) -> dict[str, np.ndarray]:
        """Begin an episode everywhere, with fresh seeds. Observations (N, *shape) by key; EnvironmentFault."""
        # 31 bits: some simulators keep the seed in a signed integer.
        seeds = [int(own.spawn(1)[0].generate_state(1)[0]) & 0x7FFFFFFF for own in self._seeds]
        with self._reported():
            observations, _ = self._vector.reset(seed=list(seeds))
        self._num_resets += 1
        self._ended = np.zeros(self.num_envs, bool)
        return self._seen(observations)

    def reset_where(self, mask: np.ndarray) -> dict[str, np.ndarray]:
        """Begin an episode where ``mask`` (N,) is True; rows of all others are as last seen.

        Observations (N, *shape) by key. Raises EnvironmentFault, and ValueError when the mask is empty.
        """
        mask = np.asarray(mask, bool)
        with self._reported():
            observations, _ = self._vector.reset(options={"reset_mask": mask})
        self._ended &= ~mask
        return self._seen(observations, mask)

    def step(self, ids: np.ndarray) -> StepResult:
        """Act with ids (N, M) everywhere. Raises EnvironmentFault, and RuntimeError before a due reset."""
        if self._ended.any():
            raise RuntimeError(f"environments {np.flatnonzero(self._ended).tolist()} must be reset before they step")
        ids = np.asarray(ids, dtype=np.int64)
        if ids.shape != (self.num_envs, self.action_spec.num_tokens):
            raise ValueError(f"ids have shape {ids.shape}, not {(self.num_envs, self.action_spec.num_tokens)}")
        with self._reported():
            observations, rewards, terminated, truncated, _ = self._vector.step(ids)
        self._ended = terminated | truncated
        return StepResult(self._seen(observations), rewards.astype(np.float32), terminated, truncated)

    def close(self) -> None:
        """Close all environments and end their processes; harmless when closed already."""
        if self._vector.closed:
            return
        try:
            with _quiet():
                options = {"timeout": _CLOSE_SECONDS} if isinstance(self._vector, AsyncVectorEnv) else {}
                self._vector.close(**options)
        except Exception:  # a worker died or hangs; there is nothing left to say about it
            self._abandon()

    def __enter__(self) -> VectorEnvironment:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to continue the episodes under way, as plain values and arrays. EnvironmentFault."""
        with self._reported():
            states = list(self._vector.get_attr("saved_state"))
        return {
            "states": states,
            "num_resets": self._num_resets,
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
        while self._num_resets < saved["num_resets"]:
            for own in self._seeds:
                own.spawn(1)
            self._num_resets += 1
        fresh = self.reset()
        goes_on = np.array([state is not None for state in saved["states"]])
        with self._reported():
            current = self._vector.get_attr("saved_state")
            states = [old if old is not None else new for old, new in zip(saved["states"], current, strict=True)]
            if goes_on.any():
                self._vector.set_attr("saved_state", states)
        self._ended = np.where(goes_on, saved["ended"], False)
        self._latest = fresh
        self._seen({key: np.asarray(saved["observations"][key]) for key in fresh}, goes_on)
        return goes_on

    @property
    def latest(self) -> dict[str, np.ndarray]:
        """(N, *shape) by key: the newest observation of every environment."""
        return self._latest

    def _seen(self, observations: dict[str, np.ndarray], where: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """Note the rows ``where`` (N,) of observations as the newest ones; returns the newest of all, in our order."""

        def newest(key: str) -> np.ndarray:
            if where is None:
                return observations[key]
            shaped = where.reshape(-1, *[1] * (observations[key].ndim - 1))
            return np.where(shaped, observations[key], self._latest[key])

        self._latest = {key: newest(key) for key in self.observation_specs}
        return self._latest

    @contextlib.contextmanager
    def _reported(self) -> Iterator[None]:
        """Whatever a worker fails with becomes an EnvironmentFault; then all workers are ended."""
        try:
            with _quiet():
                yield
        except WorldstreamError:
            self._abandon()
            raise
        except (EOFError, BrokenPipeError, ConnectionResetError) as error:
            codes = [process.exitcode for process in getattr(self._vector, "processes", [])]
            self._abandon()
            raise EnvironmentFault(
                f"environment '{self._name}': a process ended unexpectedly (exit codes {codes}; negative: killed by "
                "that signal, e.g. for want of memory). Use fewer environments, or backend 'sync' to see the error."
            ) from error

    def _abandon(self) -> None:
        """End the processes without asking them."""
        for process in getattr(self._vector, "processes", []):
            process.terminate()
            process.join(_CLOSE_SECONDS)
        for pipe in getattr(self._vector, "parent_pipes", []):
            if pipe is not None:
                pipe.close()
        if isinstance(self._vector, SyncVectorEnv):
            for environment in self._vector.envs:
                with contextlib.suppress(Exception):
                    environment.close()
        self._vector.closed = True


def make_vector(
    name: EnvironmentName, config: EnvironmentConfig | None = None, num_envs: int = 1, seed: int = 0,
    backend: str = "sync",
) -> VectorEnvironment:  # fmt: skip
    """Make ``num_envs`` environments of one name.

    Args:
        name: as for ``make_environment``.
        config: options; None for the defaults.
        num_envs: N.
        seed: root of the environments' seeds.
        backend: "sync" (this process, one after the other) or "process" (one process each).

    Raises:
        ConfigError: unknown backend or ``num_envs`` below 1.
        EnvironmentFault: the environment cannot be made.
        SpaceError: a space that is not supported.
    """
    if backend not in BACKENDS:
        raise ConfigError(f"unknown backend '{backend}' of environments. Choose one of: {', '.join(BACKENDS)}.")
    if num_envs < 1:
        raise ConfigError(f"num_envs must be at least 1, not {num_envs}.")
    factories = [functools.partial(_make_one, name, config)] * num_envs
    vector: SyncVectorEnv | AsyncVectorEnv
    label = name if isinstance(name, str) else getattr(name, "__qualname__", repr(name))
    if backend == "sync":
        vector = SyncVectorEnv(factories, autoreset_mode=AutoresetMode.DISABLED)
    else:
        try:
            with _quiet():
                vector = AsyncVectorEnv(factories, context=_start_method(), autoreset_mode=AutoresetMode.DISABLED)
        except (EOFError, BrokenPipeError, ConnectionResetError) as error:
            raise EnvironmentFault(
                f"environment '{label}' can be made in this process but not in a new one, whose error is above. If it "
                "is defined in a script, guard the script's entry with 'if __name__ == \"__main__\":', or use "
                "backend 'sync'."
            ) from error
    return VectorEnvironment(vector, label, seed)


class _WithoutInfo(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Drops infos: nobody reads them, and those of arbitrary environments cannot always be batched or pickled."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        return self.env.reset(seed=seed, options=options)[0], {}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        return *self.env.step(action)[:4], {}


def _make_one(name: EnvironmentName, config: EnvironmentConfig | None) -> gymnasium.Env[Any, Any]:
    return _WithoutInfo(make_environment(name, config))


def _start_method() -> str:
    """A fork server starts workers fastest, but not every system has one."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return "spawn"
    multiprocessing.get_context("forkserver").set_forkserver_preload(["worldstream.environments"])
    return "forkserver"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep Gymnasium from printing tracebacks of workers as warnings: what happened is raised anyway."""
    level = gymnasium.logger.min_level
    gymnasium.logger.min_level = gymnasium.logger.ERROR + 1
    try:
        yield
    finally:
        gymnasium.logger.min_level = level
