"""Errors that a user can cause: one message that names what, where and the remedy, and never a traceback.

The command line catches ``WorldstreamError``, prints its text and exits with ``exit_code``; a ``WorldstreamWarning``
becomes one line. Everything else that escapes is a defect of ours and keeps its traceback.
"""

from __future__ import annotations

import warnings
from typing import ClassVar


class WorldstreamError(Exception):
    """Something that the user can mend. The message names the place, the value and the remedy."""

    exit_code = 2


class SpaceError(WorldstreamError):
    """An observation or action space (or an override for a key of it) that is not supported."""


class EnvironmentFault(WorldstreamError):
    """An environment that cannot be made, raises, or returns something outside of its own spaces."""

    exit_code = 3


class ConfigError(WorldstreamError):
    """An unknown preset, option or component, or values that contradict each other."""


class DivergedError(WorldstreamError):
    """Losses are no longer finite numbers."""

    exit_code = 5


class OutOfMemoryError(WorldstreamError):
    """The device or the machine has too little memory for what was asked for."""

    exit_code = 6


class Interrupted(WorldstreamError):
    """The run was told to stop before its end, and has been saved."""

    exit_code = 75


class RunFolderError(WorldstreamError):
    """A folder that is not a run, is incomplete, belongs to something else, or cannot be written."""

    exit_code = 4


class WeightsError(WorldstreamError):
    """Weights from elsewhere that do not fit the model that they are meant for."""

    exit_code = 4


class PersonInterrupt(KeyboardInterrupt):
    """Ctrl-C, where the handler of the signal says so."""

    is_told_apart: ClassVar[bool] = False
    """Whether it does now: then every other KeyboardInterrupt was raised by the code of an environment."""


FOREIGN = (Exception, SystemExit, GeneratorExit, KeyboardInterrupt)
"""What the code of an environment may raise; ``sys.exit()`` in it must not end a run as if all were well."""


def let_person_through(error: BaseException) -> None:
    """Raise it again when it is, or may be, the Ctrl-C of a person."""
    is_interrupt = isinstance(error, KeyboardInterrupt)
    if is_interrupt and (isinstance(error, PersonInterrupt) or not PersonInterrupt.is_told_apart):
        raise error


class WorldstreamWarning(UserWarning):
    """Something that went wrong and was survived. The message says what is lost."""


def warn(message: str) -> None:
    """Warn the caller of the function that calls this."""
    warnings.warn(message, WorldstreamWarning, stacklevel=3)
