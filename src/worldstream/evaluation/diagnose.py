"""Measure what a world model knows about play that it has not seen, in minutes.

Of some recorded episodes every second one teaches the baselines (what can be said without a model), the others
measure::

    nats        segments as in training: what the ids of the next frame cost, against the baselines
    sampled     c real blocks, then H steps along the real actions, as imagination samples them
    likeliest   the same, taking the most likely ids instead
    forced      the same with the real frames: one step ahead each time

Everything is counted in tokens and rewards; what tokens mean is the tokenizers' business.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from worldstream.config import Config
from worldstream.errors import ConfigError
from worldstream.evaluation.baselines import PlayStatistics
from worldstream.evaluation.calibration import Calibration, calibrate, correlation
from worldstream.evaluation.diagnosis import AGENT, RANDOM, DiagnosisConfig, PlayDiagnosis, StepErrors
from worldstream.evaluation.episodes import RecordedEpisode, joined, shortened
from worldstream.evaluation.evaluate import play
from worldstream.evaluation.openloop import cut_windows, follow, starting_points
from worldstream.evaluation.random_play import RandomActor
from worldstream.models import Models
from worldstream.tokenizers.bundle import TokenizerBundle
from worldstream.training.experiment import Experiment
from worldstream.types import EXTRINSIC, Batch, Tokens
from worldstream.world_model.heads.base import TOKENS
from worldstream.world_model.model import Imagined

FrameError = Callable[[Tokens, Tokens], Tensor]
"""Real and guessed tokens (S, K, C) by key -> (S,) error."""
_CHUNK = 32
"""Segments that losses are computed of at once."""


def diagnose_plays(
    models: Models,
    experiment: Experiment,
    options: DiagnosisConfig,
    *,
    on_play: Callable[[str], Any] = lambda who: None,
) -> dict[str, PlayDiagnosis]:
    """Play fresh episodes of both kinds, and measure the world model on each; ``on_play`` is told whose turn it is.

    Raises as ``play`` and ``diagnose_play``.
    """
    config = experiment.config
    evaluation = replace(config.evaluation, temperature=1.0)  # as the agent plays in imagination
    trained = replace(experiment.environment.config, evaluation_kwargs={})  # the world model knows no other protocol
    environment = replace(experiment.environment, config=trained)
    playing = replace(experiment, environment=environment, config=replace(config, evaluation=evaluation))
    playing = shortened(playing, options.max_episode_steps)
    hold, seed = config.collection.hold_random_actions, experiment.seed
    actors = {
        AGENT: None,
        RANDOM: RandomActor(models.action_spec.sizes, hold=hold, seed=seed, device=models.device),
    }
    found = {}
    for name, actor in actors.items():
        on_play(name)
        episodes = joined(play(models, playing, options.episodes, actor=actor))
        if (steps := sum(episode.length for episode in episodes)) < options.min_steps:
            more = math.ceil(options.episodes * options.min_steps / steps)
            episodes = joined(play(models, playing, more, actor=actor))
        generator = torch.Generator(models.device).manual_seed(seed)
        found[name] = diagnose_play(models, config, episodes, options, generator)
    return found


def diagnose_play(
    models: Models,
    config: Config,
    episodes: list[RecordedEpisode],
    options: DiagnosisConfig,
    generator: torch.Generator | None = None,
) -> PlayDiagnosis:
    """Measure the world model on at least two recorded episodes. The models are left in evaluation mode.

    Raises ConfigError when all episodes that measure end within the steps that the world model reads first.
    """
    models.eval()
    fitted, measured = episodes[::2], episodes[1::2]
    encoded = [models.tokenizers.encode(episode.observations) for episode in fitted]
    statistics = PlayStatistics.of(models.tokenizers.specs, encoded)
    context = max(config.imagination.context_length, 1)
    starts = starting_points(measured, first=context, samples=options.samples, generator=generator)
    segments = _segments(measured, config)
    if not starts or not segments:
        raise ConfigError(
            f"no held-out episode is longer than the {context} steps that the world model reads first. Play more "
            "(--episodes), or train with a shorter imagination.context_length."
        )
    # As far as predictions were trained: beyond that they say nothing about imagination.
    horizon = max(1, min(options.steps, config.segment_length - 1 - context))
    windows = cut_windows(models, measured, segments, before=0, after=config.segment_length - 1)
    nats = _nats(models, windows, statistics, config)
    batch = cut_windows(models, measured, starts, before=context, after=horizon)
    steps = _OpenLoop.of(models, batch, context, generator)
    return PlayDiagnosis(
        **nats,
        counts=tuple(steps.reached.sum(0).tolist()),
        wrong_tokens=steps.errors(_wrong_tokens),
        observations={key: steps.errors(_decoded_error(models.tokenizers, key)) for key in steps.real},
        reward_correlation=steps.reward_correlation(),
        valid=steps.by_step(statistics.valid(steps.sampled.tokens)),
        valid_real=float(statistics.valid(steps.real)[steps.reached].double().mean()),
        rewards=steps.calibrate(steps.forced.rewards[EXTRINSIC], steps.rewards),
        imagined_rewards=steps.calibrate(steps.sampled.rewards[EXTRINSIC], steps.rewards),
        ends=steps.calibrate(steps.forced.terminated, steps.ends),
        imagined_ends=steps.calibrate(steps.likeliest.terminated, steps.ends),
    )


def _segments(episodes: list[RecordedEpisode], config: Config) -> list[tuple[int, int]]:
    """(episode, step) at which segments begin that predict every frame once, but the first ones of an episode."""
    unread = config.world_model.context_length
    stride = config.segment_length - unread
    return [(i, t) for i, episode in enumerate(episodes) for t in range(0, episode.length + 1 - unread, stride)]


@torch.no_grad()
def _nats(models: Models, batch: Batch, statistics: PlayStatistics, config: Config) -> dict[str, Any]:
    """Nats a frame of the world model and of the baselines, over the same frames of segments."""
    unread = config.world_model.context_length
    name = next(name for name, head in config.world_model.heads.items() if TOKENS in head.yields)
    num_tokens = sum(spec.num_tokens for spec in models.tokenizers.specs.values())
    counted, total = batch.observed[:, unread:], 0.0
    for part, rows in _chunks(batch, config.world_model.batch_shares):
        means = models.world_model.losses(part).means  # nats a token
        total += float(means.get(name, math.nan)) * num_tokens * int(counted[rows].sum())
    frames = int(counted.sum())
    copy = statistics.copy_nats(batch.tokens)[:, unread - 1 :]
    marginal = statistics.marginal_nats({key: ids[:, unread:] for key, ids in batch.tokens.items()})
    return {
        "frames": frames,
        "nats": total / frames,
        "copy_nats": float(copy[counted].mean()),
        "marginal_nats": float(marginal[counted].mean()),
    }


def _chunks(batch: Batch, shares: int) -> Iterator[tuple[Batch, slice]]:
    """Batches of few rows each, and which rows; the last is repeated, without weight, to a multiple of ``shares``."""
    size = len(batch.anchors)
    for first in range(0, size, _CHUNK):
        number = min(_CHUNK, size - first)
        chosen = torch.arange(math.ceil(number / shares) * shares, device=batch.observed.device)
        rows = first + chosen.clamp(max=number - 1)
        tensors: dict[str, Any] = {
            each.name: value[rows] for each in fields(batch) if isinstance(value := getattr(batch, each.name), Tensor)
        }
        part = replace(batch, **tensors, tokens={key: ids[rows] for key, ids in batch.tokens.items()})
        yield (
            replace(part, anchors=batch.anchors[rows.cpu().numpy()], weights=(chosen < number).float()),
            slice(first, first + number),
        )


@dataclass(frozen=True)
class _OpenLoop:
    """The H steps after each of S starting points: as they were, and as the world model sees them."""

    real: Tokens  # (S, H, K, C) by key
    start: Tokens  # (S, K, C) by key
    rewards: Tensor  # (S, H)
    ends: Tensor  # (S, H) bool
    reached: Tensor  # (S, H) bool: the episode reaches so far
    sampled: Imagined
    likeliest: Imagined
    forced: Imagined

    @staticmethod
    def of(models: Models, batch: Batch, context: int, generator: torch.Generator | None) -> _OpenLoop:
        model, steps = models.world_model, slice(context, -1)
        return _OpenLoop(
            real={key: ids[:, context + 1 :] for key, ids in batch.tokens.items()},
            start={key: ids[:, context] for key, ids in batch.tokens.items()},
            rewards=batch.rewards[:, steps],
            ends=batch.terminated[:, steps],
            reached=batch.acted[:, steps],
            sampled=follow(model, batch, context=context, generator=generator),
            likeliest=follow(model, batch, context=context, likeliest=True),
            forced=follow(model, batch, context=context, likeliest=True, forced=True),
        )

    def errors(self, error: FrameError) -> StepErrors:
        """Means of an error of frames by step, one step after the other: decoded frames are large."""

        def by_step(guess: Tokens | None) -> tuple[float, ...]:
            columns = []
            for h in range(self.reached.shape[1]):
                real = {key: ids[:, h] for key, ids in self.real.items()}
                guessed = self.start if guess is None else {key: ids[:, h] for key, ids in guess.items()}
                columns.append(error(real, guessed))
            return self.by_step(torch.stack(columns, 1))

        return StepErrors(by_step(self.sampled.tokens), by_step(self.likeliest.tokens), by_step(None))

    def by_step(self, values: Tensor) -> tuple[float, ...]:
        """Means of (S, H) over the starting points whose episode reaches the step; NaN where none does."""
        means = torch.where(self.reached, values.double(), 0.0).sum(0) / self.reached.sum(0)
        return tuple(means.tolist())

    def reward_correlation(self) -> tuple[float, ...]:
        """Correlation of sampled with real rewards, by step."""
        columns = zip(self.sampled.rewards[EXTRINSIC].T, self.rewards.T, self.reached.T, strict=True)
        return tuple(correlation(_array(guess[there]), _array(real[there])) for guess, real, there in columns)

    def calibrate(self, predicted: Tensor, real: Tensor) -> Calibration:
        """Calibration over all steps that are reached."""
        return calibrate(_array(predicted[self.reached]), _array(real[self.reached]))


def _array(x: Tensor) -> np.ndarray:
    array: np.ndarray = x.double().cpu().numpy()
    return array


def _wrong_tokens(real: Tokens, guess: Tokens) -> Tensor:
    """(S,) share of tokens, of all keys, of which any id is wrong."""
    wrong = [(real[key] != ids).any(-1) for key, ids in guess.items()]
    return torch.cat(wrong, -1).double().mean(-1)


def _decoded_error(tokenizers: TokenizerBundle, key: str) -> FrameError:
    """Error of what one key shows."""
    categories, unload = bool(tokenizers.key_specs[key].vocabulary), tokenizers.modalities[key].unload

    @torch.no_grad()
    def error(real: Tokens, guess: Tokens) -> Tensor:
        shown, guessed = (unload(tokenizers.by_key[key].decode(tokens[key])) for tokens in (real, guess))
        difference = shown != guessed if categories else np.abs(shown.astype(np.float32) - guessed.astype(np.float32))
        mean = difference.reshape(len(shown), -1).mean(1, dtype=np.float64)
        return torch.as_tensor(mean).to(tokenizers.version.device)

    return error
