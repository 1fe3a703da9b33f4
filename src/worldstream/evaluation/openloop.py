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
from worldstream.types import EXTRINSIC, Batch, Observations
from worldstream.world_model.model import Imagined, WorldModel


@dataclass(frozen=True)
class ErrorCurve:
    """Mean error of one quantity by horizon; NaN where no episode reaches so far."""

    model: np.ndarray  # (H,)
    copy: np.ndarray  # (H,) of the forecast that nothing changes
    unit: str


@dataclass(frozen=True)
class OpenLoopError:
    """Errors of the world model over horizons 1..H."""

    keys: dict[str, ErrorCurve]  # by observation key
    reward: ErrorCurve
    counts: np.ndarray  # (H,) starting points whose episode reaches so far


def open_loop_error(
    models: Models,
    episodes: list[RecordedEpisode],
    *,
    context: int,
    horizon: int,
    samples: int,
    generator: torch.Generator | None = None,
) -> OpenLoopError | None:
    """Measure the errors from randomly chosen starting points; None when every episode ends within the context.

    Keys whose tokens have features are compared by mean absolute difference of the features, others by the share of
    ids that differ.

    Models are in evaluation mode; there are ``context`` >= 1 real blocks before each of at most ``samples`` starts.
    """
    starts = starting_points(episodes, first=context, samples=samples, generator=generator)
    if not starts:
        return None
    batch = cut_windows(models, episodes, starts, before=context, after=horizon)
    imagined = follow(models.world_model, batch, context=context, generator=generator)
    reached = batch.acted[:, context:-1]
    keys = {}
    for key, spec in models.tokenizers.specs.items():
        tokens = batch.tokens[key]
        three = tokens[:, context + 1 :], imagined.tokens[key], tokens[:, context : context + 1]
        if spec.feature_size:
            real, dreamed, last = map(models.tokenizers.by_key[key].features, three)
            model, copy, unit = (real - dreamed).abs(), (real - last).abs(), "mean absolute error of features"
        else:
            real, dreamed, last = three
            model, copy, unit = (real != dreamed).float(), (real != last).float(), "share of wrong ids"
        keys[key] = ErrorCurve(_by_horizon(model, reached), _by_horizon(copy, reached), unit)
    rewards = batch.rewards[:, context:-1]
    model, copy = rewards - imagined.rewards[EXTRINSIC], rewards - batch.rewards[:, context - 1 : context]
    reward = ErrorCurve(_by_horizon(model.abs(), reached), _by_horizon(copy.abs(), reached), "mean absolute error")
    return OpenLoopError(keys, reward, reached.sum(0).cpu().numpy())


def dream(
    models: Models,
    episode: RecordedEpisode,
    *,
    start: int,
    context: int,
    horizon: int,
    generator: torch.Generator | None = None,
) -> Observations:
    """Let the world model follow the real actions of an episode of T steps, and decode what it sees.

    ``start`` is the last real observation, with ``context`` real blocks before it; start + horizon <= T. Models are in
    evaluation mode. Returns the observations at start + 1 .. start + H by key, (H, *shape), as they would be stored.
    """
    if not context <= start <= episode.length - horizon:
        raise ValueError(f"start {start} needs {context} steps before it and {horizon} of {episode.length} after it")
    batch = cut_windows(models, [episode], [(0, start)], before=context, after=horizon)
    imagined = follow(models.world_model, batch, context=context, generator=generator)
    decoded = models.tokenizers.decode({key: tokens[0] for key, tokens in imagined.tokens.items()})
    return {key: models.tokenizers.modalities[key].unload(tensor) for key, tensor in decoded.items()}


@torch.no_grad()
def follow(
    world_model: WorldModel,
    batch: Batch,
    *,
    context: int,
    generator: torch.Generator | None = None,
    likeliest: bool = False,
    forced: bool = False,
) -> Imagined:
    """Read c = ``context`` real blocks, then imagine along the real actions.

    Of the c + 1 + H steps of the batch, observations after the start, at c, are read where ``forced`` only, and the
    last action never. Where ``likeliest``, nothing is sampled (``WorldModel.foresee``). Returns what follows each of
    the H actions, with an axis of time behind that of the batch.
    """
    past = {key: tokens[:, :context] for key, tokens in batch.tokens.items()}
    state = world_model.warm_up(past, batch.actions[:, :context])
    current = {key: tokens[:, context] for key, tokens in batch.tokens.items()}
    steps = []
    for t in range(context, batch.actions.shape[1] - 1):
        actions = batch.actions[:, t]
        if likeliest:
            step, state = world_model.foresee(current, actions, state, rewards=(EXTRINSIC,))
        else:
            step, state = world_model.step(current, actions, state, generator, rewards=(EXTRINSIC,))
        current = {key: tokens[:, t + 1] for key, tokens in batch.tokens.items()} if forced else step.tokens
        steps.append(step)
    return Imagined(
        tokens={key: torch.stack([step.tokens[key] for step in steps], 1) for key in batch.tokens},
        rewards={EXTRINSIC: torch.stack([step.rewards[EXTRINSIC] for step in steps], 1)},
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
) -> Batch:
    """Steps ``-before .. after`` around (episode, step) starting points, tokenized.

    Outside of an episode values repeat its edge, and neither observations nor actions are real.
    """
    tokens = {i: models.tokenizers.encode(episodes[i].observations) for i in {i for i, _ in starts}}
    offsets = np.arange(-before, after + 1)
    windows = [(i, episodes[i], start + offsets) for i, start in starts]

    def stack(arrays: list[np.ndarray]) -> Tensor:
        return torch.as_tensor(np.stack(arrays), device=models.device)

    seen = stack([t.clip(0, episode.length) for _, episode, t in windows])
    acted = [(episode, t.clip(0, episode.length - 1)) for _, episode, t in windows]
    ended = [(t == episode.length - 1) & episode.terminated for _, episode, t in windows]
    real = stack([(t >= 0) & (t < episode.length) for _, episode, t in windows])
    return Batch(
        anchors=np.arange(len(starts)),
        tokens={
            key: torch.stack([tokens[i][key][t] for (i, _, _), t in zip(windows, seen, strict=True)])
            for key in models.tokenizers.specs
        },
        actions=stack([episode.actions[t].astype(np.int64) for episode, t in acted]),
        rewards=stack([episode.rewards[t] for episode, t in acted]),
        terminated=stack(ended),
        observed=stack([(t >= 0) & (t <= episode.length) for _, episode, t in windows]),
        acted=real,
    )


def _by_horizon(error: Tensor, reached: Tensor) -> np.ndarray:
    """Mean over starting points that ``reached`` (S, H) so far, and over what follows the axes of ``error``."""
    error = error.flatten(2).mean(2) if error.ndim > 2 else error
    mean = torch.where(reached, error, 0.0).sum(0) / reached.sum(0)  # 0 / 0 is NaN
    values: np.ndarray = mean.cpu().numpy()
    return values
