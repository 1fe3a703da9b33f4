"""What the published agent's tensors and settings say about its architecture, as a configuration of ours.

Sizes follow from the shapes of tensors; only what no tensor shows (memory spans, contexts, reward weights) comes from
settings. Names of tensors are those of the published checkpoints (method.md describes the modules behind them).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from worldstream.agent.actor_critic import ActorCriticConfig
from worldstream.agent.losses import ActorCriticLossConfig
from worldstream.compat.tensors import ForeignTensors
from worldstream.config import Config
from worldstream.errors import WeightsError
from worldstream.nn.attention import AttentionConfig
from worldstream.specs import KeySpec
from worldstream.tokenizers.base import TokenizerConfig
from worldstream.tokenizers.image_networks import NUM_GROUPS
from worldstream.world_model.model import WorldModelConfig
from worldstream.world_model.sequence.base import SequenceConfig

MODALITIES = ("image", "vector", "token", "token_2d")
"""Kinds of observation in the order in which the published agent lays them out."""

SEQUENCE = "world_model._model."
"""Prefix of the sequence model."""

PICTURES = "tokenizer.tokenizers.image."
"""Prefix of the image tokenizer."""


@dataclass(frozen=True, kw_only=True)
class PublishedSettings:
    """What the tensors do not show; method.md 9.1 has the published values."""

    decay_blocks: tuple[float, float] = (2.0, 16.0)
    """Retention: shortest and longest memory span, in blocks."""
    slots: str = "causal"
    """Attention: which prediction tokens of a block see each other."""
    context_length: int = 1
    """Blocks before the first whose observation is trained."""
    segment_length: int = 20
    """Blocks of a training segment."""
    batch_size: int = 32
    """Segments of a world-model update."""
    horizon: int = 20
    """Imagined steps."""
    burn_in: int = 20
    """Real steps before the first imagined one."""
    action_repeat: int = 1
    """Frames for which each action is repeated, beyond what the environment itself repeats."""
    discount: float = 0.99
    lambda_: float = 0.95
    extrinsic_weight: float = 1.0
    intrinsic_weight: float = 1.0

    @staticmethod
    def from_json(settings: Mapping[str, Any]) -> PublishedSettings:
        """Settings of a published configuration, in its own words; absent ones keep their defaults."""
        model, agent = settings.get("world_model", {}), settings.get("actor_critic", {})
        retention, attention = model.get("retnet", {}), model.get("transformer", {})
        plain = PublishedSettings()
        _require("norm_num_groups", _found(settings, "norm_num_groups"), NUM_GROUPS)
        _require("mask_type", retention.get("mask_type"), "autoregressive")
        _require("pos_enc", attention.get("pos_enc"), "rotary")
        return PublishedSettings(
            decay_blocks=(
                float(retention.get("decay_scale_min_num_blocks", plain.decay_blocks[0])),
                float(retention.get("decay_scale_max_num_blocks", plain.decay_blocks[1])),
            ),
            slots=attention.get("pred_self_mask", plain.slots),
            context_length=model.get("context_length", plain.context_length),
            discount=settings.get("gamma", plain.discount),
            lambda_=settings.get("lambda_", plain.lambda_),
            extrinsic_weight=agent.get("real_reward_weight", plain.extrinsic_weight),
            intrinsic_weight=agent.get("intrinsic_reward_weight", plain.intrinsic_weight),
        )


def _found(settings: Any, name: str) -> Any:
    """Value of a setting at any depth; None when there is none."""
    if not isinstance(settings, Mapping):
        return None
    return settings.get(name, next((x for part in settings.values() if (x := _found(part, name)) is not None), None))


def _require(name: str, value: Any, known: Any) -> None:
    """Raises WeightsError for an option of the published code that no published agent uses."""
    if value not in (None, known):
        raise WeightsError(f"agents with {name} '{value}' cannot be read, only those with '{known}'.")


def published_modality(spec: KeySpec) -> str:
    """Which of the published kinds of observation a key is. Raises WeightsError when it is none."""
    if spec.modality in ("image", "vector"):
        return spec.modality
    if spec.modality == "categorical" and len(spec.vocabulary) == 1:
        return "token"
    if spec.modality == "grid":
        return "token" if len(spec.vocabulary) == 1 else "token_2d"
    raise WeightsError(
        f"key '{spec.key}' ({spec.modality}, shape {spec.shape}) is nothing that the published agent reads: it has "
        "pictures, vectors, single categories and grids of categories. Leave the key out "
        f"(--modality {spec.key}=ignore)."
    )


def published_kinds(specs: Mapping[str, KeySpec]) -> dict[str, str]:
    """Published kind of observation by key. Raises WeightsError when a key is of none."""
    return {key: published_modality(spec) for key, spec in specs.items()}


def in_published_order(specs: Mapping[str, KeySpec]) -> dict[str, KeySpec]:
    """The keys as the published agent lays them out: by kind, otherwise in their own order."""
    return dict(sorted(specs.items(), key=lambda item: MODALITIES.index(published_modality(item[1]))))


def config_for(tensors: ForeignTensors, settings: PublishedSettings) -> Config:
    """Our configuration of the agent whose tensors these are. Raises WeightsError when sizes cannot be inferred."""
    base = Config()
    levels, members = _action_levels(tensors), _ensemble_size(tensors)
    weights = {name: 1.0 for name in base.world_model.loss_weights if members or name != "disagreement"}
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
            termination_logits=2,
            slot_embedding=False,
            shared_embeddings=not tensors.has("world_model.obs_embeddings.image."),
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
        segment_length=settings.segment_length,
        # Each member of the ensemble trains on its own share of a batch.
        world_model_learner=replace(
            base.world_model_learner, batch_size=max(settings.batch_size // max(members, 1), 1) * max(members, 1)
        ),
    )


def has_continuous_actions(tensors: ForeignTensors) -> bool:
    """Whether actions are levels on lines instead of categories."""
    return tensors.has("actor_critic.actor_action_projection.")


def _action_levels(tensors: ForeignTensors) -> int:
    """Levels of each dimension; 0 for categories."""
    if not has_continuous_actions(tensors):
        return 0
    return tensors.shape("world_model.action_encoder.embedding.weight")[0]


def _sequence(tensors: ForeignTensors, settings: PublishedSettings) -> SequenceConfig:
    width = tensors.shape("world_model.head_ends.0.weight")[1]
    attention = tensors.has(f"{SEQUENCE}pred_tokens")
    # Tables of rotary frequencies betray the width of a head: one entry a pair, or one a feature.
    head_width = (
        2 * tensors.shape(f"{SEQUENCE}rotary_emb.inv_freq")[0]
        if attention
        else tensors.shape(f"{SEQUENCE}layers.0.retention.thetas")[0]
    )
    if settings.slots not in ("causal", "full"):
        raise WeightsError(f"prediction tokens see each other 'causal' or 'full', not '{settings.slots}'.")
    return SequenceConfig(
        model="attention" if attention else "retention",
        num_layers=tensors.count(SEQUENCE + "layers.{}."),
        width=width,
        num_heads=max(width // head_width, 1),
        dropout=0.1,
        decay_blocks=settings.decay_blocks,
        attention=AttentionConfig(norm="post", slots="full" if settings.slots == "full" else "causal"),
    )


def observed_kinds(tensors: ForeignTensors) -> list[str]:
    """Kinds of observation that the agent predicts. Raises WeightsError when there is none."""
    found = [kind for kind in MODALITIES if tensors.has(f"world_model.head_observations.{kind}.")]
    if not found:
        raise WeightsError(
            f"{tensors.source} has no tensor 'world_model.head_observations.*': it is no published agent's checkpoint."
        )
    return found


def cell_vocabulary(tensors: ForeignTensors) -> tuple[int, ...]:
    """Number of values of each channel of the cells that the agent observes; () when it observes none."""
    name = "world_model.obs_embeddings.token_2d.embeddings.embeddings.{}.weight"
    return tuple(tensors.shape(name.format(c))[0] for c in range(tensors.count(name)))


def _ensemble_size(tensors: ForeignTensors) -> int:
    return tensors.count(f"world_model.curiosity_head.{observed_kinds(tensors)[0]}.ensemble." + "{}.")


def _actor_critic(tensors: ForeignTensors) -> ActorCriticConfig:
    agent = "actor_critic."
    fuser = [i for i in range(0, 60, 3) if tensors.has(f"{agent}obs_latent_fuser.{i}.weight")]
    embeddings = [
        tensors.shape(name)[1]
        for name in (
            f"{agent}obs_encoders.token.embeddings.weight",
            f"{agent}obs_encoders.token_2d.embeddings.embeddings.embeddings.0.weight",
        )
        if tensors.has(name)
    ]
    convolutions = tensors.count(agent + "obs_encoders.image.model.{}.0.weight")
    return ActorCriticConfig(
        hidden=tuple(tensors.shape(f"{agent}obs_latent_fuser.{i}.weight")[0] for i in fuser)
        or tensors.shape(f"{agent}obs_latent_fuser.0.weight")[:1],
        embedding_width=embeddings[0] if embeddings else ActorCriticConfig().embedding_width,
        grid_channels=tuple(
            tensors.shape(f"{agent}obs_encoders.image.model.{i}.0.weight")[0] for i in range(convolutions)
        ),
        separate_networks=tensors.has(f"{agent}critic_latent_fuser."),
    )


def _tokenizers(tensors: ForeignTensors) -> TokenizerConfig:
    base = TokenizerConfig()
    choice = {**base.choice, "vector": "fixed_levels"}
    if not tensors.has(PICTURES):
        return replace(base, choice=choice)
    halvings = tensors.count(PICTURES + "encoder.cnn.1.{}.")
    layers = ["0", *(f"1.{i}.2.conv" for i in range(halvings))]
    image = replace(
        base.image,
        channels=tuple(tensors.shape(f"{PICTURES}encoder.cnn.{layer}.weight")[0] for layer in layers),
        code_size=tensors.shape(f"{PICTURES}encoder.cnn.2.2.weight")[0],
        ema_decay=0.0,
        revive_below=0.0,
        batch_norm=tensors.has(f"{PICTURES}decoder.cnn.0.0.running_mean"),
    )
    if tensors.has(f"{PICTURES}fsq."):
        levels = tuple(tensors.values(f"{PICTURES}fsq._levels"))
        return replace(base, choice={**choice, "image": "image_fsq"}, image=replace(image, fsq_levels=levels))
    size = tensors.shape(f"{PICTURES}embedding.weight")[0]
    return replace(base, choice={**choice, "image": "image_vq"}, image=replace(image, codebook_size=size))
