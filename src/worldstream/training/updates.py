"""One update of each component, as functions of a tokenized batch: for the trainer, estimates and benchmarks."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor

from worldstream.agent.losses import actor_critic_losses
from worldstream.config import Config, ImaginationConfig
from worldstream.imagination import Start, imagine
from worldstream.models import Models
from worldstream.tokenizers.bundle import TokenizerBundle
from worldstream.training.learner import Learner
from worldstream.types import Batch, Observations, Trajectories
from worldstream.world_model.model import WorldModel


def update_tokenizers(tokenizers: TokenizerBundle, learner: Learner, observations: Observations) -> dict[str, Tensor]:
    """One gradient step of the tokenizers that are trained, on stored arrays (B, T, *shape); ids change their meaning.

    What the tokenizers write themselves (codebooks by moving average, revived codes, batch norms) stays as it was when
    the update is skipped. Returns metrics, () each.
    """
    before = _copies(tokenizers.written_while_training())
    tokenizers.train()
    total, means = tokenizers.losses(observations)
    norm = learner.step(total)
    tokenizers.eval()
    _put_back(tokenizers.written_while_training(), before, norm)
    tokenizers.relearned()
    return {**means, **tokenizers.statistics(), "gradient_norm": norm}


def update_world_model(world_model: WorldModel, learner: Learner, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
    """One gradient step on segments that begin at their anchors: metrics, () each, and priorities (B,)."""
    before = _copies(world_model.written_while_training())
    world_model.train()
    losses = world_model.losses(batch)
    norm = learner.step(losses.total)
    _put_back(world_model.written_while_training(), before, norm)
    return {**losses.means, "gradient_norm": norm}, losses.priorities


def _copies(written: list[Tensor]) -> list[Tensor]:
    return [tensor.detach().clone() for tensor in written]


@torch.no_grad()
def _put_back(written: list[Tensor], before: list[Tensor], norm: Tensor) -> None:
    """Undo what an update wrote beside its gradient step, if it was skipped: then ``norm`` is not finite."""
    for tensor, old in zip(written, before, strict=True):
        tensor.copy_(torch.where(norm.isfinite(), tensor, old))


def past_length(config: ImaginationConfig) -> int:
    """Real steps before the first imagined one that a batch for ``imagine_from`` holds."""
    return max(config.burn_in, config.context_length)


def imagine_from(
    models: Models,
    batch: Batch,
    config: ImaginationConfig,
    generator: torch.Generator | None,
    *,
    rewards: Collection[str] | None = None,
) -> Trajectories:
    """Trajectories that begin at the last observation of each segment, with the steps before as context.

    The batch has segments of ``past_length(config) + 1`` steps, anchored at their last. Only the named ``rewards`` are
    predicted; None: all that there are.
    """
    models.world_model.eval()
    past = past_length(config)
    before = {key: ids[:, :-1] for key, ids in batch.tokens.items()}
    recent = slice(past - config.context_length, past)
    with torch.no_grad():
        carry = models.actor_critic.burn_in(
            models.tokenizers.features(before), batch.actions[:, :-1], batch.acted[:, :-1]
        )
        state = models.world_model.warm_up(
            {key: ids[:, recent] for key, ids in batch.tokens.items()},
            batch.actions[:, recent],
            batch.acted[:, recent] if batch.padded else None,
        )
    start = Start({key: ids[:, -1] for key, ids in batch.tokens.items()}, state, carry)
    policy = models.policy_of_tokens()
    return imagine(models.world_model, policy, start, horizon=config.horizon, generator=generator, rewards=rewards)


def update_actor_critic(
    models: Models, learner: Learner, batch: Batch, config: Config, generator: torch.Generator | None
) -> tuple[dict[str, Tensor], Tensor]:
    """One gradient step on trajectories imagined from the batch: metrics, () each, and priorities (B,) of starts."""
    trajectories = imagine_from(models, batch, config.imagination, generator, rewards=config.losses.rewards)
    written = [*models.return_scale.buffers(), *models.actor_critic.buffers()]
    before = _copies(written)
    losses = actor_critic_losses(models.actor_critic, models.return_scale, config.losses, trajectories)
    norm = learner.step(losses.total)
    _put_back(written, before, norm)
    return {**losses.metrics, "gradient_norm": norm}, losses.priorities
