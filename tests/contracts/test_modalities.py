"""What every modality keeps: store and load agree, sizes and dtypes are as the spec says, and there is a picture."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from gymnasium import spaces

from worldstream.errors import EnvironmentFault
from worldstream.modalities import MODALITIES, build
from worldstream.nn.numerics import symlog
from worldstream.specs import KeySpec

SPACES = [
    spaces.Box(-np.inf, np.inf, (3,), np.float32),
    spaces.Box(-1, 1, (2, 2), np.float64),
    spaces.Box(0, 1, (), np.float32),
    spaces.Box(-5, 5, (300,), np.float16),
    spaces.Discrete(1),
    spaces.Discrete(5, start=-2),
    spaces.Discrete(700),
    spaces.MultiDiscrete([3, 400, 2], start=[1, 0, -1]),
    spaces.MultiBinary((2, 3)),
    spaces.Box(-3, 3, (4,), np.int16),
    spaces.Box(2, 9, (), np.int64),
    spaces.Box(0, 1, (3,), np.bool_),
    spaces.Box(-2, 5, (3, 4), np.int8),
    spaces.Box(np.zeros((2, 3, 2)), np.broadcast_to([4, 7], (2, 3, 2)), (2, 3, 2), np.uint8),
    spaces.MultiDiscrete(np.full((3, 3), 6)),
    spaces.MultiDiscrete(np.full((2, 3, 2), 6), start=np.ones((2, 3, 2), int)),
    spaces.Box(0, 255, (16, 20, 3), np.uint8),
    spaces.Box(0, 255, (4, 17, 16), np.uint8),
    spaces.Box(0, 255, (18, 16), np.uint8),
    spaces.Box(0, 255, (24, 24, 1), np.uint8),
]


def matching(space: spaces.Space) -> list[str]:
    return [name for name, modality in MODALITIES.items() if modality.matches(space)]


def from_space(space: spaces.Space):
    return MODALITIES[matching(space)[0]].from_space("some/key", space)


@pytest.mark.parametrize("name", MODALITIES)
def test_some_space_here_exercises_every_modality(name: str) -> None:
    assert any(matching(space) == [name] for space in SPACES)


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_store_load_render(space: spaces.Space) -> None:
    assert len(matching(space)) == 1
    modality = from_space(space)
    spec = modality.spec
    space.seed(0)
    values = [space.sample() for _ in range(6)]
    stored = np.stack([modality.store(value) for value in values])
    assert stored.dtype == spec.dtype and stored.shape == (6, *spec.shape)
    assert stored[0].nbytes == spec.num_bytes
    loaded = modality.load(stored.reshape(2, 3, *spec.shape)).flatten(0, 1)
    flat = torch.tensor(np.stack(values)).reshape(6, -1)
    if spec.vocabulary:
        positions = spec.grid[0] * spec.grid[1] if spec.grid else 1
        assert loaded.dtype == torch.int64 and loaded.shape == (6, positions, len(spec.vocabulary))
        assert (loaded >= 0).all() and (loaded < torch.tensor(spec.vocabulary)).all()
        recovered = loaded + torch.tensor(spec.offset or 0)
        assert torch.equal(recovered.reshape(6, -1), flat.long())
    elif spec.dtype == "uint8":  # pictures, here in their own size
        height, width, channels = spec.shape
        assert loaded.dtype == torch.uint8 and loaded.shape == (6, channels, height, width)
        axis = -1 if len(space.shape) == 2 or space.shape[2] == channels else -3
        recovered = loaded.movedim(-3, axis).numpy()
        np.testing.assert_array_equal(recovered.reshape(6, -1), flat.numpy())
        np.testing.assert_array_equal(modality.unload(loaded), stored)
    else:
        assert loaded.dtype == torch.float32
        torch.testing.assert_close(loaded, symlog(flat.float()))
    for item in stored[:2]:
        picture = modality.render(item)
        assert picture.dtype == np.uint8 and picture.ndim == 3 and picture.shape[2] == 3
        assert min(picture.shape[:2]) >= 8 and max(picture.shape[:2]) <= 1024


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_rebuilt_from_json(space: spaces.Space) -> None:
    original = from_space(space)
    fields = json.loads(json.dumps(dataclasses.asdict(original.spec)))
    spec = KeySpec(**{name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()})
    assert spec == original.spec
    value = space.sample()
    np.testing.assert_array_equal(build(spec).store(value), original.store(value))


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_faults_name_the_key(space: spaces.Space) -> None:
    modality = from_space(space)
    value = np.asarray(space.sample())
    bad = [np.zeros((*value.shape, 7)), "text", None, [[1], [1, 2]], np.full(value.shape, np.nan)]
    bad.append(np.full(value.shape, np.inf))
    if modality.spec.vocabulary:
        bad.append(np.full(value.shape, 5000))
        bad.append(np.full(value.shape, -5000))
        bad.append(np.full(value.shape, 0.5))
    if modality.spec.dtype == "uint8" and not modality.spec.vocabulary:
        bad += [np.full(value.shape, 256), np.full(value.shape, -1), value / 255.0, value > 0, value[1:]]
    for wrong in bad:
        with pytest.raises(EnvironmentFault, match="'some/key'"):
            modality.store(wrong)
