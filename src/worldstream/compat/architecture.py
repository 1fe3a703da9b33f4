"""What the published agent's tensors and settings say about its architecture, as a configuration of ours.

Sizes follow from the shapes of tensors; only what no tensor shows comes from settings. What is there follows from any
name of a part, so that a single tensor that is missing is missed by its name; a size that several tensors share is
compared between them. Names are those of the published checkpoints (method.md describes the modules behind them).
"""

from __future__ import annotations

from dataclasses import replace
from math import prod

from worldstream.agent.actor_critic import ActorCriticConfig
from worldstream.agent.losses import ActorCriticLossConfig
from worldstream.compat.kinds import KINDS
from worldstream.compat.settings import PublishedSettings
from worldstream.compat.tensors import ForeignTensors, Size
from worldstream.config import Config
from worldstream.errors import ConfigError, WeightsError
from worldstream.nn.attention import AttentionConfig
from worldstream.tokenizers.base import TokenizerConfig
from worldstream.tokenizers.image_networks import NUM_GROUPS, ImageTokenizerConfig
from worldstream.tokenizers.quantizers import MOST_CODES
from worldstream.world_model.model import WorldModelConfig
from worldstream.world_model.sequence.base import SequenceConfig

SEQUENCE = "world_model._model."
"""Prefix of the sequence model."""

PICTURES = "tokenizer.tokenizers.image."
"""Prefix of the image tokenizer."""


def config_for(tensors: ForeignTensors, settings: PublishedSettings) -> Config:
    """Our configuration of the agent whose tensors these are. Raises WeightsError when there is none."""
    try:
        return _config_for(tensors, settings)
    except ConfigError as error:
        raise WeightsError(f"{tensors.source} is of an agent that cannot be built: {error}") from error


def _config_for(tensors: ForeignTensors, settings: PublishedSettings) -> Config:
    base = Config()
    levels, members = _action_levels(tensors), _ensemble_size(tensors)
    if levels and not settings.tokenized_actions:
        raise WeightsError("agents with tokenize_actions 'False' cannot be read, only those with 'True'.")
    weights = {name: 1.0 for name in base.world_model.loss_weights if members or name != "disagreement"}
    shared = settings.shared_embeddings
    return replace(
        base,
        environment=replace(
            base.environment,
            num_action_levels=levels or base.environment.num_action_levels,
            action_repeat=settings.action_repeat,
        ),
        tokenizers=_tokenizers(tensors),
        world_model=WorldModelConfig(
            sequence=_sequence(tensors, settings),
            context_length=settings.context_length,
            ensemble_size=members,
            loss_weights=weights,
            reward_scale=1.0,
            termination_logits=2,
            slot_embedding=False,
            shared_embeddings=not tensors.has("world_model.obs_embeddings.image.") if shared is None else shared,
        ),
        actor_critic=_actor_critic(tensors),
        losses=ActorCriticLossConfig(
            discount=settings.discount,
            lambda_=settings.lambda_,
            extrinsic_weight=settings.extrinsic_weight,
            intrinsic_weight=settings.intrinsic_weight if members else 0.0,
        ),
        imagination=replace(
            base.imagination,
            horizon=settings.horizon,
            context_length=settings.context_length,
            burn_in=settings.burn_in,
        ),
        segment_length=max(settings.segment_length, settings.context_length + 1),
        # Each member of the ensemble trains on its own share of a batch.
        world_model_learner=replace(
            base.world_model_learner, batch_size=max(settings.batch_size // max(members, 1), 1) * max(members, 1)
        ),
    )


def has_continuous_actions(tensors: ForeignTensors) -> bool:
    """Whether actions are levels on lines instead of categories."""
    return tensors.has("actor_critic.actor_action_projection.")


def action_dimensions(tensors: ForeignTensors) -> int:
    """Dimensions of continuous actions."""
    return tensors.shape("actor_critic.actor_action_projection.weight", 2)[1]


def _action_levels(tensors: ForeignTensors) -> int:
    """Levels of each dimension; 0 for categories. Raises WeightsError when the policy has another number of them."""
    if not has_continuous_actions(tensors):
        return 0
    table, actor = "world_model.action_encoder.embedding.weight", "actor_critic.actor_linear.0.weight"
    levels, rows, dimensions = tensors.shape(table, 2)[0], tensors.shape(actor, 2)[0], action_dimensions(tensors)
    if rows != levels * dimensions:
        raise WeightsError(
            f"{tensors.source}: '{actor}' has {rows} rows, not {levels} levels, by '{table}', of {dimensions} "
            "dimensions, by 'actor_critic.actor_action_projection.weight'."
        )
    return levels


def _sequence(tensors: ForeignTensors, settings: PublishedSettings) -> SequenceConfig:
    ends = "world_model.head_ends."
    width = tensors.size(Size(f"{ends}0.weight", 1, 2), Size(f"{ends}0.weight", 0, 2), Size(f"{ends}1.weight", 0, 1))
    attention = tensors.has(f"{SEQUENCE}pred_tokens") or tensors.has(f"{SEQUENCE}layers.0.self_attn.")
    # Tables of rotary frequencies betray the width of a head: one entry a pair, or one a feature.
    table = f"{SEQUENCE}rotary_emb.inv_freq" if attention else f"{SEQUENCE}layers.0.retention.thetas"
    head_width = tensors.shape(table, 1)[0] * (2 if attention else 1)
    if head_width % 2 or width % head_width:
        raise WeightsError(
            f"{tensors.source}: by '{table}' a head has {head_width} features, which must be even and divide the width "
            f"{width} of '{ends}0.weight'."
        )
    return SequenceConfig(
        model="attention" if attention else "retention",
        num_layers=tensors.count(SEQUENCE + "layers.{}."),
        width=width,
        num_heads=width // head_width,
        dropout=0.1,
        decay_blocks=settings.decay_blocks,
        attention=AttentionConfig(
            norm="post",
            positions="sequence",
            pairing="half",
            slots="full" if settings.slots == "full" else "causal",
        ),
    )


def observed_kinds(tensors: ForeignTensors) -> list[str]:
    """Kinds of observation that the agent predicts. Raises WeightsError when there is none."""
    found = [kind for kind in KINDS if tensors.has(f"world_model.head_observations.{kind}.")]
    if not found:
        raise WeightsError(
            f"{tensors.source} has no tensor 'world_model.head_observations.*': it is no published agent's checkpoint."
        )
    return found


def cell_vocabulary(tensors: ForeignTensors) -> tuple[int, ...]:
    """Number of values of each channel of the cells that the agent observes; () when it observes none."""
    name = "world_model.obs_embeddings.token_2d.embeddings.embeddings.{}.weight"
    return tuple(tensors.shape(name.format(c), 2)[0] for c in range(tensors.count(name)))


def _ensemble_size(tensors: ForeignTensors) -> int:
    return tensors.count(f"world_model.curiosity_head.{observed_kinds(tensors)[0]}.ensemble." + "{}.")


def _actor_critic(tensors: ForeignTensors) -> ActorCriticConfig:
    agent, critic = "actor_critic.", "actor_critic.critic_v_head.linear."
    tables = {
        "token": f"{agent}obs_encoders.token.embeddings.weight",
        "token_2d": f"{agent}obs_encoders.token_2d.embeddings.embeddings.embeddings.0.weight",
    }
    embedded = [Size(name, 1, 2) for kind, name in tables.items() if kind in observed_kinds(tensors)]
    convolutions = tensors.count(agent + "obs_encoders.image.model.{}.")
    if "image" in observed_kinds(tensors):
        convolutions = max(convolutions, 1)  # without any it would flatten codes in another order than ours
    layer = agent + "obs_encoders.image.model.{}.0."
    fuser = tensors.numbers(agent + "obs_latent_fuser.{}.")
    return ActorCriticConfig(
        hidden=tuple(
            tensors.size(
                Size(f"{agent}obs_latent_fuser.{i}.weight", 0, 2), Size(f"{agent}obs_latent_fuser.{i + 1}.weight", 0, 1)
            )
            for i in range(0, max(fuser, default=0) + 1, 3)  # Linear, LayerNorm and an activation each
        ),
        embedding_width=tensors.size(*embedded) if embedded else ActorCriticConfig().embedding_width,
        grid_channels=tuple(
            tensors.size(Size(layer.format(i) + "weight", 0, 4), Size(layer.format(i) + "bias", 0, 1))
            for i in range(convolutions)
        ),
        separate_networks=tensors.has(f"{agent}critic_latent_fuser."),
        value_output="hl_gauss",
        num_value_bins=tensors.size(Size(f"{critic}weight", 0, 2), Size(f"{critic}bias", 0, 1)),
    )


def _tokenizers(tensors: ForeignTensors) -> TokenizerConfig:
    base = TokenizerConfig(cells_per_token=1)
    choice = {**base.choice, "vector": "fixed_levels"}
    if "image" not in observed_kinds(tensors):
        return replace(base, choice=choice)
    logits = Size("world_model.head_observations.image.3.weight", 0, 2)
    image = _image_networks(tensors, base.image)
    if not tensors.has(f"{PICTURES}fsq.") and not tensors.has(f"{PICTURES}pre_quant_conv."):
        codes = tensors.size(Size(f"{PICTURES}embedding.weight", 0, 2), logits)
        return replace(base, choice={**choice, "image": "image_vq"}, image=replace(image, codebook_size=codes))
    levels = _quantizer_levels(tensors, logits)
    return replace(base, choice={**choice, "image": "image_fsq"}, image=replace(image, fsq_levels=levels))


def _quantizer_levels(tensors: ForeignTensors, logits: Size) -> tuple[int, ...]:
    """Levels of FSQ. Raises WeightsError when they do not make as many ids, numbered as the agent numbers them."""
    codes = tensors.size(logits)
    name, basis_name = f"{PICTURES}fsq._levels", f"{PICTURES}fsq._basis"
    tensors.size(Size(name, 0, 1), Size(f"{PICTURES}pre_quant_conv.weight", 0, 4))
    levels, basis = tensors.integers(name), tensors.integers(basis_name)
    possible = min(levels) >= 2 and len(levels) < MOST_CODES.bit_length() and prod(levels) == codes <= MOST_CODES
    if not possible or basis != tuple(prod(levels[:i]) for i in range(len(levels))):
        raise WeightsError(
            f"{tensors.source}: '{name}' holds {levels[:20]} and '{basis_name}' {basis[:20]}. Levels are numbers from "
            f"2 up, whose product is the number of ids, {codes} by '{logits.name}'; the basis numbers them, the first "
            "level fastest."
        )
    return levels


def _image_networks(tensors: ForeignTensors, base: ImageTokenizerConfig) -> ImageTokenizerConfig:
    encoder, decoder = f"{PICTURES}encoder.cnn.", f"{PICTURES}decoder.cnn.0.0."
    halvings = tensors.count(encoder + "1.{}.")
    convolutions = [f"{encoder}0.weight", *(f"{encoder}1.{i}.2.conv.weight" for i in range(halvings))]
    norms = [*(f"{encoder}1.{i}.0.weight" for i in range(halvings)), f"{encoder}2.0.weight"]
    channels = tuple(
        _grouped(tensors, convolution, norm) for convolution, norm in zip(convolutions, norms, strict=True)
    )
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    return replace(
        base,
        channels=channels,
        patch=1,
        code_size=_grouped(tensors, f"{encoder}2.2.weight", f"{decoder}weight"),
        fsq_channels=1,
        ema_decay=0.0,
        revive_below=0.0,
        batch_norm=any(tensors.has(f"{decoder}{name}") for name in statistics),
    )


def _grouped(tensors: ForeignTensors, convolution: str, norm: str) -> int:
    """Channels of a convolution and the norm behind it. Raises WeightsError when they do not split into groups."""
    channels = tensors.size(Size(convolution, 0, 4), Size(norm, 0, 1))
    if channels % NUM_GROUPS:
        raise WeightsError(
            f"{tensors.source}: '{convolution}' gives {channels} channels, which are no multiple of the {NUM_GROUPS} "
            "groups of their norm."
        )
    return channels
