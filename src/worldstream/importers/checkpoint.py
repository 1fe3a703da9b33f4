"""Published checkpoints: a PyTorch state dict and an environment become a configuration and models of ours."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from worldstream.config import Config
from worldstream.environments import make_environment, resolve
from worldstream.environments.config import EnvironmentConfig
from worldstream.errors import ConfigError, WeightsError
from worldstream.importers.architecture import (
    action_dimensions,
    cell_vocabulary,
    config_for,
    has_continuous_actions,
    observed_kinds,
)
from worldstream.importers.kinds import in_published_order, lists_of_tokens, published_kinds
from worldstream.importers.settings import SETTINGS, PublishedSettings
from worldstream.importers.tensors import ForeignTensors, Size
from worldstream.importers.weights import load_published, make_models
from worldstream.models import Models
from worldstream.presets import PRESETS
from worldstream.specs import ActionSpec, KeySpec

OBSERVED: dict[str, tuple[list[str], bool]] = {
    "atari": (["image"], False),
    "dmc": (["vector"], True),
    "craftax": (["vector", "token", "token_2d"], False),
}
"""Kinds of observation of the agents of each published configuration, and whether their actions are continuous."""

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
    notes: list[str]  # what nothing can check, for the user to compare


def published_agent(
    tensors: ForeignTensors,
    *,
    published: str,
    environment: Any,
    modality: Mapping[str, str] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> PublishedAgent:
    """Models of a published agent for an environment, with its weights.

    Args:
        tensors: the checkpoint.
        published: which of ``SETTINGS`` it was trained with.
        environment: name or factory; its keys are matched by what they are, and its shapes must be those of the
            tensors.
        modality: overrides by observation key, as in ``EnvironmentConfig``.
        settings: of an agent that was trained with others than published, see ``PublishedSettings.from_user``.

    Raises:
        ConfigError: unknown configuration.
        WeightsError: checkpoint, configuration and environment do not fit each other.
        SpaceError, EnvironmentFault: the environment cannot be used.
    """
    if published not in SETTINGS:
        raise ConfigError(f"unknown published configuration '{published}'. Available: {', '.join(SETTINGS)}.")
    _check_configuration(tensors, published)
    chosen = PublishedSettings.from_user(settings or {}, SETTINGS[published])
    config = config_for(tensors, chosen)
    if "batch_size" in (settings or {}) and config.world_model_learner.batch_size != chosen.batch_size:
        raise WeightsError(
            f"the settings say that batch_size is {chosen.batch_size}; it must be a multiple of the "
            f"{config.world_model.batch_shares} members of the ensemble."
        )
    played = _played(environment, published, config.environment)
    config = replace(config, environment=replace(played, modality=dict(modality or {})))
    made = make_environment(environment, config.environment)
    made.close()
    matrices, lists = _matrices_of_cells(tensors, made.observation_specs), lists_of_tokens(made.observation_specs)
    if matrices or lists:
        overrides = {**matrices, **config.environment.modality, **lists}
        config = replace(config, environment=replace(config.environment, modality=overrides))
        made = make_environment(environment, config.environment)
        made.close()
    kinds = published_kinds(made.observation_specs, observed_kinds(tensors), cell_vocabulary(tensors))
    _check_keys(tensors, made.observation_specs, kinds, made.name)
    _check_actions(tensors, made.action_spec, made.name)
    keys = in_published_order(made.observation_specs, kinds)
    models = make_models(config, keys, made.action_spec, tensors.source)
    load_published(models, tensors, kinds, code_width=chosen.code_width)
    notes = [*_joined_keys(kinds, list(keys)), *_repeated_actions(environment, config.environment)]
    return PublishedAgent(config, models, made.protocol, notes)


def _check_configuration(tensors: ForeignTensors, published: str) -> None:
    """Raises WeightsError when the agent is plainly one of another published configuration."""
    kinds, continuous = observed_kinds(tensors), has_continuous_actions(tensors)
    right = next((name for name, observed in OBSERVED.items() if observed == (kinds, continuous)), published)
    if right != published:
        raise WeightsError(
            f"{tensors.source} observes {', '.join(kinds)} and chooses {'levels' if continuous else 'categories'}, as "
            f"agents of the published configuration '{right}' do, not of '{published}'. Use --config {right}."
        )


def _joined_keys(kinds: Mapping[str, str], keys: list[str]) -> list[str]:
    """What a user should compare: the order of keys that the agent reads as one, which no tensor shows."""
    by_kind = {kind: [key for key in keys if kinds[key] == kind] for kind in kinds.values()}
    return [
        f"note: the agent reads {', '.join(joined)} one behind the other as one {kind}, in this order. It must be the "
        "order of its training."
        for kind, joined in by_kind.items()
        if len(joined) > 1
    ]


def _repeated_actions(environment: Any, played: EnvironmentConfig) -> list[str]:
    """That actions are repeated, where the environment may do so itself: nothing shows it."""
    frames, usual = (resolve(environment, config).action_repeat for config in (played, EnvironmentConfig()))
    if frames == usual:
        return []
    return [
        f"note: each action is repeated for {frames} frames, as in training. If the environment does that by itself, "
        'say so: --settings FILE with {"action_repeat": 1}.'
    ]


def _played(environment: Any, published: str, otherwise: EnvironmentConfig) -> EnvironmentConfig:
    """How the environment is made: as in the preset of the publication, where it is of the suite that this is for."""
    suite, preset = PROTOCOLS.get(published, ("", ""))
    if resolve(environment).suite_name == suite:
        played: EnvironmentConfig = PRESETS[preset]().environment
        repeat = otherwise.action_repeat
        return played if repeat is None else replace(played, action_repeat=repeat)
    return otherwise


def _matrices_of_cells(tensors: ForeignTensors, keys: Mapping[str, KeySpec]) -> dict[str, str]:
    """Modality of the keys that are matrices with as many columns as cells of the agent have channels."""
    vocabulary = cell_vocabulary(tensors)
    return {
        key: f"grid:{','.join(map(str, vocabulary))}"
        for key, spec in keys.items()
        if spec.modality == "grid" and spec.space_shape is not None and spec.space_shape[1:] == (len(vocabulary),)
    }


def _check_keys(
    tensors: ForeignTensors, keys: Mapping[str, KeySpec], kinds: Mapping[str, str], environment: str
) -> None:
    """Raises WeightsError unless the keys of the environment are of the kinds that the agent observes."""
    observed = observed_kinds(tensors)
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
    actor = f"actor_critic.actor_linear.{'0.' if continuous else ''}"
    rows = tensors.size(Size(f"{actor}weight", 0, 2), Size(f"{actor}bias", 0, 1))
    fits = sum(action.sizes) == rows and (all(action.ordinal) if continuous else len(action.sizes) == 1)
    if not fits:
        chosen = f"levels of {action_dimensions(tensors)} dimensions" if continuous else f"one of {rows} actions"
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
