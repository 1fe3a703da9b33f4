"""The whole configuration of a run: nested frozen dataclasses, made by presets, overridden on the command line.

Facts that are discovered at run time (specs, device, number of actions) are constructor arguments elsewhere, never
fields here.
"""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import inf, isfinite
from operator import attrgetter
from typing import Any, TypeVar

from worldstream.agent.actor_critic import ActorCriticConfig
from worldstream.agent.losses import ActorCriticLossConfig
from worldstream.environments.config import EnvironmentConfig
from worldstream.errors import ConfigError
from worldstream.tokenizers.base import TokenizerConfig
from worldstream.training.learner import LearnerConfig
from worldstream.world_model.model import WorldModelConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class ReplayConfig:
    """Bounds of replay, and how world-model segments are drawn."""

    max_steps: int = 1_000_000
    """Environment steps kept; the oldest are dropped."""
    max_bytes: int = 4 * 1024**3
    """Bytes of observations, actions and rewards kept."""
    memory_map: str | None = None
    """Folder of a fast disk that keeps the observations instead of memory; room for all of them is reserved at once."""
    sampler: str = "prioritized"
    """Sampler of world-model segments."""
    sampler_options: dict[str, float] = field(
        default_factory=lambda: {"uniform_fraction": 0.7, "initial_priority": 10.0}
    )
    """Keyword options of that sampler. Prioritised: the share of a batch that is drawn uniformly, and the priority,
    in nats of loss, of segments never trained on. The uniform sampler has none."""
    start_sampler: str = "uniform"
    """Sampler of the observations that imagined trajectories begin at. Prioritised: those from where the critic was
    most mistaken come back, which helps where rewards are rare."""
    start_sampler_options: dict[str, float] = field(default_factory=dict)
    """Keyword options of that sampler; its priorities are mean absolute advantages."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImaginationConfig:
    """Where imagined trajectories begin and how long they are."""

    horizon: int = 12
    """Imagined environment steps."""
    context_length: int = 2
    """Real blocks that the world model reads before the first imagined step."""
    burn_in: int = 10
    """Real steps that the policy's memory reads before the first imagined step."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CollectionConfig:
    """How experience is gathered."""

    num_environments: int = 1
    """Environments stepped together."""
    backend: str = "sync"
    """"sync" steps them in this process, "process" gives each its own, where they may crash or hang."""
    max_restarts: int = 100
    """Failures of environments that a run survives by making them anew; the episode counts as truncated."""
    timeout: float = 300.0
    """Seconds after which an environment in a process of its own is taken to hang."""
    epsilon: float = 0.01
    """Probability of a uniformly random action, or with ``hold_random_actions`` of beginning to hold one."""
    random_steps: int = 500
    """Environment steps at the beginning with uniformly random actions."""
    hold_random_actions: bool = False
    """Whether a random action is held for n steps with a probability proportional to 1 / n^2 (Dabney et al. 2021, arXiv
    2006.01782) instead of for one, which goes far where single random steps undo each other. A step is then random
    about five times as often as ``epsilon`` says."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointConfig:
    """How often the whole state of a run is saved."""

    every_steps: int = 5000
    """Environment steps between checkpoints; 0: only when the run stops."""
    keep: int = 2
    """Newest checkpoints that are kept."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationConfig:
    """How returns are measured: own environments, own seeds, no exploration."""

    every_steps: int = 0
    """Environment steps between evaluations during training; 0: only at the end."""
    episodes: int = 10
    """Episodes of an evaluation during training."""
    final_episodes: int = 100
    """Episodes of the evaluation at the end."""
    num_environments: int = 8
    """Environments stepped together."""
    max_episode_steps: int = 27_000
    """Steps after which an episode is cut and its return so far counted, so that an evaluation always ends."""
    temperature: float = 0.5
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
    imagination: ImaginationConfig = field(default_factory=ImaginationConfig)
    collection: CollectionConfig = field(default_factory=CollectionConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    tokenizer_learner: LearnerConfig = field(
        default_factory=lambda: LearnerConfig(
            batch_size=32, learning_rate=1e-3, clip_norm=10.0, updates_per_step=0.25, start_steps=250, every_steps=250
        )
    )
    """Of the tokenizers that are trained, where there are any; its batches are of single observations."""
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
    segment_length: int = 16
    """Blocks of a world-model segment (T)."""
    fit_until_steps: int = 100_000
    """Data-fitted tokenizers are fitted when learning starts and at each doubling of the steps, up to here."""
    max_skipped_updates: int = 10
    """Updates whose loss or gradient is not finite that a run survives; each is skipped and kept to be looked at."""
    tail_share: float = 0.0
    """After the last environment step the clock and the learners go on for this share of the steps, as if there were
    new ones."""
    log_every_steps: int = 250
    """Environment steps between lines of metrics."""
    num_threads: int = 1
    """Threads of tensor operations on the CPU."""

    def __post_init__(self) -> None:
        for path, value in _leaves(self.to_json()):
            if isinstance(value, float) and not isfinite(value) and not path.startswith("environment.kwargs."):
                raise ConfigError(f"{path} must be a finite number, not {value}.")
        for path, (low, high) in BOUNDS.items():
            value = attrgetter(path)(self)
            if not low <= value <= high:
                limit = f"at least {low}" if high == inf else f"between {low} and {high}"
                raise ConfigError(f"{path} must be {limit}, not {value}.")
        if not self.actor_critic.hidden or min(self.actor_critic.hidden) < 1:
            widths = self.actor_critic.hidden
            raise ConfigError(f"actor_critic.hidden must be one or more widths from 1 up, not {widths}.")
        members, batch = self.world_model.ensemble_size, self.world_model_learner.batch_size
        if members and batch % members:
            raise ConfigError(
                f"world_model_learner.batch_size {batch} must be a multiple of world_model.ensemble_size {members}: "
                "each member trains on its own share of the batch."
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
        if self.losses.intrinsic_weight and not members:
            raise ConfigError(
                "losses.intrinsic_weight needs an ensemble: set world_model.ensemble_size to 2 or more, "
                "or the weight to 0."
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
        return dataclasses.asdict(self)

    @staticmethod
    def from_json(data: dict[str, Any]) -> Config:
        """Inverse of ``to_json``. Raises ConfigError that names an unknown, missing or ill-typed field."""
        return from_plain(Config, data, "config")


BOUNDS: dict[str, tuple[float, float]] = {
    "segment_length": (1, inf),
    "max_skipped_updates": (0, inf),
    "log_every_steps": (1, inf),
    "tail_share": (0, inf),
    "num_threads": (1, inf),
    "tokenizers.num_levels": (2, inf),
    "tokenizers.uniform_levels": (0, 1),
    "tokenizers.cells_per_token": (0, inf),
    "tokenizers.image.codebook_size": (2, 65_536),
    "tokenizers.image.ema_decay": (0, 1),
    "tokenizers.image.revive_below": (0, 1),
    "tokenizers.image.rarity": (0, 1),
    "tokenizers.image.patch": (1, inf),
    "tokenizers.image.fsq_channels": (1, inf),
    "world_model.context_length": (1, inf),
    "world_model.ensemble_size": (0, inf),
    "world_model.reward_scale": (1e-6, inf),
    "world_model.sequence.num_layers": (1, inf),
    "world_model.sequence.num_heads": (1, inf),
    "world_model.sequence.width": (2, inf),
    "world_model.sequence.dropout": (0, 1),
    "actor_critic.embedding_width": (1, inf),
    "actor_critic.num_value_bins": (2, inf),
    "losses.discount": (0, 1),
    "losses.lambda_": (0, 1),
    "imagination.horizon": (1, inf),
    "imagination.context_length": (1, inf),
    "imagination.burn_in": (1, inf),
    "collection.num_environments": (1, inf),
    "collection.max_restarts": (0, inf),
    "collection.timeout": (0, inf),
    "collection.epsilon": (0, 1),
    "checkpoint.every_steps": (0, inf),
    "checkpoint.keep": (1, inf),
    "evaluation.episodes": (1, inf),
    "evaluation.final_episodes": (1, inf),
    "evaluation.num_environments": (1, inf),
    "evaluation.max_episode_steps": (1, inf),
    "evaluation.temperature": (0, inf),
    **{
        f"{learner}.{name}": bounds
        for learner in ("tokenizer_learner", "world_model_learner", "actor_critic_learner")
        for name, bounds in {
            "batch_size": (1, inf),
            "learning_rate": (0, inf),
            "cooldown": (0, 1),
            "clip_norm": (0, inf),
            "updates_per_step": (0, inf),
            "start_steps": (0, inf),
            "every_steps": (1, inf),
            "stop_steps": (0, inf),
        }.items()
    },
}
"""Smallest and largest value of each bounded number, by its place in the configuration."""

T = TypeVar("T")


def _leaves(tree: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """(place, value) of everything in nested dictionaries and sequences."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list | tuple) else None
    if items is None:
        yield path, tree
        return
    for name, value in items:
        yield from _leaves(value, f"{path}.{name}" if path else str(name))


def from_plain(cls: type[T], data: Any, where: str) -> T:
    """Build a (nested) dataclass, tuple or dict of the annotated type from JSON values; ConfigError names the place."""
    if dataclasses.is_dataclass(cls):
        if not isinstance(data, dict):
            raise ConfigError(f"{where}: expected an object with the fields of {cls.__name__}, got {json.dumps(data)}.")
        hints = typing.get_type_hints(cls)
        known = {f.name for f in dataclasses.fields(cls)}
        unknown = sorted(set(data) - known)
        if unknown:
            raise ConfigError(f"{where}: unknown field '{unknown[0]}'; known: {', '.join(sorted(known))}.")
        values = {name: from_plain(hints[name], value, f"{where}.{name}") for name, value in data.items()}
        try:
            return typing.cast(T, cls(**values))
        except TypeError as error:
            raise ConfigError(f"{where}: {error}.") from error
    return typing.cast(T, _plain_value(cls, data, where))


def _plain_value(hint: Any, data: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return data
    if origin in (typing.Union, types.UnionType):
        if data is None and type(None) in arguments:
            return None
        return _plain_value(next(a for a in arguments if a is not type(None)), data, where)
    if origin is typing.Literal:
        if any(type(data) is type(choice) and data == choice for choice in arguments):
            return data
        raise ConfigError(f"{where}: expected one of {', '.join(map(repr, arguments))}, got {json.dumps(data)}.")
    if origin is tuple and isinstance(data, list | tuple):
        variadic = len(arguments) == 2 and arguments[1] is Ellipsis
        hints = [arguments[0]] * len(data) if variadic else list(arguments)
        if len(hints) != len(data):
            raise ConfigError(f"{where}: expected {len(hints)} values, got {len(data)}.")
        return tuple(from_plain(h, x, f"{where}[{i}]") for i, (h, x) in enumerate(zip(hints, data, strict=True)))
    if origin is dict and isinstance(data, dict):
        return {key: from_plain(arguments[1], value, f"{where}.{key}") for key, value in data.items()}
    if hint is float and isinstance(data, int) and not isinstance(data, bool):
        return float(data)
    if isinstance(hint, type) and isinstance(data, hint) and not (hint is int and isinstance(data, bool)):
        return data
    raise ConfigError(f"{where}: expected {getattr(hint, '__name__', hint)}, got {json.dumps(data)}.")
