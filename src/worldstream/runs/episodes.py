"""Recorded episodes in a run folder, and evaluations of runs that were imported."""

from __future__ import annotations

import dataclasses

from worldstream.environments.factory import UNNAMED
from worldstream.environments.suites import same_environment
from worldstream.errors import RunFolderError
from worldstream.evaluation.episodes import RECORDED_EPISODES, RecordedEpisode, record_episodes
from worldstream.evaluation.evaluate import Evaluation
from worldstream.runs.archive import read_state, write_state
from worldstream.runs.folder import RunFolder
from worldstream.runs.lock import locked
from worldstream.runs.log import LineLog
from worldstream.runs.weights import LoadedRun
from worldstream.training.experiment import Experiment


def save_episodes(folder: RunFolder, episodes: list[RecordedEpisode]) -> None:
    """Replace the recorded episodes of a run folder, atomically. Raises RunFolderError."""
    write_state(folder.episodes, [dataclasses.asdict(episode) for episode in episodes], run=folder.run_id)


def load_episodes(folder: RunFolder) -> list[RecordedEpisode]:
    """Read the recorded episodes of a run folder. Raises RunFolderError when they are missing or damaged."""
    if not folder.episodes.is_file():
        raise RunFolderError(
            f"{folder.path} has no {folder.episodes.name}: episodes are recorded when a training run ends, and when an "
            "imported one is evaluated (worldstream evaluate)."
        )
    try:
        episodes = [RecordedEpisode(**fields) for fields in read_state(folder.episodes, run=folder.run_id)]
        lengths = [
            {len(episode.actions), len(episode.rewards), *(len(x) - 1 for x in episode.observations.values())}
            for episode in episodes
        ]
    except (RunFolderError, TypeError, AttributeError) as error:
        raise RunFolderError(f"{error} Delete {folder.episodes}; the rest of the run is intact.") from error
    if any(len(found) > 1 for found in lengths):
        raise RunFolderError(f"{folder.episodes} holds arrays of lengths that do not fit each other. Delete it.")
    return episodes


def keep_evaluation(run: LoadedRun, experiment: Experiment, result: Evaluation) -> str:
    """Note an evaluation in the folder of an imported run, and record episodes for its report: no training does.

    Returns what came of it, for the user.
    """
    if why := _why_not_kept(run, experiment):
        return f"not noted in the run: {why}."
    try:
        episodes = record_episodes(run.models, experiment, RECORDED_EPISODES)
        with locked(run.folder):
            save_episodes(run.folder, episodes)
            log = LineLog(run.folder.evaluations, run.folder.run_id)
            log.append(result.record(steps=0, environment_steps=0, final=True, training_seconds=0.0))
            log.flush()
    except RunFolderError as error:  # what came out is more important
        return f"not noted in the run: {error}"
    return f"noted, with episodes. Next: worldstream report {run.folder.path}"


def _why_not_kept(run: LoadedRun, experiment: Experiment) -> str:
    """Why an evaluation is not that of an imported run, whose report would show it as such; empty where it is."""
    recorded, environment = str(run.description["environment"]), experiment.environment.recorded_name
    temperature, configured = experiment.config.evaluation.temperature, run.config.evaluation.temperature
    others = []
    if not (recorded.startswith(UNNAMED) or same_environment(environment, recorded)):
        others.append(f"the environment is '{environment}', not '{recorded}'")
    if temperature != configured:
        others.append(f"the temperature is {temperature}, not {configured}")
    return " and ".join(others)
