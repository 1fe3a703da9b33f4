"""What every action kind keeps: actions and ids convert into each other, in the types that the space samples."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from gymnasium import spaces

from worldstream.actions import ACTION_KINDS
from worldstream.errors import SpaceError
from worldstream.specs import ActionComponent

SPACES = [
    spaces.Discrete(1),
    spaces.Discrete(4, start=-1),
    spaces.Discrete(300),
    spaces.MultiDiscrete([2, 5, 3]),
    spaces.MultiDiscrete([[2, 3], [4, 5]], start=[[1, 1], [-2, 0]]),
    spaces.MultiBinary(4),
    spaces.MultiBinary((2, 2)),
    spaces.Box(-1, 1, (3,), np.float32),
    spaces.Box(np.array([[0.0, -2.0]]), np.array([[0.1, 7.0]]), dtype=np.float64),
    spaces.Box(-1, 1, (), np.float32),
    spaces.Box(np.float32([0.0, 1.0]), np.float32([1.0, 1.0])),
    spaces.Box(-3, 4, (2,), np.int8),
]


def matching(space: spaces.Space) -> list[str]:
    return [name for name, kind in ACTION_KINDS.items() if kind().matches(space)]


def describe(space: spaces.Space, num_levels: int = 51):
    kind = ACTION_KINDS[matching(space)[0]]()
    return kind, kind.component_from_space("the/path", space, num_levels)


@pytest.mark.parametrize("name", ACTION_KINDS)
def test_some_space_here_exercises_every_kind(name: str) -> None:
    assert any(matching(space)[0] == name for space in SPACES)


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_round_trip(space: spaces.Space) -> None:
    kind, component = describe(space)
    assert component.kind == matching(space)[0]
    rng = np.random.default_rng(0)
    sizes = np.asarray(component.sizes)
    for ids in [np.zeros_like(sizes), sizes - 1, *(rng.integers(sizes) for _ in range(20))]:
        action = kind.decode(component, ids)
        sample = space.sample()
        assert space.contains(action), action
        assert type(action) is type(sample) and action.dtype == sample.dtype
        np.testing.assert_array_equal(kind.encode(component, action), ids)


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_component_survives_json(space: spaces.Space) -> None:
    _, component = describe(space)
    fields = json.loads(json.dumps(dataclasses.asdict(component)))
    rebuilt = ActionComponent(**{name: tuple(v) if isinstance(v, list) else v for name, v in fields.items()})
    assert rebuilt == component


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_encode_refuses_what_is_outside(space: spaces.Space) -> None:
    kind, component = describe(space)
    for wrong in (np.full(component.shape, np.nan), np.zeros((*component.shape, 9)), None, "left"):
        with pytest.raises(SpaceError, match="the/path"):
            kind.encode(component, wrong)
    if component.kind != "continuous":
        with pytest.raises(SpaceError, match="the/path"):
            kind.encode(component, np.full(component.shape, 9999))
