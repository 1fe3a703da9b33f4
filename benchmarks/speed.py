"""Speed of every part on random data of known shapes: one JSON object a measurement.

    python benchmarks/speed.py --config demo
    python benchmarks/speed.py --config atari --device cuda --output benchmarks/results/speed_h200.json

Shapes and sizes of atari, dmc and craftax are those of the published agent; demo and atari-small are
our presets of these names. Times are medians over repetitions after a warm-up, of CPU time on the CPU. Nothing here is
a test.

Measured: tokenizer_encode (a batch of observations), tokenizer_update (null where no tokenizer learns),
world_model_update, imagination_step, imagination_trajectory (burn-in and context included), actor_critic_update,
acting_step (one environment: tokenize, choose an action).
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from records import merge, provenance

from worldstream.acting import act
from worldstream.agent.actor_critic import ActorCriticConfig
from worldstream.config import Config, ImaginationConfig, LearnerConfig
from worldstream.models import Models, choose_device
from worldstream.presets import PRESETS
from worldstream.runs.estimate import peak_bytes
from worldstream.specs import ActionComponent, ActionSpec, KeySpec
from worldstream.training.learner import Learner
from worldstream.training.synthetic import synthetic_batch, synthetic_observations
from worldstream.training.updates import (
    imagine_from,
    past_length,
    update_actor_critic,
    update_tokenizers,
    update_world_model,
)
from worldstream.world_model.model import WorldModelConfig
from worldstream.world_model.sequence.retention import RetentionConfig

Shape = tuple[Config, dict[str, KeySpec], ActionSpec]


def learner(batch_size: int) -> LearnerConfig:
    """Rates of the published agent."""
    return LearnerConfig(batch_size=batch_size, learning_rate=2e-4, updates_per_step=1.0, start_steps=0)


def published(
    *,
    num_layers: int,
    num_heads: int,
    width: int,
    decay_blocks: tuple[float, float],
    segment_length: int,
    batch_size: int,
    horizon: int,
    agent: ActorCriticConfig,
) -> Config:
    """A configuration of the published sizes."""
    sequence = RetentionConfig(
        num_layers=num_layers, width=width, num_heads=num_heads, decay_blocks=decay_blocks, dropout=0.1
    )
    return Config(
        world_model=WorldModelConfig(sequence=sequence, slot_embedding=False),
        actor_critic=agent,
        imagination=ImaginationConfig(horizon=horizon, context_length=1, burn_in=20),
        world_model_learner=learner(batch_size),
        actor_critic_learner=learner(128),
        segment_length=segment_length,
    )


def discrete(size: int) -> ActionSpec:
    """One categorical action."""
    component = ActionComponent(path="action", kind="discrete", sizes=(size,), shape=(), dtype="int64")
    return ActionSpec(components=(component,), structure="action")


def continuous(dimensions: int) -> ActionSpec:
    """A box of 51 levels a dimension."""
    component = ActionComponent(
        path="action",
        kind="continuous",
        sizes=(51,) * dimensions,
        shape=(dimensions,),
        dtype="float32",
        low=(-1.0,) * dimensions,
        high=(1.0,) * dimensions,
        ordinal=True,
    )
    return ActionSpec(components=(component,), structure="action")


def vector(size: int) -> KeySpec:
    """A vector of floats."""
    return KeySpec(key="state", modality="vector", shape=(size,), dtype="float32")


def atari() -> Shape:
    """Pictures of 64 x 64 pixels as 8 x 8 tokens of 512 values, six actions, ten layers; LPIPS of random weights."""
    picture = KeySpec(key="picture", modality="image", shape=(64, 64, 3), dtype="uint8")
    return PRESETS["atari100k"](), {"picture": picture}, discrete(6)


def dmc() -> Shape:
    """A state of 24 numbers, six continuous actions, ten layers."""
    config = published(
        num_layers=10, num_heads=3, width=192, decay_blocks=(2, 2), segment_length=20, batch_size=16, horizon=18,
        agent=ActorCriticConfig(hidden=(384,), separate_networks=True),
    )  # fmt: skip
    return config, {"state": vector(24)}, continuous(6)


def craftax() -> Shape:
    """47 numbers, a direction and 99 cells of four channels, 43 actions, five layers."""
    config = published(
        num_layers=5, num_heads=4, width=256, decay_blocks=(8, 40), segment_length=20, batch_size=8, horizon=18,
        agent=ActorCriticConfig(hidden=(512, 512), embedding_width=64),
    )  # fmt: skip
    direction = KeySpec(key="direction", modality="categorical", shape=(1,), dtype="uint8", vocabulary=(4,))
    cells = KeySpec(key="map", modality="grid", shape=(99, 4), dtype="uint8", vocabulary=(37, 5, 40, 20), grid=(9, 11))
    return config, {"state": vector(47), "direction": direction, "map": cells}, discrete(43)


def demo() -> Shape:
    """CartPole with the demo preset."""
    return PRESETS["demo"](), {"state": vector(4)}, discrete(2)


def atari_small() -> Shape:
    """Boxing with the preset for two CPU cores."""
    picture = KeySpec(key="picture", modality="image", shape=(64, 64, 3), dtype="uint8")
    return PRESETS["atari-small"](), {"picture": picture}, discrete(18)


SHAPES: dict[str, Callable[[], Shape]] = {
    "atari": atari, "dmc": dmc, "craftax": craftax, "demo": demo, "atari-small": atari_small,
}  # fmt: skip


def median_seconds(function: Callable[[], Any], device: torch.device, repetitions: int) -> float:
    """Median time of a call after one that is not counted: CPU time on the CPU, for other work may go on there."""
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    times = []
    for i in range(repetitions + 1):
        began = clock()
        function()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if i >= 1:
            times.append(clock() - began)
    return statistics.median(times)


def measure(name: str, device: torch.device, repetitions: int, precision: str | None) -> dict[str, float | None]:
    """Median seconds of every part."""
    config, key_specs, action_spec = SHAPES[name]()
    if precision is not None:
        config = replace(config, world_model=replace(config.world_model, precision=precision))
    torch.manual_seed(0)
    models = Models(config, key_specs, action_spec).to(device)
    generator = torch.Generator(device).manual_seed(0)
    specs = models.tokenizers.specs
    wm, ac = config.world_model_learner, config.actor_critic_learner
    segments = synthetic_batch(
        specs, action_spec, batch_size=wm.batch_size, length=config.segment_length, device=device
    )
    length = past_length(config.imagination) + 1
    starts = synthetic_batch(specs, action_spec, batch_size=ac.batch_size, length=length, device=device)
    world_model, actor_critic = Learner(models.world_model, wm), Learner(models.actor_critic, ac)
    observations = synthetic_observations(key_specs, 128)
    one = {key: array[:1] for key, array in observations.items()}
    carry, policy = models.actor_critic.initial_carry(1), models.actor_critic.policy()
    many = {key: ids[:, -1] for key, ids in starts.tokens.items()}
    state = models.world_model.init_state(ac.batch_size)

    @torch.no_grad()
    def imagination_step() -> None:
        models.world_model.step(many, starts.actions[:, -1], state, generator)

    parts: dict[str, Callable[[], Any]] = {
        "tokenizer_encode": lambda: models.tokenizers.encode(observations),
        "world_model_update": lambda: update_world_model(models.world_model, world_model, segments),
        "imagination_step": imagination_step,
        "imagination_trajectory": lambda: imagine_from(models, starts, config.imagination, generator),
        "actor_critic_update": lambda: update_actor_critic(models, actor_critic, starts, config, generator),
        "acting_step": lambda: act(models.tokenizers, policy, one, carry, generator),
    }
    seconds: dict[str, float | None] = {"tokenizer_update": None}
    if models.tokenizers.trainable:
        models.tokenizers.prepare_training(pretrained=False)
        seen = synthetic_observations(key_specs, config.tokenizer_learner.batch_size, 1)
        tokenizers = Learner(models.tokenizers, config.tokenizer_learner)
        parts["tokenizer_update"] = lambda: update_tokenizers(models.tokenizers, tokenizers, seen)
    for part, function in parts.items():
        seconds[part] = median_seconds(function, device, repetitions)
    return seconds


def main() -> None:
    """Measure and append one JSON object for each part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", choices=SHAPES, nargs="+", default=list(SHAPES))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--precision", choices=("single", "bfloat16"), help="instead of the configuration's")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--output", type=Path, help="JSON file to write into; default: print")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = choose_device(options.device)
    records, chosen = [], options.precision
    for name in options.config:
        began = time.monotonic()
        for part, seconds in measure(name, device, options.repetitions, options.precision).items():
            records.append(
                {
                    "benchmark": "speed",
                    "environment": "synthetic",
                    "preset": name,
                    "variant": f"{device.type}, {options.threads} thread"
                    + "s" * (options.threads > 1)
                    + (f", {chosen}" if chosen else ""),
                    "seed": 0,
                    "steps": options.repetitions,
                    "metric": f"{part}_seconds",
                    "value": seconds,
                    "episodes": 0,
                    "wall_seconds": time.monotonic() - began,
                    "peak_memory_bytes": peak_bytes(device),
                    "command": f"python benchmarks/speed.py --config {name} --device {device.type}"
                    f" --threads {options.threads} --repetitions {options.repetitions}"
                    + (f" --precision {chosen}" if chosen else ""),
                    **provenance(),
                    **({} if device.type == "cpu" else {"machine": torch.cuda.get_device_name(device)}),
                }
            )
    merge(records, options.output)


if __name__ == "__main__":
    main()
