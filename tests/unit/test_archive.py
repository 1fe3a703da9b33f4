"""Archives: what comes out is what went in, or a message does."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import SafetensorError

from worldstream.errors import RunFolderError
from worldstream.runs.archive import (
    MAX_HEADER_BYTES,
    join,
    read_arrays,
    read_plain,
    read_state,
    split,
    write_arrays,
    write_state,
)

LEAVES: st.SearchStrategy[Any] = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(allow_nan=False), st.text(max_size=3)
)
ARRAYS: Callable[[int], Any] = lambda n: np.arange(n, dtype=np.int16).reshape(-1, 1)  # noqa: E731
NAMES = st.text(st.characters(codec="ascii", exclude_characters="$/"), max_size=3)
STATES = st.recursive(
    st.one_of(LEAVES, st.integers(0, 3).map(ARRAYS)),
    lambda child: st.one_of(st.lists(child, max_size=3), st.dictionaries(NAMES, child, max_size=3)),
    max_leaves=8,
)


@given(state=st.dictionaries(NAMES, STATES, max_size=3))
def test_nested_state_survives(state: dict[str, Any]) -> None:
    plain, arrays = split(state)
    again = join(json.loads(json.dumps(plain)), arrays)
    np.testing.assert_equal(again, state)


def test_what_no_file_holds_is_refused() -> None:
    for state in ({"a": {1: 2}}, {"a": object()}, {"$array": 1}):
        with pytest.raises(TypeError, match="state at"):
            split(state)


STATE = {"a": [np.arange(6).reshape(2, 3), {"b/c": torch.ones(2), "d": None}], "e": np.float32(0.5), "f": np.zeros(())}


def test_state_survives_a_file(tmp_path: Path) -> None:
    write_state(tmp_path / "x", STATE)
    again = read_state(tmp_path / "x")
    assert torch.equal(again["a"][1].pop("b/c"), torch.ones(2)) and again["a"][1] == {"d": None}
    assert (again["a"][0] == np.arange(6).reshape(2, 3)).all() and again["e"] == 0.5 and again["f"].shape == ()


def test_equal_states_are_equal_files(tmp_path: Path) -> None:
    digests = {write_state(tmp_path / name, STATE) for name in ("x", "y")}
    assert len(digests) == 1 and (tmp_path / "x").read_bytes() == (tmp_path / "y").read_bytes()


def test_a_plain_state_too_large_for_a_header_survives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for limit in (MAX_HEADER_BYTES, 10):
        monkeypatch.setattr("worldstream.runs.archive.MAX_HEADER_BYTES", limit)
        state = {"long": '\u00e9"' * (2 * limit), "array": np.arange(3)}
        write_state(tmp_path / "x", state)
        np.testing.assert_equal(read_state(tmp_path / "x"), state)
        assert read_plain(tmp_path / "x")["long"] == state["long"]
        assert set(read_arrays(tmp_path / "x")[0]) == {"array"}
        content = bytearray((tmp_path / "x").read_bytes())
        content[content.index(b"long")] ^= 1
        (tmp_path / "x").write_bytes(content)
        with pytest.raises(RunFolderError, match="x is not what was written"):
            read_plain(tmp_path / "x")


def test_what_safetensors_refuses_is_said_with_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> bytes:
        raise SafetensorError("header too large")

    write_state(tmp_path / "x", STATE)
    monkeypatch.setattr("safetensors.numpy.save", refuse)
    with pytest.raises(RunFolderError, match="cannot write .*x: header too large"):
        write_state(tmp_path / "x", {})
    assert read_state(tmp_path / "x")["e"] == 0.5


def test_an_archive_of_other_content_is_refused(tmp_path: Path) -> None:
    ours, theirs = (write_arrays(tmp_path / "x", {"n": np.full(3, i)}, {"i": i}) for i in (1, 2))
    arrays, plain = read_arrays(tmp_path / "x", theirs)
    assert plain == read_plain(tmp_path / "x") == {"i": 2} and (arrays["n"] == 2).all()
    with pytest.raises(RunFolderError, match="x is not what was written"):
        read_arrays(tmp_path / "x", ours)


def test_foreign_files_are_refused(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    save_file({"n": np.zeros(3)}, tmp_path / "bare")
    save_file({"n": np.zeros(3)}, tmp_path / "other", {"worldstream": "x"})
    (tmp_path / "text").write_text("{}")
    for name in ("bare", "other", "text", "absent"):
        for read in (read_plain, read_state):
            with pytest.raises(RunFolderError, match=name):
                read(tmp_path / name)
