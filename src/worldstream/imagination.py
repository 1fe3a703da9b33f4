"""Imagination: joins a world model and a policy function, and belongs to neither.

Both start from the same observation, the last one of a real segment (C2): the world model has seen the blocks before
it, the policy's memory the observations and actions before it. Each imagined step::

    tokens_t --features--> policy --> action_t
    (tokens_t, action_t) --> world model --> tokens_{t+1}, rewards_t, terminated_t
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from worldstream.types import Policy, Tokens, Trajectories
from worldstream.world_model.model import Imagined


@dataclass(frozen=True)
class Start:
    """Where B trajectories begin."""

    tokens: Tokens  # (B, K, C) by key: the observation
    state: Any  # of the sequence model, after the blocks before that observation
    carry: Any  # of the policy, after the steps before that observation


class Simulator(Protocol):
    """What imagination asks of a world model, or of what stands in for it."""

    def step(
        self,
        tokens: Tokens,
        actions: Tensor,
        state: Any,
        generator: torch.Generator | None = None,
        *,
        rewards: Collection[str] | None = None,
    ) -> tuple[Imagined, Any]:
        """See ``WorldModel.step``."""


def imagine(
    world_model: Simulator,
    policy: Policy,
    start: Start,
    *,
    horizon: int,
    generator: torch.Generator | None = None,
    rewards: Collection[str] | None = None,
) -> Trajectories:
    """Roll the policy out inside the world model. Gradients flow through the policy's memory, not the world model.

    Args:
        world_model: in evaluation mode.
        policy: chooses actions from tokens by key; its info must hold tensors (B, ...).
        start: where to begin.
        horizon: H, imagined transitions. The policy is called H + 1 times, the world model H times (P6).
        generator: on the device of the tensors.
        rewards: names of those to predict; None: all that there are.
    """
    tokens, state, carry = start.tokens, start.state, start.carry
    seen, infos, actions, steps = [tokens], [], [], []
    for _ in range(horizon):
        action, carry, info = policy(tokens, carry, generator)
        with torch.no_grad():
            step, state = world_model.step(tokens, action, state, generator, rewards=rewards)
        tokens = step.tokens
        seen.append(tokens)
        infos.append(info)
        actions.append(action)
        steps.append(step)
    infos.append(policy(tokens, carry, generator)[2])
    return Trajectories(
        tokens={key: torch.stack([x[key] for x in seen], 1) for key in tokens},
        actions=torch.stack(actions, 1),
        rewards={name: torch.stack([step.rewards[name] for step in steps], 1) for name in steps[0].rewards},
        terminated=torch.stack([step.terminated for step in steps], 1),
        info={name: torch.stack([info[name] for info in infos], 1) for name in infos[0]},
    )
