"""Updates that were skipped because a loss or a gradient was not finite: what led there is kept, to be looked at.

``skipped/world_model-000000012345-1.safetensors`` is an archive of the batch, the weights and the random states;
``reproduce`` computes such an update again.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch

from worldstream.models import Models
from worldstream.runs.archive import read_state, write_state
from worldstream.runs.description import config_of, specs_from_json
from worldstream.runs.files import make_folder
from worldstream.runs.folder import RunFolder
from worldstream.runs.weights import build_models
from worldstream.training.events import SkippedUpdate
from worldstream.training.phases import PHASES
from worldstream.training.randomness import RandomState
from worldstream.types import Batch


def save_skipped(folder: RunFolder, update: SkippedUpdate, models: Models) -> Path:
    """Write one below ``skipped/``; returns the path of its file. Raises RunFolderError."""
    path = folder.skipped / f"{update.component}-{update.steps:012d}-{update.count}.safetensors"
    make_folder(folder.skipped)
    state = {
        "component": update.component,
        "steps": update.steps,
        "metrics": {name: repr(value) for name, value in update.metrics.items()},  # JSON has no NaN
        "batch": dataclasses.asdict(update.batch) if isinstance(update.batch, Batch) else update.batch,
        "random": update.random,
        "models": dict(models.state_dict()),
    }
    write_state(path, state, run=folder.run_id)
    return path


def reproduce(path: Path) -> dict[str, float]:
    """Compute a skipped update again, on the CPU, from what ``save_skipped`` wrote into a run folder.

    It draws the same random numbers when the run was on the CPU too. Returns the metrics of the update: the
    ``gradient_norm`` is NaN when the loss or the gradient is not finite. Raises RunFolderError for a damaged file.
    """
    folder = RunFolder(path.parent.parent)
    description = folder.read_description()
    config = config_of(folder, description)
    state = read_state(path, run=folder.run_id)
    models = build_models(folder, config, specs_from_json(description["specs"]))
    models.load_state_dict(state["models"])
    generator = torch.Generator()
    phase = PHASES[state["component"]](config, models, generator)
    RandomState(generator).load_networks(state["random"])
    metrics, _ = phase.update(phase.restored(state["batch"]))
    return {name: float(value) for name, value in metrics.items()}
