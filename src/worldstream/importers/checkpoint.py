"""Published checkpoints: a PyTorch state dict and an environment become a configuration and models of ours."""

from __future__ import annotations

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
from worldstream.evaluation.evaluate import protocol_card
from worldstream.importers.names import load_published
from worldstream.importers.observations import joined_keys, modalities, published_types
from worldstream.importers.published import PLAYED, PUBLISHED, Parts, PublishedAgent
from worldstream.importers.settings import settings_from
from worldstream.importers.sizes import advice
from worldstream.importers.tensors import ForeignTensors
from worldstream.models import Models, num_parameters
from worldstream.runs.description import describe
from worldstream.runs.folder import RunFolder
from worldstream.runs.lock import locked
from worldstream.runs.weights import save_weights
from worldstream.specs import ActionSpec, KeySpec, Specs
from worldstream.training.experiment import Experiment

OBSERVED: dict[str, tuple[tuple[str, ...], bool]] = {
    "atari": (("image",), False),
    "dmc": (("vector",), True),
    "craftax": (("vector", "token", "token_2d"), False),
}
"""Kinds of observation of the agents of each published configuration, and whether their actions are continuous."""

MOST_UNLIKE = 100_000_000
"""Weights up to which an agent is built even where its tensors are far fewer, so that they are compared one by one."""

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


class ImportedAgent(NamedTuple):
    """A published agent as ours."""

    config: Config
    models: Models
    protocol: dict[str, Any]  # what the environment says about how it is played
    notes: list[str]  # what nothing can check, for the user to compare


def imported_agent(
    tensors: ForeignTensors,
    *,
    published: str,
    environment: Any,
    modality: Mapping[str, str] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> ImportedAgent:
    """Models of an agent that was trained with one of ``PUBLISHED``, for an environment, with its weights.

    The environment's keys are matched by what they are, or by ``modality`` as in ``EnvironmentConfig``; ``settings``
    are those of an agent that was trained with others than published, see ``settings_from``. Raises ConfigError for an
    unknown configuration, WeightsError when checkpoint, configuration and environment do not fit each other, and
    SpaceError and EnvironmentFault when the environment cannot be used.
    """
    agent = _stated_agent(tensors, published, settings or {})
    config = agent.config(tensors.source)
    played = _played(environment, published, config.environment)
    made = make_environment(environment, replace(played, modality=dict(modality or {})))
    made.close()
    played = replace(played, modality=modalities(made, tensors, modality or {}))
    made = make_environment(environment, played)
    made.close()
    types = published_types(made.observation_specs, agent.parts.observed, tensors, made.name)
    _check_actions(agent, made.action_spec, tensors, made.name)
    config = replace(config, environment=played)
    specs = {key: made.observation_specs[key] for key in types}
    _check_size(agent, config, (specs, made.action_spec), tensors)
    models = make_models(config, specs, made.action_spec, tensors.source)
    load_published(models, tensors, agent, types)
    return ImportedAgent(config, models, made.protocol, [*joined_keys(types), *_repeated_actions(environment, played)])


def write_imported(agent: ImportedAgent, folder: RunFolder, experiment: Experiment, preset: str) -> None:
    """Make the run folder of an imported agent. Raises RunFolderError when it cannot be written."""
    description = describe(experiment, agent.models.specs, preset=preset, origin="imported")
    with locked(folder):
        folder.create({**description, "protocol": protocol_card(experiment, agent.protocol)})
        save_weights(folder.weights, agent.models, folder.run_id)


def make_models(config: Config, specs: dict[str, KeySpec], action_spec: ActionSpec, source: str) -> Models:
    """Models of an agent. Raises WeightsError, which names ``source``, when they cannot be built."""
    try:
        return Models(config, specs, action_spec).eval()
    except ConfigError as error:
        raise WeightsError(f"{source} and the observations that it is given do not fit each other: {error}") from error


def _check_size(agent: PublishedAgent, config: Config, specs: Specs, tensors: ForeignTensors) -> None:
    """Raises WeightsError for an agent that is far larger than its tensors, before it takes any memory."""
    with torch.device("meta"):
        stated = num_parameters(make_models(config, *specs, tensors.source))
    if stated > max(MOST_UNLIKE, 4 * tensors.num_values):
        raise WeightsError(
            f"{tensors.source} does not fit. It holds {tensors.num_values} numbers, and the agent that configuration "
            f"and settings state would have {stated}. {advice(agent, tensors)}"
        )


def _stated_agent(tensors: ForeignTensors, published: str, changes: Mapping[str, Any]) -> PublishedAgent:
    """The agent that configuration and settings state. Raises WeightsError when it is plainly another."""
    if published not in PUBLISHED:
        raise ConfigError(f"unknown published configuration '{published}'. Available: {', '.join(PUBLISHED)}.")
    parts = Parts.of(tensors)
    observed = (parts.observed, parts.continuous)
    right = next((name for name, of_name in OBSERVED.items() if of_name == observed), published)
    if right != published:
        raise WeightsError(
            f"{tensors.source} observes {', '.join(parts.observed)} and chooses "
            f"{'levels' if parts.continuous else 'categories'}, as agents of the published configuration '{right}' do, "
            f"not of '{published}'. Use --config {right}."
        )
    agent = PublishedAgent(parts, settings_from(PUBLISHED[published], changes))
    if "batch_size" in changes and agent.members and agent.settings.batch_size % agent.members:
        raise WeightsError(
            f"the settings say that batch_size is {agent.settings.batch_size}; it must be a multiple of the "
            f"{agent.members} members of the ensemble."
        )
    return agent


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
    """How the environment is made: as published, where it is of the suite of the configuration."""
    if published in PLAYED and resolve(environment).suite_name == published:
        repeat = otherwise.action_repeat
        return PLAYED[published] if repeat is None else replace(PLAYED[published], action_repeat=repeat)
    return otherwise


def _check_actions(agent: PublishedAgent, action: ActionSpec, tensors: ForeignTensors, environment: str) -> None:
    """Raises WeightsError unless actions are of the kind, and as many, as the agent chooses from."""
    if agent.parts.continuous:
        chosen = tensors.look("actor_critic.actor_action_projection.weight").shape[-1]
        matches = all(action.ordinal) and chosen in (0, action.num_tokens)
        described = f"levels of {chosen} dimensions"
    else:
        chosen = tensors.look("actor_critic.actor_linear.bias").numel()
        matches = action.num_tokens == 1 and chosen in (0, action.sizes[0])
        described = f"one of {chosen} actions"
    if not matches:
        offered = ", ".join(f"{component.kind} {component.sizes}" for component in action.components)
        raise WeightsError(
            f"{tensors.source} chooses {described}; '{environment}' takes {offered}. "
            "Name the environment that the weights were trained on (games: with their minimal set of actions)."
        )


def _outline(state: Any) -> str:
    if isinstance(state, Mapping):
        other = [f"'{name}' ({type(value).__name__})" for name, value in state.items() if not isinstance(value, Tensor)]
        return f"entries such as {', '.join(other[:3])}" if other else "nothing"
    return f"a {type(state).__name__}"
