"""Open-loop error: how far the world model drifts from what really happened, by horizon.

From many starting points in recorded episodes the world model reads ``context`` real blocks, then is told the real
actions but samples its own observations, as it does in imagination::

    real:   o[s-c] ... o[s-1]  o[s]  a[s]   a[s+1]  ...
    model:  '---- context ---' '----step----> o'[s+1], r'[s] --step--> o'[s+2], r'[s+1] ...

Beside it stands the error of a forecast without any model, "nothing changes": o[s] and r[s-1] for every horizon.
Tokens are compared with tokens, so that quantisation is no part of the error; sampling is, so that even a perfect
model of a random environment has some.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from worldstream.evaluation.episodes import RecordedEpisode
from worldstream.models import Models
from worldstream.types import EXTRINSIC, Observations, Tokens
from worldstream.world_model.model import WorldModel


@dataclass(frozen=True)
class ErrorCurve:
    """Mean error of one quantity by horizon; NaN where no episode reaches so far."""

    model: np.ndarray  # (H,)
    copy: np.ndarray  # (H,) of the forecast that nothing changes
    unit: str


@dataclass(frozen=True)
class OpenLoopError:
    """Errors of the world model over horizons 1..H."""

    keys: dict[str, ErrorCurve]
    """By observation key."""
    reward: ErrorCurve
    counts: np.ndarray
    """(H,) starting points whose episode reaches so far."""


@dataclass(frozen=True)
class Windows:
    """Pieces of recorded episodes around S starting points: c blocks before, the start itself, H steps after."""

    tokens: Tokens  # (S, c + 1 + H, K, C) by key
    actions: Tensor  # (S, c + 1 + H, M)
    rewards: Tensor  # (S, c + 1 + H); at c + h is what the step from horizon h to h + 1 gave
    real: Tensor  # (S, c + 1 + H) bool: the episode has an action there; elsewhere the values repeat its last ones


@dataclass(frozen=True)
class Followed:
    """What the world model imagined along given actions."""

    tokens: Tokens  # (B, H, K, C) by key: observations after 1..H steps
    rewards: Tensor  # (B, H)
    terminated: Tensor  # (B, H) bool


def open_loop_error(
    models: Models,
    episodes: list[RecordedEpisode],
    *,
    context: int,
    horizon: int,
    samples: int,
    generator: torch.Generator | None = None,
) -> OpenLoopError | None:
    """Measure the errors from randomly chosen starting points.

    Keys whose tokens have features are compared by mean absolute difference of the features, others by the share of
    ids that differ.

    Args:
        models: in evaluation mode.
        episodes: real episodes of the models' environment.
        context: c >= 1, real blocks before each starting point.
        horizon: H.
        samples: most starting points.
        generator: of the models' device.

    Returns:
        the errors; None when every episode ends within the context.
    """
    starts = starting_points(episodes, first=context, samples=samples, generator=generator)
    if not starts:
        return None
    windows = cut_windows(models, episodes, starts, before=context, after=horizon)
    followed = follow(models.world_model, windows.tokens, windows.actions, context=context, generator=generator)
    real = windows.real[:, context:-1]
    keys = {}
    for key, spec in models.tokenizers.specs.items():
        tokenizer, ids = models.tokenizers.by_key[key], windows.tokens[key]
        truth, last = ids[:, context + 1 :], ids[:, context : context + 1]
        if spec.feature_size:
            unit = "mean absolute error of features"
            truth, last, dreamed = (tokenizer.features(x) for x in (truth, last, followed.tokens[key]))
            model, copy = (truth - dreamed).abs(), (truth - last).abs()
        else:
            unit = "share of wrong ids"
            model, copy = (truth != followed.tokens[key]).float(), (truth != last).float()
        keys[key] = ErrorCurve(_by_horizon(model, real), _by_horizon(copy, real), unit)
    rewards = windows.rewards[:, context:-1]
    reward = ErrorCurve(
        _by_horizon((rewards - followed.rewards).abs(), real),
        _by_horizon((rewards - windows.rewards[:, context - 1 : context]).abs(), real),
        "mean absolute error",
    )
    return OpenLoopError(keys, reward, real.sum(0).cpu().numpy())


def dream(
    models: Models,
    episode: RecordedEpisode,
    *,
    start: int,
    context: int,
    horizon: int,
    generator: torch.Generator | None = None,
) -> Observations:
    """Let the world model follow the real actions of an episode, and decode what it sees.

    Args:
        models: in evaluation mode.
        episode: a real episode of T steps.
        start: last real observation; context <= start and start + horizon <= T.
        context: real blocks before it.
        horizon: H.
        generator: of the models' device.

    Returns:
        observations (H, *shape) by key, as they would be stored: those at start + 1 .. start + H.
    """
    if not context <= start <= episode.length - horizon:
        raise ValueError(f"start {start} needs {context} steps before it and {horizon} of {episode.length} after it")
    windows = cut_windows(models, [episode], [(0, start)], before=context, after=horizon)
    followed = follow(models.world_model, windows.tokens, windows.actions, context=context, generator=generator)
    decoded = models.tokenizers.decode({key: ids[0] for key, ids in followed.tokens.items()})
    return {key: models.tokenizers.modalities[key].unload(tensor) for key, tensor in decoded.items()}


@torch.no_grad()
def follow(
    world_model: WorldModel, tokens: Tokens, actions: Tensor, *, context: int, generator: torch.Generator | None
) -> Followed:
    """Read ``context`` real blocks, then imagine along the real actions.

    Args:
        world_model: in evaluation mode.
        tokens: (B, c + 1 + H, K, C) by key; what comes after the start, at c, is not read.
        actions: (B, c + 1 + H, M); the last is not read.
        context: c.
        generator: of the tensors' device.
    """
    past = {key: ids[:, :context] for key, ids in tokens.items()}
    state = world_model.warm_up(past, actions[:, :context])
    current = {key: ids[:, context] for key, ids in tokens.items()}
    steps = []
    for t in range(context, actions.shape[1] - 1):
        step, state = world_model.step(current, actions[:, t], state, generator, rewards=(EXTRINSIC,))
        current = step.tokens
        steps.append(step)
    return Followed(
        tokens={key: torch.stack([step.tokens[key] for step in steps], 1) for key in tokens},
        rewards=torch.stack([step.rewards[EXTRINSIC] for step in steps], 1),
        terminated=torch.stack([step.terminated for step in steps], 1),
    )


def starting_points(
    episodes: list[RecordedEpisode], *, first: int, samples: int, generator: torch.Generator | None
) -> list[tuple[int, int]]:
    """At most ``samples`` different (episode, step) with ``first`` steps before and at least one after."""
    points = [(i, t) for i, episode in enumerate(episodes) for t in range(first, episode.length)]
    device = generator.device if generator is not None else None
    chosen = torch.randperm(len(points), generator=generator, device=device)[:samples].tolist()
    return [points[i] for i in chosen]


def cut_windows(
    models: Models, episodes: list[RecordedEpisode], starts: list[tuple[int, int]], *, before: int, after: int
) -> Windows:
    """Tokenize the steps around (episode, step) starting points; the parts outside of an episode repeat its edge."""
    device = models.device
    used = sorted({i for i, _ in starts})
    tokens = {i: models.tokenizers.encode(episodes[i].observations) for i in used}
    offsets = np.arange(-before, after + 1)
    rows = [(i, start + offsets) for i, start in starts]
    seen = [(i, torch.as_tensor(t.clip(0, episodes[i].length), device=device)) for i, t in rows]
    acted = [(episodes[i], t.clip(0, episodes[i].length - 1)) for i, t in rows]
    return Windows(
        tokens={key: torch.stack([tokens[i][key][t] for i, t in seen]) for key in models.tokenizers.specs},
        actions=torch.as_tensor(np.stack([e.actions[t] for e, t in acted]).astype(np.int64), device=device),
        rewards=torch.as_tensor(np.stack([e.rewards[t] for e, t in acted]), device=device),
        real=torch.as_tensor(np.stack([(t >= 0) & (t < episodes[i].length) for i, t in rows]), device=device),
    )


def _by_horizon(error: Tensor, real: Tensor) -> np.ndarray:
    """Mean over starting points where ``real`` (S, H), and over what follows the axes of ``error`` (S, H, ...)."""
    error = error.flatten(2).mean(2) if error.ndim > 2 else error
    mean = torch.where(real, error, 0.0).sum(0) / real.sum(0)  # 0 / 0 is NaN
    values: np.ndarray = mean.cpu().numpy()
    return values
