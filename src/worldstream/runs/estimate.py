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
from worldstream.environments.factory import EnvironmentFactory
from worldstream.errors import ConfigError
from worldstream.models import Models, num_parameters
from worldstream.runs.capacity import TRAINING_BYTES, replay_row_bytes, replay_rows, token_bytes
from worldstream.specs import ActionSpec, KeySpec, TokenSpec
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
    total_seconds: float
    """Of the whole run, updates after the last environment step included."""
    missing: str
    """What training would need beside the packages and could not find, with the remedy; empty when there is nothing."""
    extrapolated: bool
    """Whether an update would have taken so long that it was measured on a smaller batch; its time is scaled up, the
    peak memory is that of the smaller batch."""


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


@dataclass(frozen=True)
class _Part:
    """Something that a run does over and over."""

    per_step: float
    """Times an environment step."""
    batch_size: int
    make: Callable[[int], Callable[[], Any]]
    """What is done with a batch of so many."""

    def seconds(self, probe_size: int, device: torch.device) -> tuple[float, bool]:
        """Of one call, and whether that is scaled up from a batch of ``probe_size``."""
        if self.batch_size > probe_size:
            scale = self.batch_size / probe_size
            probed = scale * _median_seconds(self.make(probe_size), device, repetitions=1)
            if probed > SLOW_SECONDS:
                return probed, True
        return _median_seconds(self.make(self.batch_size), device), False


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


def estimate(environment: EnvironmentFactory, config: Config, *, steps: int, device: torch.device) -> Estimate:
    """Build everything for an environment, time one update of each part, and add up.

    Args:
        environment: what the agent would live in.
        config: of the run.
        steps: planned environment steps, which bound the replay.
        device: where the run would train.
    """
    torch.set_num_threads(config.num_threads)
    made = environment.make()
    key_specs, action_spec = made.observation_specs, made.action_spec
    environment_seconds = _environment_seconds(made)
    made.close()
    models = Models(config, key_specs, action_spec).to(device)
    token_specs = models.tokenizers.specs
    keys = [
        KeyCost(spec, token_specs[key], token_bytes(token_specs[key]))
        for key, spec in key_specs.items()
    ]
    row_bytes, cached_bytes = replay_row_bytes(key_specs, token_specs, action_spec)
    rows = replay_rows(config, steps, row_bytes)
    missing = _missing(models, config)
    models.tokenizers.prepare_training(pretrained=False)
    learned = {"world model": models.world_model, "actor-critic": models.actor_critic}
    if models.tokenizers.trainable:
        learned = {"tokenizers": models.tokenizers, **learned}
    parameters = {part: num_parameters(module) for part, module in learned.items()}
    shares = config.world_model.batch_shares
    probe_size = shares * math.ceil(PROBE_SIZE / shares)
    parts = _parts(models, config, steps, device)
    measured = {name: part.seconds(probe_size, device) for name, part in parts.items()}
    seconds = {name: 1000 * parts[name].per_step * duration for name, (duration, _) in measured.items()}
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
        total_seconds=(
            steps * sum(seconds.values())
            + (config.last_step(steps) - steps) * sum(seconds[part] for part in learned)
        )
        / 1000,
        extrapolated=any(scaled for _, scaled in measured.values()),
        missing=missing,
    )


def _missing(models: Models, config: Config) -> str:
    """What training would refuse to begin without, as its message says it; empty when nothing is missing."""
    if any(options.fetches for options in config.tokenizers.by_modality.values()):
        return ""  # not before a run is asked for
    try:
        models.tokenizers.prepare_training()
    except ConfigError as error:
        return str(error)
    return ""


def _parts(models: Models, config: Config, steps: int, device: torch.device) -> dict[str, _Part]:
    """Everything that a run does over and over, beside running the environment."""
    wm, ac, num = config.world_model_learner, config.actor_critic_learner, config.collection.num_environments
    generator = torch.Generator(device).manual_seed(0)
    world_model, actor_critic = Learner(models.world_model, wm), Learner(models.actor_critic, ac)

    def batch(size: int, length: int) -> Batch:
        return synthetic_batch(
            models.tokenizers.specs, models.action_spec, batch_size=size, length=length, device=device
        )

    def choose(size: int) -> Callable[[], Any]:
        seen, carry = synthetic_observations(models.key_specs, size), models.actor_critic.initial_carry(size)
        return partial(act, models.tokenizers, models.actor_critic.policy(), seen, carry, generator)

    def learn_world(size: int) -> Callable[[], Any]:
        return partial(update_world_model, models, world_model, batch(size, config.segment_length))

    def learn_to_act(size: int) -> Callable[[], Any]:
        starts = batch(size, past_length(config.imagination) + 1)
        return partial(update_actor_critic, models, actor_critic, starts, config, generator)

    parts = {
        "choosing actions": _Part(1 / num, num, choose),
        "world model": _Part(wm.updates_per_step, wm.batch_size, learn_world),
        "actor-critic": _Part(ac.updates_per_step, ac.batch_size, learn_to_act),
    }
    return {**_tokenizer_parts(models, config, steps), **parts} if models.tokenizers.trainable else parts


def _tokenizer_parts(models: Models, config: Config, steps: int) -> dict[str, _Part]:
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
        "tokenizers": _Part(share * learner.updates_per_step, learner.batch_size, learn),
        "encoding anew": _Part(share * encoded / learner.batch_size, learner.batch_size, encode),
    }


def peak_bytes(device: torch.device) -> int:
    """Largest memory of this process so far: on the device, or resident where the device is the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import resource
    import sys

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
