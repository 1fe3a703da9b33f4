"""``worldstream diagnose``: judge the world model of a run, and keep what came out in its folder."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from worldstream import options
from worldstream.errors import ConfigError, RunFolderError
from worldstream.evaluation.diagnose import diagnose_plays
from worldstream.evaluation.diagnosis import Diagnosis, DiagnosisConfig
from worldstream.evaluation.simulator import learn_in_truth
from worldstream.evaluation.verdicts import Finding, findings
from worldstream.runs.description import recorded_environment
from worldstream.runs.files import open_plain, reading, replace_file
from worldstream.runs.folder import RunFolder, checksummed, content_of
from worldstream.runs.progress import console
from worldstream.runs.weights import load_run
from worldstream.training.experiment import Experiment


def diagnose(
    path: str | Path,
    *,
    environment: str | Callable[..., Any] | None = None,
    episodes: int = 8,
    steps: int = 9,
    true_simulator: int = 0,
    seed: int = 0,
    device: str = "auto",
    best: bool = False,
    quiet: bool = False,
) -> Diagnosis:
    """Judge the world model of a run on fresh episodes, in minutes; what comes out is kept as diagnosis.json, which
    `worldstream report` shows. docs/diagnose.md explains each line.

    Args:
        path: run folder.
        environment: where to play. None: as recorded; needed as for ``resume``.
        episodes: fresh episodes of the agent, and as many of random play; more where they are very short.
        steps: imagined steps to look at; at most as many as the world model was trained to look ahead.
        true_simulator: updates of a copy of the agent whose imagination is the true environment, restored from saved
            states: what the agent could learn if every prediction were right. It takes as long as so many updates
            and their environment steps.
        seed: of environments, policy and imagination.
        device: "auto", "cpu", "cuda", ...
        best: take the weights of the best evaluation during training instead of the newest.
        quiet: print nothing; otherwise what is being done.

    Raises:
        RunFolderError: the folder is not a run, has no such weights, or cannot be written.
        ConfigError: an option makes no sense, the environment is needed, gives no state, or ends too soon.
        SpaceError, EnvironmentFault: the environment cannot be used.
    """
    chosen = DiagnosisConfig(episodes=episodes, steps=steps, simulator_updates=true_simulator)
    options.check(chosen, "diagnose")
    run = load_run(path, device, best=best)
    source = recorded_environment(run.folder, run.description) if environment is None else environment
    experiment = Experiment.of(source, run.config, seed=seed, device=run.models.device)
    out, simulator = console(quiet=quiet), None
    if true_simulator:  # first, for it may be impossible
        out.print(f"a copy of the agent learns in the true environment: {true_simulator} updates")
        simulator = learn_in_truth(run.models, experiment, chosen)
    plays = diagnose_plays(run.models, experiment, chosen, on_play=lambda who: out.print(f"{who} plays"))
    diagnosis = Diagnosis(experiment.environment.recorded_name, chosen, plays, simulator)
    save_diagnosis(run.folder, diagnosis)
    return diagnosis


def save_diagnosis(folder: RunFolder, diagnosis: Diagnosis) -> None:
    """Replace diagnosis.json: the findings in words, and every number. Raises RunFolderError."""
    found = [dataclasses.asdict(finding) for finding in findings(diagnosis)]
    numbers = _plain(dataclasses.asdict(diagnosis))
    text = checksummed({"run": folder.run_id, "findings": found, "diagnosis": numbers})
    replace_file(folder.diagnosis, lambda file: file.write(text.encode()))


def load_findings(folder: RunFolder) -> list[Finding]:
    """The findings of diagnosis.json; none where there is no such file.

    Raises RunFolderError when it is damaged, or of another run.
    """
    with reading(folder.diagnosis):
        if not folder.diagnosis.is_file():
            return []
        with open_plain(folder.diagnosis, "rb") as file:
            text = file.read()
    remedy = f"Run `worldstream diagnose` again, or delete {folder.diagnosis}."
    try:
        data = content_of(text)
        if data["run"] != folder.run_id:
            raise RunFolderError(f"{folder.diagnosis} is of another run. {remedy}")
        return [options.from_plain(Finding, fields, "findings") for fields in data["findings"]]
    except (ValueError, TypeError, KeyError, RecursionError, ConfigError) as error:
        raise RunFolderError(f"{folder.diagnosis} is not what was written: {error}. {remedy}") from error


def _plain(value: Any) -> Any:
    """For JSON, which has no NaN: null."""
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
