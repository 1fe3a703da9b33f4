"""The name map: published tensors into our modules.

Where the two differ in form, the map changes the form and not the numbers: logits of factored tokens change their
order, means over channels are folded into the tables, projections that we fuse are joined.
"""

from __future__ import annotations

import re
from typing import cast

import torch
from torch import Tensor, nn

from worldstream.agent.actor_critic import ActorCritic, Trunk
from worldstream.agent.encoder import KeyEncoder
from worldstream.config import Config
from worldstream.errors import ConfigError, WeightsError
from worldstream.importers.architecture import PICTURES, SEQUENCE, has_continuous_actions
from worldstream.importers.tensors import ForeignTensors, Size
from worldstream.models import Models
from worldstream.nn.layers import FactoredEmbedding
from worldstream.nn.outputs import channel_groups
from worldstream.nn.rotary import rotary_frequencies
from worldstream.specs import ActionSpec, KeySpec
from worldstream.tokenizers.image import ImageTokenizer
from worldstream.tokenizers.quantizers import FiniteScalarQuantizer, VectorQuantizer
from worldstream.world_model.heads.disagreement import DisagreementHead
from worldstream.world_model.heads.observation import ObservationHead
from worldstream.world_model.heads.reward import RewardHead
from worldstream.world_model.heads.termination import TerminationHead
from worldstream.world_model.model import WorldModel
from worldstream.world_model.sequence.attention import AttentionLayer, AttentionModel
from worldstream.world_model.sequence.retention import RetentionLayer, RetentionModel


def make_models(config: Config, specs: dict[str, KeySpec], action_spec: ActionSpec, source: str) -> Models:
    """Models of an inferred configuration. Raises WeightsError, which names ``source``, when they cannot be built."""
    try:
        return Models(config, specs, action_spec).eval()
    except ConfigError as error:
        raise WeightsError(f"{source} and the observations that it is given do not fit each other: {error}") from error


@torch.no_grad()
def load_published(
    models: Models, tensors: ForeignTensors, kinds: dict[str, str], *, code_width: int | None = None
) -> None:
    """Fill models with published weights.

    Args:
        models: of the architecture that ``config_for`` infers.
        tensors: the weights.
        kinds: published kind of observation by key.
        code_width: see ``PublishedSettings``.

    Raises WeightsError that lists every tensor that does not fit.
    """
    for tokenizer in models.tokenizers.by_key.values():
        if isinstance(tokenizer, ImageTokenizer):
            _load_image_tokenizer(tokenizer, tensors)
    _load_world_model(models.world_model, tensors, kinds, code_width)
    _load_actor_critic(models.actor_critic, tensors, kinds)
    tensors.check()


def logit_order(vocabulary: tuple[int, ...]) -> Tensor:
    """(sum(vocabulary),) for each of our logits, its place in a concatenation of one channel after the other."""
    parts, offset = [], 0
    for count, size in channel_groups(vocabulary):
        parts.append(offset + torch.arange(count * size).reshape(count, size).t().flatten())
        offset += count * size
    return torch.cat(parts)


def _load_image_tokenizer(tokenizer: ImageTokenizer, tensors: ForeignTensors) -> None:
    for part in ("encoder", "decoder"):
        tensors.fill(f"{PICTURES}{part}.cnn.", cast(nn.Module, getattr(tokenizer, part)), rename=_resampling_name)
    quantizer = tokenizer.quantizer
    if isinstance(quantizer, FiniteScalarQuantizer):
        for name, linear in (("pre", quantizer.shrink), ("post", quantizer.expand)):
            weight = tensors.take(f"{PICTURES}{name}_quant_conv.weight", (*linear.weight.shape, 1, 1))
            linear.weight.copy_(weight.squeeze((-1, -2)))  # a convolution of one pixel is a linear map
            linear.bias.copy_(tensors.take(f"{PICTURES}{name}_quant_conv.bias", tuple(linear.bias.shape)))
        tensors.constant(f"{PICTURES}fsq._levels", quantizer.levels)
        tensors.constant(f"{PICTURES}fsq._basis", quantizer.basis)
    else:
        codebook = cast(VectorQuantizer, quantizer).codebook
        codebook.copy_(tensors.take(f"{PICTURES}embedding.weight", tuple(codebook.shape)))
    tensors.ignore(f"{PICTURES}lpips.")  # the perceptual loss, which only training needs


def _resampling_name(name: str) -> str:
    """Halvings and doublings are pairs there, of padding or upsampling with a convolution."""
    return re.sub(r"^(1\.\d+)\.3\.", r"\1.2.conv.", name)


def _load_world_model(
    model: WorldModel, tensors: ForeignTensors, kinds: dict[str, str], code_width: int | None
) -> None:
    prefix, coded = "world_model.", False
    for key, embed in zip(model.embed.keys, model.embed.observation, strict=True):
        if isinstance(embed, FactoredEmbedding):
            tables = "embeddings.embeddings.{}." if kinds[key] == "token_2d" else ""
            _fill_embedding(tensors, f"{prefix}obs_embeddings.{kinds[key]}.{tables}weight", embed)
        else:
            coded = True
            tensors.fill(f"{prefix}obs_emb_map.", embed)
    _fill_action_table(tensors, f"{prefix}action_encoder.embedding.weight", model)
    if isinstance(model.sequence, RetentionModel):
        _fill_retention(tensors, model.sequence)
    else:
        _fill_attention(tensors, cast(AttentionModel, model.sequence))
    for head in cast(list[ObservationHead], model.heads_of("observation")):
        name = f"{prefix}head_observations.{kinds[head.positions]}."
        tensors.fill(name, head.net)
        _reorder(cast(nn.Linear, head.net[-1]), logit_order(head.vocabulary))
    for ensemble in cast(list[DisagreementHead], model.heads_of("disagreement")):
        _fill_ensemble(tensors, f"{prefix}curiosity_head.{kinds[ensemble.positions]}.ensemble.", ensemble)
    (reward,), (termination,) = model.heads_of("reward"), model.heads_of("termination")
    tensors.fill(f"{prefix}head_rewards.model.", cast(RewardHead, reward).net)
    tensors.fill(f"{prefix}head_rewards.head.", cast(RewardHead, reward).scalar)
    tensors.fill(f"{prefix}head_ends.", cast(TerminationHead, termination).net)
    width, sizes = model.config.sequence.width, model.layout.action_spec.sizes
    if has_continuous_actions(tensors):  # a map of actions that are not cut into levels is there, and never read
        tensors.expect(f"{prefix}action_encoder.action_projection.weight", (width, len(sizes)))
        tensors.expect(f"{prefix}action_encoder.action_projection.bias", (width,))
    if not coded:
        _expect_code_map(tensors, f"{prefix}obs_emb_map.", width, code_width)


def _expect_code_map(tensors: ForeignTensors, prefix: str, width: int, code_width: int | None) -> None:
    """A map of codes is there wherever their width is another than the model's, even if nothing is read by codes."""
    if code_width is None and tensors.has(prefix):
        code_width = tensors.size(Size(f"{prefix}weight", 1, 2), otherwise=0)
    if code_width not in (None, width):
        tensors.expect(f"{prefix}weight", (width, code_width))
        tensors.expect(f"{prefix}bias", (width,))


def _fill_embedding(tensors: ForeignTensors, name: str, embed: FactoredEmbedding) -> None:
    """One table, or one for each channel, whose number stands in the place of ``{}`` of its name; our sum over the
    root of their number becomes the published mean."""
    table, vocabulary = embed.channels.table.weight, embed.vocabulary
    parts = [tensors.take(name.format(c), (size, table.shape[1])) for c, size in enumerate(vocabulary)]
    table.copy_(torch.cat(parts) * len(vocabulary) ** -0.5)


def _fill_action_table(tensors: ForeignTensors, name: str, model: WorldModel) -> None:
    table, sizes = model.embed.action.table.weight, model.layout.action_spec.sizes
    if has_continuous_actions(tensors):
        shared = tensors.take(name, (sizes[0], table.shape[1]))  # one table for all dimensions
        table.copy_(shared.repeat(len(sizes), 1))
    elif len(sizes) == 1:
        table.copy_(tensors.take(name, tuple(table.shape)))
    else:
        raise WeightsError(
            f"{tensors.source} chooses one category at a time, but the action space has {len(sizes)} tokens. "
            "Name the environment that the weights were trained on."
        )


def _fill_retention(tensors: ForeignTensors, model: RetentionModel) -> None:
    width = model.prediction_tokens.shape[1]
    thetas = rotary_frequencies(model.head_width // 2, last_included=True).repeat_interleave(2)
    # The published table has a row for every position of a block; those of the actions are never read.
    table = tensors.take("world_model.placeholder_embeddings.weight", (model.block_length, width))
    model.prediction_tokens.copy_(table[: len(model.prediction_tokens)])
    for i, layer in enumerate(cast(list[RetentionLayer], list(model.layers))):
        prefix, square = f"{SEQUENCE}layers.{i}.", (width, width)
        parts = [f"{prefix}retention.{part}_proj." for part in "qkvg"]
        layer.retention.qkvg.weight.copy_(torch.cat([tensors.take(f"{part}weight", square) for part in parts]))
        layer.retention.qkvg.bias.copy_(torch.cat([tensors.take(f"{part}bias", (width,)) for part in parts]))
        tensors.fill(f"{prefix}retention.out_proj.", layer.retention.out)
        tensors.fill(f"{prefix}norm1.", layer.retention_norm)
        tensors.fill(f"{prefix}norm2.", layer.feed_forward_norm)
        tensors.fill(f"{prefix}linear1.", layer.up)
        tensors.fill(f"{prefix}linear2.", layer.down)
        tensors.constant(f"{prefix}retention.thetas", thetas)


def _fill_attention(tensors: ForeignTensors, model: AttentionModel) -> None:
    width = model.prediction_tokens.shape[1]
    model.prediction_tokens.copy_(tensors.take(f"{SEQUENCE}pred_tokens", tuple(model.prediction_tokens.shape)))
    for i, layer in enumerate(cast(list[AttentionLayer], list(model.layers))):
        prefix = f"{SEQUENCE}layers.{i}."
        parts = [tensors.take(f"{prefix}self_attn.{part}_proj.weight", (width, width)) for part in "qkv"]
        layer.attention.qkv.weight.copy_(torch.cat(parts))
        tensors.fill(f"{prefix}self_attn.out_proj.", layer.attention.out)
        tensors.fill(f"{prefix}norm1.", layer.attention_norm)
        tensors.fill(f"{prefix}norm2.", layer.feed_forward_norm)
        tensors.fill(f"{prefix}ff.0.", layer.up)
        tensors.fill(f"{prefix}ff.2.", layer.down)
    tensors.constant(f"{SEQUENCE}rotary_emb.inv_freq", rotary_frequencies(model.head_width // 2))
    for unread in ("embed", "obs_head"):
        tensors.expect(f"{SEQUENCE}{unread}.weight", (1, width))


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


def _load_actor_critic(agent: ActorCritic, tensors: ForeignTensors, kinds: dict[str, str]) -> None:
    prefix, continuous = "actor_critic.", has_continuous_actions(tensors)
    names = (("obs_latent_fuser", "actor"), ("critic_latent_fuser", "critic"))
    for trunk, (fuser, part) in zip(cast(list[Trunk], list(agent.trunks)), names, strict=False):
        encoders = cast(list[KeyEncoder], list(trunk.encoder.encoders))
        for key, encoder in zip(trunk.encoder.keys, encoders, strict=True):
            _fill_encoder(tensors, f"{prefix}obs_encoders.{kinds[key]}.", encoder)
        tensors.fill(f"{prefix}{fuser}.", trunk.encoder.fuse)
        tensors.fill(f"{prefix}{part}.lstm.", trunk.cell, rename=lambda name: f"{name}_l0")
        embed = trunk.action_embed
        if embed.linear is not None:
            embed.tables.table.weight.zero_()  # levels are read as numbers
            tensors.fill(f"{prefix}{part}_action_projection.", embed.linear)
        else:
            name = f"{prefix}{part}_actions_embeddings.weight"
            embed.tables.table.weight.copy_(tensors.take(name, tuple(embed.tables.table.weight.shape)))
    tensors.fill(f"{prefix}actor_linear.{'0.' if continuous else ''}", agent.actor)
    _reorder(agent.actor, logit_order(agent.sizes))
    tensors.fill(f"{prefix}critic_v_head.", agent.critic)


def _fill_encoder(tensors: ForeignTensors, prefix: str, encoder: KeyEncoder) -> None:
    if encoder.embed is not None:
        tables = "embeddings.embeddings.{}." if prefix.endswith("token_2d.") else ""
        _fill_embedding(tensors, f"{prefix}embeddings.{tables}weight", encoder.embed)
    tensors.fill(f"{prefix}model.", encoder.convolutions, rename=_convolution_name)


def _convolution_name(name: str) -> str:
    """Ours alternates convolutions and activations; there, each is a pair."""
    place, _, parameter = name.partition(".")
    return f"{int(place) // 2}.0.{parameter}"
