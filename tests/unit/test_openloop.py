"""World-model error by horizon, dreams, and imagined against real returns."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from worldstream.agent.losses import ActorCriticLossConfig
from worldstream.config import Config
from worldstream.environments import VectorEnvironment, resolve
from worldstream.evaluation.episodes import RecordedEpisode, record_episodes
from worldstream.evaluation.openloop import cut_windows, dream, follow, open_loop_error, starting_points
from worldstream.evaluation.returns import ReturnComparison, compare_returns, returns_to_go
from worldstream.modalities.observation import ObservationAdapter
from worldstream.models import Models
from worldstream.training.experiment import Experiment
from worldstream.types import EXTRINSIC
from worldstream.world_model.model import Imagined

CONFIG = Config()


@pytest.fixture(scope="module")
def models() -> Models:
    with VectorEnvironment(resolve("clock")) as vector:
        models = Models(CONFIG, vector.observation_specs, vector.action_spec).eval()
    models.tokenizers.fit({"step": np.arange(11, dtype=np.float32)[:, None], "phase": np.zeros((11, 1), np.uint8)})
    return models


@pytest.fixture(scope="module")
def episodes(models: Models) -> list[RecordedEpisode]:
    config = replace(CONFIG, evaluation=replace(CONFIG.evaluation, num_environments=2))
    return record_episodes(models, Experiment.of("clock", config), 4)  # of each, one terminates


def episode(length: int, *, constant: bool = False, terminated: bool = True) -> RecordedEpisode:
    """An episode of the clock's keys with reward 1; ``constant`` stops the clock."""
    counter = np.zeros(length + 1) if constant else np.arange(length + 1)
    return RecordedEpisode(
        {"step": counter[:, None].astype(np.float32), "phase": (counter[:, None] % 4).astype(np.uint8)},
        actions=np.zeros((length, 1), np.int64),
        rewards=np.ones(length, np.float32),
        terminated=terminated,
        truncated=not terminated,
    )


class PerfectClock:
    """Stands in for a world model: knows the rules of the clock, and counts the blocks that it has seen."""

    def __init__(self, models: Models) -> None:
        self.models = models

    def warm_up(self, tokens: dict[str, Tensor], actions: Tensor) -> int:
        return actions.shape[1]

    def step(
        self, tokens: dict[str, Tensor], actions: Tensor, state: int, generator: Any, **options: Any
    ) -> tuple[Imagined, int]:
        decoded = self.models.tokenizers.decode(tokens)
        raw = {key: self.models.tokenizers.modalities[key].unload(x) for key, x in decoded.items()}
        following = {"step": np.rint(raw["step"]) + 1, "phase": (raw["phase"] + 1) % 4}
        reward = torch.as_tensor(np.rint(raw["step"][:, 0])) + actions[:, 0] / 10
        ends = torch.zeros(len(actions), dtype=torch.bool)
        return Imagined(self.models.tokenizers.encode(following), {EXTRINSIC: reward}, ends), state + 1


def test_a_perfect_model_has_no_error_and_the_copy_has(
    models: Models, episodes: list[RecordedEpisode], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(models._modules, "world_model", PerfectClock(models))
    error = open_loop_error(models, episodes, context=2, horizon=5, samples=1000)
    assert error is not None and error.counts.tolist() == [4 * n for n in (8, 7, 6, 5, 4)]
    for curve in (*error.keys.values(), error.reward):
        assert np.allclose(curve.model, 0.0, atol=1e-5)
    assert error.keys["phase"].copy.tolist() == [1.0, 1.0, 1.0, 0.0, 1.0], "it comes round after four steps"
    assert (np.diff(error.keys["step"].copy) > 0).all()
    dreamed = dream(models, episodes[0], start=2, context=2, horizon=8)
    assert np.allclose(dreamed["step"], episodes[0].observations["step"][3:], atol=1e-4)
    assert (dreamed["phase"] == episodes[0].observations["phase"][3:]).all()


def test_the_copy_of_a_constant_episode_has_no_error(models: Models) -> None:
    error = open_loop_error(models, [episode(12, constant=True)], context=1, horizon=4, samples=50)
    assert error is not None
    assert not error.reward.copy.any() and not any(curve.copy.any() for curve in error.keys.values())
    assert error.reward.model.all(), "an untrained model has some"


def test_horizons_beyond_every_episode_are_not_numbers(models: Models) -> None:
    error = open_loop_error(models, [episode(6)], context=2, horizon=7, samples=50)
    assert error is not None and error.counts.tolist() == [4, 3, 2, 1, 0, 0, 0]
    assert np.isnan(error.reward.model).tolist() == [False] * 4 + [True] * 3
    assert open_loop_error(models, [episode(2)], context=2, horizon=3, samples=50) is None


def test_the_first_step_is_that_of_the_world_model(models: Models, episodes: list[RecordedEpisode]) -> None:
    windows = cut_windows(models, episodes, [(0, 3), (1, 5)], before=3, after=2)
    generators = [torch.Generator().manual_seed(4) for _ in range(2)]
    followed = follow(models.world_model, windows, context=3, generator=generators[0])
    past = {key: ids[:, :3] for key, ids in windows.tokens.items()}
    with torch.no_grad():
        state = models.world_model.warm_up(past, windows.actions[:, :3], torch.ones(2, 3, dtype=torch.bool))
        now = {key: ids[:, 3] for key, ids in windows.tokens.items()}
        step, _ = models.world_model.step(now, windows.actions[:, 3], state, generators[1])
    assert all((followed.tokens[key][:, 0] == step.tokens[key]).all() for key in step.tokens)
    assert torch.equal(followed.rewards[EXTRINSIC][:, 0], step.rewards[EXTRINSIC])


def test_what_comes_after_the_start_is_not_read(models: Models) -> None:
    real = episode(12)
    other = {key: array.copy() for key, array in real.observations.items()}
    for array in other.values():
        array[5:] = 0
    changed = replace(real, observations=other)
    dreams = [
        dream(models, e, start=4, context=3, horizon=5, generator=torch.Generator().manual_seed(0))
        for e in (real, changed)
    ]
    assert all((dreams[0][key] == dreams[1][key]).all() for key in other)


def test_a_dream_looks_like_what_is_stored(models: Models, episodes: list[RecordedEpisode]) -> None:
    dreamed = dream(models, episodes[0], start=4, context=4, horizon=6)
    for key, spec in models.key_specs.items():
        assert dreamed[key].shape == (6, *spec.shape) and dreamed[key].dtype == np.dtype(spec.dtype)
        assert models.tokenizers.modalities[key].render(dreamed[key][0]).dtype == np.uint8
    with pytest.raises(ValueError, match="start 5"):
        dream(models, episodes[0], start=5, context=4, horizon=6)


def test_unload_inverts_load() -> None:
    space = spaces.Dict(
        {
            "vector": spaces.Box(-np.inf, np.inf, (2, 3)),
            "several": spaces.MultiDiscrete([3, 500]),
            "grid": spaces.MultiDiscrete(np.full((4, 5, 2), 7), start=np.full((4, 5, 2), -3)),
        }
    )
    space.seed(0)
    adapter = ObservationAdapter.from_space(space)
    rows = [adapter.store(space.sample()) for _ in range(6)]
    for key, modality in adapter.modalities.items():
        stored = np.stack([row[key] for row in rows]).reshape(2, 3, *modality.spec.shape)
        again = modality.unload(modality.load(stored))
        assert again.shape == stored.shape and again.dtype == stored.dtype
        np.testing.assert_allclose(again, stored, rtol=1e-5)


def test_starting_points_are_distinct_and_inside(generator: torch.Generator) -> None:
    points = starting_points([episode(5), episode(2)], first=2, samples=10, generator=generator)
    assert sorted(points) == [(0, 2), (0, 3), (0, 4)]
    assert len(starting_points([episode(30)], first=0, samples=7, generator=generator)) == 7


def test_windows_mark_what_lies_outside(models: Models) -> None:
    windows = cut_windows(models, [episode(4)], [(0, 1)], before=3, after=4)
    assert windows.acted[0].tolist() == [False, False, True, True, True, True, False, False]
    assert windows.observed[0].tolist() == [False, False, True, True, True, True, True, False]
    raw = models.tokenizers.modalities["step"].unload(models.tokenizers.decode(windows.tokens)["step"])
    assert np.rint(raw[0, :, 0]).tolist() == [0, 0, 0, 1, 2, 3, 4, 4]


def test_returns_to_go() -> None:
    losses = ActorCriticLossConfig(discount=0.5, reward_weights={EXTRINSIC: 2.0})
    assert returns_to_go(episode(3), losses).tolist() == [3.5, 3.0, 2.0]
    cut = returns_to_go(episode(6, terminated=False), losses)
    assert not np.isnan(cut[:2]).any(), "what is missing weighs 1/32 at most"
    assert np.isnan(cut[2:]).all()


def test_returns_are_compared_where_they_are_known(models: Models, episodes: list[RecordedEpisode]) -> None:
    comparison = compare_returns(models, episodes, CONFIG, samples=1000, generator=torch.Generator().manual_seed(0))
    assert comparison is not None
    terminated = [e for e in episodes if e.terminated]
    assert 0 < len(terminated) < len(episodes), "both kinds occur"
    assert len(comparison.real) == len(comparison.value) == len(comparison.imagined) == 10 * len(terminated)
    expected = np.concatenate([returns_to_go(e, CONFIG.losses) for e in terminated])
    np.testing.assert_allclose(np.sort(comparison.real), np.sort(expected))
    assert compare_returns(models, [episode(5, terminated=False)], CONFIG, samples=9) is None


def test_correlation() -> None:
    x = np.arange(5.0)
    assert ReturnComparison(x, x, 2 * x + 1).correlation == pytest.approx(1.0)
    assert ReturnComparison(x, x, x - 3).bias == pytest.approx(-3.0)
    assert np.isnan(ReturnComparison(x, x, np.ones(5)).correlation)
