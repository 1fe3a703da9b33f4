"""The whole configuration of a run: nested frozen dataclasses, made by presets, overridden on the command line.

Facts that are discovered at run time (specs, device, number of actions) are constructor arguments elsewhere, never
fields here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any

from worldstream import options
from worldstream.agent.actor_critic import ActorCriticConfig
from worldstream.agent.losses import ActorCriticLossConfig
from worldstream.environments.config import EnvironmentConfig, WorkerConfig
from worldstream.errors import ConfigError
from worldstream.options import Between
from worldstream.replay import ReplayConfig
from worldstream.tokenizers.bundle import TokenizerConfig
from worldstream.world_model.model import WorldModelConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class ImaginationConfig:
    """Where imagined trajectories begin and how long they are."""

    horizon: Annotated[int, Between(1)] = 12
    """Imagined environment steps."""
    context_length: Annotated[int, Between(1)] = 2
    """Real blocks that the world model reads before the first imagined step."""
    burn_in: Annotated[int, Between(1)] = 10
    """Real steps that the policy's memory reads before the first imagined step."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CollectionConfig(WorkerConfig):
    """How experience is gathered."""

    num_environments: Annotated[int, Between(1)] = 1
    """Environments stepped together."""
    epsilon: Annotated[float, Between(0, 1)] = 0.01
    """Probability of a uniformly random action, or with ``hold_random_actions`` of beginning to hold one."""
    random_steps: int = 500
    """Environment steps at the beginning with uniformly random actions."""
    hold_random_actions: bool = False
    """Whether a random action is held for n steps with a probability proportional to 1 / n^2 (Dabney et al. 2021, arXiv
    2006.01782) instead of for one, which goes far where single random steps undo each other. A step is then random
    about five times as often as ``epsilon`` says."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LearnerConfig:
    """How one component is optimised."""

    batch_size: Annotated[int, Between(1)]
    """Segments of one update."""
    learning_rate: Annotated[float, Between(0)]
    """Constant until the cool-down."""
    cooldown: Annotated[float, Between(0, 1)] = 0.0
    """Share of the steps until the last update, at their end, over which the learning rate falls linearly to zero, so
    that the component ends settled."""
    clip_norm: Annotated[float, Between(0)] = 3.0
    """Largest norm of the gradient of the whole component."""
    weight_decay: float = 0.01
    """AdamW decay of the weights of linear maps and convolutions only."""
    updates_per_step: Annotated[float, Between(0)]
    """Gradient updates for each environment step."""
    start_steps: Annotated[int, Between(0)]
    """Environment steps before the first update."""
    every_steps: Annotated[int, Between(1)] = 1
    """Environment steps between bursts of updates; what depends on the component stays valid between them."""
    stop_steps: Annotated[int, Between(0)] = 0
    """Environment steps after which there are no more updates; 0: until the end."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HeldOutConfig:
    """Episodes that neither tokenizers nor the world model train on."""

    share: Annotated[float, Between(0, 0.5)] = 0.0
    """Share of episodes, evenly spaced; the world model's losses on them are logged beside those on replay."""
    pace: Annotated[float, Between(1)] = 1.0
    """Updates of the world model become up to this many times more frequent while the loss on held-out episodes falls,
    and up to as many times rarer while it rises; 1: at a fixed rate, as which estimates of the time count it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointConfig:
    """How often the whole state of a run is saved."""

    every_steps: Annotated[int, Between(0)] = 5000
    """Environment steps between checkpoints; 0: only when the run stops."""
    keep: Annotated[int, Between(1)] = 2
    """Newest checkpoints that are kept."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationConfig:
    """How returns are measured: own environments, own seeds, no exploration."""

    every_steps: int = 0
    """Environment steps between evaluations during training; 0: only at the end."""
    episodes: Annotated[int, Between(1)] = 10
    """Episodes of an evaluation during training."""
    final_episodes: Annotated[int, Between(1)] = 100
    """Episodes of the evaluation at the end."""
    num_environments: Annotated[int, Between(1)] = 8
    """Environments stepped together."""
    max_episode_steps: Annotated[int, Between(1)] = 27_000
    """Steps after which an episode is cut and its return so far counted, so that an evaluation always ends."""
    temperature: Annotated[float, Between(0)] = 0.5
    """Divides the policy's logits; 0 takes the most likely action."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Everything that decides a run, beside the environment's name, the seed and the number of steps."""

    environment: EnvironmentConfig = field(default_factory=EnvironmentConfig)
    tokenizers: TokenizerConfig = field(default_factory=TokenizerConfig)
    world_model: WorldModelConfig = field(default_factory=WorldModelConfig)
    actor_critic: ActorCriticConfig = field(default_factory=ActorCriticConfig)
    losses: ActorCriticLossConfig = field(default_factory=ActorCriticLossConfig)
    replay: ReplayConfig = field(default_factory=ReplayConfig)
    held_out: HeldOutConfig = field(default_factory=HeldOutConfig)
    imagination: ImaginationConfig = field(default_factory=ImaginationConfig)
    collection: CollectionConfig = field(default_factory=CollectionConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    tokenizer_learner: LearnerConfig = field(
        default_factory=lambda: LearnerConfig(
            batch_size=32, learning_rate=1e-3, clip_norm=10.0, updates_per_step=0.25, start_steps=250, every_steps=250
        )
    )
    """Learner of the tokenizers, where any are trained; its batches are of single observations."""
    world_model_learner: LearnerConfig = field(
        default_factory=lambda: LearnerConfig(
            batch_size=16, learning_rate=1e-3, cooldown=0.4, weight_decay=0.05, updates_per_step=0.25, start_steps=500
        )
    )
    actor_critic_learner: LearnerConfig = field(
        default_factory=lambda: LearnerConfig(
            batch_size=64, learning_rate=3e-4, cooldown=0.4, updates_per_step=0.15, start_steps=1000
        )
    )
    segment_length: Annotated[int, Between(1)] = 16
    """Blocks of a world-model segment (T)."""
    fit_until_steps: int = 100_000
    """Data-fitted tokenizers are fitted when learning starts, and at each doubling of the steps up to here."""
    max_skipped_updates: Annotated[int, Between(0)] = 10
    """Updates whose loss or gradient is not finite that a run survives; each is skipped and kept to be looked at."""
    tail_share: Annotated[float, Between(0)] = 0.0
    """After the last environment step the clock and the learners go on for this share of the steps, as if there were
    new ones."""
    log_every_steps: Annotated[int, Between(1)] = 250
    """Environment steps between lines of metrics."""
    num_threads: Annotated[int, Between(1)] = 1
    """Threads of tensor operations on the CPU."""

    def __post_init__(self) -> None:
        options.check(self)
        batch, shares = self.world_model_learner.batch_size, self.world_model.batch_shares
        if batch % shares:
            raise ConfigError(
                f"world_model_learner.batch_size {batch} must be a multiple of {shares}: members of an ensemble in "
                "world_model.heads train on shares of the batch."
            )
        if self.segment_length <= self.world_model.context_length:
            raise ConfigError(
                f"segment_length {self.segment_length} must exceed world_model.context_length "
                f"{self.world_model.context_length}: nothing would be left to train on."
            )
        if self.imagination.context_length < self.world_model.context_length - 1:
            raise ConfigError(
                f"imagination.context_length {self.imagination.context_length} must be at least "
                f"world_model.context_length - 1 = {self.world_model.context_length - 1}: with fewer real blocks the "
                "world model would predict from contexts that it was never trained on."
            )
        reach, trained = self.imagination.context_length + self.imagination.horizon, self.segment_length - 1
        if reach > trained:
            raise ConfigError(
                f"imagination.context_length {self.imagination.context_length} and imagination.horizon "
                f"{self.imagination.horizon} would make predictions after {reach} blocks, but segments of "
                f"segment_length {self.segment_length} train them after {trained} at most. Lower one of the first two, "
                "or raise the last."
            )
        if self.held_out.pace > 1 and not self.held_out.share:
            raise ConfigError(
                f"held_out.pace is {self.held_out.pace:g}, but no episodes are held out to pace updates by: set "
                "held_out.share, for example to 0.05."
            )
        if unknown := set(self.losses.reward_weights) - set(self.world_model.rewards):
            raise ConfigError(
                f"losses.reward_weights names {sorted(unknown)}, but the heads of the world model yield the rewards "
                f"{sorted(self.world_model.rewards)}: add a head that yields it, or leave it out."
            )

    @property
    def max_blocks(self) -> int:
        """Blocks that the world model has to remember at most: a segment, and then a whole imagined trajectory."""
        return self.segment_length + self.imagination.context_length + self.imagination.horizon

    def last_step(self, steps: int) -> int:
        """What the clock shows at the end of a run of so many environment steps."""
        return steps + round(self.tail_share * steps)

    def to_json(self) -> dict[str, Any]:
        """Nested dictionaries of plain values."""
        return options.to_plain(self)

    @staticmethod
    def from_json(data: dict[str, Any]) -> Config:
        """Inverse of ``to_json``. Raises ConfigError that names an unknown, missing or ill-typed field."""
        return options.from_plain(Config, data, "config")
