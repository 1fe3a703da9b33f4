"""The trained parts of a run as one module: tokenizers, world model, actor-critic."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from torch import nn

from worldstream.agent.actor_critic import ActorCritic
from worldstream.agent.return_scale import ReturnScale
from worldstream.config import Config
from worldstream.errors import ConfigError, RunFolderError
from worldstream.run_folder import RunFolder, replace_file, specs_from_json
from worldstream.specs import ActionSpec, KeySpec
from worldstream.tokenizers.bundle import TokenizerBundle
from worldstream.world_model.model import WorldModel


class Models(nn.Module):
    """Everything with weights or statistics, built from a configuration and the specs of an environment."""

    def __init__(self, config: Config, key_specs: dict[str, KeySpec], action_spec: ActionSpec) -> None:
        super().__init__()
        self.key_specs = key_specs
        self.action_spec = action_spec
        self.tokenizers = TokenizerBundle(config.tokenizers, key_specs)
        self.world_model = WorldModel(config.world_model, self.tokenizers.specs, action_spec)
        self.actor_critic = ActorCritic(config.actor_critic, self.tokenizers.specs, action_spec)
        self.return_scale = ReturnScale()

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.tokenizers.version.device


def num_parameters(module: nn.Module) -> int:
    """Number of trained scalars."""
    return sum(parameter.numel() for parameter in module.parameters())


def choose_device(name: str) -> torch.device:
    """"auto" is the first CUDA device where there is one, else the CPU; any other name is PyTorch's.

    Raises ConfigError when the device does not exist here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"device '{name}' cannot be used: {reason}. Use --device cpu or auto.") from error
    return device


UNNAMED = "function "
"""Begins the recorded environment of a run whose environment was a Python function that no name leads to."""


@dataclass(frozen=True)
class LoadedRun:
    """A run folder, read back."""

    folder: RunFolder
    environment: str | None
    """Name of the environment; None when it was a Python function that no name leads to."""
    seed: int
    config: Config
    models: Models


def save_weights(folder: RunFolder, models: Models) -> None:
    """Replace the weights in the run folder, atomically. Raises RunFolderError."""
    data = safetensors.torch.save({name: tensor.contiguous() for name, tensor in models.state_dict().items()})
    replace_file(folder.weights, lambda file: file.write(data))


def load_run(path: str | Path, device: str = "auto") -> LoadedRun:
    """Read a run folder. Raises RunFolderError when it is not one, or its weights are missing or do not fit."""
    folder = RunFolder(Path(path))
    description = folder.read_description()
    for name in ("config", "specs", "seed", "environment"):
        if name not in description:
            raise RunFolderError(f"{folder.description} lacks '{name}': it was not written by `worldstream train`.")
    config = Config.from_json(description["config"])
    models = Models(config, *specs_from_json(description["specs"]))
    if not folder.weights.is_file():
        raise RunFolderError(f"{folder.path} has no {folder.weights.name} yet: let the training run reach its end.")
    try:
        models.load_state_dict(safetensors.torch.load_file(folder.weights))
    except (safetensors.SafetensorError, RuntimeError, OSError) as error:
        raise RunFolderError(f"{folder.weights} does not hold the weights of this run: {error}") from error
    models.to(choose_device(device)).eval()
    recorded = str(description["environment"])
    environment = None if recorded.startswith(UNNAMED) else recorded
    return LoadedRun(folder, environment, description["seed"], config, models)
