"""Rows: arrays grow as needed up to their bound, and stored rows are drawn uniformly."""

from __future__ import annotations

import numpy as np
import pytest

from small_replay import Clock, make_clock_store, row_format
from worldstream.replay import rows as rows_module
from worldstream.specs import smallest_dtype


def test_memory_is_bounded_and_grows_as_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows_module, "_FIRST_ROWS", 4)
    bytes_per_row = make_clock_store().format.bytes_per_row
    store = make_clock_store(2, 10_000, max_bytes=101 * bytes_per_row)
    assert store.ring.capacity == 100
    assert store.num_bytes == 0
    clock, sizes = Clock(store), []
    for _ in range(150):
        clock.run(1)
        sizes.append(store.num_bytes)
    assert sizes[0] < 10 * bytes_per_row
    assert len(set(sizes)) >= 4
    assert sizes == sorted(sizes) and sizes[-1] == 100 * bytes_per_row


def test_rows_are_drawn_uniformly_from_what_is_stored() -> None:
    store = make_clock_store(3, 30)
    Clock(store, seed=1).run(40)  # evicts
    drawn = store.ring.draw(np.random.default_rng(0), 20_000)
    stored = store.ring.rows_of(store.ring.stored_serials())
    assert set(drawn) == set(stored)
    counts = np.bincount(drawn, minlength=30)[stored]
    # A count is binomial with a deviation of 25 around 667; six of them are a matter of one in a million.
    assert abs(counts - len(drawn) / len(stored)).max() < 6 * np.sqrt(len(drawn) / len(stored))


def test_serial_numbers_and_rows_are_inverse_for_what_is_stored() -> None:
    store = make_clock_store(3, 30)
    ring = store.ring
    clock = Clock(store, seed=4)
    assert (ring.serials_of(np.arange(30)) < 0).all()
    for _ in range(5):
        clock.run(7)
        serials = ring.stored_serials()
        np.testing.assert_array_equal(ring.serials_of(ring.rows_of(serials)), serials)
        empty = np.setdiff1d(np.arange(30), ring.rows_of(serials))
        assert (ring.serials_of(empty) < 0).all()


def test_rows_are_stored_in_the_smallest_types() -> None:
    assert [smallest_dtype(n).name for n in (2, 256, 257, 65_536, 65_537)] == [
        "uint8", "uint8", "uint16", "uint16", "int32",
    ]  # fmt: skip
    assert row_format().bytes_per_row == 8 + 1 + 4 + 4 + 8  # x, action, reward, four flags, episode
