"""worldstream: agents that learn inside a modular world model over streams of tokens.

::

    environment --> replay (episodes) --> tokenizers --> world model (embed -> sequence model -> heads)
        ^                                                     |
        | policy                                              v
        '-------------- actor-critic <---------------- imagination

``train`` learns an agent for any Gymnasium environment; ``evaluate`` measures its return; ``Agent.load`` reads it
back; ``Agent.act`` acts.
``docs/tour.md`` gives the reading order.
"""

import importlib
from typing import TYPE_CHECKING, Any

from worldstream.version import __version__

if TYPE_CHECKING:
    from worldstream.api import Agent, EvaluationResult, TrainingResult, evaluate, resume, train
    from worldstream.config import Config
    from worldstream.environments.config import EnvironmentConfig
    from worldstream.errors import ConfigError, EnvironmentFault, RunFolderError, SpaceError, WorldstreamError
    from worldstream.presets import PRESETS

_HOMES = {
    "Agent": "api",
    "EvaluationResult": "api",
    "TrainingResult": "api",
    "evaluate": "api",
    "resume": "api",
    "train": "api",
    "Config": "config",
    "EnvironmentConfig": "environments.config",
    "ConfigError": "errors",
    "EnvironmentFault": "errors",
    "RunFolderError": "errors",
    "SpaceError": "errors",
    "WorldstreamError": "errors",
    "PRESETS": "presets",
}

__all__ = [
    "PRESETS",
    "Agent",
    "Config",
    "ConfigError",
    "EnvironmentConfig",
    "EnvironmentFault",
    "EvaluationResult",
    "RunFolderError",
    "SpaceError",
    "TrainingResult",
    "WorldstreamError",
    "__version__",
    "evaluate",
    "resume",
    "train",
]


def __getattr__(name: str) -> Any:
    """Import public names when they are first used, so that a lower layer does not load all others."""
    if name not in _HOMES:
        raise AttributeError(f"module 'worldstream' has no attribute '{name}'")
    return getattr(importlib.import_module(f"worldstream.{_HOMES[name]}"), name)
