"""Learning benchmark: train one or several seeds through the public interface, append one JSON object a run.

    python benchmarks/learning.py --benchmark cartpole --seeds 0 1 2
    python benchmarks/learning.py --benchmark cartpole --variant uniform_replay --seeds 0 1 2

Every run is a process of its own, so that peak memory is its own. A seed that is already in the result file is skipped,
and one whose run was interrupted goes on where it stopped. ``--jobs 2`` trains two seeds at a time.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from records import provenance

from worldstream.cli import parse
from worldstream.config import Config
from worldstream.runs.folder import RunFolder
from worldstream.runs.log import read_lines
from worldstream.world_model.heads.novelty import NoveltyConfig

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Benchmark:
    """One row of the issue: an environment, a preset and a number of steps."""

    environment: str
    preset: str
    steps: int
    metrics: tuple[str, ...] = ("return",)
    variants: dict[str, tuple[str, ...] | Callable[[Config], Config]] = field(default_factory=dict)
    """Flags, or what becomes of the configuration."""


NOVELTY_WEIGHT = 0.0005
"""With this weight novelty rewards the first imagined steps about as disagreement does: 0.0005 a step."""


def novelty(config: Config) -> Config:
    """Random network distillation in the place of disagreement."""
    model = config.world_model
    heads = {name: head for name, head in model.heads.items() if name != "disagreement"} | {"novelty": NoveltyConfig()}
    weights = {name: weight for name, weight in model.loss_weights.items() if name in heads}
    return replace(
        config,
        world_model=replace(model, heads=heads, loss_weights={**dict.fromkeys(heads, 1.0), **weights}),
        losses=replace(config.losses, reward_weights={"extrinsic": 1.0, "novelty": NOVELTY_WEIGHT}),
    )


ATTENTION = ("--world-model.sequence", "attention")
BLOCK_TEACHER_FORCING = ("--world-model.sequence", "retention_btf")
COPY_PRIOR = ("--world-model.heads.observation.copy-prior",)
PUBLISHED_READING = (
    "--world-model.heads.reward.output",
    "hl_gauss_symlog",
    "--actor-critic.value-output",
    "hl_gauss_symlog",
)
SPREAD_LEVELS = ("--world-model.level-frequency", "20")
CRITIC_WARMUP = ("--losses.critic-warmup", "200", "--losses.return-scale.window", "100")
IMPORTANCE_WEIGHTS = ("--replay.correction", "1.0")

BENCHMARKS = {
    "cartpole": Benchmark(
        "CartPole-v1",
        "demo",
        14_500,
        metrics=("return", "training_return"),
        variants={
            "uniform_replay": ("--replay.sampler.uniform-fraction", "1.0"),
            "squared_error": (
                "--world-model.heads.reward.output",
                "squared_error",
                "--actor-critic.value-output",
                "squared_error",
            ),
            "fixed_levels": ("--tokenizers.by-modality.vector", "fixed_levels"),
            "attention": ATTENTION,
            "published_reading": PUBLISHED_READING,
            "importance_weights": IMPORTANCE_WEIGHTS,
            "spread_levels": SPREAD_LEVELS,
            "critic_warmup": CRITIC_WARMUP,
            "block_teacher_forcing": BLOCK_TEACHER_FORCING,
            "copy_prior": COPY_PRIOR,
        },
    ),
    "pendulum": Benchmark(
        "Pendulum-v1",
        "control",
        16_000,
        metrics=("return", "training_return"),
        variants={
            "published_reading": PUBLISHED_READING,
            "spread_levels": SPREAD_LEVELS,
            "critic_warmup": CRITIC_WARMUP,
        },
    ),
    "doorkey": Benchmark(
        "MiniGrid-DoorKey-5x5-v0",
        "grid",
        24_000,
        metrics=("success", "return", "training_return"),
        variants={
            "no_intrinsic_reward": ("--losses.reward-weights.disagreement", "0"),
            "attention": ATTENTION,
            "novelty": novelty,
            "block_teacher_forcing": BLOCK_TEACHER_FORCING,
            "copy_prior": COPY_PRIOR,
            "published_reading": PUBLISHED_READING,
            "uniform_starts": ("--replay.start-sampler", "uniform"),
        },
    ),
    "keys": Benchmark("keys", "keys", 20_000),
    "cameras": Benchmark("cameras", "cameras", 20_000),
    "boxing": Benchmark(
        "Boxing",
        "atari-small",
        100_000,
        metrics=("return", "training_return"),
        variants={"attention": ATTENTION},
    ),
    "freeway": Benchmark("Freeway", "atari-small", 100_000, metrics=("return", "training_return")),
}


def run(name: str, variant: str, seed: int, output: Path) -> list[dict[str, object]]:
    """Train, or go on training, in this process; returns one record for each metric."""
    benchmark = BENCHMARKS[name]
    change = benchmark.variants.get(variant, ())
    options = () if callable(change) else change
    arguments = ["train", "--env", benchmark.environment, "--preset", benchmark.preset]
    arguments += ["--steps", str(benchmark.steps), "--seed", str(seed), "--output", str(output), *options]
    began = time.monotonic()
    evaluations = RunFolder(output).evaluations
    if not any(record["final"] for record in read_lines(evaluations)):
        command = parse(["train", "--resume", str(output)] if output.is_dir() else arguments)
        if callable(change) and not output.is_dir():
            command.options["config"] = change(command.options["config"])
        command.run()
    wall = time.monotonic() - began
    final = read_lines(evaluations)[-1]
    curve = learning_curve(RunFolder(output))
    values = {
        "return": final["return_mean"],
        "success": final["positive_share"],
        # The area under the learning curve tells variants apart that all reach the best return in the end.
        "training_return": sum(value for _, value in curve) / len(curve),
    }
    details = {"training_return": {"curve": curve}}
    shown = " ".join(["worldstream", *arguments[: -2 - len(options)], *options])
    if callable(change):
        shown = f"python benchmarks/learning.py --benchmark {name} --variant {variant} --seeds {seed}"
    return [
        {
            "benchmark": name,
            "environment": benchmark.environment,
            "preset": benchmark.preset,
            "variant": variant,
            "seed": seed,
            "steps": benchmark.steps,
            "metric": metric,
            "value": values[metric],
            "episodes": final["episodes"],
            "return_std": final["return_std"],
            "training_seconds": final["training_seconds"],
            "wall_seconds": max(wall, final["training_seconds"]),  # that of an interrupted run counts every sitting
            "peak_memory_bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
            "command": shown,
            **provenance(),
            **details.get(metric, {}),
        }
        for metric in benchmark.metrics
    ]


def learning_curve(folder: RunFolder) -> list[tuple[int, float]]:
    """(steps, mean return of the training episodes that ended since the point before)."""
    lines = [line for line in read_lines(folder.metrics) if "episode/return" in line]
    return [(line["steps"], round(line["episode/return"], 4)) for line in lines]


def done(path: Path) -> set[tuple[str, int]]:
    """(variant, seed) of the runs in a result file."""
    records = json.loads(path.read_text()) if path.is_file() else []
    return {(record["variant"], record["seed"]) for record in records}


def append(path: Path, records: list[dict[str, object]]) -> None:
    """Add records to a JSON array, sorted by variant, metric and seed."""
    import fcntl

    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path.with_suffix(".lock"), "w") as lock:  # several seeds may end at once
        fcntl.flock(lock, fcntl.LOCK_EX)
        everything = (json.loads(path.read_text()) if path.is_file() else []) + records
        everything.sort(key=lambda r: (r["variant"] != "default", r["variant"], r["metric"], r["seed"]))
        path.write_text(json.dumps(everything, indent=1) + "\n")


def main() -> None:
    """Train what is asked for and not yet in the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--benchmark", choices=BENCHMARKS, required=True)
    parser.add_argument("--variant", default="default")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmarks"))
    parser.add_argument("--in-process", action="store_true", help="train the one seed given in this process")
    options = parser.parse_args()
    variants = ("default", *BENCHMARKS[options.benchmark].variants)
    if options.variant not in variants:
        parser.error(f"--variant {options.variant}: choose from {', '.join(variants)}")
    path = RESULTS / f"learning_{options.benchmark}.json"
    if options.in_process:
        (seed,) = options.seeds
        output = options.runs / f"{options.benchmark}-{options.variant}-seed{seed}"
        append(path, run(options.benchmark, options.variant, seed, output))
        return
    waiting = [seed for seed in options.seeds if (options.variant, seed) not in done(path)]
    if known := [str(seed) for seed in options.seeds if seed not in waiting]:
        print(f"in {path} already: {options.variant}, seeds {' '.join(known)}; delete their records to run them anew")
    running: list[subprocess.Popen[bytes]] = []
    failed = 0
    while waiting or running:
        while waiting and len(running) < options.jobs:
            command = [sys.executable, __file__, "--benchmark", options.benchmark, "--variant", options.variant]
            command += ["--runs", str(options.runs), "--in-process", "--seeds", str(waiting.pop(0))]
            running.append(subprocess.Popen(command))
        time.sleep(1)
        failed += sum(1 for process in running if process.poll())
        running = [process for process in running if process.poll() is None]
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
