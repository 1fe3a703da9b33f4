"""The Python interface: ``train`` an agent on any environment, ``Agent.load`` it, let it ``act``."""

from __future__ import annotations

import json
import platform
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from worldstream.acting import act
from worldstream.actions.composite import decode
from worldstream.config import Config
from worldstream.errors import ConfigError, EnvironmentFault
from worldstream.evaluation.evaluate import Evaluation, evaluate
from worldstream.evaluation.recording import record_episodes, save_episodes
from worldstream.modalities.observation import ObservationAdapter
from worldstream.models import UNNAMED, Models, choose_device, load_run, save_weights
from worldstream.presets import PRESETS
from worldstream.run_folder import RunFolder, specs_to_json
from worldstream.training.metrics import MetricLog
from worldstream.training.progress import ProgressDisplay, console
from worldstream.training.trainer import Trainer
from worldstream.version import __version__

RECORDED_EPISODES = 5
"""Real episodes kept at the end of a run for the report."""

VERSIONED = ("torch", "numpy", "gymnasium")
"""Packages whose versions are written into the run folder."""


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


def check_seed(seed: int) -> None:
    """Raises ConfigError for a seed that generators do not take."""
    if not 0 <= seed < 2**31:
        raise ConfigError(f"seed must be between 0 and {2**31 - 1}, not {seed}.")


def environment_name(environment: str | Callable[..., Any]) -> str:
    """How a run folder records an environment: its name, "module:function" of a factory that can be imported again,
    or ``UNNAMED`` and what it is called for one that cannot (a lambda, a class of the running script)."""
    if isinstance(environment, str):
        return environment
    module, name = getattr(environment, "__module__", ""), getattr(environment, "__qualname__", "")
    if module != "__main__" and getattr(sys.modules.get(module), name, None) is environment:
        return f"{module}:{name}"
    return UNNAMED + (name or type(environment).__qualname__)


def default_output(environment: str | Callable[..., Any], preset: str, seed: int) -> Path:
    """runs/<environment>-<preset>-seed<seed>, with a number behind it when that exists already."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", environment_name(environment))
    base = Path("runs") / f"{name}-{preset}-seed{seed}"
    candidates = [base, *(base.with_name(f"{base.name}-{i}") for i in range(2, 10_000))]
    return next(path for path in candidates if not path.exists())


@contextmanager
def _keep_thread_count() -> Iterator[None]:
    """The trainer sets the number of threads of the whole process; put back what the caller had."""
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@_keep_thread_count()
def train(
    environment: str | Callable[..., Any],
    *,
    steps: int,
    preset: str = "demo",
    config: Config | None = None,
    seed: int = 0,
    device: str = "auto",
    output: str | Path | None = None,
    quiet: bool = False,
) -> TrainingResult:
    """Train an agent and leave everything about it in a run folder.

    Args:
        environment: Gymnasium id, "module:factory", or a function that returns a ``gymnasium.Env``.
        steps: environment steps (decisions of the agent).
        preset: name of a configuration; recorded, and used when ``config`` is None.
        config: complete configuration.
        seed: of environments, networks, replay and policy.
        device: "auto", "cpu", "cuda", ...
        output: run folder; must not exist or be empty. None: below ``runs/``.
        quiet: print nothing.

    Raises:
        SpaceError, EnvironmentFault: the environment cannot be used.
        ConfigError: unknown preset, option or device.
        RunFolderError: the output folder cannot be written, or is not empty.
    """
    if steps <= 0:
        raise ConfigError(f"steps must be at least 1, not {steps}.")
    check_seed(seed)
    config = PRESETS[preset]() if config is None else config
    chosen = choose_device(device)
    folder = RunFolder(Path(output) if output is not None else default_output(environment, preset, seed))
    folder.require_unused()
    out = console(quiet=quiet)
    began = time.monotonic()
    run = _Run(folder, environment, config, seed)
    trainer = Trainer(config, environment, seed=seed, device=chosen, on_metrics=run.metrics, on_evaluation=run.evaluate)
    try:
        run.begin(trainer.models, preset=preset, steps=steps, device=str(chosen))
        out.print(f"training on '{environment_name(environment)}' for {steps} steps on {chosen}, into {folder.path}")
        run.display = ProgressDisplay(steps, out)
        _learn(trainer, steps, run)
    finally:
        trainer.close()
        run.close()
    save_weights(folder, trainer.models)
    result = run.evaluate(steps, episodes=config.evaluation.final_episodes, seconds=time.monotonic() - began)
    recorded = record_episodes(trainer.models, environment, config, episodes=RECORDED_EPISODES, seed=seed)
    save_episodes(folder, recorded)
    summary = result.summary
    out.print(
        f"mean return {summary['return_mean']:.4g} over {summary['episodes']:.0f} episodes "
        f"after {time.monotonic() - began:.0f} s. Next: worldstream report {folder.path}"
    )
    return TrainingResult(folder.path, Agent(trainer.models, temperature=config.evaluation.temperature), result)


def _learn(trainer: Trainer, steps: int, run: _Run) -> None:
    """Run the trainer; an interruption or a failing environment leaves the weights learned until then."""
    try:
        trainer.run(steps)
    except (KeyboardInterrupt, EnvironmentFault):
        save_weights(run.folder, trainer.models)
        raise
    finally:
        if run.display is not None:
            run.display.close()


class _Run:
    """The files of one run while it is trained."""

    def __init__(self, folder: RunFolder, environment: Any, config: Config, seed: int) -> None:
        self.folder, self.environment, self.config, self.seed = folder, environment, config, seed
        self.display: ProgressDisplay | None = None
        self._log: MetricLog | None = None
        self._models: Models | None = None
        self._began = time.monotonic()

    def begin(self, models: Models, *, preset: str, steps: int, device: str) -> None:
        """Write run.json and open the metrics."""
        self._models = models
        self.folder.create(
            {
                "worldstream": __version__,
                "versions": {
                    "python": platform.python_version(),
                    **{name: metadata.version(name) for name in VERSIONED},
                },
                "machine": f"{platform.machine()} {platform.system()}",
                "environment": environment_name(self.environment),
                "preset": preset,
                "seed": self.seed,
                "steps": steps,
                "device": device,
                "config": json.loads(json.dumps(self.config.to_json())),
                "specs": specs_to_json(models.key_specs, models.action_spec),
            }
        )
        self._log = MetricLog(self.folder, [lambda record: self.display.update(record) if self.display else None])

    def metrics(self, record: dict[str, Any]) -> None:
        """One logging step."""
        assert self._log is not None
        self._log.write({**record, "wall_seconds": time.monotonic() - self._began})

    def evaluate(self, steps: int, *, episodes: int | None = None, seconds: float | None = None) -> Evaluation:
        """Evaluate the models as they are and append the result."""
        assert self._models is not None
        count = self.config.evaluation.episodes if episodes is None else episodes
        result = evaluate(self._models, self.environment, self.config, episodes=count, seed=self.seed)
        seconds = time.monotonic() - self._began if seconds is None else seconds
        self.folder.append(
            self.folder.evaluations,
            {"steps": steps, "final": episodes is not None, "training_seconds": seconds, **result.summary},
        )
        return result

    def close(self) -> None:
        """Close the metrics."""
        if self._log is not None:
            self._log.close()
