"""The rename table: published tensors into our modules.

Modules that hold the same tensors are rows of tables, by prefix. Where the two differ in form, a few functions change
the form and not the numbers: logits of factored tokens change their order, means over channels are folded into the
tables of embeddings, projections that we fuse are joined, members of the ensemble are stacked.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

from worldstream.agent.actor_critic import ActorCritic, Trunk
from worldstream.agent.encoder import KeyEncoder
from worldstream.errors import WeightsError
from worldstream.importers.published import AGENT, IMAGE, MODEL, PublishedAgent
from worldstream.importers.sizes import advice
from worldstream.importers.tensors import ForeignTensors
from worldstream.models import Models
from worldstream.nn.layers import FactoredEmbedding
from worldstream.nn.outputs import channel_groups
from worldstream.nn.rotary import rotary_frequencies
from worldstream.tokenizers.image import ImageTokenizer
from worldstream.tokenizers.quantizers import FiniteScalarQuantizer, VectorQuantizer
from worldstream.world_model.embed import CodeEmbedding
from worldstream.world_model.heads.disagreement import DisagreementHead
from worldstream.world_model.heads.observation import ObservationHead
from worldstream.world_model.heads.reward import RewardHead
from worldstream.world_model.heads.termination import TerminationHead
from worldstream.world_model.model import WorldModel
from worldstream.world_model.sequence.attention import AttentionModel
from worldstream.world_model.sequence.retention import RetentionModel

SEQUENCE = f"{MODEL}_model."
RETENTION_LAYER = {
    "retention.out": "retention.out_proj",
    "retention_norm": "norm1",
    "feed_forward_norm": "norm2",
    "up": "linear1",
    "down": "linear2",
}
ATTENTION_LAYER = {
    "attention.out": "self_attn.out_proj",
    "attention_norm": "norm1",
    "feed_forward_norm": "norm2",
    "up": "ff.0",
    "down": "ff.2",
}
"""Ours -> published, in each layer of a sequence model."""
RETENTION_FUSED = ("retention.qkvg", [f"retention.{part}_proj" for part in "qkvg"])
ATTENTION_FUSED = ("attention.qkv", [f"self_attn.{part}_proj" for part in "qkv"])
"""Ours -> published, of the projections that we join."""
TABLES = {"token": "embeddings.weight", "token_2d": "embeddings.embeddings.embeddings.{}.weight"}
"""Tables of the policy by kind of observation; one for each channel where there is a number."""


@torch.no_grad()
def load_published(models: Models, tensors: ForeignTensors, agent: PublishedAgent, types: Mapping[str, str]) -> None:
    """Fill models of the agent's configuration with published weights; ``types`` of observation are by key.

    Raises WeightsError that lists every tensor that does not fit.
    """
    for tokenizer in models.tokenizers.by_key.values():
        if isinstance(tokenizer, ImageTokenizer):
            _load_image_tokenizer(tokenizer, tensors)
    _load_world_model(models.world_model, tensors, agent, types)
    _load_actor_critic(models.actor_critic, tensors, agent, types)
    tensors.check(advice(agent, tensors))


def logit_order(vocabulary: tuple[int, ...]) -> Tensor:
    """(sum(vocabulary),) for each of our logits, its place in a concatenation of one channel after the other."""
    parts, offset = [], 0
    for count, size in channel_groups(vocabulary):
        parts.append(offset + torch.arange(count * size).reshape(count, size).t().flatten())
        offset += count * size
    return torch.cat(parts)


def _load_image_tokenizer(tokenizer: ImageTokenizer, tensors: ForeignTensors) -> None:
    for part in ("encoder", "decoder"):
        # Halvings and doublings are pairs there, of padding or upsampling with a convolution.
        tensors.fill(
            f"{IMAGE}{part}.cnn.",
            cast(nn.Module, getattr(tokenizer, part)),
            rename=lambda name: re.sub(r"^(1\.\d+)\.3\.", r"\1.2.conv.", name),
        )
    quantizer = tokenizer.quantizer
    if isinstance(quantizer, FiniteScalarQuantizer):
        for name, linear in (("pre", quantizer.shrink), ("post", quantizer.expand)):
            weight = tensors.take(f"{IMAGE}{name}_quant_conv.weight", (*linear.weight.shape, 1, 1))
            linear.weight.copy_(weight.squeeze((-1, -2)))  # a convolution of one pixel is a linear map
            linear.bias.copy_(tensors.take(f"{IMAGE}{name}_quant_conv.bias", tuple(linear.bias.shape)))
        tensors.constant(f"{IMAGE}fsq._levels", quantizer.levels)
        tensors.constant(f"{IMAGE}fsq._basis", quantizer.basis)
    else:
        codebook = cast(VectorQuantizer, quantizer).codebook
        codebook.copy_(tensors.take(f"{IMAGE}embedding.weight", tuple(codebook.shape)))
    tensors.ignore(f"{IMAGE}lpips.")  # the perceptual loss, which only training needs


def _load_world_model(
    model: WorldModel, tensors: ForeignTensors, agent: PublishedAgent, types: Mapping[str, str]
) -> None:
    coded = False
    for key, embed in zip(model.embed.keys, model.embed.observation, strict=True):
        if isinstance(embed, FactoredEmbedding):
            tables = "embeddings.embeddings.{}." if types[key] == "token_2d" else ""
            _fill_embedding(tensors, f"{MODEL}obs_embeddings.{types[key]}.{tables}weight", embed)
        else:
            coded = True
            tensors.fill(f"{MODEL}obs_emb_map.", cast(CodeEmbedding, embed).map)
    _fill_action_table(tensors, agent, model)
    if isinstance(model.sequence, RetentionModel):
        _fill_retention(tensors, model.sequence)
    else:
        _fill_attention(tensors, cast(AttentionModel, model.sequence))
    for head in cast(list[ObservationHead], model.heads_of("observation")):
        tensors.fill(f"{MODEL}head_observations.{types[head.positions]}.", head.net)
        _reorder(cast(nn.Linear, head.net[-1]), logit_order(head.vocabulary))
    for ensemble in cast(list[DisagreementHead], model.heads_of("disagreement")):
        _fill_ensemble(tensors, f"{MODEL}curiosity_head.{types[ensemble.positions]}.ensemble.", ensemble)
    (reward,), (termination,) = model.heads_of("reward"), model.heads_of("termination")
    tensors.fill(f"{MODEL}head_rewards.model.", cast(RewardHead, reward).net)
    tensors.fill(f"{MODEL}head_rewards.head.", cast(RewardHead, reward).scalar)
    tensors.fill(f"{MODEL}head_ends.", cast(TerminationHead, termination).net)
    width, code_width = model.config.sequence.width, agent.settings.world_model.obs_emb_dim
    if agent.parts.continuous:  # of actions that are not cut into levels
        dimensions = model.layout.action_spec.num_tokens
        _expect_linear(tensors, f"{MODEL}action_encoder.action_projection.", (width, dimensions))
    if not coded and code_width not in (0, width):
        _expect_linear(tensors, f"{MODEL}obs_emb_map.", (width, code_width))


def _expect_linear(tensors: ForeignTensors, prefix: str, shape: tuple[int, int]) -> None:
    """A linear map that is there and never read."""
    tensors.take(f"{prefix}weight", shape)
    tensors.take(f"{prefix}bias", shape[:1])


def _fill_embedding(tensors: ForeignTensors, name: str, embed: FactoredEmbedding) -> None:
    """One table, or one for each channel, whose number stands in the place of ``{}`` of its name; our sum over the
    root of their number becomes the published mean."""
    table, vocabulary = embed.channels.table.weight, embed.vocabulary
    parts = [tensors.take(name.format(c), (size, table.shape[1])) for c, size in enumerate(vocabulary)]
    table.copy_(torch.cat(parts) * len(vocabulary) ** -0.5)


def _fill_action_table(tensors: ForeignTensors, agent: PublishedAgent, model: WorldModel) -> None:
    table, sizes = model.embed.action.table.weight, model.layout.action_spec.sizes
    if len(sizes) > 1 and not agent.parts.continuous:
        raise WeightsError(
            f"{tensors.source} chooses one category at a time, but the action space has {len(sizes)} tokens. "
            "Name the environment that the weights were trained on."
        )
    shared = tensors.take(f"{MODEL}action_encoder.embedding.weight", (sizes[0], table.shape[1]))
    table.copy_(shared.repeat(len(sizes), 1))  # one table for all dimensions


def _fill_retention(tensors: ForeignTensors, model: RetentionModel) -> None:
    width = model.prediction_tokens.shape[1]
    # The published table has a row for every position of a block; those of the actions are never read.
    table = tensors.take(f"{MODEL}placeholder_embeddings.weight", (model.block_length, width))
    model.prediction_tokens.copy_(table[: len(model.prediction_tokens)])
    thetas = rotary_frequencies(model.head_width // 2, last_included=True).repeat_interleave(2)
    for i, layer in enumerate(model.layers):
        _fill_layer(tensors, f"{SEQUENCE}layers.{i}.", layer, RETENTION_LAYER, RETENTION_FUSED)
        tensors.constant(f"{SEQUENCE}layers.{i}.retention.thetas", thetas)


def _fill_attention(tensors: ForeignTensors, model: AttentionModel) -> None:
    width = model.prediction_tokens.shape[1]
    model.prediction_tokens.copy_(tensors.take(f"{SEQUENCE}pred_tokens", tuple(model.prediction_tokens.shape)))
    for i, layer in enumerate(model.layers):
        _fill_layer(tensors, f"{SEQUENCE}layers.{i}.", layer, ATTENTION_LAYER, ATTENTION_FUSED)
    tensors.constant(f"{SEQUENCE}rotary_emb.inv_freq", rotary_frequencies(model.head_width // 2))
    for unread in ("embed", "obs_head"):
        tensors.take(f"{SEQUENCE}{unread}.weight", (1, width))


def _fill_layer(
    tensors: ForeignTensors, prefix: str, layer: nn.Module, table: dict[str, str], fused: tuple[str, list[str]]
) -> None:
    for ours, published in table.items():
        tensors.fill(f"{prefix}{published}.", layer.get_submodule(ours))
    ours, parts = fused
    for name, target in layer.get_submodule(ours).state_dict().items():
        shape = (len(target) // len(parts), *target.shape[1:])
        target.copy_(torch.cat([tensors.take(f"{prefix}{part}.{name}", shape) for part in parts]))


def _reorder(linear: nn.Linear, order: Tensor) -> None:
    """Logits in the published order to ours."""
    linear.weight.copy_(linear.weight[order])
    linear.bias.copy_(linear.bias[order])


def _fill_ensemble(tensors: ForeignTensors, prefix: str, head: DisagreementHead) -> None:
    """Members are modules of their own there, and slices of stacked tensors here."""
    net, order = head.net, logit_order(head.vocabulary)
    for member in range(net.num_members):
        name = f"{prefix}{member}."
        for i, linear in ((0, net.first), (3, net.last)):
            fan_in, fan_out = linear.weight.shape[1:]
            weight = tensors.take(f"{name}{i}.weight", (fan_out, fan_in))
            bias = tensors.take(f"{name}{i}.bias", (fan_out,))
            rows = order if i == 3 else torch.arange(fan_out)
            linear.weight[member].copy_(weight[rows].t())
            linear.bias[member, 0].copy_(bias[rows])
        hidden = net.gain.shape[-1]
        net.gain[member, 0].copy_(tensors.take(f"{name}1.weight", (hidden,)))
        net.shift[member, 0].copy_(tensors.take(f"{name}1.bias", (hidden,)))


def _load_actor_critic(
    policy: ActorCritic, tensors: ForeignTensors, agent: PublishedAgent, types: Mapping[str, str]
) -> None:
    names = (("obs_latent_fuser", "actor"), ("critic_latent_fuser", "critic"))
    for trunk, (fuser, part) in zip(cast(list[Trunk], list(policy.trunks)), names, strict=False):
        encoders = cast(list[KeyEncoder], list(trunk.encoder.encoders))
        for key, encoder in zip(trunk.encoder.keys, encoders, strict=True):
            prefix = f"{AGENT}obs_encoders.{types[key]}."
            if encoder.embed is not None:
                _fill_embedding(tensors, prefix + TABLES[types[key]], encoder.embed)
            tensors.fill(f"{prefix}model.", encoder.convolutions, rename=_convolution_name)
        tensors.fill(f"{AGENT}{fuser}.", trunk.encoder.fuse)
        tensors.fill(f"{AGENT}{part}.lstm.", trunk.cell, rename=lambda name: f"{name}_l0")
        embed = trunk.action_embed
        if embed.linear is not None:
            embed.tables.table.weight.zero_()  # levels are read as numbers
            tensors.fill(f"{AGENT}{part}_action_projection.", embed.linear)
        else:
            tensors.fill(f"{AGENT}{part}_actions_embeddings.", embed.tables.table)
    tensors.fill(f"{AGENT}actor_linear.{'0.' if agent.parts.continuous else ''}", policy.actor)
    _reorder(policy.actor, logit_order(policy.sizes))
    tensors.fill(f"{AGENT}critic_v_head.", policy.critic)


def _convolution_name(name: str) -> str:
    """Ours alternates convolutions and activations; there, each is a pair."""
    place, _, parameter = name.partition(".")
    return f"{int(place) // 2}.0.{parameter}"
