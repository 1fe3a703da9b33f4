"""Cost of drawing a batch and of reporting its priorities, by the number of rows in replay.

    python benchmarks/replay.py --output benchmarks/results/replay.json

Rows hold one number, so that only samplers are measured. "scan" is what the tree of sums saves: the draw by a
cumulative sum over the weights of all rows. Values are medians of CPU time, which a busy machine disturbs little.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
from records import provenance, write

from worldstream.replay import SAMPLERS
from worldstream.replay.rows import RowFormat
from worldstream.replay.segments import AnchorRule
from worldstream.replay.store import ReplayStore
from worldstream.specs import ActionComponent, ActionSpec, KeySpec

ENVIRONMENTS = 100
"""They write in turn, so that a million rows are there in a moment."""
ACTION = ActionComponent(path="action", kind="discrete", sizes=(2,), shape=(), dtype="int64")


def full_store(rows: int) -> ReplayStore:
    """A store that holds one long episode of each environment."""
    key = KeySpec(key="x", modality="vector", shape=(), dtype="int64")
    format = RowFormat({"x": key}, ActionSpec(components=(ACTION,), structure="action"))
    store = ReplayStore(format, ENVIRONMENTS, rows)
    x = {"x": np.arange(ENVIRONMENTS)}
    no, zeros = np.zeros(ENVIRONMENTS, np.bool_), np.zeros(ENVIRONMENTS)
    store.start(x)
    for _ in range(rows // ENVIRONMENTS - 1):
        store.append(np.zeros((ENVIRONMENTS, 1), np.int64), zeros, no, no, x)
    return store


def seconds_of(call: Callable[[], object], repetitions: int) -> float:
    """Median CPU seconds of a call."""
    times = []
    for _ in range(repetitions):
        began = time.process_time()
        call()
        times.append(time.process_time() - began)
    return statistics.median(times)


def measure(rows: int, batch_size: int, repetitions: int) -> Iterator[tuple[str, str, float]]:
    """(variant, metric, value) for a store of so many rows."""
    rng = np.random.default_rng(0)
    store = full_store(rows)
    losses = rng.normal(2, 1, rows)
    for name in SAMPLERS:
        sampler = SAMPLERS[name]().build(store, rng, AnchorRule.first(0))
        sampler.update(store.ring.stored_serials(), losses)
        yield name, "seconds/sample", seconds_of(partial(sampler.sample, batch_size), repetitions)
        if sampler.learns:
            update = partial(sampler.update, sampler.sample(batch_size), rng.normal(2, 1, batch_size))
            yield name, "seconds/update", seconds_of(update, repetitions)
    weights = np.exp(losses)

    def scan() -> np.ndarray:
        sums = np.cumsum(weights)
        return np.searchsorted(sums, rng.random(batch_size) * sums[-1])

    yield "scan", "seconds/sample", seconds_of(scan, repetitions)


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--repetitions", type=int, default=300)
    parser.add_argument("--output", type=Path, help="JSON file; default: print")
    options = parser.parse_args()
    command = f"python benchmarks/replay.py --batch-size {options.batch_size} --repetitions {options.repetitions}"
    records = [
        {
            "benchmark": "replay",
            "environment": "synthetic",
            "preset": f"{rows} rows, batch {options.batch_size}",
            "variant": variant,
            "seed": 0,
            "steps": rows,
            "metric": metric,
            "value": value,
            "repetitions": options.repetitions,
            "command": command,
            **provenance(),
        }
        for rows in options.rows
        for variant, metric, value in measure(rows, options.batch_size, options.repetitions)
    ]
    write(records, options.output)


if __name__ == "__main__":
    main()
