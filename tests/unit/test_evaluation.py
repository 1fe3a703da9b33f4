"""Evaluation and recording: one loop, whole episodes, files that survive or are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from worldstream.config import Config, EvaluationConfig
from worldstream.environments import VectorEnvironment, resolve
from worldstream.environments.toy.clock import Clock
from worldstream.errors import RunFolderError
from worldstream.evaluation.episodes import RecordedEpisode, record_episodes
from worldstream.evaluation.evaluate import evaluate, play
from worldstream.models import Models
from worldstream.runs.archive import read_state, write_state
from worldstream.runs.episodes import load_episodes, save_episodes
from worldstream.runs.folder import RunFolder
from worldstream.runs.progress import evaluation_progress
from worldstream.training.experiment import Experiment

CONFIG = Config(evaluation=EvaluationConfig(num_environments=3))
EXPERIMENT = Experiment.of("clock", CONFIG)


@pytest.fixture(scope="module")
def models() -> Models:
    with VectorEnvironment(resolve("clock")) as vector:
        return Models(CONFIG, vector.observation_specs, vector.action_spec).eval()


@pytest.fixture(scope="module")
def episodes(models: Models) -> list[RecordedEpisode]:
    return record_episodes(models, EXPERIMENT, 7)


def test_every_environment_plays_its_share(models: Models) -> None:
    steps = list(play(models, EXPERIMENT, 7))
    counted = sum((step.ended & step.counted).astype(int) for step in steps)
    assert counted.tolist() == [3, 2, 2]
    assert len(steps) == 30, "it ends with the last episode asked for"


def test_evaluation_counts_whole_episodes(models: Models) -> None:
    result = evaluate(models, EXPERIMENT, 7)
    assert result.lengths == [10] * 7
    assert all(45.0 <= value <= 47.01 for value in result.returns)
    assert result.summary["episodes"] == 7 and result.summary["positive_share"] == 1.0


def test_progress_counts_episodes_and_steps(models: Models) -> None:
    seen: list[tuple[int, int]] = []
    evaluate(
        models,
        EXPERIMENT,
        7,
        on_progress=lambda *counts: seen.append(counts),
    )
    assert [steps for _, steps in seen] == list(range(3, 93, 3))
    assert [ended for ended, _ in seen] == [0] * 9 + [3] * 10 + [6] * 10 + [7]


def test_progress_is_said_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    now, said = 100.0, list[str]()
    monkeypatch.setattr("worldstream.runs.progress.time.monotonic", lambda: now)
    on_progress = evaluation_progress(7, said.append)
    for second in range(40):
        now = 100.0 + second
        on_progress(second // 10, second)
    assert [line.partition(": ")[2] for line in said] == [
        "1 of 7 episodes have ended, 15 steps", "3 of 7 episodes have ended, 30 steps",
    ]  # fmt: skip


def test_the_same_seed_gives_the_same_evaluation(models: Models) -> None:
    first, again, other = (evaluate(models, Experiment.of("clock", CONFIG, seed=seed), 4) for seed in (1, 1, 2))
    assert first == again != other


def test_a_recording_is_what_the_evaluation_counts(models: Models, episodes: list[RecordedEpisode]) -> None:
    result = evaluate(models, EXPERIMENT, 7)
    assert [episode.length for episode in episodes] == result.lengths
    assert np.allclose([episode.rewards.sum() for episode in episodes], result.returns)


def test_a_recording_counts_like_the_clock(episodes: list[RecordedEpisode]) -> None:
    for episode in episodes:
        assert episode.observations["step"][:, 0].tolist() == list(range(11))
        assert (np.diff(episode.observations["phase"][:, 0].astype(int)) % 4 == 1).all()
        expected = [Clock.reward(t, int(action)) for t, (action,) in enumerate(episode.actions)]
        assert np.allclose(episode.rewards, expected)
        assert episode.terminated != episode.truncated
    assert {episode.terminated for episode in episodes} == {True, False}


def test_a_cut_recording_neither_terminated_nor_was_truncated(models: Models) -> None:
    recorded = record_episodes(models, EXPERIMENT, 4, max_steps=6)
    assert [(e.length, e.terminated, e.truncated) for e in recorded] == [(6, False, False)] * 4
    assert all(len(e.observations["step"]) == 7 for e in recorded)


def test_recorded_episodes_round_trip(tmp_path: Path, episodes: list[RecordedEpisode]) -> None:
    folder = RunFolder(tmp_path)
    save_episodes(folder, episodes)
    loaded = load_episodes(folder)
    assert len(loaded) == len(episodes)
    for before, after in zip(episodes, loaded, strict=True):
        assert list(before.observations) == list(after.observations)
        for key, array in before.observations.items():
            assert after.observations[key].dtype == array.dtype
            np.testing.assert_array_equal(after.observations[key], array)
        np.testing.assert_array_equal(after.actions, before.actions)
        np.testing.assert_array_equal(after.rewards, before.rewards)
        assert (after.terminated, after.truncated) == (before.terminated, before.truncated)


def test_missing_episodes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="no episodes.safetensors"):
        load_episodes(RunFolder(tmp_path))


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_torn_episodes_are_refused(tmp_path: Path, episodes: list[RecordedEpisode], share: float) -> None:
    folder = RunFolder(tmp_path)
    save_episodes(folder, episodes)
    data = folder.episodes.read_bytes()
    folder.episodes.write_bytes(data[: int(share * len(data))])
    with pytest.raises(RunFolderError, match=r"episodes.safetensors .* Delete"):
        load_episodes(folder)


def test_arrays_that_do_not_fit_are_refused(tmp_path: Path, episodes: list[RecordedEpisode]) -> None:
    folder = RunFolder(tmp_path)
    save_episodes(folder, episodes)
    good = read_state(folder.episodes)
    first, *others = good
    for broken in (
        [{**first, "rewards": first["rewards"][1:]}, *others],
        [{**first, "observations": {}, "actions": first["actions"][:0]}, *others],
        [{name: value for name, value in first.items() if name != "rewards"}, *others],
        [{**first, "observations": 3}, *others],
        [3],
        3,
    ):
        write_state(folder.episodes, broken)
        with pytest.raises(RunFolderError, match="Delete"):
            load_episodes(folder)
