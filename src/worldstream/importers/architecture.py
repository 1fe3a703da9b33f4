"""What the published agent's tensors and settings say about its architecture, as a configuration of ours.

Sizes follow from the shapes of tensors; only what no tensor shows comes from settings. What is there follows from any
name of a part, and a size from all tensors that share it: the architecture is found though some of them are missing or
of another shape, so that these are reported by name, together with what else is wrong. Names are those of the
published checkpoints (docs/method.md says what the modules behind them compute).
"""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import Any

from worldstream.agent.actor_critic import ActorCriticConfig
from worldstream.agent.losses import ActorCriticLossConfig
from worldstream.config import Config
from worldstream.errors import ConfigError, WeightsError
from worldstream.importers.kinds import KINDS
from worldstream.importers.settings import PublishedSettings
from worldstream.importers.tensors import ForeignTensors, Size
from worldstream.nn.attention import AttentionConfig
from worldstream.tokenizers.base import TokenizerOptions
from worldstream.tokenizers.bundle import TokenizerConfig
from worldstream.tokenizers.fixed_levels import FixedLevelsConfig
from worldstream.tokenizers.image import ImageFSQConfig, ImageVQConfig
from worldstream.tokenizers.image_networks import NUM_GROUPS
from worldstream.tokenizers.quantizers import MOST_CODES
from worldstream.world_model.heads.disagreement import DisagreementConfig
from worldstream.world_model.heads.termination import TerminationConfig
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
    heads = dict(base.world_model.heads) | {"termination": TerminationConfig(num_logits=2)}
    del heads["disagreement"]
    if members:
        heads["disagreement"] = DisagreementConfig(num_members=members)
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
            heads=heads,
            loss_weights=dict.fromkeys(heads, 1.0),
            slot_embedding=False,
            shared_embeddings=not tensors.has("world_model.obs_embeddings.image.") if shared is None else shared,
        ),
        actor_critic=_actor_critic(tensors),
        losses=ActorCriticLossConfig(
            discount=settings.discount,
            lambda_=settings.lambda_,
            reward_weights={"extrinsic": settings.extrinsic_weight}
            | ({"disagreement": settings.intrinsic_weight} if members else {}),
        ),
        imagination=replace(
            base.imagination,
            horizon=settings.horizon,
            context_length=settings.context_length,
            burn_in=settings.burn_in,
        ),
        segment_length=settings.segment_length,
        # Each member of the ensemble trains on its own share of a batch.
        world_model_learner=replace(
            base.world_model_learner, batch_size=max(settings.batch_size // max(members, 1), 1) * max(members, 1)
        ),
    )


def has_continuous_actions(tensors: ForeignTensors) -> bool:
    """Whether actions are levels on lines instead of categories."""
    return tensors.has("actor_critic.actor_action_projection.") or tensors.has("actor_critic.actor_linear.0.")


def action_dimensions(tensors: ForeignTensors) -> int:
    """Dimensions of continuous actions."""
    parts = ("actor_critic.actor_", "actor_critic.critic_", "world_model.action_encoder.")
    return tensors.size(*(Size(f"{part}action_projection.weight", 1, 2) for part in parts))


def _action_levels(tensors: ForeignTensors) -> int:
    """Levels of each dimension; 0 for categories."""
    if not has_continuous_actions(tensors):
        return 0
    actor, dimensions = "actor_critic.actor_linear.0.", action_dimensions(tensors)
    return tensors.size(
        Size("world_model.action_encoder.embedding.weight", 0, 2),
        Size(f"{actor}weight", 0, 2, dimensions),
        Size(f"{actor}bias", 0, 1, dimensions),
    )


def _sequence(tensors: ForeignTensors, settings: PublishedSettings) -> SequenceConfig:
    width, num_layers = _width(tensors), tensors.count(SEQUENCE + "layers.{}.")
    attention = tensors.has(f"{SEQUENCE}pred_tokens") or tensors.has(f"{SEQUENCE}layers.0.self_attn.")
    # Tables of rotary frequencies betray the width of a head: one entry a pair, or one a feature.
    tables = [f"{SEQUENCE}layers.{i}.retention.thetas" for i in range(max(num_layers, 1))]
    if attention:
        tables = [f"{SEQUENCE}rotary_emb.inv_freq"]
    shares = 2 if attention else 1
    head_width = tensors.size(*(Size(table, 0, 1) for table in tables), otherwise=width // shares) * shares
    if head_width % 2 or width % head_width:
        said = f"by {tables[0]} a head has {head_width} features, not an even divisor of the width {width}"
        tensors.contradict(said, *tables)
        head_width = width  # nothing but these tables depends on it
    return SequenceConfig(
        model="attention" if attention else "retention",
        num_layers=num_layers,
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


def _width(tensors: ForeignTensors) -> int:
    """Width of the model, by parts that every agent has."""
    ends = "world_model.head_ends."
    return tensors.size(
        Size(f"{ends}0.weight", 1, 2),
        Size(f"{ends}0.bias", 0, 1),
        Size(f"{ends}1.weight", 0, 1),
        Size(f"{ends}1.bias", 0, 1),
        Size("world_model.head_rewards.model.0.weight", 1, 2),
    )


def observed_kinds(tensors: ForeignTensors) -> list[str]:
    """Kinds of observation that the agent predicts. Raises WeightsError when there is none."""
    found = [kind for kind in KINDS if tensors.has(f"world_model.head_observations.{kind}.")]
    if not found:
        raise tensors.refusal("has no tensor 'world_model.head_observations.*': it is no published agent's checkpoint.")
    return found


def cell_vocabulary(tensors: ForeignTensors) -> tuple[int, ...]:
    """Number of values of each channel of the cells that the agent observes; () when it observes none."""
    tables = (
        "world_model.obs_embeddings.token_2d.embeddings.embeddings.{}.weight",
        "actor_critic.obs_encoders.token_2d.embeddings.embeddings.embeddings.{}.weight",
    )
    return tuple(
        tensors.size(*(Size(table.format(c), 0, 2) for table in tables)) for c in range(tensors.count(*tables))
    )


def _ensemble_size(tensors: ForeignTensors) -> int:
    return tensors.count(*(f"world_model.curiosity_head.{kind}.ensemble." + "{}." for kind in observed_kinds(tensors)))


def _actor_critic(tensors: ForeignTensors) -> ActorCriticConfig:
    agent, critic = "actor_critic.", "actor_critic.critic_v_head.linear."
    channels = f"{agent}obs_encoders.token_2d.embeddings.embeddings.embeddings.{{}}.weight"
    embedded = [Size(channels.format(c), 1, 2) for c in range(len(cell_vocabulary(tensors)))]
    if "token" in observed_kinds(tensors):
        embedded.append(Size(f"{agent}obs_encoders.token.embeddings.weight", 1, 2))
    convolutions = tensors.count(agent + "obs_encoders.image.model.{}.")
    if "image" in observed_kinds(tensors):
        convolutions = max(convolutions, 1)  # without any it would flatten codes in another order than ours
    layer = agent + "obs_encoders.image.model.{}.0."
    fuser = tensors.numbers(agent + "obs_latent_fuser.{}.")
    return ActorCriticConfig(
        hidden=tuple(
            tensors.size(*_rows(f"{agent}obs_latent_fuser.{i}.", 2), *_rows(f"{agent}obs_latent_fuser.{i + 1}.", 1))
            for i in range(0, max(fuser, default=0) + 1, 3)  # Linear, LayerNorm and an activation each
        ),
        embedding_width=tensors.size(*embedded) if embedded else ActorCriticConfig().embedding_width,
        grid_channels=tuple(
            tensors.size(*_rows(layer.format(i), 4), Size(f"{layer.format(i + 1)}weight", 1, 4))
            for i in range(convolutions)
        ),
        separate_networks=tensors.has(f"{agent}critic_latent_fuser."),
        value_output="hl_gauss",
        num_value_bins=tensors.size(*_rows(critic, 2)),
    )


def _rows(prefix: str, num_axes: int) -> tuple[Size, Size]:
    """The first axis of a weight with so many axes, which its bias shares."""
    return Size(f"{prefix}weight", 0, num_axes), Size(f"{prefix}bias", 0, 1)


def _tokenizers(tensors: ForeignTensors) -> TokenizerConfig:
    chosen: dict[str, TokenizerOptions] = {"vector": FixedLevelsConfig()}
    if "image" not in observed_kinds(tensors):
        return TokenizerConfig(by_modality=chosen)
    logits = (
        *_rows("world_model.head_observations.image.3.", 2),
        *_rows("world_model.curiosity_head.image.ensemble.0.3.", 2),
    )
    networks = _image_networks(tensors)
    if not tensors.has(f"{PICTURES}fsq.") and not tensors.has(f"{PICTURES}pre_quant_conv."):
        codes = tensors.size(Size(f"{PICTURES}embedding.weight", 0, 2), *logits)
        chosen["image"] = ImageVQConfig(**networks, codebook_size=codes, ema_decay=0.0, revive_below=0.0)
    else:
        chosen["image"] = ImageFSQConfig(**networks, levels=_quantizer_levels(tensors, tensors.size(*logits)))
    return TokenizerConfig(by_modality=chosen)


def _quantizer_levels(tensors: ForeignTensors, codes: int) -> tuple[int, ...]:
    """Levels of FSQ, which the basis tells as well. Raises WeightsError when neither makes as many ids."""
    name, basis_name = f"{PICTURES}fsq._levels", f"{PICTURES}fsq._basis"
    stored, basis = tensors.integers(name), tensors.integers(basis_name)
    told = [levels for levels in (stored, _levels_of_basis(basis, codes)) if _makes(levels, codes)]
    if not told:
        raise tensors.refusal(
            f"has '{name}' {stored[:20] or 'nowhere'} and '{basis_name}' {basis[:20] or 'nowhere'}. Levels are numbers "
            f"from 2 up, whose product is the number of ids, {codes} by 'world_model.head_observations.image.3.*', "
            "and the basis numbers them, the first level fastest."
        )
    if len(set(told)) > 1:
        tensors.contradict(f"{name} {told[0]} but {basis_name} tells the levels {told[1]}")
    return told[0]


def _levels_of_basis(basis: tuple[int, ...], codes: int) -> tuple[int, ...]:
    """Each number of the basis is the product of the levels before; () when it cannot be."""
    following = (*basis[1:], codes)
    possible = basis[:1] == (1,) and all(a > 0 and b % a == 0 for a, b in zip(basis, following, strict=True))
    return tuple(b // a for a, b in zip(basis, following, strict=True)) if possible else ()


def _makes(levels: tuple[int, ...], codes: int) -> bool:
    few = 0 < len(levels) < MOST_CODES.bit_length()
    return few and min(levels) >= 2 and prod(levels) == codes <= MOST_CODES


def _image_networks(tensors: ForeignTensors) -> dict[str, Any]:
    """Options of the networks of the image tokenizer."""
    encoder, decoder = f"{PICTURES}encoder.cnn.", f"{PICTURES}decoder.cnn.0.0."
    halvings = tensors.count(encoder + "1.{}.", f"{PICTURES}decoder.cnn.1.{{}}.")
    convolutions = [f"{encoder}0.", *(f"{encoder}1.{i}.2.conv." for i in range(halvings))]
    norms = [*(f"{encoder}1.{i}.0." for i in range(halvings)), f"{encoder}2.0."]
    channels = tuple(
        _grouped(tensors, convolution, norm) for convolution, norm in zip(convolutions, norms, strict=True)
    )
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    return {
        "channels": channels,
        "code_size": _grouped(tensors, f"{encoder}2.2.", decoder),
        "batch_norm": any(tensors.has(f"{decoder}{name}") for name in statistics),
    }


def _grouped(tensors: ForeignTensors, convolution: str, norm: str) -> int:
    """Channels of a convolution and the norm behind it, by prefix. Raises WeightsError when they make no groups."""
    channels = tensors.size(*_rows(convolution, 4), *_rows(norm, 1))
    if channels % NUM_GROUPS:
        raise tensors.refusal(
            f"has '{convolution}weight' with {channels} channels, which are no multiple of the {NUM_GROUPS} groups of "
            "their norm."
        )
    return channels
