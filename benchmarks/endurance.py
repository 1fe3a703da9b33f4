"""A long small run: what each checkpoint costs, and whether memory stays flat.

    python benchmarks/endurance.py --steps 200000 --output benchmarks/results/endurance.json

Eight CartPoles, a narrow model, few updates, replay bounded at a quarter of the steps, a checkpoint every 10,000
steps. Metrics, one object for each 10,000 steps: checkpoint_seconds, checkpoint_bytes (all that this checkpoint wrote,
with its part of replay) and resident_bytes of the process.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from records import provenance, write

import worldstream
from worldstream.runs.estimate import peak_bytes
from worldstream.runs.folder import RunFolder
from worldstream.runs.log import read_lines
from worldstream.runs.session import Session
from worldstream.training.experiment import Experiment

EVERY = 10_000


def config(steps: int) -> worldstream.Config:
    """The demo, narrower and with fewer updates."""
    base = worldstream.PRESETS["demo"]()
    return replace(
        base,
        world_model=replace(base.world_model, sequence=replace(base.world_model.sequence, width=32, num_layers=1)),
        world_model_learner=replace(base.world_model_learner, updates_per_step=0.01),
        actor_critic_learner=replace(base.actor_critic_learner, updates_per_step=0.01, batch_size=16),
        collection=replace(base.collection, num_environments=8),
        replay=replace(base.replay, max_steps=steps // 4),
        checkpoint=replace(base.checkpoint, every_steps=EVERY),
        evaluation=replace(base.evaluation, final_episodes=8),
        log_every_steps=EVERY // 10,
    )


def resident_bytes() -> int:
    """Memory of this process that is resident now (Linux)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def written_bytes(checkpoint: Path) -> int:
    """What writing a checkpoint wrote: its own file, and its part of replay."""
    return checkpoint.stat().st_size + (checkpoint.parent.parent / "replay" / checkpoint.name).stat().st_size


def measure(steps: int, folder: RunFolder) -> list[tuple[int, str, float]]:
    """Train; returns (steps, metric, value)."""
    chosen = config(steps)
    session = Session(folder, Experiment.of("CartPole-v1", chosen, steps=steps))
    folder.path.mkdir(exist_ok=True)
    found: dict[tuple[int, str], float] = {}

    def look(record: dict[str, Any]) -> None:
        mark = record["steps"] // EVERY * EVERY
        found.setdefault((mark, "resident_bytes"), resident_bytes())
        for path in folder.checkpoints.glob("[0-9]*"):
            found.setdefault((int(path.stem), "checkpoint_bytes"), written_bytes(path))

    session.run(look)
    look({"steps": steps})
    for record in read_lines(folder.metrics):
        if "seconds/checkpoint" in record:
            found[(record["steps"] // EVERY * EVERY, "checkpoint_seconds")] = record["seconds/checkpoint"]
    return sorted((steps, metric, value) for (steps, metric), value in found.items())


def main() -> None:
    """Measure and write one JSON object for each number."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200_000)
    parser.add_argument("--output", type=Path, help="JSON file to write; default: print")
    options = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        numbers = measure(options.steps, RunFolder(Path(folder) / "run"))
    records = [
        {
            "benchmark": "endurance",
            "environment": "CartPole-v1",
            "preset": "demo",
            "variant": "narrow, 8 environments, few updates",
            "seed": 0,
            "steps": steps,
            "metric": metric,
            "value": value,
            "episodes": 8,
            "wall_seconds": time.monotonic() - began,
            "peak_memory_bytes": peak_bytes(torch.device("cpu")),
            "command": f"python benchmarks/endurance.py --steps {options.steps}",
            **provenance(),
        }
        for steps, metric, value in numbers
    ]
    write(records, options.output)


if __name__ == "__main__":
    main()
