"""Store: what does not fit is refused, and a resumed store continues as if nothing had happened."""

from __future__ import annotations

import copy

import numpy as np
import pytest

from small_replay import Clock, make_clock_store
from worldstream.errors import ConfigError
from worldstream.replay.segments import gather


def test_too_small_a_bound_names_the_remedy() -> None:
    with pytest.raises(ConfigError, match="max_steps to at least 6"):
        make_clock_store(3, 5)
    with pytest.raises(ConfigError, match="max_bytes"):
        make_clock_store(3, 1000, max_bytes=50)


def test_writing_what_does_not_fit_is_refused() -> None:
    store = make_clock_store(1, 8)
    good = {"clock": np.zeros((1, 3), np.int32), "pixel": np.zeros((1, 1), np.uint8)}
    actions, rewards, no = np.ones((1, 2), np.int64), np.ones(1), np.array([False])
    with pytest.raises(ValueError, match="start"):
        store.append(actions, rewards, no, no, good)
    with pytest.raises(ValueError, match="int64"):
        store.start({**good, "clock": np.zeros((1, 3), np.int64)})
    with pytest.raises(ValueError, match="keys"):
        store.start({"clock": good["clock"]})
    store.start(good)
    with pytest.raises(ValueError, match="do not fit"):
        store.append(np.full((1, 2), 256), rewards, no, no, good)
    with pytest.raises(ValueError, match="integers"):
        store.append(np.ones((1, 2)), rewards, no, no, good)
    with pytest.raises(ValueError, match="rewards"):
        store.append(actions, np.float32(1), no, no, good)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="truncated: int64"):
        store.append(actions, rewards, no, np.zeros(1, np.int64), good)
    assert store.num_steps == 0 and len(store.ring.stored_serials()) == 1


@pytest.mark.parametrize("steps", [0, 5, 70])
def test_resumed_store_continues_identically(steps: int) -> None:
    store = make_clock_store(3, 90)
    clock = Clock(store, seed=2).run(steps)
    other = make_clock_store(3, 90)
    other.load_state_dict(copy.deepcopy(store.state_dict()), [store.rows_since()])
    twin = Clock(other, mean_length=clock.mean_length)
    twin.__dict__.update(copy.deepcopy({k: v for k, v in clock.__dict__.items() if k != "store"}))
    clock.run(30)
    twin.run(30)
    serials = store.ring.stored_serials()
    np.testing.assert_array_equal(other.ring.stored_serials(), serials)
    assert (other.num_steps, other.total_steps) == (store.num_steps, store.total_steps)
    ours, theirs = gather(store, serials, 5, "last"), gather(other, serials, 5, "last")
    for name, value in vars(ours).items():
        np.testing.assert_array_equal(vars(theirs)[name], value)
    np.testing.assert_array_equal(other.observations(ours.rows)["clock"], store.observations(ours.rows)["clock"])
    with pytest.raises(ConfigError, match="Resume with"):
        make_clock_store(2, 90).load_state_dict(store.state_dict(), [])


def test_parts_of_a_checkpoint_chain_add_up() -> None:
    """Rows written since the last part, with what happened to the two newest of then, give the whole store."""
    store, other = make_clock_store(2, 40), make_clock_store(2, 40)
    clock, parts, saved = Clock(store, seed=3), [], None
    for _ in range(6):
        clock.run(7)
        parts.append(store.rows_since(saved))
        saved = store.state_dict()["next_serials"]
    store.truncate(np.array([True, True]))
    parts.append(store.rows_since(saved))
    other.load_state_dict(store.state_dict(), parts)
    whole, again = store.rows_since(), other.rows_since()
    for name, column in whole.items():
        np.testing.assert_array_equal(again[name], column)
    with pytest.raises(ValueError, match="rows of replay are missing"):
        make_clock_store(2, 40).load_state_dict(store.state_dict(), parts[:3])
