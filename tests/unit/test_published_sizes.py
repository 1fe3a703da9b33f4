"""Checkpoints of the published sizes: counted against the published numbers of parameters, and imported."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

import pytest
import torch
from torch import Tensor

from worldstream.api import import_checkpoint
from worldstream.compat.architecture import PICTURES, SEQUENCE, in_published_order
from worldstream.compat.checkpoint import COMPILED, SETTINGS
from worldstream.compat.tensors import ForeignTensors
from worldstream.compat.weights import load_published
from worldstream.config import Config
from worldstream.environments import make_environment
from worldstream.models import Models, load_run
from worldstream.nn.attention import AttentionConfig
from worldstream.world_model.sequence.base import SequenceConfig

UNREAD = {
    "atari attention": {f"{SEQUENCE}embed.weight": (1, 256), f"{SEQUENCE}obs_head.weight": (1, 256)},
    "dmc": {
        "world_model.obs_emb_map.weight": (192, 256),
        "world_model.obs_emb_map.bias": (192,),
        "world_model.action_encoder.action_projection.weight": (192, 6),
        "world_model.action_encoder.action_projection.bias": (192,),
    },
}
"""Parameters that the published agent has, but never reads."""


@dataclass(frozen=True)
class Size:
    """A published agent."""

    layers: int
    heads: int
    width: int
    hidden: tuple[int, ...]
    parameters: dict[str, int]
    """Of tokenizer, world model and actor-critic, as counted in the published modules."""


SIZES = {
    "atari": Size(
        10, 4, 256, (512,), {"tokenizer": 5_596_931, "world_model": 10_817_667, "actor_critic": 4_653_395}
    ),
    "atari attention": Size(
        10, 4, 256, (512,), {"tokenizer": 5_467_654, "world_model": 10_149_763, "actor_critic": 4_653_395}
    ),
    "dmc": Size(10, 3, 192, (384,), {"world_model": 5_686_068, "actor_critic": 2_559_027}),
    "craftax": Size(5, 4, 256, (512, 512), {"world_model": 7_232_006, "actor_critic": 5_784_364}),
}


class Recorder(ForeignTensors):
    """Gives whatever it is asked for, and remembers it."""

    def __init__(self, continuous: bool) -> None:
        super().__init__({}, "nothing")
        self.continuous = continuous
        self.given: dict[str, Tensor] = {}

    def has(self, prefix: str) -> bool:
        return self.continuous

    def take(self, name: str, shape: tuple[int, ...]) -> Tensor:
        return self.given.setdefault(name, 0.02 * torch.randn(shape))


def config_of(name: str) -> Config:
    size, settings = SIZES[name], SETTINGS[name.split()[0]]
    attention = name.endswith("attention")
    base = Config()
    sequence = SequenceConfig(
        model="attention" if attention else "retention",
        num_layers=size.layers,
        num_heads=size.heads,
        width=size.width,
        decay_blocks=settings.decay_blocks,
    )
    image = replace(
        base.tokenizers.image,
        channels=(64, 128, 256, 512),
        code_size=256,
        codebook_size=512,
        ema_decay=0.0,
        revive_below=0.0,
        batch_norm=not attention,
    )
    choice = {**base.tokenizers.choice, "vector": "fixed_levels", "image": "image_fsq" if attention else "image_vq"}
    return replace(
        base,
        tokenizers=replace(base.tokenizers, choice=choice, image=image),
        world_model=replace(base.world_model, sequence=sequence, termination_logits=2, slot_embedding=False),
        actor_critic=replace(
            base.actor_critic,
            hidden=size.hidden,
            embedding_width=64,
            grid_channels=(128, 64) if "atari" in name else (),
            separate_networks=name == "dmc",
        ),
    )


def state_dict(name: str) -> dict[str, Tensor]:
    """A checkpoint of this size, random."""
    made = make_environment(environment(name))
    recorder = Recorder(continuous=name == "dmc")
    load_published(Models(config_of(name), in_published_order(made.observation_specs), made.action_spec), recorder)
    return {**recorder.given, **{key: torch.zeros(shape) for key, shape in UNREAD.get(name, {}).items()}}


def environment(name: str) -> str:
    return f"published_environments:full_{name.split()[0]}"


def constants(name: str) -> dict[str, Tensor]:
    """Beside the parameters: rotary frequencies, and the levels of FSQ."""
    size = SIZES[name]
    head_width = size.width // size.heads
    if name.endswith("attention"):
        return {
            f"{SEQUENCE}rotary_emb.inv_freq": torch.ones(head_width // 2),
            f"{PICTURES}fsq._levels": torch.tensor([8, 8, 8]),
            f"{PICTURES}fsq._basis": torch.tensor([1, 8, 64]),
        }
    return {f"{SEQUENCE}layers.{i}.retention.thetas": torch.ones(head_width) for i in range(size.layers)}


@pytest.mark.parametrize("name", SIZES)
def test_published_sizes(name: str, tmp_path: Path) -> None:
    state = state_dict(name)
    buffers = ("running_mean", "running_var", "num_batches_tracked")
    for part, expected in SIZES[name].parameters.items():
        names = [key for key in state if key.startswith(f"{part}.") and not key.endswith(buffers)]
        assert sum(prod(state[key].shape) for key in names) == expected, part
    file = tmp_path / "checkpoint.pt"
    compiled = {  # modules that were compiled have that in the names of their parameters
        key.replace("world_model.", f"world_model.{COMPILED}", 1): x for key, x in {**state, **constants(name)}.items()
    }
    torch.save(compiled, file)
    run = import_checkpoint(file, published=name.split()[0], environment=environment(name), output=tmp_path / "run")
    ours, expected = load_run(run, "cpu").config, config_of(name)
    assert replace(ours.world_model.sequence, dropout=0.0, attention=AttentionConfig()) == expected.world_model.sequence
    assert ours.actor_critic == replace(expected.actor_critic, embedding_width=ours.actor_critic.embedding_width)
    if "atari" in name:
        image = ours.tokenizers.image
        size = expected.tokenizers.image.codebook_size if name == "atari" else image.codebook_size
        assert image == replace(expected.tokenizers.image, codebook_size=size)
