"""What every modality keeps: store and load agree, sizes and dtypes are as the spec says, and there is a picture."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium import spaces

from worldstream.errors import EnvironmentFault
from worldstream.modalities import MODALITIES, Modality, ObservationAdapter, build
from worldstream.specs import KeySpec
from worldstream.tokenizers.bundle import TokenizerBundle, TokenizerConfig
from worldstream.tokenizers.image import ImageVQConfig

SMALL = {"image": ImageVQConfig(channels=(8,), code_size=8)}

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


def modality_of(space: spaces.Space) -> Modality:
    return ObservationAdapter.from_space(spaces.Dict({"some/key": space})).modalities["some/key"]


@pytest.mark.parametrize("name", MODALITIES)
def test_some_space_here_exercises_every_modality(name: str) -> None:
    assert any(modality_of(space).spec.modality == name for space in SPACES)


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_store_load_render(space: spaces.Space) -> None:
    modality = modality_of(space)
    spec = modality.spec
    space.seed(0)
    values = [space.sample() for _ in range(6)]
    stored = np.stack([modality.store(value) for value in values])
    assert stored.dtype == spec.dtype and stored.shape == (6, *spec.shape)
    assert stored[0].nbytes == spec.num_bytes
    loaded = modality.load(stored)
    assert torch.equal(modality.load(stored.reshape(2, 3, *spec.shape)).flatten(0, 1), loaded)
    assert torch.equal(modality.load(stored[0]), loaded[0])
    back = modality.unload(loaded)
    assert back.dtype == stored.dtype
    np.testing.assert_allclose(back, stored, rtol=1e-5)
    for item in stored[:2]:
        picture = modality.render(item)
        assert picture.dtype == np.uint8 and picture.ndim == 3 and picture.shape[2] == 3
        assert min(picture.shape[:2]) >= 8 and max(picture.shape[:2]) <= 1024


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_its_own_tokenizer_reads_it(space: spaces.Space) -> None:
    modality = modality_of(space)
    tokenizers = TokenizerBundle(TokenizerConfig(by_modality=SMALL), {"some/key": modality.spec})
    space.seed(0)
    stored = np.stack([modality.store(space.sample()) for _ in range(3)])
    tokens = tokenizers.encode({"some/key": stored})["some/key"]
    spec = tokenizers.specs["some/key"]
    assert tokens.shape == (3, spec.num_tokens, spec.num_channels)
    assert (tokens >= 0).all() and (tokens < torch.tensor(spec.vocabulary)).all()
    assert modality.unload(tokenizers.decode({"some/key": tokens})["some/key"]).shape == stored.shape


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_rebuilt_from_json(space: spaces.Space) -> None:
    original = modality_of(space)
    fields = json.loads(json.dumps(dataclasses.asdict(original.spec)))
    spec = KeySpec(**{name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()})
    assert spec == original.spec
    value = space.sample()
    np.testing.assert_array_equal(build(spec).store(value), original.store(value))


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_faults_name_the_key(space: spaces.Space) -> None:
    modality = modality_of(space)
    value = np.asarray(space.sample())
    bad = [np.zeros((*value.shape, 7)), "text", None, [[1], [1, 2]], np.full(value.shape, np.nan)]
    bad.append(np.full(value.shape, np.inf))
    if modality.spec.vocabulary:
        bad.append(np.full(value.shape, 5000))
        bad.append(np.full(value.shape, -5000))
        bad.append(np.full(value.shape, 0.5))
    if modality.spec.modality == "image":
        bad += [np.full(value.shape, 256), np.full(value.shape, -1), value / 255.0, value > 0, value[1:]]
    for wrong in bad:
        with pytest.raises(EnvironmentFault, match="'some/key'"):
            modality.store(wrong)


COMPASS = '''
"""Angles: each is stored as its cosine and sine, so that -pi and pi are one."""

from worldstream.errors import SpaceError
from worldstream.modalities.base import Modality
from worldstream.specs import KeySpec
import numpy as np
import torch


class Compass(Modality):
    tokenizer = "fixed_levels"

    @classmethod
    def matches(cls, space):
        return space.dtype == np.float32 and len(space.shape) == 1 and np.allclose(space.high, np.pi)

    @classmethod
    def from_space(cls, key, space, options=()):
        if options:
            raise SpaceError(f"observation key '{key}': 'compass' takes no numbers.")
        size = 2 * space.shape[0]
        return cls(KeySpec(key=key, modality="compass", shape=(size,), dtype="float32", space_shape=space.shape))

    def store(self, value):
        angles = self._checked(value)
        return np.concatenate((np.cos(angles), np.sin(angles))).astype(np.float32)

    def load(self, stored):
        return torch.from_numpy(np.array(stored))

    def unload(self, tensor):
        return tensor.numpy()

    def render(self, stored):
        return np.full((16, 16, 3), 128, np.uint8)
'''


def test_a_modality_is_one_file_and_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "compass.py").write_text(COMPASS)
    monkeypatch.syspath_prepend(tmp_path)
    space = spaces.Box(-np.pi, np.pi, (3,), np.float32)
    assert modality_of(space).spec.modality == "vector"
    monkeypatch.setattr(MODALITIES, "_entries", {"compass": "compass:Compass", **MODALITIES._entries})
    assert modality_of(space).spec.modality == "compass"
    test_store_load_render(space)
    test_its_own_tokenizer_reads_it(space)
    test_rebuilt_from_json(space)
    test_faults_name_the_key(space)
