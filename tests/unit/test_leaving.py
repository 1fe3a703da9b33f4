"""An environment that raises what ends a program is an incident like any other; the Ctrl-C of a person is not."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import worldstream
from tiny import tiny_config
from worldstream.environments import EnvironmentConfig, resolve
from worldstream.environments.flat import FlatEnvironment
from worldstream.environments.toy.clock import Clock
from worldstream.errors import EnvironmentFault
from worldstream.runs.folder import RunFolder
from worldstream.runs.log import read_lines
from worldstream.runs.stopping import StopRequest

LEAVING = (SystemExit, GeneratorExit, KeyboardInterrupt)


class Leaves(Clock):
    """Does something in step 5."""

    def __init__(self, act: Callable[[], Any]) -> None:
        super().__init__()
        self._act, self._steps = act, 0

    def step(self, action: Any) -> Any:
        self._steps += 1
        if self._steps == 5:
            self._act()
        return super().step(action)


@pytest.mark.filterwarnings("ignore::worldstream.errors.WorldstreamWarning")
@pytest.mark.parametrize("error", LEAVING)
def test_an_environment_that_leaves_is_an_incident(error: type[BaseException], tmp_path: Path) -> None:
    def leave() -> None:
        if not (tmp_path / "left").exists():
            (tmp_path / "left").touch()
            raise error

    base = tiny_config()
    config = replace(base, evaluation=replace(base.evaluation, max_episode_steps=3, every_steps=0, final_episodes=1))
    worldstream.train(lambda: Leaves(leave), steps=10, config=config, output=tmp_path / "run", quiet=True)
    (incident,) = read_lines(RunFolder(tmp_path / "run").sittings)
    assert f"step() raised {error.__name__}" in incident["problem"]


@pytest.mark.parametrize("error", (SystemExit, GeneratorExit))
def test_a_factory_that_leaves_is_a_fault(error: type[BaseException]) -> None:
    def make() -> Clock:
        raise error

    with pytest.raises(EnvironmentFault, match=f"its factory raised {error.__name__}"):
        resolve(make).make()


@pytest.fixture
def interruptible() -> Iterator[None]:
    """SIGINT raises KeyboardInterrupt; a shell that starts the tests in the background has it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("listening", [False, True])
def test_the_interrupt_of_a_person_ends_what_runs(listening: bool) -> None:
    """At once without a handler of ours; with it by the second."""
    environment = FlatEnvironment(Leaves(lambda: os.kill(os.getpid(), signal.SIGINT)), EnvironmentConfig(), "person")
    environment.reset(seed=0)
    request = StopRequest()
    request.reason = "the first" if listening else None
    with pytest.raises(KeyboardInterrupt):
        if listening:
            with request.listening():
                play(environment)
        else:
            play(environment)


def play(environment: FlatEnvironment) -> None:
    for _ in range(6):
        environment.step(np.zeros(len(environment.action_spec.sizes), np.int64))


class Pays(Clock):
    def __init__(self, reward: Any) -> None:
        super().__init__()
        self._reward = reward

    def step(self, action: Any) -> Any:
        observation, _, *others = super().step(action)
        return (observation, self._reward, *others)


LONG = pytest.param(10**5000, id="long")


@pytest.mark.parametrize(
    "reward", [1e39, -1e39, "3.5", b"1", ["2"], np.array("1", object), 10**400, LONG, 1j, None, np.nan]
)
def test_rewards_that_are_no_finite_numbers_are_faults(reward: Any) -> None:
    environment = FlatEnvironment(Pays(reward), EnvironmentConfig(), "pays")
    environment.reset(seed=0)
    with pytest.raises(EnvironmentFault, match=r"step\(\) returned reward = .* A reward is one finite number"):
        play(environment)


@pytest.mark.parametrize("reward", [True, 3, 2**70, np.float64(3e38), [1.5], np.array([[2.0]])])
def test_rewards_that_are_finite_numbers_are_taken(reward: Any) -> None:
    environment = FlatEnvironment(Pays(reward), EnvironmentConfig(), "pays")
    environment.reset(seed=0)
    play(environment)
    assert sys.float_info.max > environment.step(np.zeros(1, np.int64))[1] > 0
