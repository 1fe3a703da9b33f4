"""What a run will cost, measured on the real modules with random data, before anything is trained."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from worldstream.acting import act
from worldstream.config import Config
from worldstream.errors import ConfigError
from worldstream.models import Models, num_parameters
from worldstream.replay.rows import bytes_per_row
from worldstream.replay.token_cache import token_columns
from worldstream.runs.capacity import TRAINING_BYTES, ReplaySize
from worldstream.specs import ActionSpec, TokenSpec
from worldstream.training.experiment import Experiment
from worldstream.training.learner import Learner
from worldstream.training.synthetic import synthetic_batch, synthetic_observations
from worldstream.training.updates import past_length, update_actor_critic, update_tokenizers, update_world_model
from worldstream.types import Batch

ENVIRONMENT_STEPS = 200
"""Random steps by which the environment's speed is measured."""
SLOW_SECONDS = 5.0
"""Updates that take longer are measured on a smaller batch."""
PROBE_SIZE = 4
"""About the size of that batch."""


@dataclass(frozen=True)
class KeyEstimate:
    """How one key of the observation is read."""

    modality: str
    shape: tuple[int, ...]
    tokens: TokenSpec
    stored_bytes: int
    """Of one observation in replay."""
    cached_bytes: int
    """Of its tokens, which are kept beside it."""


@dataclass(frozen=True)
class Estimate:
    """What a run would be. Seconds are per 1000 environment steps in the steady phase, on this machine."""

    experiment: Experiment
    observation: dict[str, KeyEstimate]
    """By key."""
    action: ActionSpec
    replay: ReplaySize
    parameters: dict[str, int]
    """Number of parameters of each component that is trained."""
    peak_bytes: int
    seconds: dict[str, float]
    total_seconds: float
    """Seconds of the whole run, updates after the last environment step included."""
    missing: str
    """What training would need beside the packages and could not find, with the remedy; empty when there is nothing."""
    extrapolated: bool
    """Whether an update would have taken so long that it was measured on a smaller batch; its time is scaled up, the
    peak memory is that of the smaller batch."""

    @property
    def model_bytes(self) -> int:
        """Weights, gradients and optimisers."""
        return TRAINING_BYTES * sum(self.parameters.values())


def estimate(experiment: Experiment) -> Estimate:
    """Build everything for a run, time one update of each part, and add up."""
    config, steps, device = experiment.config, experiment.steps, experiment.device
    torch.set_num_threads(config.num_threads)
    made = experiment.environment.make()
    models = Models(config, made.observation_specs, made.action_spec).to(device)
    environment_seconds = _environment_seconds(made)
    made.close()
    missing = _missing(models, config)
    models.tokenizers.prepare_training(pretrained=False)
    trained = {"world model": models.world_model, "actor-critic": models.actor_critic}
    if models.tokenizers.trainable:
        trained = {"tokenizers": models.tokenizers, **trained}
    shares = config.world_model.batch_shares
    probe_size = shares * math.ceil(PROBE_SIZE / shares)
    work = _repeated_work(models, config, steps)
    measured = {name: part.seconds(probe_size, device) for name, part in work.items()}
    seconds = {name: 1000 * work[name].per_step * duration for name, (duration, _) in measured.items()}
    seconds["environment"] = 1000 * environment_seconds
    late = (experiment.last_step - steps) * sum(seconds[name] for name in trained)
    return Estimate(
        experiment=experiment,
        observation=_observation(models),
        action=models.action_spec,
        replay=ReplaySize.of(config, models, steps),
        parameters={name: num_parameters(module) for name, module in trained.items()},
        peak_bytes=peak_bytes(device),
        seconds=seconds,
        total_seconds=(steps * sum(seconds.values()) + late) / 1000,
        extrapolated=any(scaled for _, scaled in measured.values()),
        missing=missing,
    )


def _observation(models: Models) -> dict[str, KeyEstimate]:
    """How each key is read."""
    tokens = models.tokenizers.specs
    return {
        key: KeyEstimate(
            modality=spec.modality,
            shape=spec.shape,
            tokens=tokens[key],
            stored_bytes=spec.num_bytes,
            cached_bytes=bytes_per_row(token_columns({key: tokens[key]})),
        )
        for key, spec in models.key_specs.items()
    }


def _environment_seconds(environment: Any) -> float:
    """Mean wall time of a random step, resets included."""
    environment.reset(seed=0)
    rng = np.random.default_rng(0)
    began = time.perf_counter()
    for _ in range(ENVIRONMENT_STEPS):
        _, _, terminated, truncated, _ = environment.step(rng.integers(0, environment.action_spec.sizes))
        if terminated or truncated:
            environment.reset()
    return (time.perf_counter() - began) / ENVIRONMENT_STEPS


def _missing(models: Models, config: Config) -> str:
    """What training would refuse to begin without, as its message says it; empty when nothing is missing."""
    if any(options.fetches for options in config.tokenizers.by_modality.values()):
        return ""  # not before a run is asked for
    try:
        models.tokenizers.prepare_training()
    except ConfigError as error:
        return str(error)
    return ""


@dataclass(frozen=True)
class _Work:
    """Something that a run does over and over."""

    per_step: float  # times an environment step
    batch_size: int
    prepare: Callable[[int], Callable[[], Any]]  # what is done with a batch of so many

    def seconds(self, probe_size: int, device: torch.device) -> tuple[float, bool]:
        """Wall time of one call, and whether it is scaled up from a batch of ``probe_size``."""
        if self.batch_size > probe_size:
            scale = self.batch_size / probe_size
            probed = scale * _median_seconds(self.prepare(probe_size), device, repetitions=1)
            if probed > SLOW_SECONDS:
                return probed, True
        return _median_seconds(self.prepare(self.batch_size), device, repetitions=3), False


def _median_seconds(function: Callable[[], Any], device: torch.device, *, repetitions: int) -> float:
    """Median wall time of a call, its work on the device included, after one that is not counted."""
    times = []
    for _ in range(repetitions + 1):
        began = time.perf_counter()
        function()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - began)
    return float(np.median(times[1:]))


def _repeated_work(models: Models, config: Config, steps: int) -> dict[str, _Work]:
    """Everything that a run does over and over, beside running the environment."""
    wm, ac, num = config.world_model_learner, config.actor_critic_learner, config.collection.num_environments
    generator = torch.Generator(models.device).manual_seed(0)
    world_model, actor_critic = Learner(models.world_model, wm), Learner(models.actor_critic, ac)

    def batch(size: int, length: int) -> Batch:
        specs, device = models.tokenizers.specs, models.device
        return synthetic_batch(specs, models.action_spec, batch_size=size, length=length, device=device)

    def choose(size: int) -> Callable[[], Any]:
        seen, carry = synthetic_observations(models.key_specs, size), models.actor_critic.initial_carry(size)
        return partial(act, models.tokenizers, models.actor_critic.policy(), seen, carry, generator)

    def learn_world(size: int) -> Callable[[], Any]:
        return partial(update_world_model, models.world_model, world_model, batch(size, config.segment_length))

    def learn_to_act(size: int) -> Callable[[], Any]:
        starts = batch(size, past_length(config.imagination) + 1)
        return partial(update_actor_critic, models, actor_critic, starts, config, generator)

    return {
        **(_tokenizer_work(models, config, steps) if models.tokenizers.trainable else {}),
        "choosing actions": _Work(1 / num, num, choose),
        "world model": _Work(wm.updates_per_step, wm.batch_size, learn_world),
        "actor-critic": _Work(ac.updates_per_step, ac.batch_size, learn_to_act),
    }


def _tokenizer_work(models: Models, config: Config, steps: int) -> dict[str, _Work]:
    """What tokenizers cost that are trained, averaged over the run."""
    learner, wm, ac = config.tokenizer_learner, config.world_model_learner, config.actor_critic_learner
    share = min(1.0, learner.stop_steps / steps) if learner.stop_steps else 1.0
    # After a burst of updates every observation that the others draw is encoded anew, once.
    drawn = wm.updates_per_step * wm.batch_size * config.segment_length
    drawn += ac.updates_per_step * ac.batch_size * (past_length(config.imagination) + 1)
    stored = max(1.0, min(steps * share, config.replay.max_steps) / 2)
    encoded = stored * -math.expm1(-drawn * learner.every_steps / stored) / learner.every_steps
    optimised = Learner(models.tokenizers, learner)

    def learn(size: int) -> Callable[[], Any]:
        seen = synthetic_observations(models.key_specs, size, 1)
        return partial(update_tokenizers, models.tokenizers, optimised, seen)

    def encode(size: int) -> Callable[[], Any]:
        return partial(models.tokenizers.encode, synthetic_observations(models.key_specs, size))

    return {
        "tokenizers": _Work(share * learner.updates_per_step, learner.batch_size, learn),
        "encoding anew": _Work(share * encoded / learner.batch_size, learner.batch_size, encode),
    }


def peak_bytes(device: torch.device) -> int:
    """Largest memory of this process so far: on the device, or resident where the device is the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import resource
    import sys

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
