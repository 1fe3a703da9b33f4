"""The Python interface."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

import worldstream
from tiny import tiny_config
from worldstream.cli import main
from worldstream.environments.toy.clock import Clock
from worldstream.errors import ConfigError, EnvironmentFault
from worldstream.runs.archive import array_digest, read_arrays
from worldstream.training.phases import Phase
from worldstream.training.trainer import Trainer


class Mixed(gym.Env):
    """Nested observation and action, truncated after five steps."""

    observation_space = gym.spaces.Dict(
        {
            "body": gym.spaces.Tuple((gym.spaces.Box(-1, 1, (3,)), gym.spaces.MultiBinary(4))),
            "map": gym.spaces.Box(0, 4, (3, 2), np.int64),
        }
    )
    action_space = gym.spaces.Dict({"turn": gym.spaces.Box(-2, 2, (2,)), "mode": gym.spaces.Discrete(3, start=5)})

    def reset(self, *, seed: int | None = None, options: object = None) -> tuple[object, dict[str, object]]:
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self.time = 0
        return self.observation_space.sample(), {}

    def step(self, action: object) -> tuple[object, float, bool, bool, dict[str, object]]:
        assert self.action_space.contains(action)
        self.time += 1
        return self.observation_space.sample(), 0.5, False, self.time >= 5, {}


def test_train_on_a_function_load_and_act(tmp_path: Path) -> None:
    result = worldstream.train(Mixed, steps=100, config=tiny_config(), output=tmp_path / "run", quiet=True)
    assert result.evaluation.returns == [2.5, 2.5]
    loaded = worldstream.Agent.load(tmp_path / "run", seed=3)
    env = Mixed()
    observation, _ = env.reset(seed=1)
    carry = None
    for _ in range(4):
        action, carry = loaded.act(observation, carry)
        assert env.action_space.contains(action)
        observation = env.step(action)[0]


def test_acting_is_reproducible_and_remembers(tmp_path: Path) -> None:
    worldstream.train(Mixed, steps=60, config=tiny_config(), output=tmp_path / "run", quiet=True)
    env = Mixed()
    observation, _ = env.reset(seed=1)

    def actions(seed: int) -> list[list[float]]:
        agent = worldstream.Agent.load(tmp_path / "run", seed=seed, temperature=1.0)
        carry, chosen = None, []
        for _ in range(12):
            action, carry = agent.act(observation, carry)
            chosen.append([*action["turn"].tolist(), int(action["mode"])])
        return chosen

    assert actions(0) == actions(0)
    assert actions(0) != actions(1)


def test_info_tells_how_an_environment_is_read_and_what_a_run_costs() -> None:
    result = worldstream.info(Clock, steps=1000, config=tiny_config(), device="cpu")
    assert {name: (key.modality, key.tokens.num_tokens) for name, key in result.observation.items()} == {
        "step": ("vector", 1),
        "phase": ("categorical", 1),
    }
    assert result.observation["step"].stored_bytes == 4 and result.observation["phase"].cached_bytes > 0
    assert result.action.num_tokens == 1 and result.experiment.steps == 1000
    assert result.total_seconds > 0 and result.model_bytes > 0 and not result.missing
    with pytest.raises(worldstream.ConfigError, match="steps must be at least 1"):
        worldstream.info("clock", steps=0)


def test_a_report_of_one_run_and_of_several(tmp_path: Path) -> None:
    worldstream.train("clock", steps=60, config=tiny_config(), output=tmp_path / "run", quiet=True)
    assert worldstream.write_report(str(tmp_path / "run")) == tmp_path / "run" / "report.html"
    path = worldstream.write_report([tmp_path / "run", tmp_path / "run"], output=str(tmp_path / "both.html"))
    assert path == tmp_path / "both.html" and "2 runs: " in path.read_text()
    with pytest.raises(worldstream.ConfigError, match="at least one run folder"):
        worldstream.write_report([])


def test_an_observation_that_does_not_fit_is_named(tmp_path: Path) -> None:
    worldstream.train(Clock, steps=60, config=tiny_config(), output=tmp_path / "run", quiet=True)
    agent = worldstream.Agent.load(tmp_path / "run")
    observation, _ = Clock().reset(seed=0)
    with pytest.raises(EnvironmentFault, match="phase"):
        agent.act({key: value for key, value in observation.items() if key != "phase"})


def test_the_same_seed_gives_the_same_run(tmp_path: Path) -> None:
    first, second, other = (
        worldstream.train(Mixed, steps=120, config=tiny_config(), seed=seed, output=tmp_path / name, quiet=True)
        for seed, name in ((0, "a"), (0, "b"), (1, "c"))
    )

    def weights(name: str) -> str:
        return array_digest(read_arrays(tmp_path / name / "weights.safetensors")[0])

    assert weights("a") == weights("b")
    assert weights("a") != weights("c")
    assert first.evaluation == second.evaluation
    assert other.folder == tmp_path / "c"


def test_evaluations_during_training_are_recorded(tmp_path: Path) -> None:
    worldstream.train(Clock, steps=100, config=tiny_config(), output=tmp_path / "run", quiet=True)
    lines = (tmp_path / "run" / "evaluations.jsonl").read_text().splitlines()
    assert [('"steps": 40' in line, '"steps": 80' in line, '"final": true' in line) for line in lines] == [
        (True, False, False),
        (False, True, False),
        (False, False, True),
    ]


def test_mistakes_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="steps"):
        worldstream.train(Clock, steps=0, output=tmp_path / "run")
    with pytest.raises(ConfigError, match="unknown preset"):
        worldstream.train(Clock, steps=10, preset="nope", output=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_environment_object_is_refused_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFault, match="lambda: gym.make"):
        worldstream.train(Clock(), steps=10, output=tmp_path / "run")  # type: ignore[arg-type]


def test_a_run_on_a_nameless_function_says_what_it_needs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    worldstream.train(lambda: Clock(), steps=60, config=tiny_config(), output=tmp_path / "run", quiet=True)
    with pytest.raises(SystemExit):
        main(["evaluate", str(tmp_path / "run"), "--episodes", "1"])
    assert "--env module:factory" in capsys.readouterr().err
    main(["evaluate", str(tmp_path / "run"), "--episodes", "1", "--env", "clock"])
    assert "return_mean" in capsys.readouterr().out


def test_a_run_whose_environment_gives_out_keeps_its_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(trainer: Trainer, phase: Phase, turn: float) -> None:
        raise EnvironmentFault("gone")

    monkeypatch.setattr(Trainer, "update", fail)
    with pytest.raises(EnvironmentFault, match="gone"):
        worldstream.train(Clock, steps=100, config=tiny_config(), output=tmp_path / "run", quiet=True)
    worldstream.Agent.load(tmp_path / "run")


def test_an_episode_without_an_end_is_cut_in_evaluation(tmp_path: Path) -> None:
    config = tiny_config()
    config = replace(config, evaluation=replace(config.evaluation, max_episode_steps=3, every_steps=0))
    result = worldstream.train(Clock, steps=60, config=config, output=tmp_path / "run", quiet=True)
    assert result.evaluation.lengths == [3, 3]
