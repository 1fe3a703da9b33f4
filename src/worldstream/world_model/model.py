"""The world model: embed blocks of tokens, run the sequence model, read rewards, ends and the next tokens from heads.

It knows token ids and layouts only: what the tokens mean is the tokenizers' business.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, NamedTuple, cast

import torch
from torch import Tensor, nn

from worldstream.errors import ConfigError
from worldstream.nn.numerics import masked_mean
from worldstream.options import Between
from worldstream.specs import ActionSpec, TokenSpec
from worldstream.types import Batch, Tokens
from worldstream.world_model import HEADS, SEQUENCE_MODELS
from worldstream.world_model.block import SUMMARY, BlockLayout
from worldstream.world_model.embed import BlockEmbedder, CodesOf
from worldstream.world_model.heads.base import Head
from worldstream.world_model.heads.disagreement import DisagreementHead
from worldstream.world_model.heads.reward import RewardHead
from worldstream.world_model.heads.tokens import TokenHead
from worldstream.world_model.sequence.base import AnySequenceModel, SequenceConfig

MAX_BLOCK_LENGTH = 2048
"""Tokens of one environment step; a step's cost grows with their square."""
MAX_ACTION_VALUES = 65_536
"""Values of all action tokens together; each has an embedding and a logit."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WorldModelConfig:
    """Architecture and losses of the world model."""

    sequence: SequenceConfig = field(default_factory=SequenceConfig)
    precision: Literal["single", "bfloat16"] = "single"
    """Of the matrix products inside of the sequence model and of the heads of tokens, and of the keys and values of
    attention; weights, the memory of retention, rewards, ends and losses are single in any case. bfloat16 is several
    times faster on GPUs and on processors with units for it, and slower on others."""
    context_length: Annotated[int, Between(1)] = 1
    """Blocks that must precede a prediction before it is trained (c of method.md section 6)."""
    ensemble_size: Annotated[int, Between(0)] = 4
    """Members of the disagreement ensemble; 0 leaves it out."""
    reward_output: str = "hl_gauss"
    """Scalar output of the reward head."""
    reward_scale: Annotated[float, Between(1e-6)] = 1.0
    """Rewards are learned as this many times their value; raise it where they are small and rare."""
    termination_logits: Literal[1, 2] = 1
    """Logits of the termination head; 2 as published."""
    slot_embedding: bool = True
    """Learned embedding for each position of a block, beside the rotary phases."""
    shared_embeddings: bool = True
    """Embed tokens that have learned codes by these codes instead of a table of their own."""
    loss_weights: dict[str, float] = field(
        default_factory=lambda: {"observation": 1.0, "reward": 1.0, "termination": 1.0, "disagreement": 1.0}
    )
    """Weight of each named loss; the names must be exactly those of the model."""
    priority_weights: dict[str, float] = field(default_factory=lambda: {"observation": 1.0, "reward": 1.0})
    """Weight of named losses in the priority of a segment in replay; losses without one do not count."""


class WorldModelLosses(NamedTuple):
    """What one batch teaches."""

    total: Tensor  # () weighted sum of the masked means
    means: dict[str, Tensor]  # () each, by loss name
    priorities: Tensor  # (B,) weighted mean losses of each segment, for prioritised replay


class Imagined(NamedTuple):
    """One imagined step of B trajectories."""

    tokens: Tokens  # (B, K, C) by key: the next observation
    reward: Tensor  # (B,)
    terminated: Tensor  # (B,) bool
    disagreement: Tensor  # (B,) nats, summed over keys; zeros without an ensemble


class WorldModel(nn.Module):
    """Modular world model over streams of tokens.

    Args:
        config: sizes and loss weights.
        token_specs: by observation key, in block order.
        action_spec: the action tokens.
        max_blocks: most blocks that the sequence model will have to remember at once.
        codes_of: tokens by key -> learned codes by key, for shared embeddings; None: there are none.

    Raises ConfigError when the loss weights do not name exactly the losses of the model.
    """

    def __init__(
        self,
        config: WorldModelConfig,
        token_specs: dict[str, TokenSpec],
        action_spec: ActionSpec,
        *,
        max_blocks: int,
        codes_of: CodesOf | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.layout = BlockLayout(token_specs, action_spec)
        _check_size(self.layout)
        width = config.sequence.width
        self.embed = BlockEmbedder(
            self.layout,
            width,
            slot_embedding=config.slot_embedding,
            codes_of=codes_of if config.shared_embeddings else None,
        )
        self.sequence: AnySequenceModel = SEQUENCE_MODELS[config.sequence.model](
            config.sequence, self.layout, max_blocks=max_blocks
        )
        self.tokens = nn.ModuleList(HEADS["tokens"](key, spec, width) for key, spec in token_specs.items())
        self.reward: RewardHead = HEADS["reward"](width, output=config.reward_output, scale=config.reward_scale)
        self.termination: Head = HEADS["termination"](width, num_logits=config.termination_logits)
        members = config.ensemble_size
        self.disagreement = nn.ModuleList(
            HEADS["disagreement"](key, spec, width, num_members=members) for key, spec in token_specs.items() if members
        )
        names = {head.loss_name for head in self._heads()}
        if names != set(config.loss_weights):
            raise ConfigError(
                f"world_model.loss_weights names {sorted(config.loss_weights)}, the model has {sorted(names)}: "
                "give exactly one weight for each."
            )
        if unknown := set(config.priority_weights) - names:
            raise ConfigError(
                f"world_model.priority_weights names {sorted(unknown)}, the model has the losses {sorted(names)}."
            )

    def _heads(self) -> list[Head]:
        return [cast(Head, head) for head in (*self.tokens, self.reward, self.termination, *self.disagreement)]

    def _mixed_precision(self, positions: str = "") -> torch.autocast:
        """Where products may be in bfloat16: the sequence model, and heads but for those of the summary, whose numbers
        (small rewards among them) eight bits would round away."""
        device = next(self.parameters()).device.type
        enabled = self.config.precision == "bfloat16" and positions != SUMMARY
        return torch.autocast(device, torch.bfloat16, enabled=enabled)

    def losses(
        self,
        batch: Batch,
        *,
        names: Collection[str] | None = None,
        context_length: int | None = None,
        priority_weights: Mapping[str, float] | None = None,
    ) -> WorldModelLosses:
        """Named losses of tokenized segments, each (B, T) before masking, masked here and nowhere else.

        A target counts when the prediction it is read from has at least ``context_length`` real blocks before it:
        the same rule for observations, rewards and ends (C17).

        Args:
            batch: the segments.
            names: of the losses to compute; None: all.
            context_length: None: as configured.
            priority_weights: None: as configured.
        """
        context_length = self.config.context_length if context_length is None else context_length
        priority_weights = self.config.priority_weights if priority_weights is None else priority_weights
        blocks = self.embed(batch.tokens, batch.actions)
        state = self.sequence.init_state(len(blocks))
        with self._mixed_precision():
            _, predictions, _ = self.sequence.parallel(blocks, state)
        predictions = predictions.float()
        trained = batch.observed.clone()
        trained[:, :context_length] = False
        arrived = trained[:, 1:] & batch.acted[:, :-1]
        sums: dict[str, Tensor] = {}
        per_segment = torch.zeros(len(blocks), device=blocks.device)
        for head in self._heads():
            if names is not None and head.loss_name not in names:
                continue
            latents = predictions[..., self.layout.positions(head.positions), :]
            target, mask = head.target(batch), trained
            if head.arrives_with_next:
                latents, target, mask = latents[:, 1:], target[:, :-1], arrived
            with self._mixed_precision(head.positions):
                loss = head.loss(latents, target)
            # Observation heads of several keys are averaged by their number of tokens, as one block of slots.
            share = 1.0 if head.arrives_with_next else latents.shape[2] / self.layout.num_observation_tokens
            sums[head.loss_name] = sums.get(head.loss_name, 0.0) + share * masked_mean(loss, mask)
            weight = priority_weights.get(head.loss_name, 0.0)
            if weight:
                rows = torch.where(mask, loss.detach(), 0.0).sum(1) / mask.sum(1).clamp(min=1)
                per_segment = per_segment + weight * share * rows
        total = torch.stack([self.config.loss_weights[name] * value for name, value in sums.items()]).sum()
        return WorldModelLosses(total, {name: value.detach() for name, value in sums.items()}, per_segment)

    def init_state(self, batch_size: int) -> Any:
        """State of the sequence model before any block."""
        return self.sequence.init_state(batch_size)

    def warm_up(self, tokens: Tokens, actions: Tensor, mask: Tensor | None = None) -> Any:
        """State after T real blocks; rows skip the blocks where mask is false.

        Args:
            tokens: (B, T, K, C) by key.
            actions: (B, T, M).
            mask: (B, T) bool; None: all are real, which spares attention a mask of its own for every row.
        """
        blocks, state = self.embed(tokens, actions), self.init_state(len(actions))
        with self._mixed_precision():
            return self.sequence.remember(blocks, state, mask)

    def step(
        self,
        tokens: Tokens,
        actions: Tensor,
        state: Any,
        generator: torch.Generator | None = None,
        *,
        measure_disagreement: bool = True,
    ) -> tuple[Imagined, Any]:
        """Imagine what follows observation tokens (B, K, C) and actions (B, M): sampled next step, new state.

        ``measure_disagreement=False`` leaves the ensemble out, about a fifth of the time of a narrow model.
        """
        blocks = self.embed(tokens, actions)
        with self._mixed_precision():
            latents, state = self.sequence.step(blocks, state)
            following = {
                head.positions: head(latents[:, self.layout.positions(head.positions)]).sample(generator)
                for head in cast(list[TokenHead], list(self.tokens))
            }
            divergences = [
                head.divergence(latents[:, self.layout.positions(head.positions)])
                for head in cast(list[DisagreementHead], list(self.disagreement) if measure_disagreement else [])
            ]
        latents = latents.float()
        summary = latents[:, self.layout.positions(self.reward.positions)]
        reward = self.reward.predict(summary)
        terminated = self.termination(summary).sample(generator).squeeze(-1)
        disagreement = sum(divergences, torch.zeros_like(reward))
        return Imagined(following, reward, terminated, disagreement), state


def _check_size(layout: BlockLayout) -> None:
    """Raises ConfigError for blocks and actions that no machine could train on, before anything is allocated."""
    if layout.length > MAX_BLOCK_LENGTH:
        key, spec = max(layout.token_specs.items(), key=lambda item: item[1].num_tokens)
        raise ConfigError(
            f"an environment step would be {layout.length} tokens, {spec.num_tokens} of them for key '{key}'; at most "
            f"{MAX_BLOCK_LENGTH} are supported. Leave the key out (--modality {key}=ignore) or shrink it in a wrapper; "
            "neighbouring cells of a grid can share tokens (--tokenizers.by-modality.grid.cells-per-token)."
        )
    if sum(layout.action_spec.sizes) > MAX_ACTION_VALUES:
        raise ConfigError(
            f"the action tokens have {sum(layout.action_spec.sizes)} values together; at most {MAX_ACTION_VALUES} are "
            "supported. Split the action into several components, or use a Box."
        )
