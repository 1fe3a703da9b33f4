"""Environments: any Gymnasium environment as stored arrays and action ids, alone or many at once."""

from worldstream.environments.config import EnvironmentConfig, WorkerConfig
from worldstream.environments.factory import EnvironmentFactory, make_environment, resolve
from worldstream.environments.flat import FlatEnvironment, check
from worldstream.environments.suites import ENVIRONMENTS, Suite
from worldstream.environments.vector import StepResult, VectorEnvironment

__all__ = [
    "ENVIRONMENTS",
    "EnvironmentConfig",
    "EnvironmentFactory",
    "FlatEnvironment",
    "StepResult",
    "Suite",
    "VectorEnvironment",
    "WorkerConfig",
    "check",
    "make_environment",
    "resolve",
]
