"""Which modality a space gets, what overrides do, and how whole observations are flattened."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from worldstream.errors import EnvironmentFault, SpaceError
from worldstream.modalities import MODALITIES, ObservationAdapter
from worldstream.modalities.image import resize
from worldstream.nn.numerics import symlog

BIG_IMAGE = spaces.Box(0, 255, (64, 64, 3), np.uint8)


def spec_of(space: spaces.Space, override: str = ""):
    overrides = {"observation": override} if override else {}
    return ObservationAdapter.from_space(space, overrides).specs["observation"]


@pytest.mark.parametrize(
    ("space", "modality", "shape", "vocabulary"),
    [
        (spaces.Box(-1, 1, (2, 3), np.float32), "vector", (6,), ()),
        (spaces.Box(-np.inf, np.inf, (), np.float64), "vector", (1,), ()),
        (spaces.Discrete(3), "categorical", (1,), (3,)),
        (spaces.MultiDiscrete([2, 4]), "categorical", (2,), (2, 4)),
        (spaces.MultiBinary((2, 2)), "categorical", (4,), (2, 2, 2, 2)),
        (spaces.Box(5, 9, (2,), np.int32), "categorical", (2,), (5, 5)),
        (spaces.Box(0, 4, (3, 5), np.int64), "grid", (15, 1), (5,)),
        (spaces.Box(0, 255, (7, 7, 3), np.uint8), "grid", (49, 3), (256, 256, 256)),
        (spaces.Box(0, 254, (64, 64), np.uint8), "grid", (4096, 1), (255,)),
        (spaces.Box(0, 255, (64, 64), np.uint8), "image", (64, 64, 1), ()),
        (spaces.Box(0, 255, (3, 32, 48), np.uint8), "image", (32, 48, 3), ()),
        (spaces.MultiDiscrete([[2, 3], [4, 1]]), "grid", (4, 1), (4,)),
    ],
)
def test_choice_of_modality(space, modality, shape, vocabulary) -> None:
    spec = spec_of(space)
    assert (spec.modality, spec.shape, spec.vocabulary) == (modality, shape, vocabulary)


@pytest.mark.parametrize(("size", "dtype"), [(256, "uint8"), (257, "uint16"), (65537, "int32")])
def test_smallest_dtype(size: int, dtype: str) -> None:
    assert spec_of(spaces.Discrete(size), f"categorical:{size}").dtype == dtype


def test_overridden_sizes_of_a_byte_grid_count_from_zero() -> None:
    spec = spec_of(spaces.Box(0, 255, (7, 7, 3), np.uint8), "grid:11,6,4")
    assert (spec.vocabulary, spec.grid, spec.dtype, spec.offset) == ((11, 6, 4), (7, 7), "uint8", ())
    signed = spec_of(spaces.Box(-128, 127, (2, 2), np.int8), "grid:4")
    assert signed.offset == ()
    bounded = spec_of(spaces.Box(3, 90, (2, 2), np.int8), "grid:4")
    assert bounded.offset == (3,)


def test_a_matrix_with_sizes_of_its_columns_is_a_column_of_cells() -> None:
    spec = spec_of(spaces.MultiDiscrete([[5, 3], [5, 3], [4, 3]]), "grid:5,3")
    assert (spec.shape, spec.grid, spec.vocabulary, spec.space_shape) == ((3, 2), (3, 1), (5, 3), (3, 2))
    stored = MODALITIES["grid"](spec).store(np.array([[4, 2], [0, 1], [3, 0]]))
    assert stored.tolist() == [[4, 2], [0, 1], [3, 0]]


@pytest.mark.parametrize(
    "space",
    [
        spaces.Discrete(5, start=-2),
        spaces.MultiDiscrete([3, 400, 2], start=[1, 0, -1]),
        spaces.Box(-3, 3, (4,), np.int16),
        spaces.Box(-2, 5, (3, 4), np.int8),
        spaces.MultiDiscrete(np.full((2, 3, 2), 6), start=np.ones((2, 3, 2), int)),
    ],
    ids=str,
)
def test_ids_count_from_the_lowest_value(space: spaces.Space) -> None:
    modality = ObservationAdapter.from_space(space).modalities["observation"]
    value = space.sample()
    loaded = modality.load(modality.store(value))
    positions = np.prod(modality.spec.grid or 1)
    assert loaded.dtype == torch.int64 and loaded.shape == (positions, len(modality.spec.vocabulary))
    assert (loaded >= 0).all() and (loaded < torch.tensor(modality.spec.vocabulary)).all()
    assert (loaded + torch.tensor(modality.spec.offset or 0)).flatten().tolist() == np.ravel(value).tolist()


def test_vectors_are_read_in_symlog_space() -> None:
    modality = ObservationAdapter.from_space(spaces.Box(-1, 1, (2, 2), np.float64)).modalities["observation"]
    value = np.array([[-3.0, 0.0], [0.5, 1e6]])
    loaded = modality.load(modality.store(value))
    torch.testing.assert_close(loaded, symlog(torch.from_numpy(value).float().flatten()))


@pytest.mark.parametrize("shape", [(16, 20, 3), (4, 17, 16), (18, 16), (24, 24, 1)])
def test_pictures_are_read_channels_first(shape: tuple[int, ...]) -> None:
    space = spaces.Box(0, 255, shape, np.uint8)
    modality = ObservationAdapter.from_space(space).modalities["observation"]
    value = space.sample()
    loaded = modality.load(modality.store(value))
    expected = value[None] if value.ndim == 2 else value if shape[0] == 4 else np.moveaxis(value, -1, 0)
    assert loaded.dtype == torch.uint8
    np.testing.assert_array_equal(loaded.numpy(), expected)


def test_small_pictures_and_grids_are_told_apart_by_override() -> None:
    tiny = spaces.Box(0, 255, (8, 8, 3), np.uint8)
    assert spec_of(tiny).modality == "grid"
    assert spec_of(tiny, "image").shape == (8, 8, 3)
    assert spec_of(BIG_IMAGE, "grid:4,4,4").shape == (64 * 64, 3)


def test_size_of_an_image_comes_from_the_override_else_from_the_settings() -> None:
    space = spaces.Dict({"left": BIG_IMAGE, "right": BIG_IMAGE, "far": BIG_IMAGE})
    adapter = ObservationAdapter.from_space(space, {"right": "image:20,24", "far": "image:8"}, {"image": (32, 48)})
    shapes = {key: spec.shape for key, spec in adapter.specs.items()}
    assert shapes == {"left": (32, 48, 3), "right": (20, 24, 3), "far": (8, 8, 3)}
    stored = adapter.store(space.sample())
    assert {key: array.shape for key, array in stored.items()} == shapes


@given(
    old=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    new=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    seed=st.integers(0, 99),
)
def test_resizing_keeps_the_mean_and_the_range(old, new, seed: int) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (*old, 3)).astype(np.uint8)
    small = resize(image, new)
    assert small.shape == (*new, 3)
    np.testing.assert_allclose(small.mean((0, 1)), image.mean((0, 1)), atol=0.51)
    assert small.min() >= image.min() and small.max() <= image.max()
    assert not np.shares_memory(small, image)


def test_resizing_averages_areas() -> None:
    image = np.random.default_rng(0).integers(0, 256, (12, 20, 1)).astype(np.uint8)
    expected = np.rint(image.reshape(4, 3, 5, 4, 1).mean((1, 3)).astype(np.float32))
    np.testing.assert_array_equal(resize(image, (4, 5)), expected)
    dot = np.zeros((210, 160, 1), np.uint8)  # of 4 x 2 pixels, as small as the ball of Pong
    dot[101:105, 77:79] = 236
    assert resize(dot, (64, 64)).max() > 60


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.zeros((64, 64, 3)), "is float64, but an image is uint8"),
        (np.full((64, 64, 3), 300), "contains 300, but an image holds 0 to 255"),
        (np.zeros((32, 64, 3), np.uint8), r"has shape \(32, 64, 3\), but its space has shape \(64, 64, 3\)"),
    ],
)
def test_bad_images_are_named_by_key(value, message: str) -> None:
    adapter = ObservationAdapter.from_space(spaces.Dict({"front/left": BIG_IMAGE}))
    with pytest.raises(EnvironmentFault, match=f"'front/left' {message}"):
        adapter.store({"front/left": value})


def test_a_list_that_is_said_to_be_a_grid_has_a_token_for_each_entry() -> None:
    space = spaces.MultiDiscrete([4, 3, 4])
    adapter = ObservationAdapter.from_space(space, {"observation": "grid"})
    modality = adapter.modalities["observation"]
    assert (modality.spec.vocabulary, modality.spec.grid) == ((4,), (1, 3))
    assert modality.load(modality.store(np.array([3, 0, 2]))).tolist() == [[3], [0], [2]]


@pytest.mark.parametrize(
    ("space", "modality"),
    [
        (spaces.Box(-np.inf, np.inf, (20, 20, 3), np.float32), "vector"),  # a field of forces, say
        (spaces.Box(0, 10, (20, 20, 3), np.int64), "grid"),
        (spaces.Box(0, 1, (20, 3), np.float32), "vector"),
        (spaces.Box(0, 1, (8, 8, 3), np.float32), "vector"),
    ],
)
def test_only_boxes_with_the_bounds_of_pixels_are_taken_for_mistaken_images(space, modality: str) -> None:
    assert spec_of(space, "").modality == modality


def test_integer_box_as_vector() -> None:
    adapter = ObservationAdapter.from_space(BIG_IMAGE, {"observation": "vector"})
    assert adapter.store(BIG_IMAGE.sample())["observation"].shape == (64 * 64 * 3,)


@pytest.mark.parametrize(
    ("space", "override", "message"),
    [
        (BIG_IMAGE, "image:0", "'image' takes one side or height,width"),
        (BIG_IMAGE, "image:8,8,3", "'image' takes one side or height,width"),
        (spaces.Box(0, 255, (0, 64, 3), np.uint8), "", "'observation': .* is empty"),
        (spaces.Box(0, 1, (64, 64, 3), np.float32), "image", "an image is a Box of uint8.*multiply by 255"),
        (spaces.Box(0, 1, (64, 64, 3), np.float32), "", "has the shape of an image.*--modality observation=vector"),
        (spaces.Box(-1, 1, (3, 64, 64), np.float32), "", "has the shape of an image"),
        (spaces.Box(0, 255, (64, 64, 1), np.int64), "", "has the shape of an image"),
        (spaces.Box(0, 255, (64, 64, 5), np.uint8), "image", "an image has shape"),
        (spaces.Box(0, 255, (4, 64, 64, 3), np.uint8), "", "no modality can express"),
        (spaces.Discrete(5000), "", r"more than 1024.*categorical:N"),
        (spaces.Box(0, 2**62, (2,), np.uint64), "", "more than 1024"),
        (spaces.Box(-(2**31), 2**31 - 1, (2, 2), np.int32), "", r"more than 1024.*observation=vector"),
        (spaces.Text(5), "", "no modality can express.*--modality observation=ignore"),
        (spaces.Sequence(spaces.Discrete(2)), "", "no modality can express"),
        (spaces.Graph(spaces.Discrete(2), None), "", "no modality can express"),
        (spaces.OneOf([spaces.Discrete(2)]), "", "no modality can express"),
        (spaces.Box(0, 5, (2, 2, 2, 2), np.int8), "", "no modality can express"),
        (spaces.Box(0, 1, (0,), np.float32), "", "is empty"),
        (spaces.Discrete(3), "picture", "unknown modality 'picture'. Choose one of: image, .*, grid, ignore"),
        (spaces.Discrete(3), "grid:x", "cannot read 'grid:x'"),
        (spaces.Discrete(3), "categorical:", "cannot read"),
        (spaces.Discrete(3), "categorical:3,3", "needs 1 positive sizes"),
        (spaces.Discrete(3), "categorical:0", "needs 1 positive sizes"),
        (spaces.Discrete(3), "vector", "must be a Box"),
        (spaces.Discrete(3), "grid", "a grid has shape"),
        (spaces.Discrete(3), "ignore", "no observation key is left"),
        (spaces.Discrete(3), "ignore:3", "takes no numbers"),
        (spaces.Box(0, 1, (3,)), "vector:3", "takes no numbers"),
        (spaces.Box(0, 1, (3,)), "categorical", "does not hold integers"),
    ],
)
def test_what_is_refused(space, override: str, message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        spec_of(space, override)


def test_unknown_override_lists_the_keys() -> None:
    space = spaces.Dict({"a": spaces.Discrete(2), "b": spaces.Dict({"c": spaces.Discrete(2)})})
    with pytest.raises(SpaceError, match="'b'.*: a, b/c"):
        ObservationAdapter.from_space(space, {"b": "ignore"})


def test_two_leaves_of_one_name() -> None:
    space = spaces.Dict({"a": spaces.Dict({"b": spaces.Discrete(2)}), "a/b": spaces.Discrete(2)})
    with pytest.raises(SpaceError, match="'a/b'"):
        ObservationAdapter.from_space(space)


NESTED = spaces.Dict(
    {
        "robot": spaces.Tuple([spaces.Box(-1, 1, (2,)), spaces.Dict({"mode": spaces.Discrete(3)})]),
        "text": spaces.Text(8),
        "map": spaces.Box(0, 3, (2, 2), np.int8),
    }
)


def test_nested_keys_missing_and_extra() -> None:
    adapter = ObservationAdapter.from_space(NESTED, {"text": "ignore"})
    assert set(adapter.specs) == {"robot/0", "robot/1/mode", "map"}
    observation = NESTED.sample()
    stored = adapter.store(observation)
    np.testing.assert_array_equal(stored["robot/0"], observation["robot"][0])
    rebuilt = ObservationAdapter.from_specs(adapter.specs)
    np.testing.assert_equal(rebuilt.store(observation), stored)
    with pytest.raises(EnvironmentFault, match="lacks key 'map'"):
        adapter.store({name: value for name, value in observation.items() if name != "map"})
    with pytest.raises(EnvironmentFault, match="has key 'surprise'"):
        adapter.store({**observation, "surprise": 1})
    rebuilt.store({**observation, "surprise": 1})


def test_lists_are_leaves_where_the_space_has_a_leaf() -> None:
    root = ObservationAdapter.from_space(spaces.Box(-1, 1, (2,)))
    np.testing.assert_array_equal(root.store([0.5, 1])["observation"], np.float32([0.5, 1]))
    nested = ObservationAdapter.from_space(spaces.Dict({"a": spaces.MultiDiscrete([2, 2])}))
    np.testing.assert_array_equal(nested.store({"a": (0, 1)})["a"], [0, 1])


def test_vectors_outside_of_bounds_are_tolerated_and_too_large_ones_clipped() -> None:
    adapter = ObservationAdapter.from_space(spaces.Box(-1, 1, (2,), np.float64))
    stored = adapter.store(np.array([1.5, 1e300]))["observation"]
    assert stored[0] == 1.5 and np.isfinite(stored[1])


def test_out_of_range_fault_names_value_channel_and_range() -> None:
    adapter = ObservationAdapter.from_space(spaces.MultiDiscrete([2, 3], start=[0, 5]))
    with pytest.raises(EnvironmentFault, match=r"contains 8 in channel 1, whose values are 5 to 7"):
        adapter.store(np.array([1, 8]))
    with pytest.raises(EnvironmentFault, match="contains 0.5, which is not an integer"):
        adapter.store(np.array([0.5, 6]))


def test_stored_arrays_do_not_alias_the_environments_buffers() -> None:
    for space in (spaces.Box(-1, 1, (2,)), spaces.Box(0, 3, (2, 2), np.uint8), BIG_IMAGE):
        value = space.sample()
        stored = ObservationAdapter.from_space(space).store(value)["observation"]
        assert not np.shares_memory(stored, value)


LEAVES = st.one_of(
    st.lists(st.integers(1, 3), max_size=3).map(lambda shape: spaces.Box(-2, 2, tuple(shape), np.float32)),
    st.tuples(st.integers(1, 300), st.integers(-3, 3)).map(lambda pair: spaces.Discrete(pair[0], start=pair[1])),
    st.lists(st.integers(1, 9), min_size=1, max_size=4).map(spaces.MultiDiscrete),
    st.integers(1, 4).map(spaces.MultiBinary),
    st.tuples(st.integers(1, 3), st.integers(1, 3)).map(lambda shape: spaces.Box(-1, 5, shape, np.int16)),
)
NESTS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.dictionaries(st.text("abc", min_size=1, max_size=2), inner, min_size=1, max_size=3).map(spaces.Dict),
        st.lists(inner, min_size=1, max_size=3).map(spaces.Tuple),
    ),
    max_leaves=6,
)


@settings(max_examples=60, deadline=None)
@given(space=NESTS, seed=st.integers(0, 1000))
def test_any_nesting_can_be_stored(space: spaces.Space, seed: int) -> None:
    adapter = ObservationAdapter.from_space(space)
    space.seed(seed)
    sample = space.sample()
    stored = adapter.store(sample)
    assert list(stored) == list(adapter.specs)
    for key, spec in adapter.specs.items():
        assert stored[key].shape == spec.shape and stored[key].dtype == spec.dtype and spec.modality in MODALITIES
    np.testing.assert_equal(ObservationAdapter.from_specs(adapter.specs).store(sample), stored)
