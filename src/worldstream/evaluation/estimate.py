"""What a run will cost, measured on the real modules with random data, before anything is trained."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from worldstream.acting import act
from worldstream.config import Config
from worldstream.environments.suites import make_environment
from worldstream.models import Models, num_parameters
from worldstream.specs import ActionSpec, KeySpec, TokenSpec
from worldstream.training.learner import Learner
from worldstream.training.room import TRAINING_BYTES, replay_row_bytes, replay_rows, token_bytes
from worldstream.training.synthetic import synthetic_batch, synthetic_observations
from worldstream.training.updates import past_length, update_actor_critic, update_tokenizers, update_world_model

ENVIRONMENT_STEPS = 200
"""Random steps by which the environment's speed is measured."""


@dataclass(frozen=True)
class KeyCost:
    """One observation key."""

    spec: KeySpec
    tokens: TokenSpec
    token_bytes: int


@dataclass(frozen=True)
class Estimate:
    """Cost of a run. Seconds are per 1000 environment steps in the steady phase, on this machine."""

    keys: list[KeyCost]
    action: ActionSpec
    bytes_per_step: int
    parameters: dict[str, int]
    replay_bytes: int
    model_bytes: int
    peak_bytes: int
    seconds: dict[str, float]


def _median_seconds(function: Callable[[], Any], device: torch.device, repetitions: int = 3) -> float:
    """Median wall time of a call, the work it left on the device included, after one that is not counted."""

    def run() -> None:
        function()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    run()
    times = []
    for _ in range(repetitions):
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
    return float(np.median(times))


def _environment_seconds(environment: Any) -> float:
    environment.reset(seed=0)
    rng = np.random.default_rng(0)
    began = time.perf_counter()
    for _ in range(ENVIRONMENT_STEPS):
        action = rng.integers(0, environment.action_spec.sizes)
        _, _, terminated, truncated, _ = environment.step(action)
        if terminated or truncated:
            environment.reset()
    return (time.perf_counter() - began) / ENVIRONMENT_STEPS


def estimate(name: Any, config: Config, *, steps: int, device: torch.device) -> Estimate:
    """Build everything for an environment, time one update of each part, and add up.

    Args:
        name: environment, as ``make_environment`` takes it.
        config: of the run.
        steps: planned environment steps, which bound the replay.
        device: where the run would train.
    """
    torch.set_num_threads(config.num_threads)
    environment = make_environment(name, config.environment)
    key_specs, action_spec = environment.observation_specs, environment.action_spec
    environment_seconds = _environment_seconds(environment)
    environment.close()
    models = Models(config, key_specs, action_spec).to(device)
    token_specs = models.tokenizers.specs
    keys = [
        KeyCost(spec, token_specs[key], token_bytes(token_specs[key]))
        for key, spec in key_specs.items()
    ]
    row_bytes, cached_bytes = replay_row_bytes(config, key_specs, token_specs, action_spec)
    rows = replay_rows(config, steps, row_bytes)
    models.tokenizers.prepare_training(pretrained=False)
    learned = {"world model": models.world_model, "actor-critic": models.actor_critic}
    if models.tokenizers.trainable:
        learned = {"tokenizers": models.tokenizers, **learned}
    parameters = {part: num_parameters(module) for part, module in learned.items()}
    seconds = _update_seconds(models, config, steps, device)
    seconds["environment"] = 1000 * environment_seconds
    return Estimate(
        keys=keys,
        action=action_spec,
        bytes_per_step=row_bytes + cached_bytes,
        parameters=parameters,
        replay_bytes=rows * (row_bytes + cached_bytes),
        model_bytes=TRAINING_BYTES * sum(parameters.values()),
        peak_bytes=peak_bytes(device),
        seconds=seconds,
    )


def _update_seconds(models: Models, config: Config, steps: int, device: torch.device) -> dict[str, float]:
    """Seconds of learning and of choosing actions per 1000 environment steps, by part."""
    token_specs, action_spec = models.tokenizers.specs, models.action_spec
    wm, ac = config.world_model_learner, config.actor_critic_learner
    generator = torch.Generator(device).manual_seed(0)
    segments = synthetic_batch(
        token_specs, action_spec, batch_size=wm.batch_size, length=config.segment_length, device=device
    )
    starts = synthetic_batch(
        token_specs, action_spec, batch_size=ac.batch_size, length=past_length(config.imagination) + 1, device=device
    )
    world_model, actor_critic = Learner(models.world_model, wm), Learner(models.actor_critic, ac)

    observations = synthetic_observations(models.key_specs, config.collection.num_environments)
    carry, policy = models.actor_critic.initial_carry(config.collection.num_environments), models.actor_critic.policy()
    parts: dict[str, tuple[float, Callable[[], Any]]] = {
        "choosing actions": (
            1 / config.collection.num_environments,
            lambda: act(models.tokenizers, policy, observations, carry, generator),
        ),
        "world model": (wm.updates_per_step, lambda: update_world_model(models, world_model, segments)),
        "actor-critic": (
            ac.updates_per_step,
            lambda: update_actor_critic(models, actor_critic, starts, config, generator),
        ),
    }
    if models.tokenizers.trainable:
        parts = {**_tokenizer_parts(models, config, steps), **parts}
    return {
        name: 1000 * per_step * _median_seconds(function, device) for name, (per_step, function) in parts.items()
    }


def _tokenizer_parts(models: Models, config: Config, steps: int) -> dict[str, tuple[float, Callable[[], Any]]]:
    """What tokenizers cost that are trained: (times a step, averaged over the run; what is done)."""
    learner, wm, ac = config.tokenizer_learner, config.world_model_learner, config.actor_critic_learner
    share = min(1.0, learner.stop_steps / steps) if learner.stop_steps else 1.0
    # After a burst of updates every observation that the others draw is encoded anew, once.
    drawn = wm.updates_per_step * wm.batch_size * config.segment_length
    drawn += ac.updates_per_step * ac.batch_size * (past_length(config.imagination) + 1)
    stored = max(1.0, min(steps * share, config.replay.max_steps) / 2)
    encoded = stored * -math.expm1(-drawn * learner.every_steps / stored) / learner.every_steps
    seen = synthetic_observations(models.key_specs, learner.batch_size, 1)
    optimised = Learner(models.tokenizers, learner)
    return {
        "tokenizers": (
            share * learner.updates_per_step,
            lambda: update_tokenizers(models.tokenizers, optimised, seen),
        ),
        "encoding anew": (share * encoded / learner.batch_size, lambda: models.tokenizers.encode(seen)),
    }


def peak_bytes(device: torch.device) -> int:
    """Largest memory of this process so far: on the device, or resident where the device is the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import resource
    import sys

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
