"""Updates that were skipped because a loss or a gradient was not finite: what led there is kept, to be looked at.

    skipped/world_model-000000012345.json          settings and random states, as in a checkpoint
    skipped/world_model-000000012345.safetensors   the batch and the weights

``reproduce`` computes such an update again.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import safetensors.numpy
import torch

from worldstream.config import Config
from worldstream.errors import RunFolderError
from worldstream.models import Models
from worldstream.runs import serialize
from worldstream.runs.folder import (
    RunFolder,
    array_digest,
    checksummed,
    read_checksummed,
    replace_file,
    specs_from_json,
    writing,
)
from worldstream.training import randomness
from worldstream.training.learner import Learner
from worldstream.training.updates import SkippedUpdate, update_actor_critic, update_tokenizers, update_world_model
from worldstream.types import Batch

FORMAT = 1


def save_skipped(folder: RunFolder, update: SkippedUpdate, models: Models) -> Path:
    """Write one below ``skipped/``; returns the path of its JSON file. Raises RunFolderError."""
    metrics = {name: repr(value) for name, value in update.metrics.items()}  # JSON has no NaN
    batch = dataclasses.asdict(update.batch) if isinstance(update.batch, Batch) else update.batch
    plain, arrays = serialize.split({"batch": batch, "random": update.random, "models": dict(models.state_dict())})
    path = folder.skipped / f"{update.component}-{update.steps:012d}-{update.count}.json"
    data = {
        "format": FORMAT,
        "component": update.component,
        "steps": update.steps,
        "metrics": metrics,
        "tree": plain,
        "sha256_of_arrays": array_digest(arrays),
    }
    with writing(path):
        folder.skipped.mkdir(exist_ok=True)
    replace_file(path.with_suffix(".safetensors"), lambda file: file.write(safetensors.numpy.save(arrays)))
    replace_file(path, lambda file: file.write(checksummed(data).encode()))
    return path


def reproduce(path: Path) -> dict[str, float]:
    """Compute a skipped update again, on the CPU, from what ``save_skipped`` wrote into a run folder.

    It draws the same random numbers when the run was on the CPU too.

    Returns:
        the metrics of the update, ``gradient_norm`` among them: NaN when the loss or the gradient is not finite.

    Raises RunFolderError when the files are missing or not what was written.
    """
    folder = RunFolder(path.parent.parent)
    description = folder.read_description()
    config = Config.from_json(description["config"])
    data = read_checksummed(path, FORMAT)
    try:
        arrays = safetensors.numpy.load_file(path.with_suffix(".safetensors"))
    except (OSError, KeyError, ValueError, safetensors.SafetensorError) as error:
        raise RunFolderError(f"{path.with_suffix('.safetensors')} cannot be read: {error}.") from error
    if array_digest(arrays) != data["sha256_of_arrays"]:
        raise RunFolderError(f"{path.with_suffix('.safetensors')} is not what was written: its checksum differs.")
    state = serialize.join(data["tree"], arrays)
    models = Models(config, *specs_from_json(description["specs"]))
    models.load_state_dict(state["models"])
    generator = torch.Generator()
    randomness.restore(state["random"], generator)
    if data["component"] == "tokenizers":
        models.tokenizers.prepare_training()
        learner = Learner(models.tokenizers, config.tokenizer_learner)
        metrics = update_tokenizers(models.tokenizers, learner, state["batch"])
    elif data["component"] == "world_model":
        learner = Learner(models.world_model, config.world_model_learner)
        metrics, _ = update_world_model(models, learner, Batch(**state["batch"]))
    else:
        learner = Learner(models.actor_critic, config.actor_critic_learner)
        metrics, _ = update_actor_critic(models, learner, Batch(**state["batch"]), config, generator)
    return {name: float(value) for name, value in metrics.items()}
