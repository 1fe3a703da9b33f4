"""The Python interface: ``info`` about an environment, ``train`` an agent on it, ``evaluate`` and ``diagnose``
it, ``write_report``; ``Agent.load`` it, let it ``act``."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from worldstream.acting import act
from worldstream.actions.composite import decode
from worldstream.config import Config
from worldstream.environments import resolve
from worldstream.environments.compatibility import require_specs
from worldstream.environments.suites import EnvironmentName
from worldstream.errors import ConfigError, RunFolderError
from worldstream.evaluation.evaluate import Evaluation
from worldstream.evaluation.evaluate import evaluate as measure
from worldstream.importers.checkpoint import imported_agent, read_checkpoint, write_imported
from worldstream.importers.settings import read_settings
from worldstream.modalities.observation import ObservationAdapter
from worldstream.models import Models, choose_device, keep_thread_count
from worldstream.presets import PRESETS
from worldstream.report.report import write_report as write_report
from worldstream.runs.capacity import require_capacity
from worldstream.runs.description import (
    MAX_STEPS,
    config_to_resume,
    default_output,
    is_imported,
    read_run,
    recorded_environment,
    specs_from_json,
)
from worldstream.runs.diagnosis import diagnose as diagnose
from worldstream.runs.episodes import keep_evaluation
from worldstream.runs.estimate import Estimate as Estimate
from worldstream.runs.estimate import estimate
from worldstream.runs.folder import RunFolder
from worldstream.runs.lock import locked
from worldstream.runs.log import read_lines
from worldstream.runs.progress import ProgressDisplay, console, evaluation_progress
from worldstream.runs.session import Session
from worldstream.runs.trust import EnvironmentCode
from worldstream.runs.weights import load_run
from worldstream.training.experiment import Experiment
from worldstream.training.survey import Survey as Survey
from worldstream.training.survey import survey


class Agent:
    """A trained agent that acts on raw observations of its environment.

    Args:
        models: in evaluation mode.
        temperature: divides the policy's logits; 0 takes the most likely action.
        seed: of sampled actions.

    Raises ConfigError for a negative temperature.
    """

    def __init__(self, models: Models, *, temperature: float = 0.5, seed: int = 0) -> None:
        if not temperature >= 0:
            raise ConfigError(f"temperature must be at least 0, not {temperature}.")
        self.models = models.eval()
        self._adapter = ObservationAdapter.from_specs(models.key_specs)
        self._policy = models.actor_critic.policy(temperature)
        self._generator = torch.Generator(models.device).manual_seed(seed)

    @staticmethod
    def load(path: str | Path, *, device: str = "auto", temperature: float | None = None, seed: int = 0) -> Agent:
        """Read an agent from a run folder; temperature None is that of the run's evaluation.

        Raises RunFolderError when the folder is not a run.
        """
        run = load_run(path, device)
        chosen = run.config.evaluation.temperature if temperature is None else temperature
        return Agent(run.models, temperature=chosen, seed=seed)

    def act(self, observation: Any, carry: Any = None) -> tuple[Any, Any]:
        """Choose an action.

        Args:
            observation: as the environment returned it.
            carry: what the previous call returned; None at the beginning of an episode.

        Returns:
            an action of the environment's action space, and the carry for the next call.

        Raises EnvironmentFault when the observation does not fit the spaces that the agent was trained on.
        """
        stored = {key: value[None] for key, value in self._adapter.store(observation).items()}
        carry = self.models.actor_critic.initial_carry(1) if carry is None else carry
        ids, carry = act(self.models.tokenizers, self._policy, stored, carry, self._generator)
        return decode(self.models.action_spec, ids[0]), carry


@dataclass(frozen=True)
class TrainingResult:
    """What a finished run left."""

    folder: Path
    agent: Agent
    evaluation: Evaluation


@dataclass(frozen=True)
class EvaluationResult:
    """What the evaluation of a run brought."""

    environment: str
    """Where it was evaluated."""
    evaluation: Evaluation
    note: str
    """Whether the folder of an imported run keeps the evaluation, or why not; empty where the run was trained here."""


@keep_thread_count()
def train(
    environment: str | Callable[..., Any],
    *,
    steps: int,
    preset: str | None = None,
    config: Config | None = None,
    seed: int = 0,
    device: str = "auto",
    output: str | Path | None = None,
    time_limit: float | None = None,
    force: bool = False,
    quiet: bool = False,
) -> TrainingResult:
    """Train an agent and leave everything about it in a run folder.

    Args:
        environment: Gymnasium id (CartPole-v1), "module:factory", or from Python a function that returns a Gymnasium
            environment.
        steps: environment steps (decisions of the agent).
        preset: name of the complete configuration to start from. None: the one that suits the environment, or from
            Python "custom" beside a ``config``.
        config: complete configuration, instead of that of the preset.
        seed: seed of environments, networks, replay and policy.
        device: "auto", "cpu", "cuda", ...
        output: run folder; must not exist or be empty. None: below ``runs/``.
        time_limit: seconds of wall time after which the run is saved and interrupted (exit status 75), for clusters,
            between two environment steps: one that hangs delays it by at most ``collection.timeout``.
            None: no limit.
        force: start although replay, models or checkpoints need more memory or disk than is free.
        quiet: print nothing.

    Raises:
        SpaceError, EnvironmentFault: the environment cannot be used.
        ConfigError: unknown preset, option or device, or the run needs more memory or disk than is free.
        RunFolderError: the output folder cannot be written, is not empty, or is in use by another process.
        Interrupted: SIGINT, SIGTERM or the time limit ended the run early; ``resume`` continues it.
    """
    if not 1 <= steps <= MAX_STEPS:
        raise ConfigError(f"steps must be at least 1 and at most {MAX_STEPS}, not {steps}.")
    preset, config = _configuration(environment, preset, config)
    experiment = Experiment.of(environment, config, seed=seed, steps=steps, device=choose_device(device))
    folder = RunFolder(
        default_output(experiment.environment, preset, f"seed{seed}") if output is None else Path(output)
    )
    folder.require_unused()
    code = EnvironmentCode.of(experiment.environment.recorded_name)
    session = Session(folder, experiment, time_limit)
    with closing(session.trainer):
        if not force:
            require_capacity(experiment.config, session.trainer.models, steps, folder.path)
        with locked(folder):
            session.begin(preset, code)
            where = f"{steps} steps on {experiment.device}, preset {preset}, into {folder.path}"
            return _run(session, f"training on '{experiment.environment.recorded_name}' for {where}", quiet=quiet)


@keep_thread_count()
def resume(
    path: str | Path,
    *,
    environment: str | Callable[..., Any] | None = None,
    device: str | None = None,
    close_episodes: bool = False,
    time_limit: float | None = None,
    force: bool = False,
    quiet: bool = False,
) -> TrainingResult:
    """Continue a run from its newest checkpoint that is intact; before the first one, from the beginning.

    On the CPU the run goes on as if it had not been interrupted, to the last bit, where the environment can give its
    state (``worldstream.environments.state``); elsewhere the episodes under way are closed as truncated.

    Args:
        path: run folder.
        environment: None: as recorded; needed when that was a function without a name, or is code that this person did
            not train the run with on this machine.
        device: None: as recorded.
        close_episodes: close the episodes under way, as truncated, whose environment refuses its saved state.
        time_limit, quiet: see ``train``.
        force: as for ``train``; also begin anew where the run was further but its checkpoints are gone, which replaces
            its logs and weights.

    Raises:
        RunFolderError: not a run folder, a run that is finished or in use by another process, or no checkpoint of it is
            intact.
        ConfigError, EnvironmentFault: the environment is needed, or is not that of the run.
        Interrupted: see ``train``.
    """
    folder = RunFolder(Path(path))
    description = read_run(folder)
    chosen = recorded_environment(folder, description) if environment is None else environment
    if is_imported(folder, description):
        raise RunFolderError(f"{folder.path} was imported, not trained: there is no training to continue.")
    steps, config = int(description["steps"]), config_to_resume(folder, description)
    device = str(description["device"]) if device is None else device
    experiment = Experiment.of(chosen, config, seed=int(description["seed"]), steps=steps, device=choose_device(device))
    with locked(folder):
        if any(record["final"] for record in read_lines(folder.evaluations, folder.run_id)):
            raise RunFolderError(f"{folder.path} is finished: it has been trained for {steps} steps and evaluated.")
        code = EnvironmentCode.of(experiment.environment.recorded_name)
        session = Session(folder, experiment, time_limit)
        with closing(session.trainer):
            models, specs = session.trainer.models, specs_from_json(description["specs"])
            # In order: the weights of keys and their positions in a block have no names but that.
            require_specs(experiment.environment.label, models.specs, specs, in_order=True)
            if not force:
                require_capacity(config, models, steps, folder.path)
            begun = session.restore(force=force, close_episodes=close_episodes)
            code.remember(folder)
            return _run(session, f"resuming {folder.path} at {begun} of {steps} steps", quiet=quiet)


def _configuration(environment: EnvironmentName, preset: str | None, config: Config | None) -> tuple[str, Config]:
    """The preset's name, and the complete configuration; what is None is chosen to suit the rest."""
    preset = preset or (resolve(environment).suite.preset if config is None else "custom")
    return preset, PRESETS[preset]() if config is None else config


def _run(session: Session, what: str, *, quiet: bool) -> TrainingResult:
    """Say ``what`` happens, train to the end, and say what came out."""
    out = console(quiet=quiet)
    for line in (what, *session.notes):
        out.print(line)
    display = ProgressDisplay(session.experiment.last_step, out)
    try:
        result = session.run(display.update, out.print)
    finally:
        display.close()
    summary = result.summary
    out.print(
        f"mean return {summary['return_mean']:.4g} over {summary['episodes']:.0f} episodes "
        f"after {session.seconds:.0f} s. Next: worldstream report {session.folder.path}"
    )
    if result.reservation:
        out.print(result.reservation)
    agent = Agent(session.trainer.models, temperature=session.experiment.config.evaluation.temperature)
    return TrainingResult(session.folder.path, agent, result)


def evaluate(
    path: str | Path,
    *,
    environment: str | Callable[..., Any] | None = None,
    episodes: int = 100,
    seed: int = 0,
    temperature: float | None = None,
    device: str = "auto",
    best: bool = False,
    quiet: bool = False,
) -> EvaluationResult:
    """Measure the return of a run's agent over whole episodes.

    The folder of an imported run keeps the evaluation, with a few episodes for the report, where environment and
    temperature are those of the run: it has no training that ended in an evaluation.

    Args:
        path: run folder.
        environment: where to evaluate. None: as recorded; needed as for ``resume``.
        episodes: whole episodes.
        seed: seed of environments and policy.
        temperature: divides the policy's logits; 0 takes the most likely action. None: as configured for the run.
        device: "auto", "cpu", "cuda", ...
        best: take the weights of the best evaluation during training instead of the newest.
        quiet: print nothing; otherwise a long evaluation says now and then how far it is.

    Raises:
        RunFolderError: the folder is not a run, or has no such weights.
        ConfigError: an option makes no sense, the environment is needed, or the agent was not trained on such a one.
        SpaceError, EnvironmentFault: the environment cannot be used.
    """
    if episodes < 1:
        raise ConfigError(f"episodes must be at least 1, not {episodes}.")
    run = load_run(path, device, best=best)
    config = run.config
    source = recorded_environment(run.folder, run.description) if environment is None else environment
    if temperature is not None:
        config = replace(config, evaluation=replace(config.evaluation, temperature=temperature))
    experiment = Experiment.of(source, config, seed=seed, device=run.models.device)
    on_progress = evaluation_progress(episodes, console(quiet=quiet).print)
    result = measure(run.models, experiment, episodes, on_progress=on_progress)
    note = keep_evaluation(run, experiment, result) if run.imported else ""
    return EvaluationResult(experiment.environment.recorded_name, result, note)


@keep_thread_count()
def info(
    environment: str | Callable[..., Any],
    *,
    preset: str | None = None,
    steps: int = 100_000,
    device: str = "auto",
    config: Config | None = None,
) -> Estimate:
    """Say how an environment would be read, and what a run on it would cost, before anything is trained.

    Args:
        environment: see ``train``.
        preset: see ``train``.
        steps: planned environment steps, which bound the memory of replay.
        device: where the run would train.
        config: see ``train``.

    Raises:
        SpaceError, EnvironmentFault: the environment cannot be used.
        ConfigError: unknown preset, option or device.
    """
    if steps < 1:
        raise ConfigError(f"steps must be at least 1, not {steps}.")
    _, config = _configuration(environment, preset, config)
    return estimate(Experiment.of(environment, config, steps=steps, device=choose_device(device)))


@keep_thread_count()
def survey_tokens(
    environment: str | Callable[..., Any],
    *,
    preset: str | None = None,
    steps: int = 5000,
    seed: int = 0,
    config: Config | None = None,
) -> Survey:
    """Play at random, and say which exact tokens suit the pictures of an environment: patches, a palette, or none.

    Args:
        environment, preset: see ``train``, which also says what is raised; ConfigError where there are no pictures.
        steps: random environment steps, as many as the random phase of a run has.
        seed: of the random actions.
        config: see ``train``; its tokenizers are replaced by those that are tried.
    """
    _, config = _configuration(environment, preset, config)
    return survey(Experiment.of(environment, config, seed=seed, steps=steps))


def import_checkpoint(
    file: str | Path,
    *,
    published: str,
    environment: str | Callable[..., Any],
    modality: dict[str, str] | None = None,
    settings: str | Path | None = None,
    output: str | Path | None = None,
    quiet: bool = False,
) -> Path:
    """Turn a checkpoint of the published agent into a run folder, which is evaluated and reported like any other.

    Args:
        file: PyTorch state dict with the published names of parameters.
        published: configuration it was trained with: "atari", "dmc" or "craftax".
        environment: what it was trained on: Gymnasium id or "module:factory".
        modality: KIND by KEY, where the observation space does not say what a key is.
        settings: JSON file of what differs from that configuration and no tensor shows, in the published words
            (``docs/run_folder.md``).
        output: run folder; must not exist or be empty. None: below ``runs/``.
        quiet: print nothing.

    Returns:
        the run folder.

    Raises:
        WeightsError: a file cannot be read, or does not fit the configuration or the environment.
        SpaceError, EnvironmentFault, ConfigError, RunFolderError: see ``train``.
    """
    name = f"published-{published}"
    folder = RunFolder(Path(output) if output is not None else default_output(resolve(environment), name))
    folder.require_unused()
    code = EnvironmentCode.of(resolve(environment).recorded_name)
    agent = imported_agent(
        read_checkpoint(Path(file)),
        published=published,
        environment=environment,
        modality=modality,
        settings=None if settings is None else read_settings(Path(settings)),
    )
    write_imported(agent, folder, Experiment.of(environment, agent.config), name)
    code.remember(folder)
    for line in (*agent.notes, f"imported into {folder.path}. Next: worldstream evaluate {folder.path}"):
        console(quiet=quiet).print(line)
    return folder.path
