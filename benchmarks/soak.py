"""Kill small runs at random moments, resume them, and compare them with the run that was never interrupted.

    python benchmarks/soak.py --kills 200 --output benchmarks/results/soak.json

The variants share the kills: vectors alone ("default"), pictures with tokenizers that are trained ("images"), and
environments in processes of their own ("processes"). Half of the kills come at a random moment of wall time, the others
right before a random one of the calls by which files are written, flushed or renamed, so that many fall into the middle
of a save. A sitting that is killed is followed by one that resumes; a run counts as bit-identical when its metrics,
evaluations, weights and recorded episodes are those of the uninterrupted run. After each sitting no process of it may
be left (looked for on Linux), and in the end every file beside the runs, the home of the user and the folder for
temporary files among them, must be what it was.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import dataclasses
import hashlib
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import torch
from records import merge, provenance

import worldstream
from worldstream.runs.archive import array_digest, read_arrays
from worldstream.runs.folder import RunFolder
from worldstream.runs.log import read_lines
from worldstream.runs.weights import load_weights
from worldstream.tokenizers.image import ImageVQConfig

STEPS = 120
FILE_CALLS = ("fsync", "replace", "truncate")
"""Of the module os: the points at which a file is about to change for good."""
ORPHAN_SECONDS = 60.0
"""For so long a process may outlive the run that it belongs to: one that is being started notices late."""
_PR_SET_CHILD_SUBREAPER = 36


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
        evaluation=replace(base.evaluation, final_episodes=2, every_steps=50, episodes=1, num_environments=2),
        checkpoint=replace(base.checkpoint, every_steps=15),
        log_every_steps=10,
    )


def images() -> worldstream.Config:
    """The same with two pictures, whose tokenizers are trained, a vector and a category."""
    base, cameras = config(), worldstream.PRESETS["cameras"]()
    image = ImageVQConfig(channels=(8, 8, 8), code_size=8, codebook_size=8)
    return replace(
        base,
        environment=replace(cameras.environment, sizes={"image": (8, 8)}),
        tokenizers=replace(cameras.tokenizers, by_modality={**cameras.tokenizers.by_modality, "image": image}),
        tokenizer_learner=replace(cameras.tokenizer_learner, start_steps=20, batch_size=4, every_steps=10),
    )


def processes() -> worldstream.Config:
    """The same with two environments, each in a process of its own."""
    base = config()
    return replace(base, collection=replace(base.collection, backend="process", num_environments=2))


@dataclass(frozen=True)
class Variant:
    """A kind of run that is killed."""

    environment: str
    preset: str
    """Where its configuration comes from, for the record."""
    config: Callable[[], worldstream.Config]


VARIANTS = {
    "default": Variant("clock", "demo, tiny", config),
    "images": Variant("cameras", "cameras, tiny", images),
    "processes": Variant("clock", "demo, tiny", processes),
}


def sitting(variant: str, path: Path, started: Any, file_calls: int | None, counted: Any) -> None:
    """Begin or continue the run in ``path``; die before one of its file calls when ``file_calls`` says which."""
    torch.set_num_threads(1)
    _count_calls(counted, file_calls)
    vars(sys.modules["__main__"]).pop("__file__", None)  # each environment's process would import all of that
    started.set()
    if (path / "run.json").is_file():
        if not any(record["final"] for record in read_lines(RunFolder(path).evaluations)):  # else it had just ended
            worldstream.resume(path, quiet=True)
    else:
        shutil.rmtree(path, ignore_errors=True)  # nothing had happened yet
        chosen = VARIANTS[variant]
        worldstream.train(chosen.environment, steps=STEPS, config=chosen.config(), output=path, quiet=True)


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
    context.set_forkserver_preload(["worldstream", "torch._dynamo", "tensorboard.compat.proto.event_pb2"])
    return context


@dataclass(frozen=True)
class Sitting:
    """How one sitting ended."""

    exit_code: int
    file_calls: int
    """Calls by which it changed files."""
    orphans: int
    """Processes that outlived it."""


def sit(
    context: Any, variant: str, path: Path, *, seconds: float | None = None, file_calls: int | None = None
) -> Sitting:
    """One sitting in a process of its own, killed after ``seconds`` or before a file call."""
    started, counted = context.Event(), context.Value("i", 0)
    before = set(descendants())
    process = context.Process(target=sitting, args=(variant, path, started, file_calls, counted))
    process.start()
    while process.is_alive() and not started.wait(1):  # it may have died already
        pass
    process.join(seconds)
    if process.is_alive():
        process.kill()
    process.join()
    deadline = time.monotonic() + ORPHAN_SECONDS
    while (left := set(descendants()) - before - _servers()) and time.monotonic() < deadline:
        time.sleep(0.02)
    for orphan in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(orphan, signal.SIGKILL)
    return Sitting(int(process.exitcode), counted.value, len(left))


def adopt() -> None:
    """Become the parent of processes whose own has died, so that ``descendants`` finds them."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)


def descendants() -> Iterator[int]:
    """Processes below this one that have not ended; none where the system does not show them."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
            if state not in "ZX":
                parents[int(stat.parent.name)] = int(parent)
    for process in parents:
        above = process
        while above in parents:
            above = parents[above]
            if above == os.getpid():
                yield process
                break


def _servers() -> set[int | None]:
    """Processes by which multiprocessing starts others; they stay."""
    server, tracker = forkserver._forkserver, forkserver.resource_tracker._resource_tracker  # type: ignore
    return {server._forkserver_pid, tracker._pid}


def content(folder: Path) -> dict[str, str]:
    """SHA-256 of all files beside the runs, "" of folders.

    Sockets that multiprocessing leaves where a process is killed, and a folder of PyTorch's, are not looked at.
    """
    found, foreign = {}, ("pymp-", "torchinductor_")
    for path in folder.rglob("*"):
        parts = path.relative_to(folder).parts
        if not (parts[0].startswith("run-") or any(part.startswith(foreign) for part in parts)):
            found[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
    return found


@contextlib.contextmanager
def at_home_in(folder: Path) -> Iterator[None]:
    """Give the processes of runs a home, a folder for temporary files and a current directory inside of ``folder``."""
    before, here = dict(os.environ), Path.cwd()
    for name, variable in (("home", "HOME"), ("state", "XDG_STATE_HOME"), ("temporary", "TMPDIR"), ("work", "PWD")):
        (folder / name).mkdir()
        (folder / name / "precious").write_text(name)
        os.environ[variable] = str(folder / name)
    os.chdir(folder / "work")
    try:
        yield
    finally:
        os.chdir(here)
        os.environ.clear()
        os.environ.update(before)


def facts(path: Path) -> dict[str, Any]:
    """All that a run found out, but for the time it took."""
    folder = RunFolder(path)
    logs = {
        log.name: [{k: v for k, v in r.items() if "seconds" not in k} for r in read_lines(log)]
        for log in (folder.metrics, folder.evaluations)
    }
    weights = {name: tensor.numpy().tobytes() for name, tensor in load_weights(folder.weights).items()}
    return {**logs, "weights": weights, "episodes": array_digest(read_arrays(folder.episodes)[0])}


@dataclass
class Tally:
    """What came of the kills."""

    kills: int = 0
    runs: int = 0
    identical: int = 0
    lost: int = 0
    """Runs that could not be resumed."""
    orphans: int = 0
    """Processes that outlived their run."""
    touched: int = 0
    """Files and folders outside of the runs that came, went or changed."""


def soak(folder: Path, *, kills: int, kills_per_run: int, seed: int, variant: str = "default") -> Tally:
    """Kill runs of a variant until there have been so many kills, and finish each.

    Args:
        folder: for the runs; must exist and be empty.
        kills: at least so many.
        kills_per_run: at most so many sittings of a run are killed before it may finish.
        seed: of the moments.
        variant: which runs.
    """
    rng, tally = random.Random(seed), Tally()
    adopt()
    with at_home_in(folder):
        context, others = start_server(), content(folder)
        began = time.monotonic()
        whole = sit(context, variant, folder / "run-whole")
        if whole.exit_code != 0:
            raise RuntimeError("the uninterrupted run failed")
        duration = time.monotonic() - began
        expected = facts(folder / "run-whole")
        while tally.kills < kills:
            path, killed = folder / f"run-{tally.runs}", True
            for _ in range(kills_per_run):
                by_call = rng.random() < 0.5
                one = sit(
                    context,
                    variant,
                    path,
                    seconds=None if by_call else rng.uniform(0, duration),
                    file_calls=rng.randrange(whole.file_calls) if by_call else None,
                )
                killed = one.exit_code == -signal.SIGKILL
                tally.kills, tally.orphans = tally.kills + killed, tally.orphans + one.orphans
                if not killed:
                    break
            if killed:
                one = sit(context, variant, path)
                tally.orphans += one.orphans
            tally.runs += 1
            tally.lost += one.exit_code != 0
            tally.identical += one.exit_code == 0 and facts(path) == expected
            shutil.rmtree(path, ignore_errors=True)
        tally.touched = len(content(folder).items() ^ others.items())
    return tally


def main() -> None:
    """Soak and write one JSON object for each variant."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--kills", type=int, default=200, help="of all variants together")
    parser.add_argument("--kills-per-run", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="JSON file to write; default: print")
    options = parser.parse_args()
    for name in options.variants:
        began, kills = time.monotonic(), -(-options.kills // len(options.variants))
        with tempfile.TemporaryDirectory() as folder:
            tally = soak(
                Path(folder), kills=kills, kills_per_run=options.kills_per_run, seed=options.seed, variant=name
            )
        record = {
            "benchmark": "soak",
            "environment": VARIANTS[name].environment,
            "preset": VARIANTS[name].preset,
            "variant": name,
            "seed": options.seed,
            "steps": STEPS,
            "metric": "identical",
            "value": tally.identical,
            "episodes": tally.runs,
            **dataclasses.asdict(tally),
            "wall_seconds": time.monotonic() - began,
            "peak_memory_bytes": None,
            "command": f"python benchmarks/soak.py --variants {name} --kills {kills} --kills-per-run "
            f"{options.kills_per_run} --seed {options.seed}",
            **provenance(),
        }
        merge([record], options.output)  # at once: the next variant takes long
        print(f"{name}: {tally}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
