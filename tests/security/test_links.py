"""Nothing in a run folder leads outside of it: links, pipes and devices are refused, and only own files are deleted."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import worldstream
from tiny import tiny_config
from worldstream.errors import Interrupted, RunFolderError, WorldstreamError
from worldstream.report.report import write_report
from worldstream.runs.checkpoint import Checkpoints
from worldstream.runs.files import open_plain, replace_file
from worldstream.runs.folder import RunFolder
from worldstream.runs.session import Session

FOLDERS = ("checkpoints", "replay", "events", "skipped")
FILES = (
    "run.json", "metrics.jsonl", "evaluations.jsonl", "sittings.jsonl", "weights.safetensors", "best.safetensors",
    "episodes.safetensors", "report.html", "lock",
)  # fmt: skip


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with checkpoints that was told to stop at step 20 of 30. It learns nothing."""
    base, path = tiny_config(), tmp_path_factory.mktemp("links") / "run"
    config = replace(
        base,
        checkpoint=replace(base.checkpoint, every_steps=5),
        evaluation=replace(base.evaluation, every_steps=10, max_episode_steps=3),
        log_every_steps=5,
    )
    original = Session.after_step

    def after_step(session: Session, steps: int) -> bool:
        session._request.reason = "a test" if steps == 20 else None
        return original(session, steps)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(Session, "after_step", after_step)
        worldstream.train("clock", steps=30, config=config, output=path, quiet=True)
    return path


@pytest.fixture
def run(stopped: Path, tmp_path: Path) -> Path:
    """A copy of that run."""
    return Path(shutil.copytree(stopped, tmp_path / "run"))


@pytest.fixture
def precious(tmp_path: Path) -> Path:
    """A folder elsewhere that nobody may touch; its files have the names of a run's."""
    path = tmp_path / "precious"
    path.mkdir()
    for name in ("000000000001.safetensors", "thesis.txt", *FILES):
        (path / name).write_text("thesis")
    return path


def contents(path: Path) -> dict[str, tuple[bytes, int]]:
    """Bytes and time of the last change of everything in a folder."""
    return {file.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in path.iterdir()}


def use(run: Path) -> list[str]:
    """What everything that reads or writes a run folder says about it."""
    said = []
    for attempt in (worldstream.resume, worldstream.Agent.load, lambda path: write_report([path])):
        with pytest.raises(WorldstreamError) as error:
            attempt(run)
        said.append(str(error.value))
    return said


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_that_is_a_link_is_refused(name: str, run: Path, precious: Path) -> None:
    shutil.rmtree(run / name, ignore_errors=True)
    (run / name).symlink_to(precious)
    before = contents(precious)
    assert all(f"{name} is a symbolic link" in said for said in use(run))
    assert contents(precious) == before


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("dangles", [False, True])
def test_a_file_that_is_a_link_is_refused(name: str, dangles: bool, run: Path, precious: Path) -> None:
    """Also one that holds what it should."""
    target = precious / name
    target.unlink()
    if not dangles:
        shutil.copy(run / name, target) if (run / name).exists() else target.write_text("thesis")
    (run / name).unlink(missing_ok=True)
    (run / name).symlink_to(target)
    before = contents(precious)
    assert all(f"{name} is a symbolic link" in said for said in use(run))
    assert contents(precious) == before


@pytest.mark.parametrize("name", [*(f"{folder}/{'000000000020.safetensors'}" for folder in FOLDERS), *FILES])
def test_a_pipe_is_refused_and_not_waited_for(name: str, run: Path) -> None:
    (run / name).parent.mkdir(exist_ok=True)
    (run / name).unlink(missing_ok=True)
    os.mkfifo(run / name)
    assert all(f"{name} is a pipe" in said for said in use(run))


def test_a_link_that_comes_while_the_run_is_under_way_leads_nowhere(run: Path, precious: Path) -> None:
    before = contents(precious)
    for name in ("metrics.jsonl", "run.json"):
        (run / name).unlink()
        (run / name).symlink_to(precious / name)
        for attempt in (lambda p: open_plain(p, "ab"), lambda p: replace_file(p, lambda file: file.write(b"x"))):
            with pytest.raises(RunFolderError, match=f"{name} is a symbolic link"):
                attempt(run / name)
    assert contents(precious) == before


def test_temporary_names_cannot_be_known(run: Path, precious: Path) -> None:
    """Those of before, which could, were links to elsewhere."""
    before, seen = contents(precious), set()
    for _ in range(2):
        (run / ".weights.safetensors.tmp").unlink(missing_ok=True)
        (run / ".weights.safetensors.tmp").symlink_to(precious / "thesis.txt")
        replace_file(run / "weights.safetensors", lambda file: seen.add(Path(file.name).name))
    assert contents(precious) == before and len(seen) == 2


def test_what_is_written_in_place_has_no_second_name(run: Path, precious: Path) -> None:
    shutil.move(run / "metrics.jsonl", precious / "metrics.jsonl")
    os.link(precious / "metrics.jsonl", run / "metrics.jsonl")
    before = contents(precious)
    with pytest.raises(RunFolderError, match="metrics.jsonl has 2 names"):
        worldstream.resume(run, quiet=True)
    assert contents(precious) == before


def test_only_own_files_are_deleted(run: Path) -> None:
    """Those of the run that are needed no more, and what a killed process left of them."""
    strangers = ["notes.txt", ".hidden", "1.safetensors", "000000000001.safetensors.bak", "x000000000001.safetensors"]
    token = "0123456789abcdef"
    own = ["000000000001.safetensors", f".000000000001-000000000002.safetensors.{token}.tmp", f".probe.{token}.tmp"]
    for folder in ("checkpoints", "replay"):
        for name in (*strangers, *own):
            (run / folder / name).write_text("thesis")
    (run / f".weights.safetensors.{token}.tmp").write_text("half")
    (run / ".mine.tmp").write_text("mine")
    worldstream.resume(run, quiet=True)
    for folder in ("checkpoints", "replay"):
        left = {file.name for file in (run / folder).iterdir()}
        assert left >= set(strangers) and not left & set(own)
    assert [file.name for file in run.glob(".*")] == [".mine.tmp"]


def test_the_run_folder_itself_may_be_a_link(run: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(run)
    (run / "notes").symlink_to(tmp_path)  # none of the run's files
    worldstream.resume(tmp_path / "link", quiet=True)
    latest = Checkpoints(RunFolder(tmp_path / "link"), 2).latest()
    assert latest is not None and latest.name == f"{30:012d}"


@pytest.mark.parametrize("make", [lambda path: os.mkfifo(path), lambda path: path.symlink_to("/dev/zero")])
def test_what_is_no_file_is_never_opened(make: Callable[[Path], None], tmp_path: Path) -> None:
    make(tmp_path / "file")
    with pytest.raises(RunFolderError, match="file is a"):
        open_plain(tmp_path / "file", "rb")
    with pytest.raises(RunFolderError, match="zero is a pipe, a socket or a device"):
        open_plain(Path("/dev/zero"), "rb")
