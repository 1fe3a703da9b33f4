"""Making environments by every kind of name, faults of users' environments, and our own two environments."""

from __future__ import annotations

import sys
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from worldstream.actions import decode, encode, spec_from_space
from worldstream.config import Config
from worldstream.environments import EnvironmentConfig, FlatEnvironment, check, make_environment
from worldstream.environments.suite.registered import GymSuite
from worldstream.environments.suites import same_environment
from worldstream.environments.toy.clock import Clock
from worldstream.environments.toy.keys import NUM_COLORS, EveryKey
from worldstream.errors import ConfigError, EnvironmentFault, SpaceError


class Scripted(gymnasium.Env):
    """An environment which returns what it is told to."""

    observation_space = spaces.Box(-1, 1, (2,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, on_reset=None, on_step=None) -> None:
        self.on_reset = (np.zeros(2, np.float32), {}) if on_reset is None else on_reset
        self.on_step = (np.zeros(2, np.float32), 1.0, False, False, {}) if on_step is None else on_step

    def reset(self, *, seed=None, options=None):
        if isinstance(self.on_reset, Exception):
            raise self.on_reset
        return self.on_reset

    def step(self, action):
        if isinstance(self.on_step, Exception):
            raise self.on_step
        return self.on_step


class OldReset(Scripted):
    def reset(self):
        return np.zeros(2, np.float32)


class NoSpace(gymnasium.Env):
    action_space = spaces.Discrete(2)


ZEROS = np.zeros(2, np.float32)


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        (Scripted(on_step=(ZEROS, 0.0, False, {})), r"step\(\) returned a tuple of 4.*old API.*terminated, truncated"),
        (Scripted(on_step=ZEROS), r"step\(\) returned a ndarray"),
        (Scripted(on_step=(ZEROS, float("nan"), False, False, {})), "reward = nan"),
        (Scripted(on_step=(ZEROS, None, False, False, {})), "reward = None"),
        (Scripted(on_step=(ZEROS, [1, 2], False, False, {})), r"reward = \[1, 2\]"),
        (Scripted(on_step=(ZEROS, 0.0, None, False, {})), "terminated = None"),
        (Scripted(on_step=(ZEROS, 0.0, False, False, None)), "info = None"),
        (Scripted(on_step=(ZEROS * np.nan, 0.0, False, False, {})), r"step\(\) returned an invalid.*contains nan"),
        (Scripted(on_step=RuntimeError("boom")), r"step\(\) raised RuntimeError: boom"),
        (Scripted(on_reset=ZEROS), r"reset\(\) returned a ndarray.*\(observation, info\)"),
        (Scripted(on_reset=(np.zeros(3), {})), r"reset\(\) returned an invalid.*shape \(3,\).*shape \(2,\)"),
        (Scripted(on_reset=KeyError("lost")), r"reset\(\) raised KeyError: 'lost'"),
        (OldReset(), r"reset\(\) raised TypeError.*reset\(\*, seed=None, options=None\)"),
        (NoSpace(), "has no observation_space"),
        (object(), "is a object, not a gymnasium.Env"),
    ],
)
def test_check_explains_what_breaks_the_protocol(environment, message: str) -> None:
    with pytest.raises(EnvironmentFault, match=message):
        check(environment, steps=3)


def test_what_the_users_code_raised_is_chained() -> None:
    environment = FlatEnvironment(Scripted(on_step=RuntimeError("boom")), EnvironmentConfig(), "mine")
    environment.reset()
    with pytest.raises(EnvironmentFault, match="environment 'mine'") as caught:
        environment.step(np.array([0]))
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_rewards_may_be_numpy_scalars_or_single_entries() -> None:
    for reward in (np.float32(0.5), np.array([0.5]), np.array(0.5)):
        environment = FlatEnvironment(Scripted(on_step=(ZEROS, reward, False, False, {})), EnvironmentConfig(), "x")
        assert environment.step(np.array([1]))[1] == 0.5


def test_space_errors_name_the_environment() -> None:
    class Odd(Scripted):
        action_space = spaces.Text(3)

    with pytest.raises(SpaceError, match="'odd'.*action 'action'"):
        FlatEnvironment(Odd(), EnvironmentConfig(), "odd")


def test_unknown_id_suggests_the_nearest() -> None:
    with pytest.raises(EnvironmentFault, match="unknown environment 'CartPoole-v1'.*CartPole-v1"):
        make_environment("CartPoole-v1")
    with pytest.raises(EnvironmentFault, match="unknown environment 'Nowhere/Thing-v0'"):
        make_environment("Nowhere/Thing-v0")


def test_wrong_keyword_arguments() -> None:
    with pytest.raises(EnvironmentFault, match="cannot be made: TypeError.*colour"):
        make_environment("CartPole-v1", EnvironmentConfig(kwargs={"colour": 1}))
    with pytest.raises(EnvironmentFault, match="factory raised TypeError"):
        make_environment("clock", EnvironmentConfig(kwargs={"colour": 1}))


MODULE = """
import gymnasium
from worldstream.environments.toy.clock import Clock

def build(length=4):
    return Clock(episode_length=length)

def broken():
    raise OSError("no device")

def nothing():
    return None

gymnasium.register("TickTock-v0", Clock)
"""


@pytest.fixture
def user_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "my_worlds.py").write_text(MODULE)
    (tmp_path / "my_broken.py").write_text("import a_package_that_does_not_exist")
    (tmp_path / "my_raising.py").write_text("1 / 0")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    gymnasium.registry.pop("TickTock-v0", None)
    sys.modules.pop("my_worlds", None)


def test_factories_of_a_module_in_the_current_directory(user_module) -> None:
    environment = make_environment("my_worlds:build", EnvironmentConfig(kwargs={"length": 1}))
    environment.reset(seed=0)
    assert environment.step(np.array([0]))[2:4] == (True, False)
    assert set(make_environment("my_worlds:TickTock-v0").observation_specs) == {"phase", "step"}
    assert set(make_environment("my_worlds:Clock").observation_specs) == {"phase", "step"}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("my_worlds:bild", "no function or class 'bild'.*Nearest names: build"),
        ("my_worlds:broken", "factory raised OSError: no device"),
        ("my_worlds:nothing", "is a NoneType, not a gymnasium.Env"),
        ("my_wrlds:build", "there is no module 'my_wrlds'"),
        ("my_broken:build", "importing 'my_broken' failed: No module named 'a_package"),
        ("my_raising:build", "importing 'my_raising' raised ZeroDivisionError"),
    ],
)
def test_faulty_factories(user_module, name: str, message: str) -> None:
    with pytest.raises(EnvironmentFault, match=message):
        make_environment(name)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("Pong", "ALE/Pong-v5", True),
        ("PongNoFrameskip-v4", "pong", True),
        ("Pong", "Qbert", False),
        ("CartPole-v1", "gymnasium.envs.classic_control:CartPole-v1", True),
        ("CartPole-v1", "CartPole-v0", False),
        ("my_worlds:build", "my_worlds:build", True),
        ("my_worlds:build", "other_worlds:build", False),
        ("my_worlds:Pong", "Pong", False),
        ("clock", "keys", False),
        ("clock", "clock", True),
    ],
)
def test_spellings_of_one_environment(one: str, other: str, same: bool) -> None:
    assert same_environment(one, other) == same_environment(other, one) == same


def test_a_function_from_python() -> None:
    assert "step" in make_environment(lambda: Clock()).observation_specs
    assert make_environment(Clock, render_mode="rgb_array").render_mode == "rgb_array"


def test_action_repeat_adds_rewards_and_stops_at_the_end() -> None:
    config = EnvironmentConfig(action_repeat=4, kwargs={"episode_length": 6})
    environment = make_environment("clock", config)
    environment.reset(seed=0)
    assert environment.step(np.array([0]))[1:4] == (0 + 1 + 2 + 3, False, False)
    observation, *rest, _ = environment.step(np.array([0]))
    assert rest == [4 + 5, True, False] and observation["step"] == 6
    faulty = make_environment(lambda: Scripted(on_step=(ZEROS, 0.0, False, {})), EnvironmentConfig(action_repeat=2))
    with pytest.raises(EnvironmentFault, match="old API"):
        faulty.step(np.array([0]))


@pytest.mark.parametrize("wrong", [{"num_action_levels": 1}, {"action_repeat": 0}, {"max_episode_steps": 0}])
def test_config_refuses(wrong: dict) -> None:
    message = rf"environment\.{next(iter(wrong))} must be at least \d, not \d"
    with pytest.raises(ConfigError, match=message):
        make_environment("clock", EnvironmentConfig(**wrong))
    with pytest.raises(ConfigError, match=message):
        Config(environment=EnvironmentConfig(**wrong))


def test_clock_counts_and_alternates_its_ends() -> None:
    environment = make_environment("clock", EnvironmentConfig(kwargs={"episode_length": 3}))
    ends = []
    for _ in range(4):
        observation, _ = environment.reset()
        for step in range(3):
            assert observation["step"] == step
            observation, reward, terminated, truncated, _ = environment.step(np.array([2]))
            assert reward == Clock.reward(step, 2)
        ends.append((terminated, truncated))
    assert ends == [(True, False), (False, True)] * 2


@pytest.mark.parametrize("suffix", ["Empty-5x5-v0", "DoorKey-6x6-v0", "MultiRoom-N2-S4-v0", "Dynamic-Obstacles-5x5-v0"])
def test_minigrid_sizes_hold(suffix: str) -> None:
    pytest.importorskip("minigrid")
    environment = make_environment(f"MiniGrid-{suffix}")
    assert set(environment.observation_specs) == {"direction", "image"}
    assert environment.observation_specs["image"].vocabulary == (11, 6, 4)
    check(environment, steps=150)


def test_minigrid_full_view_and_babyai_hold_too(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("minigrid")
    from minigrid.wrappers import FullyObsWrapper

    config = EnvironmentConfig(modality={"image": "grid:11,6,4", "mission": "ignore"})
    raw = gymnasium.make("MiniGrid-DoorKey-5x5-v0", disable_env_checker=True)
    check(FlatEnvironment(FullyObsWrapper(raw), config, "full"), steps=200)
    check(make_environment("BabyAI-GoToLocal-v0"), steps=200)
    assert capsys.readouterr().out == ""


def test_minigrid_overrides_of_the_user_win() -> None:
    pytest.importorskip("minigrid")
    environment = make_environment("MiniGrid-Empty-5x5-v0", EnvironmentConfig(modality={"image": "ignore"}))
    assert list(environment.observation_specs) == ["direction"]


def returns_of(policy, episodes: int = 60) -> float:
    """Mean return of ``policy(observation, hint)``; the hint is an observation of an unrelated episode."""
    raw, other = EveryKey(), EveryKey()
    action_spec = spec_from_space(raw.action_space)
    other.reset(seed=10_000)
    total = 0.0
    for episode in range(episodes):
        observation, _ = raw.reset(seed=episode)
        ended = False
        while not ended:
            hint, _ = other.reset()
            # Through the action levels, as an agent acts.
            action = decode(action_spec, encode(action_spec, policy(observation, hint)))
            observation, reward, terminated, ended, _ = raw.step(action)
            total += reward
            assert not terminated
    return total / episodes


def test_every_key_best_policy_reaches_the_best_return() -> None:
    best = EveryKey().best_return
    assert returns_of(lambda observation, hint: EveryKey.best_action(observation)) >= 0.99 * best


@pytest.mark.parametrize("key", ["aim", "gauge", "category", "grid"])
@pytest.mark.parametrize("replacement", ["random", "constant"])
def test_every_key_needs_every_key(key: str, replacement: str) -> None:
    constant = {"aim": np.float32([0, 1]), "gauge": np.float32([1, 0]), "category": 0, "grid": np.zeros((3, 4))}

    def blind(observation, hint):
        return EveryKey.best_action({**observation, key: hint[key] if replacement == "random" else constant[key]})

    assert returns_of(blind) < 0.88 * EveryKey().best_return


@pytest.mark.parametrize("dial", [0, 1])
def test_no_setting_of_a_dial_makes_up_for_its_vector(dial: int) -> None:
    """The best constant setting of one dial, everything else being right, by trying them all."""
    environment = EveryKey()
    samples = [environment.reset(seed=seed)[0] for seed in range(200)]

    def mean_reward(setting: float) -> float:
        actions = [EveryKey.best_action(sample) for sample in samples]
        for action in actions:
            action["dial"][dial] = setting
        return float(np.mean([environment.reward(*pair) for pair in zip(samples, actions, strict=True)]))

    assert max(map(mean_reward, np.linspace(-1, 1, 26))) < 0.88


def test_no_choice_makes_up_for_the_category_or_the_grid() -> None:
    """Unread, the category and the column are uniform, so that a guess is right in one of four cases."""
    environment = EveryKey()
    best = [EveryKey.best_action(environment.reset(seed=seed)[0]) for seed in range(600)]
    for part in ("color", "column"):
        share = np.bincount([int(action[part]) for action in best], minlength=NUM_COLORS) / len(best)
        assert 0.75 + 0.25 * share.max() < 0.85


def test_every_key_is_deterministic_after_its_beginning() -> None:
    first, second = EveryKey(), EveryKey()
    start, _ = first.reset(seed=1)
    second.reset(seed=1)
    actions = [EveryKey.best_action(start)] * 12
    for action in actions:
        one, two = first.step(action), second.step(action)
        np.testing.assert_equal(one, two)
    assert one[3] and not one[2]


def test_a_suite_whose_package_is_missing_says_how_to_install_it() -> None:
    suite = GymSuite(prefixes=("Nowhere/",), package="no_such_package", example="Nowhere/Thing-v0")
    assert suite.claims("Nowhere/Thing-v0") and not suite.claims("Thing-v0") and not suite.claims(Clock)
    with pytest.raises(EnvironmentFault, match="which is not installed. Run: pip install no_such_package"):
        suite.make("Nowhere/Thing-v0", EnvironmentConfig(), None)
