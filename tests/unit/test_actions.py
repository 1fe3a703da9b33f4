"""Composite actions: nesting, order of tokens, refusals."""

from __future__ import annotations

import json

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from worldstream.actions import decode, encode, spec_from_space
from worldstream.errors import SpaceError


def test_leaf_action_is_called_action_and_respects_start() -> None:
    spec = spec_from_space(spaces.Discrete(4, start=10))
    assert spec.structure == "action" and spec.sizes == (4,)
    assert decode(spec, np.array([3])) == 13
    assert encode(spec, 12).tolist() == [2]


def test_nested_action() -> None:
    space = spaces.Dict(
        {
            "arm": spaces.Tuple([spaces.Box(-1, 1, (2,)), spaces.Discrete(3)]),
            "lights": spaces.MultiBinary(2),
        }
    )
    spec = spec_from_space(space, num_levels=5)
    assert [component.path for component in spec.components] == ["arm/0", "arm/1", "lights"]
    assert spec.sizes == (5, 5, 3, 2, 2) and spec.num_tokens == 5
    assert json.loads(json.dumps(spec.structure)) == spec.structure
    action = decode(spec, np.array([0, 4, 2, 1, 0]))
    assert space.contains(action)
    assert action["arm"][0].tolist() == [-1, 1] and action["arm"][1] == 2 and action["lights"].tolist() == [1, 0]
    assert encode(spec, action).tolist() == [0, 4, 2, 1, 0]


def test_continuous_takes_the_nearest_level_and_clips() -> None:
    spec = spec_from_space(spaces.Box(-1, 1, (3,)), num_levels=5)
    assert encode(spec, np.float32([-9, 0.2, 0.3])).tolist() == [0, 2, 3]


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (spaces.Box(-np.inf, np.inf, (2,)), "not bounded.*RescaleAction"),
        (spaces.Box(-3.4e38, 3.4e38, (2,)), "not bounded"),
        (spaces.Box(0, 10**6, (2,), np.int64), "more than 1024 values"),
        (spaces.Text(4), "is not supported"),
        (spaces.Dict({"a": spaces.Sequence(spaces.Discrete(2))}), "action 'a'.*is not supported"),
        (spaces.Dict({}), "offers no action"),
        (spaces.Box(0, 1, (0,)), "is empty"),
        (spaces.Dict({"a": spaces.Dict({"b": spaces.Discrete(2)}), "a/b": spaces.Discrete(2)}), "both called 'a/b'"),
    ],
)
def test_what_is_refused(space: spaces.Space, message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        spec_from_space(space)


def test_too_few_levels() -> None:
    with pytest.raises(SpaceError, match="at least 2 levels"):
        spec_from_space(spaces.Box(-1, 1, (2,)), num_levels=1)


def test_ids_that_do_not_fit() -> None:
    spec = spec_from_space(spaces.MultiDiscrete([2, 3]))
    for wrong in ([0], [0, 3], [-1, 0]):
        with pytest.raises(ValueError, match="do not fit"):
            decode(spec, np.array(wrong))


def test_actions_nested_wrongly() -> None:
    spec = spec_from_space(spaces.Dict({"a": spaces.Tuple([spaces.Discrete(2)])}))
    for wrong in (0, {"b": (0,)}, {"a": 0}, {"a": (0, 1)}):
        with pytest.raises(SpaceError, match="the action must"):
            encode(spec, wrong)


LEAVES = st.one_of(
    st.tuples(st.integers(1, 20), st.integers(-3, 3)).map(lambda pair: spaces.Discrete(pair[0], start=pair[1])),
    st.lists(st.integers(1, 9), min_size=1, max_size=4).map(spaces.MultiDiscrete),
    st.integers(1, 4).map(spaces.MultiBinary),
    st.lists(st.integers(1, 3), max_size=2).map(lambda shape: spaces.Box(-2, 3, tuple(shape), np.float32)),
    st.lists(st.integers(1, 3), max_size=2).map(lambda shape: spaces.Box(-2, 3, tuple(shape), np.int16)),
)
NESTS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.dictionaries(st.text("abc", min_size=1, max_size=2), inner, min_size=1, max_size=3).map(spaces.Dict),
        st.lists(inner, min_size=1, max_size=3).map(spaces.Tuple),
    ),
    max_leaves=6,
)


@settings(max_examples=80, deadline=None)
@given(space=NESTS, seed=st.integers(0, 1000))
def test_round_trip_of_any_nesting(space: spaces.Space, seed: int) -> None:
    spec = spec_from_space(space)
    space.seed(seed)
    action = space.sample()
    ids = encode(spec, action)
    assert ids.shape == (spec.num_tokens,)
    back = decode(spec, ids)
    assert space.contains(back)
    np.testing.assert_array_equal(encode(spec, back), ids)
    half_level = 0.5 * 5 / 50
    for original, decoded in zip(leaves(action), leaves(back), strict=True):
        if np.asarray(original).dtype.kind == "f":
            assert np.abs(original - decoded).max() <= half_level + 1e-6
        else:
            np.testing.assert_array_equal(original, decoded)


def leaves(action):
    if isinstance(action, dict):
        return [leaf for child in action.values() for leaf in leaves(child)]
    if isinstance(action, tuple):
        return [leaf for child in action for leaf in leaves(child)]
    return [action]
