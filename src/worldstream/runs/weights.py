"""Weights of a run: written, read back, and put into models."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from worldstream.config import Config
from worldstream.errors import RunFolderError, WorldstreamError
from worldstream.models import Models, choose_device
from worldstream.runs.archive import read_arrays, write_arrays
from worldstream.runs.description import config_of, is_imported, read_run, specs_from_json
from worldstream.runs.folder import RunFolder
from worldstream.specs import Specs
from worldstream.training.memory import MODEL_SETTINGS, enough_memory


@dataclass(frozen=True)
class LoadedRun:
    """A run folder, read back."""

    folder: RunFolder
    description: dict[str, Any]
    """Content of run.json."""
    config: Config
    models: Models

    @property
    def imported(self) -> bool:
        """Whether the agent was trained elsewhere, so that there is no training of its own."""
        return is_imported(self.folder, self.description)


def save_weights(path: Path, models: Models, run: str = "") -> None:
    """Replace a file of weights of the ``run`` with that id, atomically. Raises RunFolderError."""
    tensors = models.state_dict().items()
    write_arrays(path, {name: tensor.detach().cpu().contiguous().numpy() for name, tensor in tensors}, run=run)


def load_weights(path: Path, run: str | None = None) -> dict[str, Tensor]:
    """Inverse of ``save_weights``; ``run`` None: of any. RunFolderError when the file is not what was written."""
    return {name: torch.from_numpy(array.copy()) for name, array in read_arrays(path, run=run)[0].items()}


def build_models(folder: RunFolder, config: Config, specs: Specs) -> Models:
    """The models that run.json describes. Raises WorldstreamError when they cannot be built, or not here."""
    try:
        with enough_memory("models", MODEL_SETTINGS):
            return Models(config, *specs)
    except WorldstreamError:
        raise
    except Exception as error:  # specs that fit no environment
        raise RunFolderError(f"{folder.description} describes models that cannot be built: {error}.") from error


def require_finite(models: Models) -> None:
    """Raises ValueError when weights are NaN or infinite: an agent that has them cannot act."""
    for name, tensor in models.state_dict().items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise ValueError(f"{int((~tensor.isfinite()).sum())} numbers of {name} are not finite.")


def load_run(path: str | Path, device: str = "auto", *, best: bool = False) -> LoadedRun:
    """Read a run folder. Raises RunFolderError when it is not one, or its weights are missing or do not fit.

    Where ``best``, weights are those of the best evaluation during training instead of the newest.
    """
    folder = RunFolder(Path(path))
    description = read_run(folder)
    config = config_of(folder, description)
    models = build_models(folder, config, specs_from_json(description["specs"]))
    weights = folder.best_weights if best else folder.weights
    if not weights.is_file():
        reason = "yet: let the training run go on to its first checkpoint."
        if best and is_imported(folder, description):
            reason = "besides its weights: it was imported, and has one set of them."
        elif best:
            reason = "yet: it is written by evaluations during training (--evaluation.every-steps)."
        raise RunFolderError(f"{folder.path} has no {weights.name} {reason}")
    try:
        models.load_state_dict(load_weights(weights, folder.run_id))
        require_finite(models)
    except (RuntimeError, ValueError) as error:
        raise RunFolderError(f"{weights} does not hold the weights of this run: {error}") from error
    models.to(choose_device(device)).eval()
    return LoadedRun(folder, description, config, models)
