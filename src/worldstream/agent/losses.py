"""Actor-critic losses on imagined trajectories."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, NamedTuple

import torch
from torch import Tensor

from worldstream.agent.actor_critic import ActorCritic
from worldstream.agent.return_scale import ReturnScale, ReturnScaleConfig
from worldstream.nn.numerics import lambda_returns, masked_mean
from worldstream.options import Between
from worldstream.types import EXTRINSIC, Trajectories


@dataclass(frozen=True, kw_only=True, slots=True)
class ActorCriticLossConfig:
    """How imagined trajectories teach."""

    discount: Annotated[float, Between(0, 1)] = 0.99
    """Per environment step."""
    lambda_: Annotated[float, Between(0, 1)] = 0.95
    """Weight of longer returns."""
    entropy_weight: Annotated[float, Between(0)] = 0.001
    """Bonus for the entropy of the policy, summed over action tokens, in nats."""
    critic_warmup: Annotated[int, Between(0)] = 0
    """Updates at the beginning that train the critic alone: values that grow from zero look like good actions."""
    return_scale: ReturnScaleConfig = field(default_factory=ReturnScaleConfig)
    reward_weights: dict[str, float] = field(default_factory=lambda: {EXTRINSIC: 1.0, "disagreement": 1.0})
    """Factor of each reward that the heads of the world model predict; 0: it is not computed."""

    @property
    def rewards(self) -> list[str]:
        """Names of the rewards that count."""
        return [name for name, weight in self.reward_weights.items() if weight]

    def weighted(self, trajectories: Trajectories) -> Tensor:
        """(B, H) what the agent is rewarded for: the weighted sum of the rewards that count."""
        total = torch.zeros(trajectories.terminated.shape, device=trajectories.terminated.device)
        for name in self.rewards:
            total = total + self.reward_weights[name] * trajectories.rewards[name]
        return total


class ActorCriticLosses(NamedTuple):
    """What one batch of trajectories teaches."""

    total: Tensor  # ()
    metrics: dict[str, Tensor]  # () each, without gradient
    priorities: Tensor  # (B,) logarithm of the mean absolute advantage of each trajectory, for prioritised starts


def actor_critic_losses(
    agent: ActorCritic, return_scale: ReturnScale, config: ActorCriticLossConfig, trajectories: Trajectories
) -> ActorCriticLosses:
    """REINFORCE with a lambda-return baseline, HL-Gauss value regression and an entropy bonus.

    Steps after an imagined end are masked out of every term (C10).
    """
    terminated, value_logits = trajectories.terminated, trajectories.info["value_logits"]
    policy = agent.policy_output(trajectories.info["policy_logits"][:, :-1])
    value = agent.value_output(value_logits)
    rewards = config.weighted(trajectories)
    values = value.mean.detach()
    returns = lambda_returns(rewards, terminated, values, config.discount, config.lambda_)
    ended_before = torch.cumsum(terminated.long(), 1) - terminated.long()
    alive = ended_before == 0
    # Returns after the end mean nothing; the first one of a trajectory, which always counts, stands in for them.
    scale = return_scale.update(torch.where(alive, returns, returns[:, :1]))
    advantage = (returns - values[:, :-1]) / scale
    actor = masked_mean(-policy.log_prob(trajectories.actions) * advantage, alive)
    agent.critic.expect(*return_scale.range())
    critic = masked_mean(agent.value_output(value_logits[:, :-1]).loss(returns), alive)
    entropy = masked_mean(policy.entropy(), alive)
    acts = (return_scale.count > config.critic_warmup).to(actor.dtype)
    total = acts * actor + critic - config.entropy_weight * (acts * entropy)
    metrics = {
        "actor_loss": actor,
        "critic_loss": critic,
        "entropy": entropy,
        "return_scale": scale,
        "imagined_return": masked_mean(returns, alive),
        "imagined_reward": masked_mean(rewards, alive),
        **{
            name: masked_mean(trajectories.rewards[name], alive) if weight else torch.zeros_like(scale)
            for name, weight in config.reward_weights.items()
            if name != EXTRINSIC
        },
        "value": masked_mean(values[:, :-1], alive),
        "imagined_length": alive.float().sum(1).mean(),
    }
    # Drawn by soft-max, logarithms make a start as likely as the critic was mistaken about it.
    priorities = (torch.where(alive, advantage.abs(), 0.0).sum(1) / alive.sum(1)).clamp(min=1e-6).log()
    return ActorCriticLosses(total, {name: metric.detach() for name, metric in metrics.items()}, priorities)
