"""What a run will cost, measured on the real modules with random data, before anything is trained."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from worldstream.config import Config
from worldstream.environments.suites import make_environment
from worldstream.models import Models, num_parameters
from worldstream.specs import ActionSpec, KeySpec, TokenSpec
from worldstream.training.learner import Learner
from worldstream.training.room import TRAINING_BYTES, replay_row_bytes, replay_rows, token_bytes
from worldstream.training.synthetic import synthetic_batch
from worldstream.training.updates import past_length, update_actor_critic, update_world_model

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


def _median_seconds(function: Callable[[], Any], repetitions: int = 3) -> float:
    """Median wall time of a call, after one that is not counted."""
    function()
    times = []
    for _ in range(repetitions):
        began = time.perf_counter()
        function()
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
    learned = {"world model": models.world_model, "actor-critic": models.actor_critic}
    parameters = {part: num_parameters(module) for part, module in learned.items()}
    seconds = _update_seconds(models, config, device)
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


def _update_seconds(models: Models, config: Config, device: torch.device) -> dict[str, float]:
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

    def synchronized(function: Callable[[], Any]) -> Callable[[], None]:
        def run() -> None:
            function()
            if device.type == "cuda":
                torch.cuda.synchronize(device)

        return run

    update_wm = synchronized(lambda: update_world_model(models, world_model, segments))
    update_ac = synchronized(lambda: update_actor_critic(models, actor_critic, starts, config, generator))
    num = config.collection.num_environments
    features = models.tokenizers.features({key: ids[:num, -1] for key, ids in starts.tokens.items()})
    carry, policy = models.actor_critic.initial_carry(len(next(iter(features.values())))), models.actor_critic.policy()
    choose = synchronized(torch.no_grad()(lambda: policy(features, carry, generator)))
    return {
        "choosing actions": 1000 / num * _median_seconds(choose),
        "world model": 1000 * wm.updates_per_step * _median_seconds(update_wm),
        "actor-critic": 1000 * ac.updates_per_step * _median_seconds(update_ac),
    }


def peak_bytes(device: torch.device) -> int:
    """Largest memory of this process so far: on the device, or resident where the device is the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import resource
    import sys

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
