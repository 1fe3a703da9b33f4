"""Store: replayed fake clocks count up by one and never cross episodes, whatever is evicted, grown or cut."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worldstream.errors import ConfigError
from worldstream.replay import arrays as arrays_module
from worldstream.replay.eligibility import EligibleRows, Role
from worldstream.replay.store import ReplayStore


@dataclass
class Clock:
    """Drives a store with N fake clocks: observation = (stream, episode, steps since its start)."""

    store: ReplayStore
    seed: int = 0
    mean_length: float = 5.0
    history: list[list[dict]] = field(default_factory=list)  # per stream: all rows ever written

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)
        self.history = [[] for _ in range(self.store.num_streams)]
        self.clock = np.zeros((self.store.num_streams, 3), np.int32)
        self.clock[:, 0] = np.arange(self.store.num_streams)
        self.needs_start = np.ones(self.store.num_streams, np.bool_)

    def _record(self, where: np.ndarray, terminal: np.ndarray) -> None:
        for stream in np.flatnonzero(where):
            row = {"clock": tuple(self.clock[stream]), "acted": False, "terminal": bool(terminal[stream])}
            self.history[stream].append(row)

    def observation(self) -> dict[str, np.ndarray]:
        return {"clock": self.clock.copy(), "pixel": (self.clock[:, 2:] % 256).astype(np.uint8)}

    def run(self, num_steps: int, abandon: float = 0.05, idle: float = 0.2) -> Clock:
        """Random episode ends, streams that pause, and episodes that are abandoned without an end."""
        num_streams = self.store.num_streams
        for _ in range(num_steps):
            begin = self.needs_start | (self.rng.random(num_streams) < abandon)
            self.clock[begin, 1] += 1
            self.clock[begin, 2] = 0
            self.store.start(self.observation(), begin)
            self._record(begin, np.zeros(num_streams, np.bool_))
            self.needs_start[:] = False
            self.step(self.rng.random(num_streams) >= idle)
        return self

    def step(self, where: np.ndarray) -> None:
        num_streams = self.store.num_streams
        ends = self.rng.random((2, num_streams)) < 0.5 / self.mean_length
        actions = self.rng.integers(1, 9, (num_streams, 2))
        rewards = self.rng.random(num_streams).astype(np.float32)
        for stream in np.flatnonzero(where):
            facts = {"action": tuple(actions[stream]), "reward": rewards[stream], "ends": tuple(ends[:, stream])}
            self.history[stream][-1].update(facts, acted=True)
        self.clock[where, 2] += 1
        self.store.append(actions, rewards, ends[0], ends[1], self.observation(), where)
        self._record(where, ends[0])
        self.needs_start = where & ends.any(0)

    def stored(self) -> Iterator[tuple[int, int, dict]]:
        """(stream, number, row) of what a ring must still keep."""
        for stream, rows in enumerate(self.history):
            for number in range(max(0, len(rows) - self.store.ring.rows_per_stream), len(rows)):
                yield stream, number, rows[number]

    def row(self, stream: int, number: int) -> dict | None:
        """The row, or None where it is evicted, not written, or before the start."""
        rows = self.history[stream]
        return rows[number] if max(0, len(rows) - self.store.ring.rows_per_stream) <= number < len(rows) else None


def make_store(num_streams: int = 3, max_steps: int = 60, **options: int) -> ReplayStore:
    columns = {"clock": ((3,), np.int32), "pixel": ((1,), np.uint8)}
    return ReplayStore(columns, 2, np.uint8, num_streams, max_steps, **options)


runs = given(
    seed=st.integers(0, 10_000),
    num_streams=st.integers(1, 4),
    rows=st.integers(2, 30),
    steps=st.integers(1, 60),
    mean_length=st.sampled_from([1.0, 3.0, 10.0, 1000.0]),
)


@settings(max_examples=60, deadline=None)
@runs
def test_segments_equal_the_history(seed, num_streams, rows, steps, mean_length) -> None:
    store = make_store(num_streams, rows * num_streams)
    clock = Clock(store, seed, mean_length).run(steps)
    stored = list(clock.stored())
    ids = np.array([number * num_streams + stream for stream, number, _ in stored])
    np.testing.assert_array_equal(store.ids_of_all(), np.sort(ids))
    assert store.num_steps == sum(row["acted"] for _, _, row in stored)
    assert store.total_steps == sum(row["acted"] for history in clock.history for row in history)
    length = 1 + seed % 6
    for anchor, first in (("first", 0), ("last", 1 - length)):
        segments = store.gather(ids, length, anchor)
        clocks = store.observations(segments.rows)["clock"]
        for b, (stream, number, row) in enumerate(stored):
            for t in range(length):
                other = clock.row(stream, number + first + t)
                real = other is not None and other["clock"][:2] == row["clock"][:2]
                assert segments.observed[b, t] == real
                expected = other if real else row
                assert tuple(clocks[b, t]) == expected["clock"]
                acted = real and other["acted"]
                assert segments.acted[b, t] == acted
                facts = (tuple(segments.actions[b, t]), segments.rewards[b, t])
                ends = (segments.terminated[b, t], segments.truncated[b, t])
                assert facts == ((other["action"], other["reward"]) if acted else ((0, 0), 0))
                assert ends == (other["ends"] if acted else (False, False))


@settings(max_examples=40, deadline=None)
@runs
def test_observed_clocks_count_up_by_one(seed, num_streams, rows, steps, mean_length) -> None:
    store = make_store(num_streams, rows * num_streams)
    Clock(store, seed, mean_length).run(steps)
    segments = store.gather(store.ids_of_all(), 7, "first")
    clocks = store.observations(segments.rows)["clock"]
    both = segments.observed[:, 1:] & segments.observed[:, :-1]
    assert (np.diff(clocks, axis=1)[both] == [0, 0, 1]).all()


@settings(max_examples=40, deadline=None)
@runs
def test_eligible_rows_equal_their_definition(seed, num_streams, rows, steps, mean_length) -> None:
    """Also: the index that is refreshed now and then equals one that is built at the end, and the order is kept."""
    store = make_store(num_streams, rows * num_streams)
    margin = seed % 4
    roles = [Role.segment_start(margin), Role.segment_end(margin)]
    refreshed = [EligibleRows(store, role) for role in roles]
    current: list[set[int]] = [set(), set()]
    clock = Clock(store, seed, mean_length)
    for part in range(4):
        clock.run(1 + (steps * (part + 1)) // 4)
        for eligible, members in zip(refreshed, current, strict=True):
            removed, added = eligible.refresh()
            assert members >= set(removed.tolist())
            members -= set(removed.tolist())
            assert not members & set(added.tolist())
            members |= set(added.tolist())
    for role, eligible, members in zip(roles, refreshed, current, strict=True):
        expected = set()
        for stream, number, row in clock.stored():
            others = [clock.row(stream, number - role.before), clock.row(stream, number + role.after)]
            near = all(other is not None and other["clock"][:2] == row["clock"][:2] for other in others)
            if near and (role.terminal or not row["terminal"]):
                expected.add(number * num_streams + stream)
        assert members == expected
        ids = eligible.ids_at(np.arange(eligible.count))
        assert len(ids) == len(expected) and set(ids.tolist()) == expected
        rebuilt = EligibleRows(store, role)
        rebuilt.refresh()
        np.testing.assert_array_equal(rebuilt.ids_at(np.arange(rebuilt.count)), ids)


def play(store: ReplayStore, length: int, terminated: bool, truncated: bool) -> None:
    """One episode in a store with one stream."""
    end, no = np.array([True]), np.array([False])
    observations = {"clock": np.zeros((1, 3), np.int32), "pixel": np.zeros((1, 1), np.uint8)}
    store.start(observations, end)
    for t in range(length):
        last = t == length - 1
        ends = (end if last and terminated else no, end if last and truncated else no)
        store.append(np.ones((1, 2), np.int64), np.ones(1, np.float32), *ends, observations)


def test_final_observation_is_an_anchor_only_without_termination() -> None:
    store = make_store(1, 20)
    play(store, 2, terminated=True, truncated=False)  # ids 0 1 2
    play(store, 2, terminated=False, truncated=True)  # ids 3 4 5
    play(store, 1, terminated=True, truncated=True)  # ids 6 7: terminated wins
    play(store, 1, terminated=False, truncated=False)  # ids 8 9: open
    ids = store.ids_of_all()
    assert ids[Role.segment_end(0).accepts(store, ids)].tolist() == [0, 1, 3, 4, 5, 6, 8, 9]
    assert ids[Role.segment_end(1).accepts(store, ids)].tolist() == [1, 4, 5, 9]


def test_short_episodes_contribute_no_start() -> None:
    store = make_store(1, 50)
    for length in (1, 2, 1, 4):
        play(store, length, terminated=True, truncated=False)
    ids = store.ids_of_all()
    starts = ids[Role.segment_start(3).accepts(store, ids)]
    assert starts.tolist() == [7, 8]  # rows 0-1, 2-4, 5-6, 7-11
    assert not Role.segment_start(0).accepts(store, np.array([-1, 12, 500])).any()


def test_rows_become_starts_when_later_rows_arrive() -> None:
    store = make_store(1, 50)
    play(store, 2, terminated=False, truncated=False)
    eligible = EligibleRows(store, Role.segment_start(3))
    eligible.refresh()
    assert eligible.count == 0
    no = np.array([False])
    store.append(np.ones((1, 2), np.int64), np.ones(1), no, no, store.observations(np.array([0])))
    removed, added = eligible.refresh()
    assert (removed.tolist(), added.tolist()) == ([], [0])


def test_memory_is_bounded_and_grows_as_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrays_module, "_FIRST_ROWS", 4)
    bytes_per_row = make_store().bytes_per_row
    store = make_store(2, 10_000, max_bytes=101 * bytes_per_row)
    assert store.ring.capacity == 100
    assert store.num_bytes == 0
    clock, sizes = Clock(store), []
    for _ in range(150):
        clock.run(1)
        sizes.append(store.num_bytes)
    assert sizes[0] < 10 * bytes_per_row
    assert len(set(sizes)) >= 4
    assert sizes == sorted(sizes) and sizes[-1] == 100 * bytes_per_row


def test_too_small_a_bound_names_the_remedy() -> None:
    with pytest.raises(ConfigError, match="max_steps to at least 6"):
        make_store(3, 5)
    with pytest.raises(ConfigError, match="max_bytes"):
        make_store(3, 1000, max_bytes=50)


def test_evicted_anchor_is_all_padding_and_unwritten_one_an_error() -> None:
    store = make_store(2, 8)
    Clock(store).run(20)
    assert not store.gather(np.array([0, 1]), 4, "first").observed.any()
    long = make_store(1, 8)
    play(long, 12, terminated=False, truncated=False)  # rows 5 .. 12 are stored, of the episode of row 4
    assert not long.gather(np.array([4]), 6, "first").observed.any()
    with pytest.raises(IndexError, match="never written"):
        store.gather(np.array([10**6]), 4, "first")


def test_writing_what_does_not_fit_is_refused() -> None:
    store = make_store(1, 8)
    good = {"clock": np.zeros((1, 3), np.int32), "pixel": np.zeros((1, 1), np.uint8)}
    no = np.array([False])
    with pytest.raises(ValueError, match="start"):
        store.append(np.ones((1, 2), np.int64), np.ones(1), no, no, good)
    with pytest.raises(ValueError, match="int64"):
        store.start({**good, "clock": np.zeros((1, 3), np.int64)})
    with pytest.raises(ValueError, match="keys"):
        store.start({"clock": good["clock"]})
    store.start(good)
    with pytest.raises(ValueError, match="do not fit"):
        store.append(np.full((1, 2), 256), np.ones(1), no, no, good)
    with pytest.raises(ValueError, match="rewards"):
        store.append(np.ones((1, 2), np.int64), np.float32(1), no, no, good)  # type: ignore[arg-type]
    assert store.num_steps == 0 and len(store.ids_of_all()) == 1


def test_whole_episode() -> None:
    store = make_store(3, 90)
    clock = Clock(store, seed=1, mean_length=8).run(60)
    for stream, number, row in clock.stored():
        segment = store.episode(number * 3 + stream)
        assert segment.observed.all()
        clocks = store.observations(segment.rows)["clock"][0].tolist()
        assert clocks == [list(r["clock"]) for s, _, r in clock.stored() if (s, r["clock"][1]) == row["clock"][:2]]
    with pytest.raises(LookupError):
        store.episode(0)


def test_rows_are_drawn_uniformly_from_what_is_stored() -> None:
    store = make_store(3, 30)
    Clock(store, seed=1).run(40)  # evicts
    rng, ids = np.random.default_rng(0), store.ids_of_all()
    drawn = store.ring.draw(rng, 20_000)
    assert set(drawn) == set(ids)
    counts = np.bincount(np.searchsorted(ids, drawn))
    # A count is binomial with a deviation of 25 around 667; six of them are a matter of one in a million.
    assert abs(counts - len(drawn) / len(ids)).max() < 6 * np.sqrt(len(drawn) / len(ids))


@pytest.mark.parametrize("steps", [0, 5, 70])
def test_resumed_store_continues_identically(steps: int) -> None:
    store = make_store(3, 90)
    clock = Clock(store, seed=2).run(steps)
    other = make_store(3, 90)
    other.load_state_dict(copy.deepcopy(store.state_dict()), [store.rows_since()])
    twin = Clock(other, mean_length=clock.mean_length)
    twin.__dict__.update(copy.deepcopy({k: v for k, v in clock.__dict__.items() if k != "store"}))
    clock.run(30)
    twin.run(30)
    ids = store.ids_of_all()
    np.testing.assert_array_equal(other.ids_of_all(), ids)
    assert (other.num_steps, other.total_steps) == (store.num_steps, store.total_steps)
    ours, theirs = store.gather(ids, 5, "last"), other.gather(ids, 5, "last")
    for name, value in vars(ours).items():
        np.testing.assert_array_equal(vars(theirs)[name], value)
    rows = ours.rows
    np.testing.assert_array_equal(other.observations(rows)["clock"], store.observations(rows)["clock"])
    with pytest.raises(ConfigError, match="Resume with"):
        make_store(2, 90).load_state_dict(store.state_dict(), [])
