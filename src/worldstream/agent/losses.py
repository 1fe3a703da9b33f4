"""Actor-critic losses on imagined trajectories (method.md 8.4)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch
from torch import Tensor

from worldstream.agent.actor_critic import ActorCritic
from worldstream.agent.return_scale import ReturnScale
from worldstream.nn.numerics import lambda_returns, masked_mean
from worldstream.options import Between


@dataclass(frozen=True, kw_only=True, slots=True)
class ActorCriticLossConfig:
    """How imagined trajectories teach."""

    discount: Annotated[float, Between(0, 1)] = 0.99
    """Per environment step."""
    lambda_: Annotated[float, Between(0, 1)] = 0.95
    """Weight of longer returns."""
    entropy_weight: float = 0.001
    """Bonus for the entropy of the policy, summed over action tokens, in nats."""
    extrinsic_weight: float = 1.0
    """Factor of the predicted reward."""
    intrinsic_weight: float = 1.0
    """Factor of the ensemble's disagreement; 0 turns the intrinsic reward off."""


class ActorCriticLosses(NamedTuple):
    """What one batch of trajectories teaches."""

    total: Tensor  # ()
    metrics: dict[str, Tensor]  # () each, without gradient
    priorities: Tensor  # (B,) mean absolute advantage of each trajectory, for prioritised starts


def actor_critic_losses(
    agent: ActorCritic,
    return_scale: ReturnScale,
    config: ActorCriticLossConfig,
    *,
    policy_logits: Tensor,
    value_logits: Tensor,
    actions: Tensor,
    rewards: Tensor,
    disagreement: Tensor,
    terminated: Tensor,
) -> ActorCriticLosses:
    """REINFORCE with a lambda-return baseline, HL-Gauss value regression and an entropy bonus.

    Steps after an imagined end are masked out of every term (C10).

    Args:
        policy_logits: (B, H, A) at states 0..H-1.
        value_logits: (B, H + 1, N) at states 0..H.
        actions: (B, H, M).
        rewards, disagreement: (B, H).
        terminated: (B, H) bool.
    """
    policy, value = agent.policy_output(policy_logits), agent.value_output(value_logits)
    rewards = config.extrinsic_weight * rewards + config.intrinsic_weight * disagreement
    values = value.mean.detach()
    returns = lambda_returns(rewards, terminated, values, config.discount, config.lambda_)
    ended_before = torch.cumsum(terminated.long(), 1) - terminated.long()
    alive = ended_before == 0
    # Returns after the end mean nothing; the first one of a trajectory, which always counts, stands in for them.
    scale = return_scale.update(torch.where(alive, returns, returns[:, :1]))
    advantage = (returns - values[:, :-1]) / scale
    actor = masked_mean(-policy.log_prob(actions) * advantage, alive)
    critic = masked_mean(agent.value_output(value_logits[:, :-1]).loss(returns), alive)
    entropy = masked_mean(policy.entropy(), alive)
    total = actor + critic - config.entropy_weight * entropy
    metrics = {
        "actor_loss": actor,
        "critic_loss": critic,
        "entropy": entropy,
        "return_scale": scale,
        "imagined_return": masked_mean(returns, alive),
        "imagined_reward": masked_mean(rewards, alive),
        "disagreement": masked_mean(disagreement, alive),
        "value": masked_mean(values[:, :-1], alive),
        "imagined_length": alive.float().sum(1).mean(),
    }
    priorities = torch.where(alive, advantage.abs(), 0.0).sum(1) / alive.sum(1)
    return ActorCriticLosses(total, {name: metric.detach() for name, metric in metrics.items()}, priorities)
