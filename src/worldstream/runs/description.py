"""run.json: what a run says about itself. Written when it is trained or imported, and read by all that comes after."""

from __future__ import annotations

import json
import platform
import re
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import numpy as np

from worldstream.config import Config
from worldstream.environments.factory import UNNAMED, EnvironmentFactory
from worldstream.errors import ConfigError, RunFolderError
from worldstream.options import Between, from_plain, to_plain
from worldstream.runs.folder import RunFolder
from worldstream.runs.trust import require_trusted
from worldstream.specs import ActionComponent, ActionSpec, KeySpec, Specs
from worldstream.training.experiment import Experiment
from worldstream.version import __version__

Origin = Literal["trained", "imported"]
"""Where the weights of a run come from: its own training, or a checkpoint from elsewhere."""

VERSIONED = ("torch", "numpy", "gymnasium")
"""Packages whose versions are recorded."""

_ALWAYS = {"config": dict, "specs": dict, "environment": str}
_OF_TRAINING = {"seed": int, "steps": int, "device": str}
"""Fields by type; those of the training are null where the run was imported."""
MAX_STEPS = 10**12 - 1
"""Environment steps of a run: names of checkpoints have twelve digits."""
MAX_SIZE = 2**31 - 1
"""Numbers along an axis of what is observed or done, and values of one of them."""
_BOUNDS = {"seed": Between(0, 2**31 - 1), "steps": Between(1, MAX_STEPS)}


def default_output(environment: EnvironmentFactory, *parts: str) -> Path:
    """runs/<environment>-<part>-..., with a number behind it when that exists already."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", environment.recorded_name)
    base = Path("runs") / "-".join((name, *parts))
    candidates = [base, *(base.with_name(f"{base.name}-{i}") for i in range(2, 10_000))]
    return next(path for path in candidates if not path.exists())


def describe(experiment: Experiment, specs: Specs, *, preset: str, origin: Origin) -> dict[str, Any]:
    """What run.json says, beside the protocol of the environment."""
    trained = origin == "trained"
    return {
        "worldstream": __version__,
        "versions": {"python": platform.python_version(), **{name: metadata.version(name) for name in VERSIONED}},
        "machine": f"{platform.machine()} {platform.system()}",
        "environment": experiment.environment.recorded_name,
        "preset": preset,
        "origin": origin,
        "seed": experiment.seed if trained else None,
        "steps": experiment.steps if trained else None,
        "device": str(experiment.device) if trained else None,
        "config": json.loads(json.dumps(experiment.config.to_json())),
        "specs": specs_to_json(*specs),
    }


def specs_to_json(key_specs: dict[str, KeySpec], action_spec: ActionSpec) -> dict[str, Any]:
    """Specs as plain values, for run.json."""
    return {"observation": [to_plain(spec) for spec in key_specs.values()], "action": to_plain(action_spec)}


def specs_from_json(data: dict[str, Any]) -> Specs:
    """Inverse of ``specs_to_json``. Raises RunFolderError when a field is missing, unknown or ill-typed."""
    try:
        keys = [from_plain(KeySpec, item, "observation") for item in data["observation"]]
        specs = {spec.key: spec for spec in keys}, from_plain(ActionSpec, data["action"], "action")
        described: list[KeySpec | ActionComponent] = [*keys, *specs[1].components]
        for spec in described:
            np.dtype(spec.dtype)
            sizes = (1, *spec.shape, *getattr(spec, "sizes", ()), *getattr(spec, "vocabulary", ()))
            if not 1 <= min(sizes) <= max(sizes) <= MAX_SIZE:
                raise TypeError(f"sizes {sizes[1:]} are not between 1 and {MAX_SIZE}")
        return specs
    except (KeyError, TypeError, ConfigError) as error:
        raise RunFolderError(f"run.json describes its observations or actions in an unknown way: {error}.") from error


def read_run(folder: RunFolder) -> dict[str, Any]:
    """run.json of a folder. Raises RunFolderError when it is not that of a run."""
    description = folder.read_description()
    needed = _ALWAYS if is_imported(folder, description) else {**_ALWAYS, **_OF_TRAINING}
    for name, kind in needed.items():
        value = description.get(name)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise RunFolderError(
                f"{folder.description} has no '{name}' that makes sense: it was not written by `worldstream train`."
            )
        if name in _BOUNDS and not _BOUNDS[name].low <= int(description[name]) <= _BOUNDS[name].high:
            raise RunFolderError(f"{folder.description}: {name} must be {_BOUNDS[name]}, not {value}.")
    return description


def config_of(folder: RunFolder, description: dict[str, Any]) -> Config:
    """The configuration that run.json states. Raises RunFolderError that names the field that makes no sense."""
    try:
        return Config.from_json(description["config"])
    except ConfigError as error:
        raise RunFolderError(f"{folder.description}: {error}") from error


def config_to_resume(folder: RunFolder, description: dict[str, Any]) -> Config:
    """``config_of`` a run that will train; a folder that run.json names is not made: only one that is typed is.

    Raises RunFolderError.
    """
    config = config_of(folder, description)
    place = config.replay.memory_map
    if place is not None and not Path(place).is_dir():
        raise RunFolderError(
            f"{folder.description}: replay.memory_map names {place}, which is no folder here. Make it yourself, if "
            "replay is to be kept there."
        )
    return config


def is_imported(folder: RunFolder, description: dict[str, Any]) -> bool:
    """Whether run.json is of a run that was imported instead of trained, so that it has no training of its own.

    Raises RunFolderError for an origin that we do not know.
    """
    origin = description.get("origin")
    if origin not in ("trained", "imported"):
        raise RunFolderError(
            f"{folder.description} has origin {json.dumps(origin)}; known are 'trained' and 'imported'. "
            "Use the version of worldstream that wrote it."
        )
    return bool(origin == "imported")


def recorded_environment(folder: RunFolder, description: dict[str, Any]) -> str:
    """Name of the environment that a run recorded, which may be made unasked.

    Raises EnvironmentFault where it may not (see ``require_trusted``), and ConfigError when it was a Python function
    without a name.
    """
    recorded = str(description["environment"])
    if recorded.startswith(UNNAMED):
        raise ConfigError(f"the environment of {folder.path} was a Python function. Name it: --env module:factory.")
    require_trusted(folder, description)
    return recorded
