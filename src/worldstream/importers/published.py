"""The published agents, stated in their own words: sizes, and what of their training matters where they play or dream.

Sizes are stated, never guessed. Only which parts there are shows in the names of tensors (``Parts``): the sequence
model of the older or of the newer agents, the quantiser of images, whether actor and critic share a network.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal, NamedTuple

from worldstream.agent.actor_critic import ActorCriticConfig
from worldstream.agent.losses import ActorCriticLossConfig
from worldstream.agent.return_scale import ReturnScaleConfig
from worldstream.config import Config
from worldstream.environments.config import EnvironmentConfig
from worldstream.errors import ConfigError, WeightsError
from worldstream.importers.tensors import ForeignTensors
from worldstream.options import Between
from worldstream.tokenizers.base import TokenizerOptions
from worldstream.tokenizers.bundle import TokenizerConfig
from worldstream.tokenizers.image import ImageFSQConfig, ImageVQConfig
from worldstream.tokenizers.image_networks import NUM_GROUPS
from worldstream.tokenizers.levels import FixedLevelsConfig
from worldstream.world_model.heads.base import HeadConfig
from worldstream.world_model.heads.disagreement import DisagreementConfig
from worldstream.world_model.heads.observation import ObservationConfig
from worldstream.world_model.heads.reward import RewardConfig
from worldstream.world_model.heads.termination import TerminationConfig
from worldstream.world_model.model import WorldModelConfig
from worldstream.world_model.sequence.attention import AttentionConfig
from worldstream.world_model.sequence.base import SequenceConfig
from worldstream.world_model.sequence.retention import RetentionConfig

OBSERVATION_TYPES = ("image", "vector", "token", "token_2d")
"""Types of observation in the order in which the published agents lay them out."""

MODEL, AGENT, IMAGE = "world_model.", "actor_critic.", "tokenizer.tokenizers.image."
"""Beginnings of the names of tensors."""

READING = "hl_gauss_symlog"
"""How published agents read rewards and values."""

Size = Annotated[int, Between(1, 65_536)]
Few = Annotated[int, Between(1, 1000)]


@dataclass(frozen=True, kw_only=True)
class SequenceSettings:
    """``world_model.retnet`` of the older agents, ``world_model.transformer`` of the newer ones."""

    num_layers: Few = 10
    num_heads: Few = 4
    embed_dim: Size = 256
    decay_scale_min_num_blocks: Annotated[float, Between(1)] = 2.0
    """Retention: memory span of the first head, in blocks."""
    decay_scale_max_num_blocks: Annotated[float, Between(1)] = 16.0
    """Retention: memory span of the last head, in blocks."""
    pred_self_mask: Literal["causal", "full"] = "causal"
    """Attention: whether a prediction token sees those before it in its block, or all of them."""


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """``world_model``."""

    retnet: SequenceSettings = field(default_factory=SequenceSettings)
    transformer: SequenceSettings = field(default_factory=SequenceSettings)
    context_length: Few = 1
    """Blocks before the first whose observation is trained."""
    curiosity_ensemble_size: Few = 4
    obs_emb_dim: Annotated[int, Between(0, 65_536)] = 256
    """Width of codes where no images are read; an agent of another width has a map between them that nothing reads."""
    shared_embeddings: bool | None = None
    """Images are embedded by their codes. None: as the names of tensors show."""
    tokenize_actions: bool | None = None
    """The world model reads continuous actions as levels; others cannot be read."""


@dataclass(frozen=True, kw_only=True)
class PolicySettings:
    """``actor_critic``."""

    obs_mlp_layer_sizes: Annotated[tuple[Size, ...], Between(1)] = (512,)
    tokens_embed_dim: Size = 64
    num_value_bins: Size = 128
    """One less than there are."""
    n_action_quant_levels: Annotated[int, Between(2, 65_536)] = 51
    real_reward_weight: float = 1.0
    intrinsic_reward_weight: float = 1.0


@dataclass(frozen=True, kw_only=True)
class EncoderSizes:
    """``tokenizer.image.encoder.config``."""

    out_channels: Size = 256
    out_channels_1st_layer: Size = 64
    """Each halving doubles them."""
    num_downsample_steps: Annotated[int, Between(1, 10)] = 3


@dataclass(frozen=True, kw_only=True)
class EncoderSettings:
    """``tokenizer.image.encoder``."""

    config: EncoderSizes = field(default_factory=EncoderSizes)


@dataclass(frozen=True, kw_only=True)
class ImageSettings:
    """``tokenizer.image``."""

    vocab_size: Annotated[int, Between(2, 65_536)] = 512
    fsq_levels: Annotated[tuple[Annotated[int, Between(2, 65_536)], ...], Between(1, 16)] = (8, 8, 8)
    encoder: EncoderSettings = field(default_factory=EncoderSettings)


@dataclass(frozen=True, kw_only=True)
class TokenizerSettings:
    """``tokenizer``."""

    image: ImageSettings = field(default_factory=ImageSettings)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """A published configuration. The words are the published ones, but for the first six, which are ours."""

    policy_convolutions: Annotated[tuple[Size, ...], Between(1)] = (128, 64)
    """Channels of the policy's convolutions over the codes of images."""
    segment_length: Few = 20
    """Blocks of a training segment."""
    batch_size: Few = 32
    """Segments of a world-model update."""
    horizon: Few = 20
    """Imagined steps."""
    burn_in: Few = 20
    """Real steps before the first imagined one."""
    action_repeat: Few | None = None
    """Frames for which each action is repeated. None: as is usual for the suite of the environment."""
    world_model: ModelSettings = field(default_factory=ModelSettings)
    actor_critic: PolicySettings = field(default_factory=PolicySettings)
    tokenizer: TokenizerSettings = field(default_factory=TokenizerSettings)
    gamma: Annotated[float, Between(0, 1)] = 0.99
    lambda_: Annotated[float, Between(0, 1)] = 0.95


COMPUTED: dict[str, Any] = {
    "norm_num_groups": NUM_GROUPS,
    "downsample_use_conv": True,
    "mask_type": "autoregressive",
    "pos_enc": "rotary",
    "shared_prediction_token": False,
    "include_action_inputs": True,
    "rnn_type": "lstm",
}
"""Options of the published code of which we compute one value, the one that the published agents use."""

UNREAD = frozenset(
    {"config", "variant", "checkout", "modalities", "tokens_per_observation", "tokens_per_action", "seed", "spaces"}
    | {"action_space", "tokenizer.vector"}
    | {f"tokenizer.image.{name}" for name in ("decoder", "embed_dim", "ema_decay", "commitment_beta", "with_lpips")}
    | {f"tokenizer.image.encoder.config.{name}" for name in ("in_channels", "input_resolution")}
    | {
        f"world_model.{part}.{name}"
        for part in ("retnet", "transformer")
        for name in ("max_blocks", "dropout", "blocks_per_chunk", "pred_pass_mode")
    }
    | {f"world_model.{name}" for name in ("max_blocks", "compute_states_parallel", "enable_curiosity")}
    | {f"actor_critic.{name}" for name in ("name", "num_layers", "separate_networks")}
)
"""What else a published configuration holds: the environment or the names of tensors say it, or nothing needs it."""

_DMC = {"num_layers": 10, "num_heads": 3, "embed_dim": 192}
_CRAFTAX = {"num_layers": 5, "num_heads": 4, "embed_dim": 256}
PUBLISHED: dict[str, dict[str, Any]] = {
    "atari": {
        "world_model": {
            "retnet": {"decay_scale_min_num_blocks": 4, "decay_scale_max_num_blocks": 16},
            "context_length": 2,
        },
        "segment_length": 10,
        "horizon": 9,
    },
    "dmc": {
        "world_model": {
            "retnet": {**_DMC, "decay_scale_min_num_blocks": 2, "decay_scale_max_num_blocks": 2},
            "transformer": _DMC,
        },
        "actor_critic": {"obs_mlp_layer_sizes": [384], "intrinsic_reward_weight": 10.0},
        "batch_size": 16,
        "action_repeat": 2,
    },
    "craftax": {
        "world_model": {
            "retnet": {**_CRAFTAX, "decay_scale_min_num_blocks": 8, "decay_scale_max_num_blocks": 40},
            "transformer": _CRAFTAX,
            "context_length": 2,
        },
        "actor_critic": {"obs_mlp_layer_sizes": [512, 512], "real_reward_weight": 100.0},
        "batch_size": 8,
        "horizon": 19,
    },
}
"""The three published configurations; what they do not name is as ``Settings`` say."""

PLAYED = {
    "atari": EnvironmentConfig(
        action_repeat=4,
        kwargs={"noops": [1, 30], "life_loss": True, "clip_rewards": True, "max_frames": 20_000, "resize": "bilinear"},
        evaluation_kwargs={"noops": [1, 1], "life_loss": False, "clip_rewards": False, "max_frames": 108_000},
    )
}
"""How environments of a suite that is called like a configuration are played."""


class Parts(NamedTuple):
    """What a published agent consists of."""

    observed: tuple[str, ...]  # types of observation
    continuous: bool  # actions are levels on lines instead of a category
    attention: bool  # the newer agents; else retention
    curious: bool  # there is an ensemble
    separate_networks: bool  # the critic has one of its own
    fsq: bool  # images are quantised by FSQ; else by VQ
    batch_norm: bool  # the decoder of images opens with a batch norm
    image_table: bool  # images are embedded by a table instead of their codes

    @staticmethod
    def of(tensors: ForeignTensors) -> Parts:
        """As the names of tensors show. Raises WeightsError when they are none of a published agent."""
        observed = tuple(name for name in OBSERVATION_TYPES if tensors.has(f"{MODEL}head_observations.{name}."))
        if not observed:
            raise WeightsError(
                f"{tensors.source} has no tensor '{MODEL}head_observations.*': it is no published agent's checkpoint."
            )
        return Parts(
            observed=observed,
            continuous=tensors.has(f"{AGENT}actor_action_projection.", f"{AGENT}actor_linear.0."),
            attention=tensors.has(f"{MODEL}_model.pred_tokens", f"{MODEL}_model.layers.0.self_attn."),
            curious=tensors.has(f"{MODEL}curiosity_head."),
            separate_networks=tensors.has(f"{AGENT}critic_latent_fuser."),
            fsq=tensors.has(f"{IMAGE}fsq.", f"{IMAGE}pre_quant_conv."),
            batch_norm=tensors.has(*(f"{IMAGE}decoder.cnn.0.0.{name}" for name in ("running_", "num_batches"))),
            image_table=tensors.has(f"{MODEL}obs_embeddings.image."),
        )


class PublishedAgent(NamedTuple):
    """A published agent as its parts and their sizes."""

    parts: Parts
    settings: Settings

    @property
    def sequence_part(self) -> str:
        """Which settings are those of the sequence model."""
        return "transformer" if self.parts.attention else "retnet"

    @property
    def members(self) -> int:
        """Members of the ensemble; 0 without one."""
        return self.settings.world_model.curiosity_ensemble_size if self.parts.curious else 0

    def config(self, source: str) -> Config:
        """A configuration of ours. Raises WeightsError, which names ``source``, when we compute no such agent."""
        if self.parts.continuous and self.settings.world_model.tokenize_actions is False:
            raise WeightsError("agents with tokenize_actions 'False' cannot be read, only those with 'True'.")
        try:
            return self._config()
        except ConfigError as error:
            raise WeightsError(f"{source} is of an agent that cannot be built: {error}") from error

    def _config(self) -> Config:
        base, members, settings = Config(), self.members, self.settings
        model, policy, parts = settings.world_model, settings.actor_critic, self.parts
        heads: dict[str, HeadConfig] = {
            "observation": ObservationConfig(),
            "reward": RewardConfig(output=READING),
            "termination": TerminationConfig(num_logits=2),
        }
        if members:
            heads["disagreement"] = DisagreementConfig(num_members=members)
        context = max(model.context_length - 1, 1)
        horizon = max(min(settings.horizon, settings.segment_length - 1 - context), 1)
        shared = not parts.image_table if model.shared_embeddings is None else model.shared_embeddings
        return replace(
            base,
            environment=replace(
                base.environment, num_action_levels=policy.n_action_quant_levels, action_repeat=settings.action_repeat
            ),
            tokenizers=self._tokenizers(),
            world_model=WorldModelConfig(
                sequence=self._sequence(),
                context_length=model.context_length,
                heads=heads,
                loss_weights=dict.fromkeys(heads, 1.0),
                slot_embedding=False,
                shared_embeddings=shared,
                unit_codes=False,
            ),
            actor_critic=ActorCriticConfig(
                hidden=policy.obs_mlp_layer_sizes,
                embedding_width=policy.tokens_embed_dim,
                grid_channels=settings.policy_convolutions if "image" in parts.observed else (),
                separate_networks=parts.separate_networks,
                value_output=READING,
                num_value_bins=policy.num_value_bins + 1,
            ),
            losses=ActorCriticLossConfig(
                discount=settings.gamma,
                lambda_=settings.lambda_,
                return_scale=ReturnScaleConfig(floor=1.0),
                reward_weights={"extrinsic": policy.real_reward_weight}
                | ({"disagreement": policy.intrinsic_reward_weight} if members else {}),
            ),
            # Published trajectories go on beyond the blocks after which predictions were trained; ours end there.
            imagination=replace(base.imagination, horizon=horizon, context_length=context, burn_in=settings.burn_in),
            segment_length=settings.segment_length,
            # Each member of the ensemble trains on its own share of a batch.
            world_model_learner=replace(
                base.world_model_learner, batch_size=max(settings.batch_size // max(members, 1), 1) * max(members, 1)
            ),
        )

    def _sequence(self) -> SequenceConfig:
        sizes: SequenceSettings = getattr(self.settings.world_model, self.sequence_part)
        shared: dict[str, Any] = {
            "num_layers": sizes.num_layers,
            "width": sizes.embed_dim,
            "num_heads": sizes.num_heads,
            "dropout": 0.1,
        }
        if self.parts.attention:
            return AttentionConfig(**shared, norm="post", slots=sizes.pred_self_mask)
        spans = (sizes.decay_scale_min_num_blocks, sizes.decay_scale_max_num_blocks)
        return RetentionConfig(**shared, decay_blocks=spans)

    def _tokenizers(self) -> TokenizerConfig:
        chosen: dict[str, TokenizerOptions] = {"vector": FixedLevelsConfig()}
        image = self.settings.tokenizer.image
        encoder = image.encoder.config
        networks: dict[str, Any] = {
            "channels": tuple(encoder.out_channels_1st_layer << i for i in range(encoder.num_downsample_steps + 1)),
            "code_size": encoder.out_channels,
            "batch_norm": self.parts.batch_norm,
        }
        if self.parts.fsq:
            chosen["image"] = ImageFSQConfig(**networks, levels=image.fsq_levels)
        elif "image" in self.parts.observed:
            chosen["image"] = ImageVQConfig(**networks, codebook_size=image.vocab_size, ema_decay=0.0, revive_below=0.0)
        return TokenizerConfig(by_modality=chosen)
