"""TwoCameras: the best policy earns everything, and nobody who misses a key comes near."""

from __future__ import annotations

import numpy as np
import pytest

from worldstream.actions import decode, encode, spec_from_space
from worldstream.environments import EnvironmentConfig, make_environment
from worldstream.environments.toy.cameras import QUARTERS, TwoCameras

LEVELS = 11


def mean_return(policy, episodes: int = 40) -> float:
    raw, other = TwoCameras(), TwoCameras()
    action_spec = spec_from_space(raw.action_space, LEVELS)
    other.reset(seed=10_000)
    total = 0.0
    for episode in range(episodes):
        observation, _ = raw.reset(seed=episode)
        ended = False
        while not ended:
            hint, _ = other.reset()
            action = decode(action_spec, encode(action_spec, policy(observation, hint)))  # as an agent acts
            observation, reward, _, ended, _ = raw.step(action)
            total += reward
    return total / episodes


def test_best_policy_reaches_the_best_return() -> None:
    best = TwoCameras().best_return
    assert mean_return(lambda observation, hint: TwoCameras.best_action(observation)) >= 0.99 * best


@pytest.mark.parametrize("key", ["left", "right", "aim", "category"])
def test_every_key_is_needed(key: str) -> None:
    best = TwoCameras().best_return
    assert mean_return(lambda seen, hint: TwoCameras.best_action({**seen, key: hint[key]})) < 0.88 * best


def test_no_setting_of_the_dial_makes_up_for_its_vector() -> None:
    environment = TwoCameras()
    samples = [environment.reset(seed=seed)[0] for seed in range(200)]

    def mean_reward(setting: float) -> float:
        actions = [{**TwoCameras.best_action(sample), "dial": np.float32([setting])} for sample in samples]
        return float(np.mean([environment.reward(*pair) for pair in zip(samples, actions, strict=True)]))

    assert max(map(mean_reward, np.linspace(-1, 1, 21))) < 0.88


def test_unread_quarters_and_categories_are_uniform() -> None:
    environment = TwoCameras()
    best = [TwoCameras.best_action(environment.reset(seed=seed)[0]) for seed in range(400)]
    for part in ("left", "right", "color"):
        share = np.bincount([int(action[part]) for action in best], minlength=QUARTERS) / len(best)
        assert 0.75 + 0.25 * share.max() < 0.85


def test_pictures_are_stored_small_and_keep_the_squares() -> None:
    environment = make_environment("cameras", EnvironmentConfig(sizes={"image": (8, 8)}))
    seen, _ = environment.reset(seed=3)
    assert {key: value.shape for key, value in seen.items()} == {
        "left": (8, 8, 3),
        "right": (8, 8, 1),
        "aim": (2,),
        "category": (1,),
    }
    raw, _ = TwoCameras().reset(seed=3)
    best = TwoCameras.best_action(raw)
    quarters = seen["left"][..., 1].astype(int).reshape(2, 4, 2, 4).sum((1, 3))
    assert quarters.argmax() == best["left"]
