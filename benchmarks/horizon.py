"""Cost of the h-th imagined step by h: that of retention stays, that of attention grows.

    python benchmarks/horizon.py --output benchmarks/results/horizon

Both models have the sizes of the published agent on Atari games (blocks of 65 tokens, width 256, 4 heads), in fewer
layers and with a smaller batch, which scale both alike. Each repetition rolls both out from the empty state, in turns;
the values are medians of CPU time, which a busy machine disturbs little. Writes one JSON object for each model and
horizon, and a picture of all.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from records import provenance, write

from worldstream.report.figures import Panel, Series, draw
from worldstream.specs import ActionComponent, ActionSpec, TokenSpec
from worldstream.world_model import SEQUENCE_MODELS
from worldstream.world_model.block import BlockLayout
from worldstream.world_model.sequence.base import AnySequenceModel

LAYOUT = BlockLayout(
    {"image": TokenSpec(num_tokens=64, vocabulary=(512,), grid=(8, 8))},
    ActionSpec(
        components=(ActionComponent(path="action", kind="discrete", sizes=(18,), shape=(), dtype="int64"),),
        structure="action",
    ),
)
WIDTH, HEADS = 256, 4
SHOWN = (1, 2, 5, 10, 15, 20, 30, 50, 75, 100, 125, 150, 175, 200)
"""Horizons that are written."""


def make(name: str, num_layers: int, horizon: int) -> AnySequenceModel:
    """A model with random weights and room for the horizon."""
    torch.manual_seed(0)
    config = SEQUENCE_MODELS[name](num_layers=num_layers, width=WIDTH, num_heads=HEADS)
    model: AnySequenceModel = config.build(LAYOUT, max_blocks=horizon)
    return model.eval()


@torch.inference_mode()
def step_seconds(models: dict[str, AnySequenceModel], *, horizon: int, batch_size: int) -> dict[str, list[float]]:
    """CPU seconds of step 1 to ``horizon`` of one rollout of each model."""
    block = torch.randn(batch_size, LAYOUT.length, WIDTH)
    states: dict[str, Any] = {name: model.init_state(batch_size) for name, model in models.items()}
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(horizon):
        for name, model in models.items():
            began = time.process_time()
            _, states[name] = model.step(block, states[name])
            seconds[name].append(time.process_time() - began)
    return seconds


def measure(horizon: int, repetitions: int, batch_size: int, num_layers: int) -> dict[str, list[float]]:
    """Median CPU seconds of each step by model, after a short rollout that is not counted."""
    models = {name: make(name, num_layers, horizon) for name in SEQUENCE_MODELS}
    step_seconds(models, horizon=min(horizon, 3), batch_size=batch_size)
    rounds = [step_seconds(models, horizon=horizon, batch_size=batch_size) for _ in range(repetitions)]
    return {name: [statistics.median(times) for times in zip(*(r[name] for r in rounds))] for name in models}


def picture(seconds: dict[str, list[float]]) -> bytes:
    """PNG: cost relative to the first step of retention."""
    unit = statistics.median(seconds["retention"])
    series = [
        Series(range(1, len(times) + 1), [t / unit for t in times], label=name, colour=i)
        for i, (name, times) in enumerate(seconds.items())
    ]
    return draw([Panel("Cost of one imagined step", "step", "CPU time (retention = 1)", series)])


def main() -> None:
    """Measure, write JSON and picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--horizon", type=int, default=200)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--output", type=Path, help="path without suffix; default: print")
    options = parser.parse_args()
    torch.set_num_threads(1)
    began = time.monotonic()
    seconds = measure(options.horizon, options.repetitions, options.batch_size, options.layers)
    unit = statistics.median(seconds["retention"])
    records = [
        {
            "benchmark": "horizon",
            "environment": "synthetic",
            "preset": f"65 tokens, width {WIDTH}, {options.layers} layers, batch {options.batch_size}",
            "variant": name,
            "seed": 0,
            "steps": horizon,
            "metric": metric,
            "value": value,
            "repetitions": options.repetitions,
            "wall_seconds": time.monotonic() - began,
            "command": f"python benchmarks/horizon.py --horizon {options.horizon} --repetitions {options.repetitions}"
            f" --batch-size {options.batch_size} --layers {options.layers}",
            **provenance(),
        }
        for name, times in seconds.items()
        for horizon in SHOWN
        if horizon <= options.horizon
        for metric, value in (("step_cpu_seconds", times[horizon - 1]), ("step_cost_ratio", times[horizon - 1] / unit))
    ]
    write(records, None if options.output is None else options.output.with_suffix(".json"))
    if options.output is not None:
        options.output.with_suffix(".png").write_bytes(picture(seconds))


if __name__ == "__main__":
    main()
