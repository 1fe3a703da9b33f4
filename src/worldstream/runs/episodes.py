"""Recorded episodes in a run folder: one .npz archive with the episodes laid end to end.

::

    lengths (E,)  terminated (E,)  truncated (E,)  actions (sum T, M)  rewards (sum T,)
    observations/<key> (sum (T + 1), *shape)  sha256 of all these
"""

from __future__ import annotations

from typing import Any

import numpy as np

from worldstream.config import Config
from worldstream.environments.factory import UNNAMED, EnvironmentFactory
from worldstream.environments.suites import same_environment
from worldstream.errors import RunFolderError
from worldstream.evaluation.episodes import RECORDED_EPISODES, RecordedEpisode, record_episodes
from worldstream.evaluation.evaluate import Evaluation
from worldstream.runs.folder import RunFolder, array_digest, replace_file
from worldstream.runs.log import LineLog
from worldstream.runs.weights import LoadedRun

_OBSERVATIONS, _CHECKSUM = "observations/", "sha256"
_FIELDS = ("lengths", "terminated", "truncated", "actions", "rewards")


def save_episodes(folder: RunFolder, episodes: list[RecordedEpisode]) -> None:
    """Replace the recorded episodes (at least one) of a run folder, atomically. Raises RunFolderError."""
    arrays: dict[str, Any] = {
        "lengths": np.array([episode.length for episode in episodes]),
        "terminated": np.array([episode.terminated for episode in episodes]),
        "truncated": np.array([episode.truncated for episode in episodes]),
        "actions": np.concatenate([episode.actions for episode in episodes]),
        "rewards": np.concatenate([episode.rewards for episode in episodes]),
    }
    for key in episodes[0].observations:
        arrays[_OBSERVATIONS + key] = np.concatenate([episode.observations[key] for episode in episodes])
    arrays[_CHECKSUM] = np.array(array_digest(arrays))
    replace_file(folder.episodes, lambda file: np.savez_compressed(file, **arrays))


def keep_evaluation(run: LoadedRun, environment: EnvironmentFactory, result: Evaluation, *, seed: int) -> None:
    """Note an evaluation in the folder of an imported run, and record episodes for its report: no training does.

    Args:
        run: imported, with the weights that were evaluated.
        environment: that it was evaluated in.
        result: what came out.
        seed: of environments and policy.

    Raises RunFolderError when the folder cannot be written.
    """
    episodes = record_episodes(run.models, environment, run.config, episodes=RECORDED_EPISODES, seed=seed)
    save_episodes(run.folder, episodes)
    log = LineLog(run.folder.evaluations)
    log.append(result.record(steps=0, environment_steps=0, final=True, training_seconds=0.0))
    log.flush()


def why_not_kept(run: LoadedRun, environment: str, config: Config) -> str:
    """Why an evaluation is not that of an imported run, whose report would show it as such; empty where it is.

    Args:
        run: imported.
        environment: name of where it was evaluated.
        config: with which it was evaluated.
    """
    recorded = str(run.description["environment"])
    temperature, configured = config.evaluation.temperature, run.config.evaluation.temperature
    others = []
    if not (recorded.startswith(UNNAMED) or same_environment(environment, recorded)):
        others.append(f"the environment is '{environment}', not '{recorded}'")
    if temperature != configured:
        others.append(f"the temperature is {temperature}, not {configured}")
    return f"not noted in the run: {' and '.join(others)}." if others else ""


def load_episodes(folder: RunFolder) -> list[RecordedEpisode]:
    """Read the recorded episodes of a run folder. Raises RunFolderError when they are missing or damaged."""
    if not folder.episodes.is_file():
        raise RunFolderError(
            f"{folder.path} has no {folder.episodes.name}: episodes are recorded when a training run ends, and when an "
            "imported one is evaluated (worldstream evaluate)."
        )
    try:
        with open(folder.episodes, "rb") as file:  # opened here: np.load leaves a damaged archive open
            archive = np.load(file, allow_pickle=False)
            arrays = {name: archive[name] for name in archive.files}
        if str(arrays.pop(_CHECKSUM)) != array_digest(arrays):
            raise ValueError("their checksum differs from what was written")
        return _split(arrays)
    except Exception as error:  # of a damaged archive NumPy and zipfile raise nearly anything
        raise RunFolderError(
            f"{folder.episodes} cannot be read as recorded episodes: {error}. Delete it; the rest of the run is intact."
        ) from error


def _split(arrays: dict[str, np.ndarray]) -> list[RecordedEpisode]:
    """Cut arrays laid end to end into episodes. Raises KeyError or ValueError when they do not fit each other."""
    lengths, terminated, truncated, actions, rewards = (arrays[name] for name in _FIELDS)
    observations = {
        name.removeprefix(_OBSERVATIONS): array for name, array in arrays.items() if name.startswith(_OBSERVATIONS)
    }
    steps, rows = int(lengths.sum()), int(lengths.sum()) + len(lengths)
    fits = len(actions) == len(rewards) == steps and len(terminated) == len(truncated) == len(lengths)
    if not fits or not observations or any(len(array) != rows for array in observations.values()):
        raise ValueError("its arrays have lengths that do not fit each other")
    ends = np.cumsum(lengths)
    return [
        RecordedEpisode(
            observations={key: array[end - length + i : end + i + 1] for key, array in observations.items()},
            actions=actions[end - length : end],
            rewards=rewards[end - length : end],
            terminated=bool(terminated[i]),
            truncated=bool(truncated[i]),
        )
        for i, (length, end) in enumerate(zip(lengths.tolist(), ends.tolist(), strict=True))
    ]
