"""Whatever spaces, configurations and command lines come: they work, or one message says why not."""

from __future__ import annotations

import contextlib
import copy
import functools
import io
import json
import math
import os
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tiny import tiny_config
from worldstream.cli import main
from worldstream.config import Config
from worldstream.environments.config import EnvironmentConfig
from worldstream.environments.flat import FlatEnvironment, check
from worldstream.errors import WorldstreamError
from worldstream.training.experiment import Experiment
from worldstream.training.trainer import Trainer

pytestmark = pytest.mark.filterwarnings("ignore::worldstream.errors.WorldstreamWarning", "ignore:.*precision lowered")

# Spaces.

KEYS = st.text(st.characters(codec="ascii", categories=["L", "N", "P"]), min_size=1, max_size=4)
SIZES = st.integers(1, 5)
DTYPES = st.sampled_from([np.float32, np.float64, np.float16, np.int8, np.uint8, np.int64])


@st.composite
def boxes(draw: Any) -> spaces.Box:
    dtype, shape = draw(DTYPES), tuple(draw(st.lists(st.integers(0, 3), max_size=3)))
    low = draw(st.sampled_from([0, -1, -3] if np.issubdtype(dtype, np.signedinteger) else [0]))
    if np.issubdtype(dtype, np.floating):
        low = draw(st.sampled_from([-math.inf, -2.0, 0.0]))
    high = draw(st.sampled_from([math.inf, 1.5] if np.issubdtype(dtype, np.floating) else [1, 7, 100]))
    return spaces.Box(low, high, shape, dtype)


LEAVES: st.SearchStrategy[spaces.Space[Any]] = st.one_of(
    boxes(),
    st.builds(spaces.Discrete, SIZES, start=st.integers(-2, 3)),
    st.builds(spaces.MultiDiscrete, st.lists(SIZES, min_size=1, max_size=3)),
    st.builds(spaces.MultiBinary, SIZES),
    st.builds(spaces.Text, SIZES),
    st.builds(spaces.Sequence, st.builds(spaces.Discrete, SIZES)),
)
SPACES = st.recursive(
    LEAVES,
    lambda child: st.one_of(
        st.dictionaries(KEYS, child, max_size=3).map(spaces.Dict),
        st.lists(child, max_size=3).map(spaces.Tuple),
    ),
    max_leaves=4,
)


class Sampled(gym.Env):
    """Samples its observations; episodes of four steps."""

    def __init__(self, observation_space: spaces.Space[Any], action_space: spaces.Space[Any]) -> None:
        self.observation_space, self.action_space = observation_space, action_space

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.time = 0
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> Any:
        assert self.action_space.contains(action)
        self.time += 1
        return self.observation_space.sample(), 1.0, self.time == 4, False, {}


@settings(max_examples=150)
@given(observation=SPACES, action=SPACES, levels=st.integers(2, 5))
def test_spaces(observation: spaces.Space[Any], action: spaces.Space[Any], levels: int) -> None:
    config = EnvironmentConfig(num_action_levels=levels)
    with contextlib.suppress(WorldstreamError):
        check(FlatEnvironment(Sampled(observation, action), config, "sampled"), steps=6)


def trained(environment: Any, config: Config) -> None:
    trainer = Trainer(Experiment.of(environment, config, steps=70))
    try:
        trainer.run()
    finally:
        trainer.close()


@settings(max_examples=12)
@given(observation=SPACES, action=SPACES)
def test_what_can_be_read_can_be_trained_on(observation: spaces.Space[Any], action: spaces.Space[Any]) -> None:
    with contextlib.suppress(WorldstreamError):
        trained(functools.partial(Sampled, observation, action), tiny_config())


# Configurations.

TINY = json.loads(json.dumps(tiny_config().to_json()))


def places(tree: Any, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Paths of all leaves of a nested dictionary."""
    if not isinstance(tree, dict) or not tree:
        return [path]
    return [place for key, value in tree.items() for place in places(value, (*path, key))]


VALUES = st.one_of(
    st.sampled_from([None, True, -1, 0, 1, 2, 3, 7, 0.5, -0.5, 1.5, 1e9, math.inf, -math.inf, math.nan, "", "clock"]),
    st.sampled_from([[], {}, [1], [1, 2], [2.0, 1.0], {"a": 1}, {"uniform_fraction": 2.0}, "uniform", "prioritized"]),
)


# What takes long or much rather than being wrong.
HUGE = {"num_environments", "width", "hidden", "num_members", "burn_in", "horizon", "max_bytes", "num_threads"}


@settings(max_examples=120, suppress_health_check=[HealthCheck.too_slow])
@given(place=st.sampled_from(places(TINY)), value=VALUES)
@example(place=("world_model_learner", "updates_per_step"), value=math.inf)
@example(place=("actor_critic_learner", "learning_rate"), value=math.inf)
@example(place=("world_model", "sequence", "num_heads"), value=3)
@example(place=("losses", "lambda_"), value=math.nan)
@example(place=("actor_critic", "hidden"), value=[])
@example(place=("actor_critic", "embedding_width"), value=-1)
@example(place=("replay", "max_steps"), value=-1)
@example(place=("collection", "backend"), value="clock")
def test_configurations(place: tuple[str, ...], value: Any) -> None:
    data = copy.deepcopy(TINY)
    node = data
    for name in place[:-1]:
        node = node[name]
    node[place[-1]] = value
    if place[-1] in HUGE and isinstance(value, float) and value > 100:
        return
    if place[-1] in ("batch_size", "updates_per_step", "segment_length", "context_length", "num_layers") and (
        isinstance(value, int | float) and 100 < value < math.inf
    ):
        return
    with contextlib.suppress(WorldstreamError):
        config = Config.from_json(data)
        assert Config.from_json(json.loads(json.dumps(config.to_json()))) is not None
        trained("clock", config)


# Command lines.

WORDS = st.sampled_from([
    "train", "evaluate", "report", "info", "--env", "clock", "CartPole-v1", "nothing:here", "no_such_env-v9", "--steps",
    "5", "-5", "0", "nan", "inf", "1e3", "--seed", "--preset", "demo", "grid", "nope", "--resume", "run", "--output",
    "--device", "cpu", "cuda:7", "tpu", "--episodes", "--modality", "a=b", "=", "--time-limit", "--best", "--quiet",
    "--help", "-h", "--", "--losses.discount", "2", "--replay.max-steps", "--world-model.sequence.width", "\x00", "é",
    "--tokenizers.by-modality.vector", "fixed_levels", "--temperature", "--force",
])  # fmt: skip


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(arguments=st.lists(WORDS, max_size=7))
@example(arguments=["train", "--env", "clock", "--steps", "5", "--quiet"])
@example(arguments=["train", "--env", "clock", "--steps", "5", "--output", "\x00"])
@example(arguments=["evaluate", "run", "--episodes", "-5"])
@example(arguments=["info", "clock", "--steps", "0"])
@example(arguments=["info", "clock", "--modality", "a=b"])
@example(arguments=["report", "nothing:here", "run"])
@example(arguments=["train", "--resume", "\x00"])
def test_command_lines(arguments: list[str], tmp_path: Path) -> None:
    before, error = os.getcwd(), io.StringIO()
    os.chdir(tmp_path)
    try:
        with contextlib.redirect_stderr(error), contextlib.redirect_stdout(io.StringIO()):
            main(arguments)
    except SystemExit as end:
        assert end.code in (0, None, 1, 2, 3, 4, 75)
    finally:
        os.chdir(before)
    assert "Traceback" not in error.getvalue()
