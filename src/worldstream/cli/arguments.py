"""Arguments of commands: from the parameters and the documentation of the functions of the Python interface."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from inspect import Parameter
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import arg

from worldstream.config import Config
from worldstream.errors import ConfigError
from worldstream.options import at, choices, choose

REQUIRED = Parameter.empty
"""Default of an argument that has none."""
Env = Annotated[str, arg(name="env", help="Gymnasium id (CartPole-v1), or module:factory.")]
TrainedEnv = Annotated[
    str | None,
    arg(
        name="env",
        help="Gymnasium id (CartPole-v1), or module:factory. With --resume: as recorded; needed when that is code that "
        "you did not train the run with on this machine.",
    ),
]
EvaluatedEnv = Annotated[
    str | None,
    arg(
        name="env",
        help="where to evaluate. None: as recorded; needed when that is code that you did not train the run with on "
        "this machine.",
    ),
]
ImportedEnv = Annotated[str, arg(name="env")]
Preset = Annotated[
    str | None,
    arg(help="complete configuration that the flags below start from. None: the one that suits the environment."),
]
Published = Annotated[str, arg(name="config")]
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
        arguments: dict[str, Any] = {
            name: (each.annotation, each.default) for name, each in given.items()
        } | self.changes
        if self.is_configured:
            arguments["config"] = (Options, config)
        arguments["config"] = arguments.pop("config", None)  # the long list of its flags comes last
        shown = {name: argument for name, argument in arguments.items() if argument is not None}

        def parsed(**options: Any) -> Command:
            return Command(self.run, options)

        parameters = [
            Parameter(name, Parameter.KEYWORD_ONLY, annotation=annotation, default=default)
            for name, (annotation, default) in shown.items()
        ]
        parsed.__doc__ = _shown(self.source)
        parsed.__annotations__ = {each.name: each.annotation for each in parameters}
        setattr(parsed, "__signature__", inspect.Signature(parameters))  # noqa: B010
        return parsed

    @property
    def description(self) -> str:
        """What the command does."""
        return _shown(self.source).partition("\n\nArgs:")[0]


def _shown(source: Callable[..., Any]) -> str:
    """The documentation of a function as a terminal shows it: without the marks of code."""
    return (inspect.getdoc(source) or "").replace("``", "")


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
