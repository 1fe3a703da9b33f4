"""Checkpoints of the published sizes: counted against the published numbers of parameters, and imported."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch

from parity.reference.checkpoint import AgentSize, Checkpoint, ImageSize
from worldstream.api import import_checkpoint
from worldstream.importers.checkpoint import COMPILED
from worldstream.runs.weights import load_run
from worldstream.world_model import SEQUENCE_MODELS

CONSTANTS = ("running_mean", "running_var", "num_batches_tracked", "thetas", "inv_freq", "_levels", "_basis")
"""Ends of the names of tensors that are no parameters."""

CRAFTAX = {"vector": [47], "token": [4], "token_2d": [[37, 5, 40, 20]] * 99}
VQ = ImageSize(first=64, code=256, codes=512, convolutions=(128, 64))
FSQ = ImageSize(first=64, code=256, levels=(8, 8, 8), batch_norm=False, convolutions=(128, 64))
LARGE = {"layers": 10, "heads": 4, "width": 256}
GAME = {**LARGE, "spaces": {"image": [1, 3, 64, 64]}, "actions": {"discrete": 18}, "hidden": (512,)}


@dataclass(frozen=True)
class Published:
    """What is known about a published agent."""

    size: AgentSize
    parameters: dict[str, int]
    """Of tokenizer, world model and actor-critic, as counted in the published modules."""
    shapes: dict[str, tuple[int, ...]]
    """Of a few of its tensors."""
    config: dict[str, Any]
    """What must follow from them."""


AGENTS = {
    "atari": Published(
        AgentSize(**GAME, image=VQ),
        {"tokenizer": 5_596_931, "world_model": 10_817_667, "actor_critic": 4_653_395},
        {
            "tokenizer.tokenizers.image.embedding.weight": (512, 256),
            "tokenizer.tokenizers.image.encoder.cnn.1.2.2.conv.weight": (512, 256, 3, 3),
            "tokenizer.tokenizers.image.decoder.cnn.0.0.running_var": (256,),
            "world_model.placeholder_embeddings.weight": (65, 256),
            "world_model._model.layers.9.retention.g_proj.weight": (256, 256),
            "world_model._model.layers.9.linear1.weight": (1024, 256),
            "world_model.head_observations.image.3.weight": (512, 512),
            "world_model.head_rewards.head.linear.weight": (129, 512),
            "actor_critic.obs_encoders.image.model.1.0.weight": (64, 128, 3, 3),
            "actor_critic.obs_latent_fuser.0.weight": (512, 4096),
            "actor_critic.critic_v_head.linear.weight": (129, 512),
        },
        {"model": "retention", "layers": 10, "heads": 4, "width": 256, "hidden": (512,), "convolutions": (128, 64)},
    ),
    "atari attention": Published(
        AgentSize(**GAME, image=FSQ, attention=True),
        {"tokenizer": 5_467_654, "world_model": 10_149_763, "actor_critic": 4_653_395},
        {
            "tokenizer.tokenizers.image.pre_quant_conv.weight": (3, 256, 1, 1),
            "tokenizer.tokenizers.image.post_quant_conv.weight": (256, 3, 1, 1),
            "world_model._model.pred_tokens": (64, 256),
            "world_model._model.rotary_emb.inv_freq": (32,),
            "world_model._model.layers.9.self_attn.out_proj.weight": (256, 256),
            "world_model._model.layers.9.ff.0.weight": (1024, 256),
        },
        {"model": "attention", "layers": 10, "heads": 4, "width": 256, "hidden": (512,), "convolutions": (128, 64)},
    ),
    "dmc": Published(
        AgentSize(
            layers=10, heads=3, width=192, spaces={"vector": [24]}, actions={"continuous": 6}, hidden=(384,),
            separate=True,
        ),
        {"world_model": 5_686_068, "actor_critic": 2_559_027},
        {
            "world_model.obs_emb_map.weight": (192, 256),
            "world_model.obs_embeddings.vector.weight": (125, 192),
            "world_model.action_encoder.embedding.weight": (51, 192),
            "world_model.placeholder_embeddings.weight": (30, 192),
            "actor_critic.actor_linear.0.weight": (6 * 51, 384),
            "actor_critic.critic_latent_fuser.0.weight": (384, 24),
        },
        {"model": "retention", "layers": 10, "heads": 3, "width": 192, "hidden": (384,), "convolutions": ()},
    ),
    "craftax": Published(
        AgentSize(
            layers=5, heads=4, width=256, spaces=CRAFTAX, actions={"discrete": 43}, hidden=(512, 512), token_width=64
        ),
        {"world_model": 7_232_006, "actor_critic": 5_784_364},
        {
            "world_model.obs_embeddings.token_2d.embeddings.embeddings.3.weight": (20, 256),
            "world_model.head_observations.token_2d.3.weight": (102, 512),
            "world_model.placeholder_embeddings.weight": (148, 256),
            "actor_critic.obs_latent_fuser.0.weight": (512, 6447),
            "actor_critic.actor_actions_embeddings.weight": (43, 512),
        },
        {"model": "retention", "layers": 5, "heads": 4, "width": 256, "hidden": (512, 512), "convolutions": ()},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", AGENTS)
def test_published_sizes(name: str, tmp_path: Path) -> None:
    agent, published = AGENTS[name], name.split()[0]
    state = Checkpoint(agent.size).weights
    for part, expected in agent.parameters.items():
        names = [key for key in state if key.startswith(f"{part}.") and not key.endswith(CONSTANTS)]
        assert sum(prod(state[key].shape) for key in names) == expected, part
    assert {key: tuple(state[key].shape) for key in agent.shapes} == agent.shapes
    file = tmp_path / "checkpoint.pt"
    compiled = {  # modules that were compiled have that in the names of their parameters
        key.replace("world_model.", f"world_model.{COMPILED}", 1): x for key, x in state.items()
    }
    torch.save(compiled, file)
    environment = f"published_environments:full_{published}"
    run = import_checkpoint(file, published=published, environment=environment, output=tmp_path / "run", quiet=True)
    config = load_run(run, "cpu").config
    sequence, policy = config.world_model.sequence, config.actor_critic
    assert agent.config == {
        "model": SEQUENCE_MODELS.name_of(type(sequence)),
        "layers": sequence.num_layers,
        "heads": sequence.num_heads,
        "width": sequence.width,
        "hidden": policy.hidden,
        "convolutions": policy.grid_channels,
    }
    assert policy.separate_networks == (name == "dmc")
    if "atari" in name:
        image = config.tokenizers.by_modality["image"]
        assert (image.channels, image.code_size) == ((64, 128, 256, 512), 256)
        assert image.batch_norm == (name == "atari")
