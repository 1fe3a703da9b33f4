"""Recurrent actor-critic: an LSTM that is stepped with the observation, then with the action (docs/method.md,
"memory of the policy").

The carry holds the action that was *executed* last; it enters the LSTM at the next step. So acting, burn-in and
imagination run exactly the same recurrence (C8, C9): a caller that executes another action than the policy chose
puts that one into the carry.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any, cast

import torch
from torch import Tensor, nn

from worldstream.agent.encoder import Encoder, EncoderConfig
from worldstream.nn import SCALAR_OUTPUTS
from worldstream.nn.layers import ChannelTables
from worldstream.nn.outputs import FactoredCategorical, Output
from worldstream.nn.scalars import NUM_BINS
from worldstream.options import Between
from worldstream.specs import ActionSpec, TokenSpec
from worldstream.types import Features, Policy

VALUE_LIMIT = 15.0
"""Range of the critic's bins in symlog space: returns up to +-3.27 million."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ActorCriticConfig(EncoderConfig):
    """Architecture of the actor-critic."""

    separate_networks: bool = False
    """Give the critic an encoder and LSTM of its own."""
    value_output: str = "hl_gauss"
    """Scalar output of the critic."""
    num_value_bins: Annotated[int, Between(2)] = NUM_BINS
    """Bins of that output, where it has any; an odd number has one that is centred on zero."""


@dataclass(frozen=True, slots=True)
class Carry:
    """Memory of the policy. The first axis of every tensor is the batch."""

    memory: tuple[Tensor, ...]
    """(B, hidden) LSTM hidden and cell state of each trunk, in turn."""
    action: Tensor
    """(B, M) the action executed last."""
    acted: Tensor
    """(B,) bool: False before the first action of an episode."""

    def with_action(self, action: Tensor) -> Carry:
        """The same memory after another action was executed than the one chosen."""
        return replace(self, action=action)

    def where(self, mask: Tensor, other: Carry) -> Carry:
        """Rows of this carry where mask (B,) is true, rows of ``other`` elsewhere."""
        column = mask.unsqueeze(-1)
        memory = tuple(torch.where(column, a, b) for a, b in zip(self.memory, other.memory, strict=True))
        action = torch.where(column, self.action, other.action)
        return Carry(memory, action, torch.where(mask, self.acted, other.acted))


class Trunk(nn.Module):
    """Encoder and LSTM cell; steps with the previous action, then with the observation."""

    def __init__(self, config: ActorCriticConfig, token_specs: dict[str, TokenSpec], action_spec: ActionSpec) -> None:
        super().__init__()
        self.encoder = Encoder(token_specs, config)
        width = config.hidden[-1]
        self.action_embed = ActionEmbedding(action_spec, width)
        self.cell = nn.LSTMCell(width, width)

    def forward(self, observed: Tensor, h: Tensor, c: Tensor, acted: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """observed, action: (B, width), embedded; h, c: (B, width); acted: (B,) -> new h, c."""
        h_acted, c_acted = self.cell(action, (h, c))
        column = acted.unsqueeze(-1)
        h, c = torch.where(column, h_acted, h), torch.where(column, c_acted, c)
        h, c = self.cell(observed, (h, c))
        return h, c


class ActionEmbedding(nn.Module):
    """Actions (B, M) -> (B, width): lookups for categories, a linear map of the values for ordered levels."""

    ordinal: Tensor
    half_range: Tensor

    def __init__(self, spec: ActionSpec, width: int) -> None:
        super().__init__()
        sizes = spec.sizes
        self.tables = ChannelTables(sizes, width, ordered=spec.ordinal)
        self.register_buffer("ordinal", torch.tensor(spec.ordinal), persistent=False)
        self.register_buffer("half_range", torch.tensor([(size - 1) / 2 or 1.0 for size in sizes]), persistent=False)
        self.linear = nn.Linear(len(sizes), width) if any(spec.ordinal) else None

    def forward(self, action: Tensor) -> Tensor:
        looked_up = self.tables(action) * (~self.ordinal).unsqueeze(-1)
        summed: Tensor = looked_up.sum(-2)
        if self.linear is None:
            return summed
        values = (action / self.half_range - 1.0) * self.ordinal  # ordered levels are equally spaced on [-1, 1]
        return summed + self.linear(values)


class ActorCritic(nn.Module):
    """Policy and value function over features of tokens; the policy is one categorical for each action token."""

    def __init__(self, config: ActorCriticConfig, token_specs: dict[str, TokenSpec], action_spec: ActionSpec) -> None:
        super().__init__()
        self.sizes = action_spec.sizes
        self.width = config.hidden[-1]
        num_trunks = 2 if config.separate_networks else 1
        self.trunks = nn.ModuleList(Trunk(config, token_specs, action_spec) for _ in range(num_trunks))
        self.actor = nn.Linear(self.width, sum(self.sizes))
        self.critic = SCALAR_OUTPUTS[config.value_output](self.width, limit=VALUE_LIMIT, num_bins=config.num_value_bins)

    def initial_carry(self, batch_size: int) -> Carry:
        """Carry at the beginning of an episode."""
        like = self.actor.weight
        memory = tuple(like.new_zeros(batch_size, self.width) for _ in range(2 * len(self.trunks)))
        action = torch.zeros(batch_size, len(self.sizes), dtype=torch.int64, device=like.device)
        return Carry(memory, action, torch.zeros(batch_size, dtype=torch.bool, device=like.device))

    def remember(self, features: Features, carry: Carry) -> Carry:
        """Step the memory with the executed action of the carry and the new observation (B, ...)."""
        memory: list[Tensor] = []
        for i, trunk in enumerate(self._trunks):
            h, c = carry.memory[2 * i : 2 * i + 2]
            memory += trunk(trunk.encoder(features), h, c, carry.acted, trunk.action_embed(carry.action))
        return replace(carry, memory=tuple(memory))

    @property
    def _trunks(self) -> list[Trunk]:
        return cast(list[Trunk], list(self.trunks))

    @torch.no_grad()
    def burn_in(self, features: Features, actions: Tensor, mask: Tensor) -> Carry:
        """Carry after T steps, as acting would have left it: features (B, T, K, F) by key, executed actions (B, T, M).

        Rows begin with steps to skip, where mask (B, T) is false: segments are padded on the left.
        """
        batch_size, length = mask.shape
        carry = self.initial_carry(batch_size)
        flat = {key: x.flatten(0, 1) for key, x in features.items()}
        memory: list[Tensor] = []
        for trunk in self._trunks:
            # Encoders see all steps in one batch; only the recurrence is sequential (P8).
            observed = trunk.encoder(flat).unflatten(0, (batch_size, length))
            embedded = trunk.action_embed(actions)
            h, c = carry.memory[:2]
            acted = carry.acted
            for t in range(length):
                before = embedded[:, t - 1] if t else torch.zeros_like(h)
                h_new, c_new = trunk(observed[:, t], h, c, acted, before)
                real = mask[:, t].unsqueeze(-1)
                h, c = torch.where(real, h_new, h), torch.where(real, c_new, c)
                acted = mask[:, t]
            memory += [h, c]
        return Carry(tuple(memory), actions[:, -1], mask[:, -1])

    def policy(self, temperature: float = 1.0) -> Policy:
        """The policy function at a temperature that divides the logits; 0 takes the most likely action."""

        def act(features: Features, carry: Carry, generator: torch.Generator | None) -> tuple[Tensor, Carry, Any]:
            carry = self.remember(features, carry)
            logits = self.actor(carry.memory[0])
            output = self.policy_output(logits)
            action = (output.with_temperature(temperature).sample(generator) if temperature else output.mode).detach()
            info = {"policy_logits": logits, "value_logits": self.critic.logits(carry.memory[-2])}
            return action, replace(carry, action=action, acted=torch.ones_like(carry.acted)), info

        return act

    def policy_output(self, logits: Tensor) -> FactoredCategorical:
        """Distribution over action ids from logits (..., sum(sizes))."""
        return FactoredCategorical(logits, self.sizes)

    def value_output(self, logits: Tensor) -> Output:
        """Value from the critic's raw predictions (..., num_logits)."""
        output: Output = self.critic.output(logits)
        return output
