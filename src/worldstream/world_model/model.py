"""The world model: embed blocks of tokens, run the sequence model, read everything else from heads.

It knows token ids, layouts and the seam of heads: what tokens mean is the tokenizers' business, and what is predicted
the heads'.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, NamedTuple, cast

import torch
from torch import Tensor, nn

from worldstream.errors import ConfigError
from worldstream.nn.numerics import masked_mean
from worldstream.options import Between, OneOf
from worldstream.specs import ActionSpec, TokenSpec
from worldstream.types import EXTRINSIC, Batch, Tokens
from worldstream.world_model import DEFAULT_HEADS, DEFAULT_SEQUENCE_MODEL, HEADS, SEQUENCE_MODELS
from worldstream.world_model.block import SUMMARY, BlockLayout
from worldstream.world_model.embed import BlockEmbedder, CodesOf
from worldstream.world_model.heads.base import TERMINATED, TOKENS, Head, HeadConfig
from worldstream.world_model.sequence.base import SequenceConfig

ALWAYS = (TOKENS, TERMINATED)
"""Predictions that every imagined step needs."""
MAX_BLOCK_LENGTH = 2048
"""Tokens of one environment step; a step's cost grows with their square."""
MAX_ACTION_VALUES = 65_536
"""Values of all action tokens together; each has an embedding and a logit."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WorldModelConfig:
    """Architecture and losses of the world model."""

    sequence: Annotated[SequenceConfig, OneOf(SEQUENCE_MODELS)] = field(
        default_factory=lambda: SEQUENCE_MODELS[DEFAULT_SEQUENCE_MODEL]()
    )
    heads: dict[str, Annotated[HeadConfig, OneOf(HEADS, by_flag=False)]] = field(
        default_factory=lambda: {name: HEADS[name]() for name in DEFAULT_HEADS}
    )
    """What is read from predictions, by the name of its loss."""
    precision: Literal["single", "bfloat16"] = "single"
    """Precision of matrix products in the sequence model and in heads of observation keys, and of the keys and values
    of attention; weights, the memory of retention, rewards, ends and losses are single in any case. bfloat16 is
    several times faster on GPUs and on processors with units for it, and slower on others."""
    context_length: Annotated[int, Between(1)] = 1
    """Blocks that must precede a prediction before it is trained."""
    slot_embedding: bool = True
    """Learned embedding for each position of a block, beside the rotary phases."""
    shared_embeddings: bool = True
    """Embed tokens that have learned codes by these codes instead of a table of their own."""
    unit_codes: bool = True
    """Bring those codes to a root mean square of one before they enter."""
    level_frequency: Annotated[float, Between(1)] = 1.0
    """Largest deviation of frequencies of the waves as which embeddings of observed levels begin: 1 makes neighbours
    nearly one, which is good for rewards and bad for observations; 20 tells them apart."""
    loss_weights: dict[str, float] = field(default_factory=lambda: dict.fromkeys(DEFAULT_HEADS, 1.0))
    """Weight of the loss of each head. One of weight 0, that gives no priority either, is not computed."""
    priority_weights: dict[str, float] = field(default_factory=lambda: {"observation": 1.0, "reward": 1.0})
    """Weight of the losses of heads in the priority of a segment in replay; those without one do not count."""

    def __post_init__(self) -> None:
        names = sorted(self.heads)
        if names != sorted(self.loss_weights):
            raise ConfigError(
                f"world_model.loss_weights names {sorted(self.loss_weights)}, but there are the heads {names}: "
                "give exactly one weight for each."
            )
        if not any(self.loss_weights.values()):
            raise ConfigError("world_model.loss_weights are all 0: nothing would be learned.")
        if unknown := set(self.priority_weights) - set(names):
            raise ConfigError(f"world_model.priority_weights names {sorted(unknown)}, but there are the heads {names}.")
        for what in (*ALWAYS, EXTRINSIC):
            by = [name for name, head in self.heads.items() if what in head.yields]
            if len(by) != 1:
                those = f"the heads {by} all predict" if by else f"no head of world_model.heads {names} predicts"
                raise ConfigError(f"{those} '{what}': imagination needs it from exactly one.")

    @property
    def rewards(self) -> tuple[str, ...]:
        """Names of the rewards that imagination can have."""
        return tuple({name: None for head in self.heads.values() for name in head.yields if name not in ALWAYS})

    @property
    def batch_shares(self) -> int:
        """The size of a batch must be a multiple."""
        return math.lcm(*(head.batch_shares for head in self.heads.values()))


class WorldModelLosses(NamedTuple):
    """What one batch teaches."""

    total: Tensor  # () weighted sum of the masked means
    means: dict[str, Tensor]  # () each, by head
    priorities: Tensor  # (B,) weighted mean losses of each segment, for prioritised replay


class Imagined(NamedTuple):
    """One imagined step of B trajectories."""

    tokens: Tokens  # (B, K, C) by key: the next observation
    rewards: dict[str, Tensor]  # (B,) by name
    terminated: Tensor  # (B,) bool; of ``foresee`` the probability


Reading = Callable[[Head, Tensor], dict[str, Tensor]]
"""What is read from a head and its latents (B, P, E)."""


class WorldModel(nn.Module):
    """Modular world model over streams of tokens.

    The sequence model will have to remember at most ``max_blocks`` at once; ``codes_of`` serves shared embeddings.
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
        codes_of = codes_of if config.shared_embeddings else None
        self.embed = BlockEmbedder(
            self.layout,
            width,
            slot_embedding=config.slot_embedding,
            codes_of=codes_of,
            unit_codes=config.unit_codes,
            max_frequency=config.level_frequency,
        )
        self.sequence = config.sequence.build(self.layout, max_blocks=max_blocks)
        self.heads = nn.ModuleDict(
            {name: nn.ModuleList(options.build(self.layout, width)) for name, options in config.heads.items()}
        )

    def heads_of(self, name: str) -> list[Head]:
        """The heads that an entry of ``config.heads`` has built; empty where there is no such entry."""
        return cast(list[Head], list(cast(nn.ModuleList, self.heads[name]))) if name in self.heads else []

    def _mixed_precision(self, positions: str = "") -> torch.autocast:
        """Where products may be in bfloat16: the sequence model, and heads but for those of the summary, whose numbers
        (small rewards among them) eight bits would round away."""
        device = next(self.parameters()).device.type
        enabled = self.config.precision == "bfloat16" and positions != SUMMARY
        return torch.autocast(device, torch.bfloat16, enabled=enabled)

    def losses(self, batch: Batch) -> WorldModelLosses:
        """Losses of tokenized segments by head, each (B, T) before masking, masked here and nowhere else.

        A target counts when the prediction it is read from has at least ``context_length`` real blocks before it:
        the same rule for observations, rewards and ends (C17). Means are weighted by the batch's weights.
        """
        blocks = self.embed(batch.tokens, batch.actions)
        state = self.sequence.init_state(len(blocks))
        with self._mixed_precision():
            _, predictions, _ = self.sequence.parallel(blocks, state)
        predictions = predictions.float()
        trained = batch.observed.clone()
        trained[:, : self.config.context_length] = False
        arrived, before = trained[:, 1:] & batch.acted[:, :-1], batch.without_last()
        weights, means = self.config.loss_weights, dict[str, Tensor]()
        per_segment = torch.zeros(len(blocks), device=blocks.device)
        for name in self.config.heads:
            in_priority = self.config.priority_weights.get(name, 0.0)
            heads = self.heads_of(name) if weights[name] or in_priority else []
            latents_of = [predictions[..., self.layout.positions(head.positions), :] for head in heads]
            num_positions = sum(latents.shape[2] for latents in latents_of)
            for head, latents in zip(heads, latents_of, strict=True):
                share = latents.shape[2] / num_positions
                with self._mixed_precision(head.positions):
                    loss = head.loss(latents[:, 1:], before) if head.arrives_with_next else head.loss(latents, batch)
                mask = arrived if head.arrives_with_next else trained
                means[name] = means.get(name, 0.0) + share * masked_mean(loss, mask, batch.weights)
                if self.training and weights[name]:
                    head.learned(loss.detach(), mask)
                if in_priority:
                    of_segments = torch.where(mask, loss.detach(), 0.0).sum(1) / mask.sum(1).clamp(min=1)
                    per_segment = per_segment + in_priority * share * of_segments
        total = torch.stack([weights[name] * mean for name, mean in means.items() if weights[name]]).sum()
        return WorldModelLosses(total, {name: mean.detach() for name, mean in means.items()}, per_segment)

    def written_while_training(self) -> list[Tensor]:
        """See ``Head.written_while_training``: of all heads, and of the embedding."""
        writers: list[BlockEmbedder | Head] = [
            self.embed,
            *(head for name in self.config.heads for head in self.heads_of(name)),
        ]
        return [tensor for writer in writers for tensor in writer.written_while_training()]

    def init_state(self, batch_size: int) -> Any:
        """State of the sequence model before any block."""
        return self.sequence.init_state(batch_size)

    def warm_up(self, tokens: Tokens, actions: Tensor, mask: Tensor | None = None) -> Any:
        """State after T real blocks: tokens (B, T, K, C) by key, actions (B, T, M).

        Rows skip the blocks where mask (B, T) is false; None spares attention a mask of its own for every row.
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
        rewards: Collection[str] | None = None,
    ) -> tuple[Imagined, Any]:
        """Imagine what follows observation tokens (B, K, C) and actions (B, M): sampled next step, new state.

        Heads that yield none of the named ``rewards``, and nothing else that imagination needs, are not computed;
        None: all rewards.
        """
        wanted = self.config.rewards if rewards is None else rewards

        def predict(head: Head, latents: Tensor) -> dict[str, Tensor]:
            return head.predict(latents, tokens, generator)

        return self._follow(tokens, actions, state, wanted, predict)

    def foresee(
        self, tokens: Tokens, actions: Tensor, state: Any, *, rewards: Collection[str] = ()
    ) -> tuple[Imagined, Any]:
        """``step`` without chance, to judge the model by: what most likely follows, and the probability of an end."""
        return self._follow(tokens, actions, state, rewards, lambda head, latents: head.expect(latents, tokens))

    def _follow(
        self, tokens: Tokens, actions: Tensor, state: Any, rewards: Collection[str], read: Reading
    ) -> tuple[Imagined, Any]:
        """Append one block, and ``read`` what follows from the heads that yield something wanted."""
        blocks = self.embed(tokens, actions)
        with self._mixed_precision():
            latents, state = self.sequence.step(blocks, state)
        latents = latents.float()
        wanted = {*ALWAYS, *rewards}
        following: Tokens = {}
        found: dict[str, Tensor] = {}
        for name, options in self.config.heads.items():
            for head in self.heads_of(name) if wanted.intersection(options.yields) else []:
                with self._mixed_precision(head.positions):
                    predicted = read(head, latents[:, self.layout.positions(head.positions)])
                for what, value in predicted.items():
                    if what == TOKENS:
                        following[head.positions] = value
                    else:
                        found[what] = found[what] + value if what in found else value
        terminated = found.pop(TERMINATED)
        return Imagined(following, found, terminated), state


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
