"""N workers, each of which is made anew when its environment fails, up to a limit."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from worldstream import options
from worldstream.environments.config import WorkerConfig
from worldstream.environments.factory import EnvironmentFactory
from worldstream.environments.worker import LocalWorker, ProcessWorker, Worker
from worldstream.errors import ConfigError, EnvironmentFault, WorldstreamError

MAX_ENVIRONMENTS = 4096
"""Environments that are stepped together."""
MAX_FAILURES_IN_A_ROW = 10
"""Failures of one environment, without a step in between, after which it is broken for good."""

OnFault = Callable[[int, WorldstreamError], None]
"""Called with the number of an environment and its error."""


class WorkerPool:
    """Runs N environments of one kind, and calls ``on_fault`` before each restart.

    Raises ConfigError for N below 1 or an option out of its bounds, EnvironmentFault when the environment cannot be
    made, and SpaceError for a space that is not supported.
    """

    def __init__(self, environment: EnvironmentFactory, num_envs: int, config: WorkerConfig, on_fault: OnFault) -> None:
        options.check(config, "collection")
        if not 1 <= num_envs <= MAX_ENVIRONMENTS:
            raise ConfigError(f"num_envs must be between 1 and {MAX_ENVIRONMENTS}, not {num_envs}.")
        self._make: Callable[[], Worker] = (
            functools.partial(LocalWorker, environment.make)
            if config.backend == "sync"
            else functools.partial(ProcessWorker, environment.make, environment.label, config.timeout)
        )
        self._max_restarts = config.max_restarts
        self._on_fault = on_fault
        self.num_restarts = 0
        self.failures_in_a_row = np.zeros(num_envs, np.int64)
        self.workers: list[Worker] = []
        self._known: Any = None
        try:
            for _ in range(num_envs):
                self.workers.append(self._make())
                self.workers[-1].begin("specs")
            specs = [self._first_specs(i, retry=environment.was_made) for i in range(num_envs)]
        except BaseException:
            self.close()
            raise
        self.observation_specs, self.action_spec, self.protocol = self._known = specs[0]

    def _first_specs(self, index: int, *, retry: bool) -> Any:
        """What environment ``index`` is like, once it is made; ``retry``: within the limits it may fail to be."""
        try:
            return self.workers[index].finish()
        except EnvironmentFault as error:
            if not retry:
                raise
            return self.replace(index, error)

    def ask(self, chosen: Sequence[int], request: str, arguments: Sequence[Any]) -> list[Any]:
        """Ask some environments at once. Answers in their order; of one that failed the error."""
        for i, argument in zip(chosen, arguments, strict=True):
            self.workers[i].begin(request, argument)
        answers = []
        for i in chosen:
            try:
                answers.append(self.workers[i].finish())
            except WorldstreamError as error:
                answers.append(error)
        return answers

    def replace(self, index: int, error: WorldstreamError) -> Any:
        """Make environment ``index`` anew after an error, and return its specs. Beyond the limits, raise it."""
        while True:
            self.failures_in_a_row[index] += 1
            hopeless = self.failures_in_a_row[index] >= MAX_FAILURES_IN_A_ROW
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
            self.workers[index].close()
            try:
                self.workers[index] = self._make()
                specs = self.workers[index].ask("specs")
                if self._known is not None and specs[:2] != self._known[:2]:
                    raise EnvironmentFault(f"environment {index}, made anew, has other spaces than before.")
            except WorldstreamError as again:
                error = again
            else:
                return specs

    def close(self) -> None:
        """Close all environments and end their processes; harmless when closed already."""
        for worker in self.workers:
            worker.release()
        for worker in self.workers:
            worker.close()
        self.workers = []
