"""worldstream: agents that learn inside a modular world model over streams of tokens.

::

    environment --> replay (episodes) --> tokenizers --> world model (embed -> sequence model -> heads)
        ^                                                     |
        | policy                                              v
        '-------------- actor-critic <---------------- imagination

``info`` says how a Gymnasium environment would be read and what a run would cost; ``train`` learns an agent for it, and
``resume`` goes on where that was interrupted; ``evaluate`` measures its return; ``write_report`` shows the run;
``Agent.load`` reads the agent back; ``Agent.act`` acts. ``import_checkpoint`` makes a run of a published agent.
``docs/tour.md`` gives the reading order.
"""

import importlib
from typing import TYPE_CHECKING, Any

from worldstream.version import __version__

if TYPE_CHECKING:
    from worldstream.api import (
        Agent,
        Estimate,
        EvaluationResult,
        Survey,
        TrainingResult,
        diagnose,
        evaluate,
        import_checkpoint,
        info,
        resume,
        survey_tokens,
        train,
        write_report,
    )
    from worldstream.config import Config
    from worldstream.environments.config import EnvironmentConfig
    from worldstream.errors import ConfigError, EnvironmentFault, RunFolderError, SpaceError, WorldstreamError
    from worldstream.presets import PRESETS

_HOMES = {
    "Agent": "api",
    "Estimate": "api",
    "EvaluationResult": "api",
    "Survey": "api",
    "TrainingResult": "api",
    "diagnose": "api",
    "evaluate": "api",
    "import_checkpoint": "api",
    "info": "api",
    "resume": "api",
    "survey_tokens": "api",
    "train": "api",
    "write_report": "api",
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
    "Estimate",
    "EvaluationResult",
    "RunFolderError",
    "SpaceError",
    "Survey",
    "TrainingResult",
    "WorldstreamError",
    "__version__",
    "diagnose",
    "evaluate",
    "import_checkpoint",
    "info",
    "resume",
    "survey_tokens",
    "train",
    "write_report",
]


def __getattr__(name: str) -> Any:
    """Import public names when they are first used, so that a lower layer does not load all others."""
    if name not in _HOMES:
        raise AttributeError(f"module 'worldstream' has no attribute '{name}'")
    return getattr(importlib.import_module(f"worldstream.{_HOMES[name]}"), name)
