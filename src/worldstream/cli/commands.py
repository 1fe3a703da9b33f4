"""The command line: ``worldstream train | evaluate | ...``. Thin: every command is a function of the Python interface.

A preset is a complete configuration; every leaf of it is a flag (``worldstream train --preset demo --help`` lists
them). Errors that a user can mend end in one message and a non-zero status.
"""

from __future__ import annotations

import inspect
import os
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO

import tyro
from tyro.conf import Positional

from worldstream import api
from worldstream.cli.arguments import (
    REQUIRED,
    CloseEpisodes,
    Command,
    Env,
    EvaluatedEnv,
    ImportedEnv,
    Interface,
    Modality,
    Preset,
    Published,
    Resume,
    TrainedEnv,
    choices_help,
    with_choices,
    with_modalities,
)
from worldstream.cli.tables import print_estimate, print_findings, print_mapping, print_survey
from worldstream.config import Config
from worldstream.environments import resolve
from worldstream.errors import ConfigError, WorldstreamError, WorldstreamWarning
from worldstream.presets import PRESETS
from worldstream.runs.progress import console

DEFAULT_PRESET = "demo"
"""Where an environment does not say otherwise, and of what ``--help`` shows."""


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


def diagnose(path: Path, **options: Any) -> None:
    """``api.diagnose``, as a table."""
    print_findings(api.diagnose(path, **options))


def report(runs: tuple[Path, ...], **options: Any) -> None:
    """``api.write_report``, and say where it is."""
    console(quiet=False).print(f"report: {api.write_report(runs, **options)}")


def info(*, modality: tuple[str, ...], **options: Any) -> None:
    """``api.info``, as tables."""
    config = with_modalities(options["config"], modality)
    print_estimate(api.info(**{**options, "config": config}), options["preset"])


def tokens(*, modality: tuple[str, ...], **options: Any) -> None:
    """``api.survey_tokens``, as a table and what to do."""
    config = with_modalities(options["config"], modality)
    print_survey(api.survey_tokens(**{**options, "config": config}))


def import_checkpoint(file: Path, *, modality: tuple[str, ...], **options: Any) -> None:
    """``api.import_checkpoint``."""
    overrides = with_modalities(Config(), modality).environment.modality
    api.import_checkpoint(file, modality=overrides, **options)


COMMANDS = {
    "train": Interface(
        train,
        api.train,
        {
            "environment": (TrainedEnv, None),
            "steps": (int | None, None),
            "preset": (Preset, None),
            "output": (Path | None, None),
            "resume": (Resume, None),
            "close_episodes": (CloseEpisodes, False),
            "modality": (Modality, ()),
        },
    ),
    "evaluate": Interface(
        evaluate,
        api.evaluate,
        {"path": (Positional[Path], REQUIRED), "environment": (EvaluatedEnv, None), "quiet": None},
    ),
    "diagnose": Interface(
        diagnose,
        api.diagnose,
        {"path": (Positional[Path], REQUIRED), "environment": (EvaluatedEnv, None), "quiet": None},
    ),
    "report": Interface(
        report, api.write_report, {"runs": (Positional[tuple[Path, ...]], REQUIRED), "output": (Path | None, None)}
    ),
    "info": Interface(
        info,
        api.info,
        {"environment": (Positional[Env], REQUIRED), "preset": (Preset, None), "modality": (Modality, ())},
    ),
    "tokens": Interface(
        tokens,
        api.survey_tokens,
        {"environment": (Positional[Env], REQUIRED), "preset": (Preset, None), "modality": (Modality, ())},
    ),
    "import-checkpoint": Interface(
        import_checkpoint,
        api.import_checkpoint,
        {
            "file": (Positional[Path], REQUIRED),
            "published": (Published, REQUIRED),
            "environment": (ImportedEnv, REQUIRED),
            "settings": (Path | None, None),
            "output": (Path | None, None),
            "modality": (Modality, ()),
            "quiet": None,
        },
    ),
}


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
  diagnose  RUN                    judge the world model of a run, and say what to change
  report    RUN ...                write one HTML file with pictures
  info      ENV                    tokens, memory and time, before anything is trained
  tokens    ENV                    which exact tokens suit its pictures, after random play
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
