"""Published checkpoints: a PyTorch state dict and an environment become a configuration and models of ours."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from worldstream.compat.architecture import (
    PublishedSettings,
    cell_vocabulary,
    config_for,
    has_continuous_actions,
    in_published_order,
    observed_kinds,
    published_kinds,
)
from worldstream.compat.tensors import ForeignTensors
from worldstream.compat.weights import load_published
from worldstream.config import Config
from worldstream.environments import ENVIRONMENTS, make_environment
from worldstream.environments.config import EnvironmentConfig
from worldstream.errors import ConfigError, WeightsError
from worldstream.models import Models
from worldstream.presets import PRESETS
from worldstream.specs import ActionSpec, KeySpec

SETTINGS: dict[str, PublishedSettings] = {
    "atari": PublishedSettings(
        decay_blocks=(4.0, 16.0), context_length=2, segment_length=10, batch_size=32, horizon=9
    ),
    "dmc": PublishedSettings(
        decay_blocks=(2.0, 2.0),
        context_length=1,
        segment_length=20,
        batch_size=16,
        horizon=20,
        intrinsic_weight=10.0,
        action_repeat=2,
    ),
    "craftax": PublishedSettings(
        decay_blocks=(8.0, 40.0), context_length=2, segment_length=20, batch_size=8, horizon=19, extrinsic_weight=100.0
    ),
}
"""The three published configurations (method.md 9.1, 10.2)."""

PROTOCOLS = {"atari": ("atari", "atari100k")}
"""Suite whose environments are made as the preset behind it says."""

COMPILED = "_orig_mod."
"""What compiled modules put into the names of their parameters."""


def read_checkpoint(path: Path) -> ForeignTensors:
    """Read a state dict; nothing but tensors is ever unpickled. Raises WeightsError when it is none."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise WeightsError(f"cannot read {path}: {error.strerror or error}.") from error
    except Exception as error:  # of a damaged file PyTorch raises nearly anything
        text = str(error).splitlines()[0] if str(error) else ""
        reason = f"{type(error).__name__}: {text}" if text and "weights_only" not in str(error) else "not tensors only."
        raise WeightsError(
            f"{path} is no state dict of PyTorch, or holds more than tensors, which is not loaded: {reason} "
            "Save it anew as torch.save(agent.state_dict(), file)."
        ) from error
    if not isinstance(state, Mapping) or not state or not all(isinstance(x, Tensor) for x in state.values()):
        raise WeightsError(
            f"{path} holds {_outline(state)}, not tensors by name. "
            "Save it anew as torch.save(agent.state_dict(), file)."
        )
    # What is on no device is a template that a module of the published agent keeps for itself, not a weight.
    weights = {str(name).replace(COMPILED, ""): tensor for name, tensor in state.items() if not tensor.is_meta}
    return ForeignTensors(weights, str(path))


class PublishedAgent(NamedTuple):
    """A published agent as ours."""

    config: Config
    models: Models
    protocol: dict[str, Any]  # what the environment says about how it is played


def published_agent(
    tensors: ForeignTensors, *, published: str, environment: Any, modality: Mapping[str, str] | None = None
) -> PublishedAgent:
    """Models of a published agent for an environment, with its weights.

    Args:
        tensors: the checkpoint.
        published: which of ``SETTINGS`` it was trained with.
        environment: name or factory; its keys are matched by what they are, and its shapes must be those of the
            tensors.
        modality: overrides by observation key, as in ``EnvironmentConfig``.

    Raises:
        ConfigError: unknown configuration.
        WeightsError: checkpoint and environment do not fit each other.
        SpaceError, EnvironmentFault: the environment cannot be used.
    """
    if published not in SETTINGS:
        raise ConfigError(f"unknown published configuration '{published}'. Available: {', '.join(SETTINGS)}.")
    config = config_for(tensors, SETTINGS[published])
    played = _played(environment, published, config.environment)
    config = replace(config, environment=replace(played, modality=dict(modality or {})))
    made = make_environment(environment, config.environment)
    made.close()
    if matrices := _matrices_of_cells(tensors, made.observation_specs):
        overrides = {**matrices, **config.environment.modality}
        config = replace(config, environment=replace(config.environment, modality=overrides))
        made = make_environment(environment, config.environment)
        made.close()
    _check_keys(tensors, made.observation_specs, made.name)
    _check_actions(tensors, made.action_spec, made.name)
    models = Models(config, in_published_order(made.observation_specs), made.action_spec).eval()
    load_published(models, tensors)
    return PublishedAgent(config, models, made.protocol)


def _played(environment: Any, published: str, otherwise: EnvironmentConfig) -> EnvironmentConfig:
    """How the environment is made: as in the preset of the publication, where it is of the suite that this is for."""
    suite, preset = PROTOCOLS.get(published, ("", ""))
    if suite and next(name for name, each in ENVIRONMENTS.items() if each.claims(environment)) == suite:
        played: EnvironmentConfig = PRESETS[preset]().environment
        return played
    return otherwise


def _matrices_of_cells(tensors: ForeignTensors, keys: Mapping[str, KeySpec]) -> dict[str, str]:
    """Modality of the keys that are matrices with as many columns as cells of the agent have channels."""
    vocabulary = cell_vocabulary(tensors)
    return {
        key: f"grid:{','.join(map(str, vocabulary))}"
        for key, spec in keys.items()
        if spec.modality == "grid" and spec.space_shape is not None and spec.space_shape[1:] == (len(vocabulary),)
    }


def _check_keys(tensors: ForeignTensors, keys: Mapping[str, KeySpec], environment: str) -> None:
    """Raises WeightsError unless the keys of the environment are of the kinds that the agent observes."""
    kinds, observed = published_kinds(keys), observed_kinds(tensors)
    there = ", ".join(f"'{key}' ({kind}, shape {keys[key].shape})" for key, kind in kinds.items())
    if set(kinds.values()) != set(observed):
        raise WeightsError(
            f"{tensors.source} observes {', '.join(observed)}; the keys of '{environment}' are {there}. "
            "Name the environment that the weights were trained on, or say what its keys are (--modality KEY=KIND)."
        )
    counts = Counter(kinds.values())
    if several := [kind for kind in ("image", "token_2d") if counts[kind] > 1]:
        raise WeightsError(
            f"{tensors.source} observes one {several[0]}, but '{environment}' has several: {there}. "
            "Leave the others out (--modality KEY=ignore)."
        )


def _check_actions(tensors: ForeignTensors, action: ActionSpec, environment: str) -> None:
    """Raises WeightsError unless actions are of the kind, and as many, as the agent chooses from."""
    continuous = has_continuous_actions(tensors)
    rows = tensors.shape(f"actor_critic.actor_linear.{'0.' if continuous else ''}weight")[0]
    fits = sum(action.sizes) == rows and (all(action.ordinal) if continuous else len(action.sizes) == 1)
    if not fits:
        chosen = f"levels of {rows // max(action.sizes)} dimensions" if continuous else f"one of {rows} actions"
        offered = ", ".join(f"{component.kind} {component.sizes}" for component in action.components)
        raise WeightsError(
            f"{tensors.source} chooses {chosen}; '{environment}' takes {offered}. "
            "Name the environment that the weights were trained on (games: with their minimal set of actions)."
        )


def _outline(state: Any) -> str:
    if isinstance(state, Mapping):
        other = [f"'{name}' ({type(value).__name__})" for name, value in state.items() if not isinstance(value, Tensor)]
        return f"entries such as {', '.join(other[:3])}" if other else "nothing"
    return f"a {type(state).__name__}"
