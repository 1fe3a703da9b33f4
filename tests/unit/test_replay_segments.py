"""Segments: replayed fake clocks count up by one and never cross episodes, and anchors are what their rule says."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from small_replay import Clock, anchors_of, make_clock_store, play
from worldstream.replay.segments import AnchorRule, Anchors, gather

runs = given(
    seed=st.integers(0, 10_000),
    num_environments=st.integers(1, 4),
    rows=st.integers(2, 30),
    steps=st.integers(1, 60),
    mean_length=st.sampled_from([1.0, 3.0, 10.0, 1000.0]),
)


@settings(max_examples=60, deadline=None)
@runs
def test_segments_equal_the_history(seed, num_environments, rows, steps, mean_length) -> None:
    store = make_clock_store(num_environments, rows * num_environments)
    clock = Clock(store, seed, mean_length).run(steps)
    stored = dict(clock.stored())
    np.testing.assert_array_equal(store.ring.stored_serials(), sorted(stored))
    assert store.num_steps == sum(row["acted"] for row in stored.values())
    assert store.total_steps == sum(row["acted"] for history in clock.history for row in history)
    length = 1 + seed % 6
    for anchor, first in (("first", 0), ("last", 1 - length)):
        segments = gather(store, np.array(list(stored)), length, anchor)
        clocks = store.observations(segments.rows)["clock"]
        for b, (serial, row) in enumerate(stored.items()):
            for t in range(length):
                other = stored.get(serial + (first + t) * num_environments)
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
def test_observed_clocks_count_up_by_one(seed, num_environments, rows, steps, mean_length) -> None:
    store = make_clock_store(num_environments, rows * num_environments)
    Clock(store, seed, mean_length).run(steps)
    segments = gather(store, store.ring.stored_serials(), 7, "first")
    clocks = store.observations(segments.rows)["clock"]
    both = segments.observed[:, 1:] & segments.observed[:, :-1]
    assert (np.diff(clocks, axis=1)[both] == [0, 0, 1]).all()


@settings(max_examples=40, deadline=None)
@runs
def test_anchors_equal_their_definition(seed, num_environments, rows, steps, mean_length) -> None:
    """Also: anchors refreshed now and then equal those that are listed at the end, and the order is kept."""
    store = make_clock_store(num_environments, rows * num_environments)
    margin = seed % 4
    rules = [AnchorRule.first(margin), AnchorRule.last(margin)]
    refreshed = [Anchors(store, rule) for rule in rules]
    current: list[set[int]] = [set(), set()]
    clock = Clock(store, seed, mean_length)
    for part in range(4):
        clock.run(1 + (steps * (part + 1)) // 4)
        for anchors, members in zip(refreshed, current, strict=True):
            removed, added = anchors.refresh()
            assert members >= set(removed.tolist())
            members -= set(removed.tolist())
            assert not members & set(added.tolist())
            members |= set(added.tolist())
    stored = dict(clock.stored())
    for rule, anchors, members in zip(rules, refreshed, current, strict=True):
        expected = set()
        for serial, row in stored.items():
            others = [stored.get(serial + n * num_environments) for n in (-rule.before, rule.after)]
            near = all(other is not None and other["clock"][:2] == row["clock"][:2] for other in others)
            if near and (rule.terminal or not row["terminal"]):
                expected.add(serial)
        assert members == expected
        listed = anchors.at(np.arange(anchors.count))
        assert len(listed) == len(expected) and set(listed.tolist()) == expected
        again = Anchors(store, rule)
        again.refresh()
        np.testing.assert_array_equal(again.at(np.arange(again.count)), listed)


def test_final_observation_is_an_anchor_only_without_termination() -> None:
    store = make_clock_store(1, 20)
    play(store, 2, terminated=True, truncated=False)  # rows 0 1 2
    play(store, 2, terminated=False, truncated=True)  # rows 3 4 5
    play(store, 1, terminated=True, truncated=True)  # rows 6 7: terminated wins
    play(store, 1, terminated=False, truncated=False)  # rows 8 9: open
    assert anchors_of(store, AnchorRule.last(0)).tolist() == [0, 1, 3, 4, 5, 6, 8, 9]
    assert anchors_of(store, AnchorRule.last(1)).tolist() == [1, 4, 5, 9]


def test_short_episodes_contribute_no_first_row() -> None:
    store = make_clock_store(1, 50)
    for length in (1, 2, 1, 4):
        play(store, length, terminated=True, truncated=False)
    assert anchors_of(store, AnchorRule.first(3)).tolist() == [7, 8]  # rows 0-1, 2-4, 5-6, 7-11
    assert not AnchorRule.first(0).accepts(store, np.array([-1, 12, 500])).any()


def test_rows_become_anchors_when_later_rows_arrive() -> None:
    store = make_clock_store(1, 50)
    play(store, 2, terminated=False, truncated=False)
    anchors = Anchors(store, AnchorRule.first(3))
    anchors.refresh()
    assert anchors.count == 0
    no = np.array([False])
    store.append(np.ones((1, 2), np.int64), np.ones(1), no, no, store.observations(np.array([0])))
    removed, added = anchors.refresh()
    assert (removed.tolist(), added.tolist()) == ([], [0])


def test_evicted_anchor_is_all_padding_and_unwritten_one_an_error() -> None:
    store = make_clock_store(2, 8)
    Clock(store).run(20)
    assert not gather(store, np.array([0, 1]), 4, "first").observed.any()
    long = make_clock_store(1, 8)
    play(long, 12, terminated=False, truncated=False)  # rows 5 .. 12 are stored, of the episode of row 4
    assert not gather(long, np.array([4]), 6, "first").observed.any()
    with pytest.raises(IndexError, match="never written"):
        gather(store, np.array([10**6]), 4, "first")
