"""The command line: ``worldstream train | evaluate | ...``. Thin: every command is a function of the Python interface.

A preset is a complete configuration; every leaf of it is a flag (``worldstream train --preset demo --help`` lists
them). Errors that a user can mend end in one message and a non-zero status.
"""

from __future__ import annotations

import inspect
import os
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from inspect import Parameter
from pathlib import Path
from typing import Annotated, Any, TextIO

import tyro
from rich.table import Table
from tyro.conf import Positional, arg

from worldstream import api
from worldstream.config import Config
from worldstream.environments import resolve
from worldstream.errors import ConfigError, WorldstreamError, WorldstreamWarning
from worldstream.options import at, choices, choose
from worldstream.presets import PRESETS
from worldstream.runs.progress import console

DEFAULT_PRESET = "demo"
"""Where an environment does not say otherwise, and of what ``--help`` shows."""

Env = Annotated[str, arg(name="env")]
MaybeEnv = Annotated[str | None, arg(name="env")]
Options = Annotated[Config, arg(name="")]
"""Leaves of the configuration, as flags without a prefix."""
Modality = Annotated[
    tuple[str, ...],
    arg(help="KEY=KIND for keys whose space does not say what they are: image=grid:11,6,4 or mission=ignore."),
]
Resume = Annotated[
    Path | None, arg(help="run folder to continue from its newest checkpoint; everything else is as recorded there.")
]
CloseEpisodes = Annotated[
    bool, arg(help="with --resume: close the episodes, as truncated, whose environment refuses its saved state.")
]


@dataclass(frozen=True)
class Command:
    """A command and its arguments, by the names of the function's parameters."""

    function: Callable[..., Any]
    options: dict[str, Any]

    def run(self) -> None:
        """Call the function with the arguments."""
        self.function(**self.options)


@dataclass(frozen=True)
class Interface:
    """What the command line offers of a function: tyro reads its parameters and its documentation.

    Args:
        run: takes the arguments.
        source: whose parameters and documentation they are.
        changes: (type, default) by name, for parameters that the command line takes otherwise or besides; None leaves
            one out.
    """

    run: Callable[..., Any]
    source: Callable[..., Any]
    changes: dict[str, tuple[Any, Any] | None]

    @property
    def is_configured(self) -> bool:
        """Whether the leaves of a configuration are among its flags."""
        return "config" in inspect.signature(self.source).parameters

    def parser(self, config: Config | None = None) -> Callable[..., Command]:
        """What ``tyro.cli`` takes; the flags of the configuration start from ``config``."""
        given = inspect.signature(self.source, eval_str=True).parameters
        kinds: dict[str, Any] = {name: (each.annotation, each.default) for name, each in given.items()} | self.changes
        if self.is_configured:
            kinds["config"] = (Options, config)
        kinds["config"] = kinds.pop("config", None)  # the long list of its flags comes last
        shown = {name: kind for name, kind in kinds.items() if kind is not None}

        def parsed(**options: Any) -> Command:
            return Command(self.run, options)

        parameters = [
            Parameter(name, Parameter.KEYWORD_ONLY, annotation=annotation, default=default)
            for name, (annotation, default) in shown.items()
        ]
        parsed.__doc__ = self.source.__doc__
        parsed.__annotations__ = {each.name: each.annotation for each in parameters}
        setattr(parsed, "__signature__", inspect.Signature(parameters))  # noqa: B010
        return parsed

    @property
    def description(self) -> str:
        """What the command does."""
        return (inspect.getdoc(self.source) or "").partition("\n\nArgs:")[0]


def train(*, resume: Path | None, close_episodes: bool, modality: tuple[str, ...], **options: Any) -> None:
    """``api.train``, or ``api.resume`` with nothing that contradicts the run."""
    if resume is not None:
        known = inspect.signature(api.train).parameters
        given = [
            f"--{name.replace('_', '-')}"
            for name in ("steps", "preset", "seed", "device", "output")
            if options[name] != (None if name == "steps" else known[name].default)
        ]
        given += ["--modality"] if modality else []
        if options["preset"] is None and options["config"] != PRESETS[DEFAULT_PRESET]():
            given.append("flags of the configuration")
        if given:
            raise ConfigError(f"--resume continues the run as it was recorded; leave out {', '.join(given)}.")
        shared = ("environment", "time_limit", "force", "quiet")
        api.resume(resume, close_episodes=close_episodes, **{name: options[name] for name in shared})
        return
    if close_episodes:
        raise ConfigError("--close-episodes belongs to --resume RUN: it closes episodes that a run was left in.")
    if options["environment"] is None or options["steps"] is None:
        raise ConfigError("give --env and --steps (or --resume RUN to continue a run).")
    api.train(**{**options, "config": with_modalities(options["config"], modality)})


def evaluate(path: Path, **options: Any) -> None:
    """``api.evaluate``, and print what came out."""
    result = api.evaluate(path, **options)
    print_mapping(f"{result.environment}, {options['episodes']} episodes", result.evaluation.summary)
    for line in filter(None, (result.evaluation.reservation, result.note)):
        console(quiet=False).print(line)


def report(paths: tuple[Path, ...], output: Path | None = None) -> None:
    """Write one HTML file with pictures about one or several runs.

    Args:
        paths: folders that `worldstream train` wrote.
        output: file to write. Default: report.html in the first folder.
    """
    from worldstream.report.report import write_report

    if not paths:
        raise ConfigError("worldstream report needs at least one run folder.")
    console(quiet=False).print(f"report: {write_report(list(paths), output=output)}")


def info(
    environment: str,
    *,
    preset: str | None = None,
    steps: int = 100_000,
    device: str = "auto",
    modality: tuple[str, ...] = (),
    config: Config,
) -> None:
    """Say how an environment would be read, and what a run on it would cost, before anything is trained.

    Args:
        environment: Gymnasium id, or module:factory.
        preset: complete configuration that the flags below start from. None: the one that suits the environment.
        steps: planned environment steps, which bound the memory of replay.
        device: where the run would train.
        config: configuration.
    """
    from worldstream.models import choose_device
    from worldstream.runs.estimate import estimate
    from worldstream.training.experiment import Experiment

    if steps < 1:
        raise ConfigError(f"--steps must be at least 1, not {steps}.")
    chosen = with_modalities(config, modality)
    experiment = Experiment.of(environment, chosen, steps=steps, device=choose_device(device))
    print_estimate(estimate(experiment), experiment, preset)


def import_checkpoint(file: Path, *, modality: tuple[str, ...], **options: Any) -> None:
    """``api.import_checkpoint``."""
    overrides = with_modalities(Config(), modality).environment.modality
    api.import_checkpoint(file, modality=overrides, **options)


RUN_FOLDER = (Positional[Path], Parameter.empty)
PATH = (Path | None, None)
COMMANDS = {
    "train": Interface(
        train,
        api.train,
        {
            "environment": (MaybeEnv, None),
            "steps": (int | None, None),
            "resume": (Resume, None),
            "close_episodes": (CloseEpisodes, False),
            "output": PATH,
            "modality": (Modality, ()),
        },
    ),
    "evaluate": Interface(evaluate, api.evaluate, {"path": RUN_FOLDER, "environment": (MaybeEnv, None), "quiet": None}),
    "report": Interface(report, report, {"paths": (Positional[tuple[Path, ...]], Parameter.empty)}),
    "info": Interface(info, info, {"environment": (Positional[Env], Parameter.empty), "modality": (Modality, ())}),
    "import-checkpoint": Interface(
        import_checkpoint,
        api.import_checkpoint,
        {
            "file": (Positional[Path], Parameter.empty),
            "published": (Annotated[str, arg(name="config")], Parameter.empty),
            "environment": (Env, Parameter.empty),
            "settings": PATH,
            "output": PATH,
            "modality": (Modality, ()),
            "quiet": None,
        },
    ),
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


def print_estimate(result: Any, experiment: Any, preset: str | None) -> None:
    """Tables of ``worldstream info``."""
    from worldstream.replay.rows import bytes_per_row
    from worldstream.replay.token_cache import token_columns

    out = console(quiet=False)
    table = Table(title=f"observation of {experiment.environment.label}")
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
        f"cost with preset {preset}, {experiment.steps} steps on {experiment.device}",
        {
            **{f"parameters, {part}": count for part, count in result.parameters.items()},
            "weights and optimisers": f"{result.model_bytes / megabyte:.1f} MB",
            "replay, when full": f"{replay.num_bytes / megabyte:.1f} MB ({replay.bytes_per_row} bytes/step)",
            "peak memory of an update, with the libraries": f"{result.peak_bytes / megabyte:.0f} MB",
            **{f"{part}, per 1000 steps": f"{seconds:.2f} s" for part, seconds in result.seconds.items()},
            "all, per 1000 steps": f"{sum(result.seconds.values()):.1f} s",
            f"all of training, {experiment.steps} steps, without evaluations": f"{result.total_seconds / 60:.0f} min",
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


def parse(arguments: list[str]) -> Command:
    """Command line to a command. Exits with status 2 and a message for arguments that make no sense."""
    if not arguments or arguments[0] not in COMMANDS:
        wanted = arguments[0] if arguments else ""
        if wanted in ("-h", "--help"):
            console(quiet=False).print(USAGE)
            raise SystemExit(0)
        raise ConfigError(f"unknown command '{wanted}'. Commands: {', '.join(COMMANDS)}." if wanted else USAGE)
    name, rest = arguments[0], arguments[1:]
    interface, program = COMMANDS[name], f"worldstream {name}"
    if not interface.is_configured:
        return tyro.cli(interface.parser(), args=rest, prog=program, description=interface.description)

    def parse_from(preset: str, *, tolerant: bool = False) -> Command:
        config, left = with_choices(PRESETS[preset](), rest)
        parser, text = interface.parser(config), f"{interface.description}\n\n{choices_help(config)}"
        if tolerant:
            return tyro.cli(parser, args=left, prog=program, description=text, return_unknown_args=True)[0]
        return tyro.cli(parser, args=left, prog=program, description=text)

    if (preset := preset_of(rest)) is not None:
        return parse_from(preset)
    # The environment decides which flags there are, and is known only after a first reading.
    options = parse_from(DEFAULT_PRESET, tolerant=True).options
    if options["environment"] is None or options.get("resume") is not None:
        return parse_from(DEFAULT_PRESET)
    suited = resolve(options["environment"]).suite.preset
    command = parse_from(suited)
    return replace(command, options={**command.options, "preset": suited})


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
