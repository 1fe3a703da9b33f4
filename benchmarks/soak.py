"""Kill a small run at random moments, resume it, and compare it with the run that was never interrupted.

    python benchmarks/soak.py --kills 200

Half of the kills come at a random moment of wall time, the others right before a random one of the calls by which files
are written, flushed or renamed, so that many fall into the middle of a save. A sitting that is killed is followed by
one that resumes; a run counts as bit-identical when its metrics, evaluations, weights and recorded episodes are those
of the uninterrupted run.
"""

from __future__ import annotations

import argparse
import dataclasses
import multiprocessing
import os
import random
import shutil
import signal
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import torch
from records import provenance, write

import worldstream
from worldstream.runs.archive import array_digest, read_arrays
from worldstream.runs.folder import RunFolder
from worldstream.runs.log import read_lines
from worldstream.runs.weights import load_weights

STEPS = 120
FILE_CALLS = ("fsync", "replace", "truncate")
"""Of the module os: the points at which a file is about to change for good."""


def config() -> worldstream.Config:
    """A run of a second or two that saves often."""
    base = worldstream.PRESETS["demo"]()
    sequence = replace(base.world_model.sequence, width=16, num_layers=1)
    return replace(
        base,
        world_model=replace(base.world_model, sequence=sequence),
        actor_critic=replace(base.actor_critic, hidden=(16,)),
        world_model_learner=replace(base.world_model_learner, start_steps=40, batch_size=4),
        actor_critic_learner=replace(base.actor_critic_learner, start_steps=40, batch_size=4),
        collection=replace(base.collection, random_steps=30),
        evaluation=replace(base.evaluation, final_episodes=2, every_steps=50, episodes=1),
        checkpoint=replace(base.checkpoint, every_steps=15),
        log_every_steps=10,
    )


def sitting(path: Path, started: Any, file_calls: int | None, counted: Any) -> None:
    """Begin or continue the run in ``path``; die before one of its file calls when ``file_calls`` says which."""
    torch.set_num_threads(1)
    _count_calls(counted, file_calls)
    started.set()
    if (path / "run.json").is_file():
        if not any(record["final"] for record in read_lines(RunFolder(path).evaluations)):  # else it had just ended
            worldstream.resume(path, quiet=True)
    else:
        shutil.rmtree(path, ignore_errors=True)  # nothing had happened yet
        worldstream.train("clock", steps=STEPS, config=config(), output=path, quiet=True)


def _count_calls(counted: Any, last: int | None) -> None:
    """Count the calls by which files change, and die instead of the one with the number ``last``."""

    def watched(call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **options: Any) -> Any:
            if counted.value == last:
                os.kill(os.getpid(), signal.SIGKILL)
            counted.value += 1
            return call(*arguments, **options)

        return wrapped

    for name in FILE_CALLS:
        setattr(os, name, watched(getattr(os, name)))


def start_server() -> Any:
    """A context whose processes start at once, with the library loaded."""
    forkserver._forkserver._stop()  # type: ignore[attr-defined]  # one with fewer modules may be running
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["worldstream", "torch._dynamo", "torch.utils.tensorboard"])
    return context


def sit(context: Any, path: Path, *, seconds: float | None = None, file_calls: int | None = None) -> tuple[int, int]:
    """One sitting in a process of its own, killed after ``seconds`` or before a file call.

    Returns:
        its exit code, and how many file calls it made.
    """
    started, counted = context.Event(), context.Value("i", 0)
    process = context.Process(target=sitting, args=(path, started, file_calls, counted))
    process.start()
    started.wait()
    process.join(seconds)
    if process.is_alive():
        process.kill()
    process.join()
    return int(process.exitcode), counted.value


def facts(path: Path) -> dict[str, Any]:
    """All that a run found out, but for the time it took."""
    folder = RunFolder(path)
    logs = {
        log.name: [{k: v for k, v in r.items() if "seconds" not in k} for r in read_lines(log)]
        for log in (folder.metrics, folder.evaluations)
    }
    weights = {name: tensor.numpy().tobytes() for name, tensor in load_weights(folder.weights).items()}
    return {**logs, "weights": weights, "episodes": array_digest(read_arrays(folder.episodes)[0])}


@dataclasses.dataclass
class Tally:
    """What came of the kills."""

    kills: int = 0
    runs: int = 0
    identical: int = 0
    lost: int = 0
    """Runs that could not be resumed."""


def soak(folder: Path, *, kills: int, kills_per_run: int, seed: int) -> Tally:
    """Kill runs until there have been so many kills, and finish each.

    Args:
        folder: for the runs; must exist.
        kills: at least so many.
        kills_per_run: at most so many sittings of a run are killed before it may finish.
        seed: of the moments.
    """
    rng, context, tally = random.Random(seed), start_server(), Tally()
    began = time.monotonic()
    code, calls = sit(context, folder / "whole")
    if code != 0:
        raise RuntimeError("the uninterrupted run failed")
    duration = time.monotonic() - began
    expected = facts(folder / "whole")
    while tally.kills < kills:
        path = folder / f"run{tally.runs}"
        code = -int(signal.SIGKILL)
        for _ in range(kills_per_run):
            by_call = rng.random() < 0.5
            code, _ = sit(
                context,
                path,
                seconds=None if by_call else rng.uniform(0, duration),
                file_calls=rng.randrange(calls) if by_call else None,
            )
            tally.kills += code == -signal.SIGKILL
            if code != -signal.SIGKILL:
                break
        if code == -signal.SIGKILL:
            code, _ = sit(context, path)
        tally.runs += 1
        tally.lost += code != 0
        tally.identical += code == 0 and facts(path) == expected
        shutil.rmtree(path, ignore_errors=True)
    return tally


def main() -> None:
    """Soak and write one JSON object for each number."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--kills-per-run", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="JSON file to write; default: print")
    options = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        tally = soak(Path(folder), kills=options.kills, kills_per_run=options.kills_per_run, seed=options.seed)
    records = [
        {
            "benchmark": "soak",
            "environment": "clock",
            "preset": "demo, tiny",
            "variant": "default",
            "seed": options.seed,
            "steps": STEPS,
            "metric": metric,
            "value": value,
            "episodes": tally.runs,
            "wall_seconds": time.monotonic() - began,
            "peak_memory_bytes": None,
            "command": f"python benchmarks/soak.py --kills {options.kills} --kills-per-run {options.kills_per_run} "
            f"--seed {options.seed}",
            **provenance(),
        }
        for metric, value in dataclasses.asdict(tally).items()
    ]
    write(records, options.output)


if __name__ == "__main__":
    main()
