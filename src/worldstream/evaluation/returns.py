"""Imagined against real return: does the agent know how well its episodes go on?

At starting points of recorded episodes, three estimates of the discounted return that follows: what really came, what
the critic says, and what the agent imagines (H steps and the critic's value of the last one). The latter two are
exactly what the agent learns from: they are scaled, hold the intrinsic reward where there is one, and follow the policy
at temperature 1. The real return is scaled likewise but holds no intrinsic reward.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from worldstream.agent.losses import ActorCriticLossConfig
from worldstream.config import Config
from worldstream.evaluation.episodes import RecordedEpisode
from worldstream.evaluation.openloop import cut_windows, starting_points
from worldstream.models import Models
from worldstream.nn.numerics import lambda_returns
from worldstream.training.updates import imagine_from, past_length
from worldstream.types import EXTRINSIC

UNSEEN_WEIGHT = 0.05
"""Where an episode was not followed to its termination: largest discount factor of the first reward not seen."""


@dataclass(frozen=True)
class ReturnComparison:
    """Discounted returns from S starting points."""

    real: np.ndarray  # (S,)
    value: np.ndarray  # (S,) the critic's
    imagined: np.ndarray  # (S,)

    @property
    def correlation(self) -> float:
        """Pearson's correlation of real and imagined returns; NaN when either does not vary."""
        if len(self.real) < 2 or not self.real.std() or not self.imagined.std():
            return math.nan
        return float(np.corrcoef(self.real, self.imagined)[0, 1])

    @property
    def bias(self) -> float:
        """Mean of imagined minus real return."""
        return float((self.imagined - self.real).mean())


def compare_returns(
    models: Models,
    episodes: list[RecordedEpisode],
    config: Config,
    *,
    samples: int,
    generator: torch.Generator | None = None,
) -> ReturnComparison | None:
    """Compare returns at up to ``samples`` random starting points; None when the real return of none is known well
    enough. The models are left in evaluation mode."""
    starts = starting_points(episodes, first=0, samples=samples, generator=generator)
    returns = [returns_to_go(episode, config.losses) for episode in episodes]
    known = [(i, t) for i, t in starts if not np.isnan(returns[i][t])]
    if not known:
        return None
    losses, past = config.losses, past_length(config.imagination)
    batch = cut_windows(models, episodes, known, before=past, after=0)  # as the agent gets them from replay
    trajectories = imagine_from(models, batch, config.imagination, generator, rewards=losses.rewards)
    with torch.no_grad():
        values = models.actor_critic.value_output(trajectories.info["value_logits"]).mean
        rewards = losses.weighted(trajectories)
        imagined = lambda_returns(rewards, trajectories.terminated, values, losses.discount, 1.0)
    return ReturnComparison(
        real=np.array([returns[i][t] for i, t in known]),
        value=values[:, 0].cpu().numpy(),
        imagined=imagined[:, 0].cpu().numpy(),
    )


def returns_to_go(episode: RecordedEpisode, losses: ActorCriticLossConfig) -> np.ndarray:
    """(T,) scaled discounted return from each step; NaN where too much of it lies beyond the recording."""
    following, returns = 0.0, np.zeros(episode.length)
    scale = losses.reward_weights.get(EXTRINSIC, 0.0)
    for t in reversed(range(episode.length)):
        following = scale * float(episode.rewards[t]) + losses.discount * following
        returns[t] = following
    if not episode.terminated:
        unseen = losses.discount ** np.arange(episode.length, 0, -1)
        returns[unseen > UNSEEN_WEIGHT] = np.nan
    return returns
