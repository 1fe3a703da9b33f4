"""An agent is only run in environments whose observations and actions are those that it was trained on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

import worldstream
from published_environments import Sampled
from tiny import tiny_config
from worldstream.cli import main
from worldstream.environments import VectorEnvironment, resolve
from worldstream.environments.compatibility import require_specs
from worldstream.errors import ConfigError, Interrupted
from worldstream.evaluation.episodes import record_episodes
from worldstream.evaluation.evaluate import evaluate
from worldstream.models import Models
from worldstream.specs import Specs
from worldstream.training.experiment import Experiment

OBSERVATION: dict[str, gym.Space[Any]] = {
    "body": spaces.Box(-1, 1, (3,), np.float32),
    "map": spaces.Box(0, 4, (3, 2), np.int64),
}
ACTION: dict[str, gym.Space[Any]] = {"turn": spaces.Box(-2, 2, (2,), np.float32), "mode": spaces.Discrete(3, start=5)}


def world(observation: dict[str, Any] | None = None, action: dict[str, Any] | None = None) -> Sampled:
    """The environment that the agent was trained on, with other spaces under some keys; None removes a key."""
    parts = ({**OBSERVATION, **(observation or {})}, {**ACTION, **(action or {})})
    keys, actions = ({key: space for key, space in part.items() if space is not None} for part in parts)
    return Sampled(spaces.Dict(keys), spaces.Dict(actions))


def specs_of(environment: Any) -> Specs:
    with VectorEnvironment(resolve(environment)) as vector:
        return vector.specs


OTHERS: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"body": None, "corpse": OBSERVATION["body"]}, {}, "observation keys are 'corpse', 'map', the agent's 'body', 'm"),
    ({"more": OBSERVATION["body"]}, {}, "observation keys are 'body', 'map', 'more', the agent's 'body', 'map'"),
    ({"body": spaces.Box(-1, 1, (4,), np.float32)}, {}, "observation key 'body' has shape (4,), the agent's (3,)"),
    ({"body": spaces.MultiBinary(3)}, {}, "key 'body' has modality 'categorical', the agent's 'vector'"),
    ({"map": spaces.Box(0, 4, (2, 3), np.int64)}, {}, "key 'map' has grid (2, 3), the agent's (3, 2)"),
    ({"map": spaces.Box(0, 6, (3, 2), np.int64)}, {}, "key 'map' has numbers of values (7,), the agent's (5,)"),
    ({"map": spaces.Box(1, 5, (3, 2), np.int64)}, {}, "key 'map' has first values"),
    ({}, {"mode": None}, "its actions are 'turn', the agent's 'mode', 'turn'"),
    ({}, {"mode": spaces.Discrete(18)}, "action 'mode' has numbers of values (18,), the agent's (3,)"),
    ({}, {"mode": spaces.Discrete(3)}, "action 'mode' has lowest values (), the agent's (5.0,)"),
    ({}, {"turn": spaces.Box(-2, 2, (3,), np.float32)}, "'turn' has numbers of values (51, 51, 51), the agent's (51,"),
    ({}, {"turn": spaces.Box(-2, 3, (2,), np.float32)}, "action 'turn' has highest values (3.0, 3.0), the agent's (2"),
    ({}, {"turn": spaces.MultiDiscrete([51, 51])}, "action 'turn' has kind 'multi_discrete', the agent's 'continuous'"),
]


@pytest.fixture(scope="module")
def models() -> Models:
    return Models(tiny_config(), *specs_of(world)).eval()


@pytest.mark.parametrize(("observation", "action", "difference"), OTHERS)
def test_an_environment_with_other_spaces_is_refused_with_the_difference(
    models: Models, observation: dict[str, Any], action: dict[str, Any], difference: str
) -> None:
    for play in (evaluate, record_episodes):
        with pytest.raises(ConfigError) as error:
            play(models, Experiment.of(lambda: world(observation, action), tiny_config()), 1)
        assert difference in str(error.value) and "--env" in str(error.value)


def test_what_leads_to_the_same_ids_is_taken(models: Models) -> None:
    """Keys in another order; a column instead of a row of levels, which the environment decodes for itself."""
    keys = spaces.Dict([(key, OBSERVATION[key]) for key in ("map", "body")])
    turned = Sampled(keys, spaces.Dict({**ACTION, "turn": spaces.Box(-2, 2, (2, 1), np.float32)}))
    assert evaluate(models, Experiment.of(lambda: turned, tiny_config()), 1).returns == [10.0]


def test_pictures_that_are_resized_where_they_enter_may_have_any_size() -> None:
    large, small = (lambda n=n: Sampled(spaces.Box(0, 255, (n, n, 3), np.uint8), spaces.Discrete(6)) for n in (64, 32))
    with VectorEnvironment(resolve(large)) as ours, VectorEnvironment(resolve(small)) as theirs:
        specs = [vector.specs for vector in (ours, theirs)]
    assert specs[0] != specs[1]
    require_specs("small", specs[1], specs[0])


def test_the_order_of_keys_counts_where_it_must() -> None:
    (keys, action), name = specs_of(world), "reversed"
    backwards = (dict(reversed(keys.items())), action)
    require_specs(name, backwards, (keys, action))
    with pytest.raises(ConfigError, match="keys are 'map', 'body', the agent's 'body', 'map'"):
        require_specs(name, backwards, (keys, action), in_order=True)


def test_long_specs_are_cut_in_messages() -> None:
    short, long = (specs_of(lambda n=n: Sampled(spaces.MultiDiscrete([3] * n), spaces.Discrete(2))) for n in (4, 4000))
    with pytest.raises(ConfigError) as error:
        require_specs("long", long, short)
    assert len(str(error.value)) < 300


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stopped before its end, so that it can be evaluated and resumed."""
    path = tmp_path_factory.mktemp("runs") / "clock"
    with pytest.raises(Interrupted):
        worldstream.train("clock", steps=100, config=tiny_config(), output=path, time_limit=0, quiet=True)
    return path


@pytest.mark.parametrize("command", [["evaluate", "RUN", "--episodes", "1"], ["train", "--resume", "RUN"]])
@pytest.mark.parametrize("environment", ["CartPole-v1", "keys", "published_environments:atari"])
def test_commands_on_a_run_refuse_another_environment(
    run: Path, command: list[str], environment: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main([str(run) if part == "RUN" else part for part in command] + ["--env", environment])
    assert end.value.code == ConfigError.exit_code
    message = " ".join(capsys.readouterr().err.split())
    assert f"such an environment as '{environment}': its observation keys are" in message
    assert "the agent's 'phase', 'step'" in message


def test_other_keyword_arguments_of_evaluation_are_refused_too(models: Models) -> None:
    config = tiny_config()
    options = {"action": {"mode": spaces.Discrete(4)}}
    config = replace(config, environment=replace(config.environment, evaluation_kwargs=options))
    with pytest.raises(ConfigError, match="action 'mode' has numbers of values"):
        evaluate(models, Experiment.of(world, config), 1)
