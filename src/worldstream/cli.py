"""The command line: ``worldstream train | evaluate | ...``. Thin: every command calls one function.

A preset is a complete configuration; every leaf of it is a flag (``worldstream train --preset demo --help`` lists
them). Errors that a user can mend end in one message and a non-zero status.
"""

from __future__ import annotations

import os
import sys
import warnings
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any, TextIO

import tyro
from rich.table import Table

from worldstream.config import Config
from worldstream.environments import resolve
from worldstream.errors import ConfigError, WorldstreamError, WorldstreamWarning
from worldstream.options import at, choices, choose
from worldstream.presets import PRESETS
from worldstream.runs.progress import console

DEFAULT_PRESET = "demo"
"""Where an environment does not say otherwise, and of what ``--help`` shows."""

Options = Annotated[Config, tyro.conf.arg(name="")]
"""Leaves of the configuration, as flags without a prefix."""


@dataclass(frozen=True, kw_only=True)
class Train:
    """Train an agent on any Gymnasium environment."""

    env: str | None = None
    """Gymnasium id (CartPole-v1), or module:factory of a function that returns an environment."""
    steps: int | None = None
    """Environment steps, that is decisions of the agent."""
    resume: Path | None = None
    """Run folder to continue from its newest checkpoint; everything else is as recorded there."""
    preset: str | None = None
    """Complete configuration that the flags below start from. Default: the one that suits the environment."""
    seed: int = 0
    """Seed of environments, networks, replay and policy."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, ..."""
    output: Path | None = None
    """Run folder to write. Default: a new one below runs/."""
    modality: tuple[str, ...] = ()
    """KEY=KIND for keys whose space does not say what they are: image=grid:11,6,4 or mission=ignore."""
    time_limit: float | None = None
    """Seconds of wall time after which the run is saved and interrupted (exit status 75), for clusters."""
    force: bool = False
    """Start although the estimate does not fit into memory or onto the disk."""
    quiet: bool = False
    """Print nothing."""
    config: Options = field(default_factory=Config)
    """Configuration."""

    def run(self) -> None:
        """Train, evaluate and save."""
        from worldstream.api import resume, train

        if self.resume is not None:
            self._check_nothing_else_is_given()
            resume(self.resume, environment=self.env, time_limit=self.time_limit, force=self.force, quiet=self.quiet)
            return
        if self.env is None or self.steps is None:
            raise ConfigError("give --env and --steps (or --resume RUN to continue a run).")
        train(
            self.env,
            steps=self.steps,
            preset=self.preset,
            config=with_modalities(self.config, self.modality),
            seed=self.seed,
            device=self.device,
            output=self.output,
            time_limit=self.time_limit,
            force=self.force,
            quiet=self.quiet,
        )

    def _check_nothing_else_is_given(self) -> None:
        """Raises ConfigError for flags that would contradict the run that is resumed."""
        plain = Train()
        given = [
            f"--{name.replace('_', '-')}"
            for name in ("steps", "preset", "seed", "device", "output", "modality")
            if getattr(self, name) != getattr(plain, name)
        ]
        if self.preset is None and self.config != PRESETS[DEFAULT_PRESET]():
            given.append("flags of the configuration")
        if given:
            raise ConfigError(f"--resume continues the run as it was recorded; leave out {', '.join(given)}.")


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Measure the return of a trained agent over whole episodes."""

    run_folder: tyro.conf.Positional[Path]
    """Folder that `worldstream train` wrote."""
    env: str | None = None
    """Environment to evaluate in. Default: the one of the run; needed when that was a function without a name."""
    episodes: int = 100
    """Whole episodes."""
    seed: int = 0
    """Seed of environments and policy."""
    temperature: float | None = None
    """Divides the policy's logits; 0: most likely action. Default: as configured for the run."""
    device: str = "auto"
    """auto, cpu, cuda, ..."""
    best: bool = False
    """Take the weights of the best evaluation during training instead of the newest."""

    def run(self) -> None:
        """Evaluate and print."""
        from worldstream.api import evaluate

        result = evaluate(
            self.run_folder,
            environment=self.env,
            episodes=self.episodes,
            seed=self.seed,
            temperature=self.temperature,
            device=self.device,
            best=self.best,
        )
        print_mapping(f"{result.environment}, {self.episodes} episodes", result.evaluation.summary)
        if result.note:
            console(quiet=False).print(result.note)


@dataclass(frozen=True, kw_only=True)
class Report:
    """Write one HTML file with pictures about one or several runs."""

    run_folders: tyro.conf.Positional[tuple[Path, ...]]
    """Folders that `worldstream train` wrote."""
    output: Path | None = None
    """File to write. Default: report.html in the first folder."""

    def run(self) -> None:
        """Write the report and say where it is."""
        from worldstream.report.report import write_report

        if not self.run_folders:
            raise ConfigError("worldstream report needs at least one run folder.")
        console(quiet=False).print(f"report: {write_report(list(self.run_folders), output=self.output)}")


@dataclass(frozen=True, kw_only=True)
class Info:
    """Say how an environment would be read, and what a run on it would cost, before anything is trained."""

    env: tyro.conf.Positional[str]
    """Gymnasium id, or module:factory."""
    preset: str | None = None
    """Complete configuration that the flags below start from. Default: the one that suits the environment."""
    steps: int = 100_000
    """Planned environment steps, which bound the memory of replay."""
    device: str = "auto"
    """Where the run would train."""
    modality: tuple[str, ...] = ()
    """KEY=KIND for keys whose space does not say what they are."""
    config: Options = field(default_factory=Config)
    """Configuration."""

    def run(self) -> None:
        """Measure and print."""
        from worldstream.models import choose_device
        from worldstream.runs.estimate import estimate
        from worldstream.training.experiment import Experiment

        if self.steps < 1:
            raise ConfigError(f"--steps must be at least 1, not {self.steps}.")
        config = with_modalities(self.config, self.modality)
        device = choose_device(self.device)
        result = estimate(Experiment.of(self.env, config, steps=self.steps, device=device))
        print_estimate(result, replace(self, device=str(device)))


@dataclass(frozen=True, kw_only=True)
class ImportCheckpoint:
    """Turn a checkpoint of the published agent into a run folder."""

    file: tyro.conf.Positional[Path]
    """PyTorch state dict with the published names of parameters."""
    published: Annotated[str, tyro.conf.arg(name="config")]
    """Configuration that it was trained with: atari, dmc or craftax."""
    env: str
    """Environment that it was trained on."""
    settings: Path | None = None
    """JSON file of settings that differ from that configuration and that no tensor shows (docs/run_folder.md)."""
    output: Path | None = None
    """Run folder to write. Default: a new one below runs/."""
    modality: tuple[str, ...] = ()
    """KEY=KIND for keys whose space does not say what they are."""

    def run(self) -> None:
        """Import and say where the run is."""
        from worldstream.api import import_checkpoint

        import_checkpoint(
            self.file,
            published=self.published,
            environment=self.env,
            modality=with_modalities(Config(), self.modality).environment.modality,
            settings=self.settings,
            output=self.output,
        )


COMMANDS: dict[str, type[Any]] = {
    "train": Train,
    "evaluate": Evaluate,
    "report": Report,
    "info": Info,
    "import-checkpoint": ImportCheckpoint,
}


def with_modalities(config: Config, overrides: tuple[str, ...]) -> Config:
    """Add KEY=KIND overrides to the configuration. Raises ConfigError for one without "="."""
    if not overrides:
        return config
    pairs = [override.partition("=") for override in overrides]
    for override, (key, equals, kind) in zip(overrides, pairs, strict=True):
        if not (key and equals and kind):
            raise ConfigError(f"--modality {override}: expected KEY=KIND, such as image=grid:11,6,4.")
    merged = {**config.environment.modality, **{key: kind for key, _, kind in pairs}}
    return replace(config, environment=replace(config.environment, modality=merged))


def print_mapping(title: str, values: dict[str, Any]) -> None:
    """A table of two columns."""
    table = Table(title=title, show_header=False)
    for name, value in values.items():
        table.add_row(name, f"{value:.4g}" if isinstance(value, float) else str(value))
    console(quiet=False).print(table)


def print_estimate(result: Any, command: Info) -> None:
    """Tables of ``worldstream info``."""
    from worldstream.replay.rows import bytes_per_row
    from worldstream.replay.token_cache import token_columns

    out = console(quiet=False)
    table = Table(title=f"observation of {command.env}")
    for column in ("key", "modality", "shape", "tokens/step", "vocabulary", "bytes/step in replay"):
        table.add_column(column)
    for key, spec in result.models.key_specs.items():
        tokens = result.models.tokenizers.specs[key]
        vocabulary = tokens.vocabulary
        sizes = ",".join(map(str, vocabulary[:6])) + (f",... ({len(vocabulary)} channels)" if vocabulary[6:] else "")
        stored = f"{spec.num_bytes} + {bytes_per_row(token_columns({key: tokens}))} cached"
        table.add_row(key, spec.modality, str(spec.shape), str(tokens.num_tokens), sizes, stored)
    out.print(table)
    table = Table(title="action")
    for column in ("component", "kind", "tokens", "values of each"):
        table.add_column(column)
    for component in result.models.action_spec.components:
        sizes = ",".join(map(str, component.sizes[:8]))
        table.add_row(component.path, component.kind, str(len(component.sizes)), sizes)
    out.print(table)
    megabyte, replay = 1e6, result.replay
    print_mapping(
        f"cost with preset {command.preset}, {command.steps} steps on {command.device}",
        {
            **{f"parameters, {part}": count for part, count in result.parameters.items()},
            "weights and optimisers": f"{result.model_bytes / megabyte:.1f} MB",
            "replay, when full": f"{replay.num_bytes / megabyte:.1f} MB ({replay.bytes_per_row} bytes/step)",
            "peak memory of an update, with the libraries": f"{result.peak_bytes / megabyte:.0f} MB",
            **{f"{part}, per 1000 steps": f"{seconds:.2f} s" for part, seconds in result.seconds.items()},
            "all, per 1000 steps": f"{sum(result.seconds.values()):.1f} s",
            f"all of training, {command.steps} steps, without evaluations": f"{result.total_seconds / 60:.0f} min",
        },
    )
    if result.missing:
        out.print(f"note: training would not begin: {result.missing}")
    if result.extrapolated:
        out.print("Long updates were measured on smaller batches; the peak memory is that of these.")


def with_choices(config: Config, arguments: list[str]) -> tuple[Config, list[str]]:
    """Take choices between components, such as ``--world-model.sequence attention``, from a command line.

    They decide which flags there are. Raises ConfigError for a component that does not exist.
    """
    left, unread = [], iter(arguments)
    for argument in unread:
        flag, equals, name = argument.partition("=")
        place = flag.removeprefix("--").replace("-", "_")
        if place not in choices(config) or not flag.startswith("--"):
            left.append(argument)
        elif name := name if equals else next(unread, ""):
            config = choose(config, place, name)
        else:
            raise ConfigError(f"{flag} needs a name. Available: {', '.join(choices(config)[place])}.")
    return config, left


def choices_help(config: Config) -> str:
    """The flags of ``with_choices``, with what is chosen when they are not given."""
    lines = [
        f"--{place.replace('_', '-')} {{{','.join(registry)}}} (default: {registry.name_of(type(at(config, place)))})"
        for place, registry in choices(config).items()
    ]
    return "\n".join(["Components, which bring options of their own:", *lines])


def preset_of(arguments: list[str]) -> str | None:
    """Value of --preset on a command line, before the rest of it can be parsed; None where there is none."""
    for i, argument in enumerate(arguments):
        if argument.startswith("--preset="):
            return argument.partition("=")[2]
        if argument == "--preset" and i + 1 < len(arguments):
            return arguments[i + 1]
    return None


def parse(arguments: list[str]) -> Any:
    """Command line to a command. Exits with status 2 and a message for arguments that make no sense."""
    if not arguments or arguments[0] not in COMMANDS:
        wanted = arguments[0] if arguments else ""
        if wanted in ("-h", "--help"):
            console(quiet=False).print(USAGE)
            raise SystemExit(0)
        raise ConfigError(f"unknown command '{wanted}'. Commands: {', '.join(COMMANDS)}." if wanted else USAGE)
    name, rest = arguments[0], arguments[1:]
    kind = COMMANDS[name]
    if "config" not in kind.__dataclass_fields__:
        return tyro.cli(kind, args=rest, prog=f"worldstream {name}")
    required = {f.name: tyro.MISSING for f in fields(kind) if f.default is f.default_factory}  # both MISSING

    def parse_from(preset: str, *, tolerant: bool = False) -> Any:
        config, left = with_choices(PRESETS[preset](), rest)
        default = kind(**required, config=config)
        program, text = f"worldstream {name}", f"{kind.__doc__}\n\n{choices_help(config)}"
        if tolerant:
            return tyro.cli(
                kind, args=left, default=default, prog=program, description=text, return_unknown_args=True
            )[0]
        return tyro.cli(kind, args=left, default=default, prog=program, description=text)

    if (preset := preset_of(rest)) is not None:
        return parse_from(preset)
    # The environment decides which flags there are, and is known only after a first reading.
    command = parse_from(DEFAULT_PRESET, tolerant=True)
    if command.env is None or getattr(command, "resume", None) is not None:
        return parse_from(DEFAULT_PRESET)
    suited = resolve(command.env).suited_preset
    return replace(parse_from(suited), preset=suited)


USAGE = """usage: worldstream COMMAND ...

  train     --env ENV --steps N    train an agent on any Gymnasium environment
  evaluate  RUN                    measure the return of a trained agent
  report    RUN ...                write one HTML file with pictures
  info      ENV                    tokens, memory and time, before anything is trained
  import-checkpoint FILE --config {atari,dmc,craftax} --env ENV
                                   a checkpoint of the published agent as a run

`worldstream COMMAND --help` explains a command."""


def main(arguments: list[str] | None = None) -> None:
    """Entry point. Exits with the error's status after one message; a keyboard interrupt exits with 130."""
    shown = warnings.showwarning
    warnings.showwarning = _show_warning
    try:
        parse(sys.argv[1:] if arguments is None else arguments).run()
    except WorldstreamError as error:
        print(f"worldstream: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    except BrokenPipeError:  # the reader of our output has gone, as in `worldstream train --help | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        print("worldstream: interrupted", file=sys.stderr)
        raise SystemExit(130) from None
    finally:
        warnings.showwarning = shown


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Our warnings as one line; those of others as ever."""
    ours = issubclass(category, WorldstreamWarning)
    text = f"worldstream: warning: {message}\n" if ours else warnings.formatwarning(message, category, filename, lineno)
    (file or sys.stderr).write(text)
