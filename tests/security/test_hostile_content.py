"""What is in a run folder is right by its checksums and makes no sense: refused, fallen back from, or left out."""

from __future__ import annotations

import json
import os
import resource
import shutil
import threading
import warnings
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import worldstream
from tiny import tiny_config
from worldstream.cli import main
from worldstream.errors import ConfigError, Interrupted, RunFolderError, WorldstreamError, WorldstreamWarning
from worldstream.options import put
from worldstream.runs.archive import read_arrays, read_state, write_arrays, write_state
from worldstream.runs.description import config_of, read_run
from worldstream.runs.folder import RunFolder, checksummed
from worldstream.runs.lock import locked
from worldstream.runs.log import LineLog, read_lines
from worldstream.runs.metric_log import MetricLog
from worldstream.runs.session import Session
from worldstream.runs.weights import load_run, load_weights
from worldstream.tokenizers.lpips import LpipsConfig
from worldstream.training.experiment import Experiment

DEEP = 1_000_000
NESTED = "[" * DEEP + "]" * DEEP
FORGED = "forged"


def config() -> worldstream.Config:
    base = tiny_config()
    return replace(
        base,
        world_model_learner=replace(base.world_model_learner, start_steps=20),
        actor_critic_learner=replace(base.actor_critic_learner, start_steps=20),
        checkpoint=replace(base.checkpoint, every_steps=15),
        evaluation=replace(base.evaluation, every_steps=20, max_episode_steps=3),
        log_every_steps=5,
    )


def stopped(path: Path, environment: str = "clock") -> Path:
    """A run of 60 steps that was told to stop after 31, with two checkpoints."""

    def after_step(session: Session, steps: int) -> bool:
        if steps == 31:
            session._request.reason = "a test"
        return original(session, steps)

    original = Session.after_step
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Session, "after_step", after_step)
        with pytest.raises(Interrupted):
            worldstream.train(environment, steps=60, config=config(), output=path, quiet=True)
    return path


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stopped(tmp_path_factory.mktemp("content") / "run")


@pytest.fixture
def run(original: Path, tmp_path: Path) -> Path:
    """A copy that may be changed."""
    shutil.copytree(original, tmp_path / "run")
    return tmp_path / "run"


def describe(run: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change run.json, with a checksum that is right."""
    description = json.loads((run / "run.json").read_text())
    description.pop("sha256")
    change(description)
    (run / "run.json").write_text(checksummed(description))


def newest(run: Path) -> Path:
    return sorted((run / "checkpoints").iterdir())[-1]


def set_in(state: Any, place: str, value: Any) -> None:
    """Change what is at a place of nested state; a function changes what was there."""
    *path, name = place.split("/")
    for part in path:
        state = state[int(part) if isinstance(state, list) else part]
    key = int(name) if isinstance(state, list) else name
    state[key] = value(state[key]) if callable(value) else value


def restored(run: Path) -> int:
    """Steps at which a sitting of the run would go on."""
    folder = RunFolder(run)
    description = read_run(folder)
    session = Session(folder, Experiment.of("clock", config_of(folder, description), steps=60))
    try:
        return session.restore()
    finally:
        session.trainer.close()


# Checkpoints.


def spoiled_moments(change: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def changed(learner: Any) -> Any:
        return {"state": {**learner["state"], "0": {**learner["state"]["0"], "exp_avg": change(learner["state"]["0"])}}}

    return changed


CONTENT: dict[str, tuple[str, Any]] = {
    "a string for a tensor": ("trainer/models/tokenizers.version", "0.5"),
    "a list for a dict": ("trainer/models", []),
    "a string for the trainer": ("trainer", "everything"),
    "a string for a number": ("trainer/clock", "31"),
    "a boolean for a number": ("trainer/num_skipped", True),
    "a negative number": ("trainer/world_model/cadence", -(10**12)),
    "a number for a boolean": ("trainer/within_step", 1),
    "other steps": ("trainer/clock", 7),
    "too large steps": ("trainer/clock", 10**30),
    "no logs": ("logs", {}),
    "a text for a size": ("logs/metrics", "all"),
    "a list for a session": ("session", [1, 2]),
    "NaN seconds": ("session/seconds", float("nan")),
    "a tensor for an array": ("trainer/collector/returns", torch.zeros(1)),
    "another shape": ("trainer/collector/returns", np.zeros(3)),
    "another type": ("trainer/collector/held", lambda held: held.astype(np.float64)),
    "a huge number of environments": ("trainer/collector/environments/num_seeds", [0, 0]),
    "environments that are no list": ("trainer/collector/environments/states", "none"),
    "an unknown generator": ("trainer/experience/rng/bit_generator", "MT1"),
    "a generator of text": ("trainer/experience/rng/state/state", "many"),
    "metrics that are no sums": ("trainer/metrics", {"x": "y"}),
    "moments of another shape": ("trainer/world_model/learner", spoiled_moments(lambda _: torch.zeros(3, 3))),
    "NaN moments": ("trainer/world_model/learner", spoiled_moments(lambda old: old["exp_avg"] * torch.nan)),
    "moments that are text": ("trainer/world_model/learner", spoiled_moments(lambda _: "fast")),
    "another replay": ("trainer/experience/replay/format", "pictures"),
    "rows that are not there": ("trainer/experience/replay/next_serials", lambda serials: serials + 10**6),
}  # fmt: skip


@pytest.mark.parametrize("what", CONTENT)
def test_a_checkpoint_that_makes_no_sense_is_fallen_back_from(what: str, run: Path) -> None:
    path, run_id = newest(run), RunFolder(run).run_id
    content = read_state(path)
    set_in(content["state"], *CONTENT[what])
    write_state(path, content, run=run_id)
    with pytest.warns(WorldstreamWarning, match=rf"{path.stem}.* does not fit the run: .*Falling back"):
        assert restored(run) == 30


def test_weights_of_nan_are_fallen_back_from_and_refused(run: Path) -> None:
    path, folder = newest(run), RunFolder(run)
    content = read_state(path)
    models = content["state"]["trainer"]["models"]
    content["state"]["trainer"]["models"] = {
        name: torch.full_like(x, torch.nan) if x.is_floating_point() else x for name, x in models.items()
    }
    write_state(path, content, run=folder.run_id)
    with pytest.warns(WorldstreamWarning, match="not finite. Falling back"):
        assert restored(run) == 30
    arrays = {name: x.numpy() * np.float32(np.nan) for name, x in load_weights(folder.weights).items()}
    some = {name: x.numpy().copy() for name, x in load_weights(folder.weights).items()}
    name = next(name for name, x in some.items() if x.dtype == np.float32 and x.size > 1)
    some[name].flat[0] = np.inf
    for spoiled in (some, {name: a.astype(some[name].dtype) if some[name].dtype.kind == "f" else some[name]
                           for name, a in arrays.items()}):  # fmt: skip
        write_arrays(folder.weights, spoiled, run=folder.run_id)
        with pytest.raises(RunFolderError, match=r"weights\.safetensors does not hold .* not finite"):
            worldstream.evaluate(run, episodes=1, quiet=True)


ROWS: dict[str, Callable[[dict[str, np.ndarray]], Any]] = {
    "rewards that are NaN": lambda rows: rows["fact/rewards"].fill(np.nan),
    "actions that nobody has": lambda rows: rows["fact/actions"].fill(200),
    "numbers of another type": lambda rows: rows.update({"fact/rewards": rows["fact/rewards"].astype(np.complex64)}),
    "no serial numbers": lambda rows: rows.pop("serials"),
    "serial numbers with a point": lambda rows: rows.update(serials=rows["serials"] + 0.5),
    "a column too many": lambda rows: rows.update(more=np.zeros(3)),
    "another shape": lambda rows: rows.update({"fact/rewards": rows["fact/rewards"][:, None]}),
}  # fmt: skip


@pytest.mark.parametrize("what", ROWS)
def test_replay_that_makes_no_sense_is_fallen_back_from(what: str, run: Path) -> None:
    path, run_id = newest(run), RunFolder(run).run_id
    part = run / "replay" / path.name
    rows, _ = read_arrays(part)
    rows = {name: array.copy() for name, array in rows.items()}
    ROWS[what](rows)
    content = read_state(path)
    content["replay"][part.name] = write_arrays(part, rows, run=run_id)
    write_state(path, content, run=run_id)
    with pytest.warns(WorldstreamWarning, match="Falling back"):
        assert restored(run) == 30


@pytest.mark.filterwarnings("ignore::worldstream.errors.WorldstreamWarning")
def test_a_run_that_fell_back_goes_on_as_if_the_newest_had_not_been(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "without")
    gone = newest(tmp_path / "without")
    gone.unlink()
    (tmp_path / "without" / "replay" / gone.name).unlink()
    content = read_state(newest(run))
    content["state"]["trainer"]["random"]["python"] = [3, [1], None]  # which is loaded last
    write_state(newest(run), content, run=RunFolder(run).run_id)
    for path in (run, tmp_path / "without"):
        worldstream.resume(path, quiet=True)
    ours, theirs = (load_weights(path / "weights.safetensors") for path in (run, tmp_path / "without"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


# Forged files of a run in another environment.


@pytest.mark.filterwarnings("ignore::worldstream.errors.WorldstreamWarning")
def test_files_of_another_environment_are_refused_also_with_our_id(run: Path, tmp_path: Path) -> None:
    other, run_id = stopped(tmp_path / "other", "keys"), RunFolder(run).run_id
    theirs = newest(other)
    content = read_state(theirs)
    assert theirs.name == newest(run).name
    write_state(newest(run), {**content, "replay": {}}, run=run_id)
    assert restored(run) == 30
    write_arrays(run / "weights.safetensors", read_arrays(other / "weights.safetensors")[0], run=run_id)
    with pytest.raises(RunFolderError, match="does not hold the weights of this run"):
        load_run(run)
    shutil.copyfile(other / "run.json", run / "run.json")
    for command in (["evaluate", str(run), "--episodes", "1"], ["train", "--resume", str(run)]):
        with pytest.raises(SystemExit) as end:
            main(command)
        assert end.value.code == RunFolderError.exit_code


# Numbers of run.json.


def numbers(plain: Any, place: str = "") -> list[str]:
    """Places of numbers in nested plain values."""
    if isinstance(plain, dict):
        return [found for name, value in plain.items() for found in numbers(value, f"{place}/{name}")]
    if isinstance(plain, list):
        return [found for i, value in enumerate(plain) for found in numbers(value, f"{place}/{i}")]
    return [place.removeprefix("/")] if isinstance(plain, int | float) and not isinstance(plain, bool) else []


def test_every_number_of_run_json_has_bounds(original: Path, run: Path) -> None:
    folder, description = RunFolder(run), json.loads((original / "run.json").read_text())
    description.pop("sha256")
    places = [place for place in numbers(description["config"]) if "kwargs" not in place]
    assert len(places) > 60
    for place in [*(f"config/{place}" for place in places), "steps", "seed"]:
        for value in (10**30, -(10**30), float("nan"), float("inf"), True, "7", [7]):
            changed = json.loads(json.dumps(description))
            set_in(changed, place, value)
            with pytest.raises(RunFolderError) as error:
                config_of(folder, read_from(folder, changed))
            names = [part for part in place.split("/")[1:] or [place] if not part.isdigit()]
            assert "run.json" in str(error.value) and names[-1] in str(error.value), (place, value)


def read_from(folder: RunFolder, description: dict[str, Any]) -> dict[str, Any]:
    folder.description.write_text(checksummed(description))
    return read_run(folder)


@pytest.mark.parametrize(
    ("place", "value", "name"),
    [
        ("config/world_model/sequence/width", 10**9, "world_model.sequence.width"),
        ("config/actor_critic/hidden", [2**31 - 1, 2**31 - 1], "actor_critic.hidden"),
        ("config/world_model/sequence/num_layers", 10**9, "num_layers"),
        ("specs/observation/0/shape", [2**62], r"run\.json describes its observations .* are not between"),
        ("specs/observation/0/dtype", "object!", "dtype|object!"),
        ("specs/observation/0/modality", "smell", "smell"),
        ("specs/action/components/0/sizes", [-3], "are not between"),
    ],
)
def test_sizes_that_nothing_holds_get_one_message(place: str, value: Any, name: str, run: Path) -> None:
    describe(run, lambda description: set_in(description, place, value))
    with pytest.raises(WorldstreamError, match=name):
        load_run(run)


# JSON that is nested deeply.


def test_deep_json_is_refused_or_left_out(run: Path) -> None:
    folder = RunFolder(run)
    whole = {log: read_lines(log, folder.run_id) for log in (folder.metrics, folder.evaluations, folder.sittings)}
    for log, records in whole.items():
        for deep in (NESTED, "[" * 500 + "]" * 500):
            text = f'{{"steps": 1, "deep": {deep}, "run": "{folder.run_id}"}}'
            with log.open("a") as file:
                file.write(f'{text[:-1]}, "crc": {zlib.crc32(text.encode())}}}\n')
        with pytest.warns(WorldstreamWarning, match="lines .* are not what was written and are left out"):
            assert read_lines(log, folder.run_id) == records
    for depth in (DEEP, 500):
        nested: Any = "DEEP"
        deep_text = "[" * depth + "]" * depth
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(json, "dumps", forging(json.dumps, deep_text))
            for path in (newest(run), folder.weights):
                write_arrays(path, {}, nested, run=folder.run_id)
        with pytest.raises(RunFolderError, match="nested"):
            load_run(run)
        with pytest.warns(WorldstreamWarning, match="nested .*Falling back"):
            assert restored(run) == 30
    folder.description.write_text(f'{{"format": 5, "deep": {NESTED}}}')
    with pytest.raises(RunFolderError, match="cannot be read as JSON"):
        read_run(folder)
    folder.lock.write_text(NESTED)
    with locked(folder), pytest.raises(RunFolderError, match="in use by"), locked(folder):
        pass


def forging(dumps: Callable[..., str], deep: str) -> Callable[..., str]:
    return lambda *arguments, **options: dumps(*arguments, **options).replace('"DEEP"', deep)


# Files that cannot be written, and folders that must not be made.


@pytest.mark.skipif(os.name != "posix", reason="limits of POSIX")
@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_limit_of_file_sizes_ends_the_files_of_tensorboard(tmp_path: Path) -> None:
    heard: list[dict[str, Any]] = []
    log = MetricLog(LineLog(tmp_path / "metrics.jsonl"), tmp_path / "events", [heard.append])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
    try:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            for steps in range(100):
                log.write({"steps": steps, "loss": 0.5})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    messages = [str(each.message) for each in told]
    assert sum("TensorBoard's files end here" in message and "File too large" in message for message in messages) == 1
    assert sum("Lines are kept in memory" in message for message in messages) == 1 and len(messages) == 2
    assert len(heard) == 100 and threading.active_count() == 1
    log.write({"steps": 100})
    assert [record["steps"] for record in read_lines(tmp_path / "metrics.jsonl")] == list(range(101))


def test_a_folder_for_replay_is_made_for_nobody_but_who_types_it(run: Path, tmp_path: Path) -> None:
    def elsewhere(description: dict[str, Any]) -> None:
        description["config"] = put(description["config"], "replay.memory_map", str(tmp_path / "a" / "b"))

    describe(run, elsewhere)
    with pytest.raises(RunFolderError, match=r"replay\.memory_map names .*b, which is no folder here"):
        worldstream.resume(run, quiet=True)
    assert not (tmp_path / "a").exists()
    (tmp_path / "a" / "b").mkdir(parents=True)
    with pytest.raises((Interrupted, ConfigError)):
        worldstream.resume(run, time_limit=0, quiet=True)
    assert list((tmp_path / "a" / "b").iterdir()) == []


def test_the_folder_of_perceptual_weights_is_absolute_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert LpipsConfig(weights="here").weights == str(tmp_path / "here")
    assert [LpipsConfig(weights=name).weights for name in ("", "download", "/there")] == ["", "download", "/there"]


def test_a_module_that_leaves_while_it_is_imported_is_a_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "leaving.py").write_text("import sys\nsys.exit(0)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(SystemExit) as end:
        main(["train", "--env", "leaving:make", "--steps", "10", "--output", str(tmp_path / "run")])
    assert end.value.code == 3
    assert "importing 'leaving' raised SystemExit: 0" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
