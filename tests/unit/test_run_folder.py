"""Run folders: whole files or none, clear refusals, and specs that survive run.json."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest
from gymnasium import spaces

from worldstream.actions import spec_from_space
from worldstream.errors import RunFolderError
from worldstream.modalities import ObservationAdapter
from worldstream.runs import files
from worldstream.runs.description import specs_from_json, specs_to_json
from worldstream.runs.files import replace_file
from worldstream.runs.folder import FORMAT, RunFolder
from worldstream.runs.log import LineLog, read_lines

DISK_FULL = OSError(errno.ENOSPC, "No space left on device")


def write_half(file: BinaryIO) -> None:
    file.write(b"half of ")
    file.flush()
    raise DISK_FULL


# Replacing files.


def test_a_replaced_file_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for content in (b"first", b"second, longer", b""):
        replace_file(path, lambda file, content=content: file.write(content))
        assert path.read_bytes() == content
        assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("existing", [b"old", None])
def test_a_full_disk_leaves_everything_as_it_was(tmp_path: Path, existing: bytes | None) -> None:
    path = tmp_path / "file"
    if existing is not None:
        path.write_bytes(existing)
    with pytest.raises(RunFolderError, match=r"file: No space left on device\. What was there before is kept"):
        replace_file(path, write_half)
    assert [p.read_bytes() for p in tmp_path.iterdir()] == ([existing] if existing is not None else [])


@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_late_failures_leave_the_old_file(tmp_path: Path, function: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fail(*_: Any) -> None:
        raise DISK_FULL

    monkeypatch.setattr(f"worldstream.runs.files.os.{function}", fail)
    with pytest.raises(RunFolderError, match="cannot write"):
        replace_file(path, lambda file: file.write(b"new"))
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_other_errors_keep_their_traceback_and_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def write(file: BinaryIO) -> None:
        file.write(b"ne")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        replace_file(path, write)
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_the_new_file_appears_only_when_it_is_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, events = tmp_path / "file", []
    fsync, replace = files.os.fsync, files.os.replace
    monkeypatch.setattr(files.os, "fsync", lambda fd: (events.append("flushed"), fsync(fd)))
    monkeypatch.setattr(files.os, "replace", lambda a, b: (events.append("renamed"), replace(a, b)))
    replace_file(path, lambda file: file.write(b"x"))
    assert events == ["flushed", "renamed", "flushed"], "and the new name is on disk before anything follows"


def test_a_missing_folder_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="choose another --output"):
        replace_file(tmp_path / "absent" / "file", lambda file: file.write(b"x"))


# The folder.


def test_create_and_read(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "a" / "b")
    folder.create({"seed": 3})
    assert folder.read_description() == {"format": FORMAT, "run": folder.run_id, "seed": 3}
    assert RunFolder(folder.path).run_id == folder.run_id != RunFolder(tmp_path / "c").run_id


def test_an_empty_folder_may_be_used(tmp_path: Path) -> None:
    RunFolder(tmp_path / "absent").require_unused()
    RunFolder(tmp_path).require_unused()
    RunFolder(tmp_path).create({"seed": 5})
    assert RunFolder(tmp_path).read_description()["seed"] == 5


@pytest.mark.parametrize("kind", ["run", "foreign file", "file"])
def test_what_holds_anything_is_never_overwritten(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x"
    if kind == "run":
        RunFolder(path).create({"seed": 1})
    elif kind == "foreign file":
        path.mkdir()
        (path / "thesis.txt").write_text("precious")
    else:
        path.write_text("precious")
    for attempt in (RunFolder(path).require_unused, lambda: RunFolder(path).create({"seed": 2})):
        with pytest.raises(RunFolderError, match="not empty"):
            attempt()
    kept = {"run": "run.json", "foreign file": "thesis.txt"}.get(kind)
    assert ("precious" in path.read_text()) if kept is None else [p.name for p in path.iterdir()] == [kept]


def test_refusals_to_read_name_the_folder_and_the_remedy(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    with pytest.raises(RunFolderError, match="run is not a folder"):
        folder.read_description()
    folder.path.mkdir()
    with pytest.raises(RunFolderError, match=r"not a run folder: it has no run\.json"):
        folder.read_description()
    for content, message in (
        (b"", "JSON"),
        (b"{", "JSON"),
        (b"\xff\xfe\x00", "JSON"),
        (b"[1]", "format None"),
        (b'{"seed": 1}', "format None"),
        (b'{"format": 4, "worldstream": "0.4.0"}', f"format 4, .* 0.4.0; this version reads format {FORMAT}"),
        (json.dumps({"format": FORMAT + 1}).encode(), f"format {FORMAT + 1}, .* this version reads format {FORMAT}"),
    ):
        folder.description.write_bytes(content)
        with pytest.raises(RunFolderError, match=message):
            folder.read_description()


def test_lines_are_appended_and_a_torn_last_line_is_left_out(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert read_lines(folder.metrics) == []
    for i in range(3):
        LineLog(folder.metrics).append({"steps": i})
    assert read_lines(folder.metrics) == [{"steps": i} for i in range(3)]
    with open(folder.metrics, "a") as file:
        file.write('{"steps": 3, "lo')
    assert read_lines(folder.metrics) == [{"steps": i} for i in range(3)]


def test_every_file_has_a_name_of_its_own(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    paths = [path for name, path in vars(folder).items() if name != "path"]
    assert len(paths) == len(set(paths)) == 14 and all(path.parent == tmp_path for path in paths)


# Specs.


@pytest.mark.parametrize(
    ("observation", "action"),
    [
        (spaces.Box(-1, 1, (3,), np.float32), spaces.Discrete(4, start=-2)),
        (spaces.Discrete(5, start=2), spaces.Box(-1, 2, (2, 2), np.float32)),
        (
            spaces.Dict(
                {
                    "map": spaces.Box(0, 4, (3, 5, 2), np.int64),
                    "a.b": spaces.Dict({"c": spaces.MultiBinary(3), "d": spaces.Box(-1, 1, (), np.float64)}),
                }
            ),
            spaces.Dict(
                {
                    "move": spaces.Tuple((spaces.Discrete(2), spaces.Box(-1, 1, (3,), np.float32))),
                    "keys": spaces.MultiDiscrete([2, 3]),
                }
            ),
        ),
    ],
)
def test_specs_survive_run_json(observation: spaces.Space, action: spaces.Space) -> None:
    keys, spec = ObservationAdapter.from_space(observation, {}).specs, spec_from_space(action)
    data = json.loads(json.dumps(specs_to_json(keys, spec)))
    keys_again, spec_again = specs_from_json(data)
    assert keys_again == keys and list(keys_again) == list(keys)
    assert spec_again == spec


def test_unknown_specs_are_refused() -> None:
    keys = ObservationAdapter.from_space(spaces.Discrete(3), {}).specs
    good = specs_to_json(keys, spec_from_space(spaces.Discrete(2)))
    for bad in (
        {},
        {"observation": good["observation"]},
        {**good, "observation": [{**good["observation"][0], "colour": 1}]},
        {**good, "observation": [{"key": "x"}]},
        {**good, "action": {"structure": "action"}},
    ):
        with pytest.raises(RunFolderError, match=r"run\.json describes"):
            specs_from_json(bad)
