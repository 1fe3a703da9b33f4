"""The level sets, where their resolution goes, grids of joined cells, and the bundle of all keys."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from worldstream.errors import ConfigError
from worldstream.modalities import MODALITIES
from worldstream.nn.numerics import symlog
from worldstream.specs import KeySpec
from worldstream.tokenizers import TOKENIZERS
from worldstream.tokenizers.base import TokenizerOptions
from worldstream.tokenizers.bundle import TokenizerBundle, TokenizerConfig
from worldstream.tokenizers.fitted_levels import FittedLevels, FittedLevelsConfig
from worldstream.tokenizers.identity import IdentityConfig
from worldstream.tokenizers.levels import FixedLevels, FixedLevelsConfig, LevelQuantizer, published_levels


def vector(size: int, key: str = "x") -> KeySpec:
    return KeySpec(key=key, modality="vector", shape=(size,), dtype="float32")


def grid(rows: int, columns: int, vocabulary: tuple[int, ...] = (4, 3)) -> KeySpec:
    shape = (rows * columns, len(vocabulary))
    return KeySpec(
        key="map", modality="grid", shape=shape, dtype="uint8", vocabulary=vocabulary, grid=(rows, columns)
    )  # fmt: skip


# Golden values of the published level set (docs/method.md, "fixed levels").


@pytest.mark.parametrize(
    ("raw", "token"),
    [(0, 62), (1, 77), (-1, 47), (10, 100), (0.05, 63), (-0.05, 61), (1000, 124), (-1000, 0), (math.pi, 93)],
)
def test_published_tokens(raw: float, token: int) -> None:
    ids = FixedLevels(vector(1)).encode(symlog(torch.tensor([raw])))
    assert ids.tolist() == [[token]]


def test_published_levels() -> None:
    levels = published_levels()
    assert levels.shape == (125,) and levels[62] == 0
    torch.testing.assert_close(levels, -levels.flip(0))
    assert levels[:3].tolist() == pytest.approx([-6, -5.852293, -5.704586], abs=1e-6)
    assert levels[61:65].tolist() == pytest.approx([-0.0458413, 0, 0.0458413, 0.0916826], abs=1e-6)
    assert levels[93].item() == pytest.approx(math.log1p(math.pi))
    gaps = levels.diff()
    assert gaps[:31].tolist() == pytest.approx([0.147707] * 31, abs=1e-5)
    assert gaps[31:62].tolist() == pytest.approx([0.045841] * 31, abs=1e-5)


# Quantiser.


def quantizer(*levels: float) -> LevelQuantizer:
    return LevelQuantizer(torch.tensor([levels]))


def test_ties_go_up_and_the_outside_saturates() -> None:
    x = torch.tensor([[-9.0], [0.0], [0.99], [1.0], [2.0], [2.5], [3.0], [99.0], [torch.inf], [-torch.inf]])
    assert quantizer(0.0, 2.0, 3.0).encode(x).flatten().tolist() == [0, 0, 0, 1, 1, 2, 2, 2, 2, 0]


def test_repeated_levels_share_one_id() -> None:
    x = torch.tensor([[-1.0], [0.4], [0.6], [1.0], [1.4], [1.6]])
    assert quantizer(0.0, 1.0, 1.0, 1.0, 2.0).encode(x).flatten().tolist() == [0, 0, 3, 3, 3, 4]
    assert quantizer(1.0, 1.0, 1.0).encode(x).flatten().tolist() == [2] * 6


@given(
    levels=st.lists(st.integers(-40, 40), min_size=1, max_size=12),
    x=st.lists(st.integers(-100, 100), min_size=1, max_size=20),
)
def test_the_nearest_level_is_chosen(levels: list[int], x: list[int]) -> None:
    levels = sorted(levels)
    values = torch.tensor(x).unsqueeze(-1) / 2  # halves of integers: ties occur, rounding does not
    nearest = LevelQuantizer(torch.tensor([levels]) / 2)
    chosen = nearest.decode(nearest.encode(values))
    distance = (values - torch.tensor(levels) / 2).abs()
    assert torch.equal((values - chosen).abs().squeeze(-1), distance.amin(-1))
    tie = values + distance.amin(-1, keepdim=True)
    higher = (torch.tensor(levels) / 2 == tie).any(-1, keepdim=True)
    assert (chosen >= tie)[higher].all()


def test_every_feature_has_its_own_levels() -> None:
    two = LevelQuantizer(torch.tensor([[0.0, 1.0], [0.0, 10.0]]))
    ids = two.encode(torch.tensor([[3.0, 3.0], [0.9, 9.0]]))
    assert ids.tolist() == [[1, 0], [1, 1]]
    assert two.decode(ids).tolist() == [[1.0, 0.0], [1.0, 10.0]]


# Fitted levels: resolution goes where the data is (C18).


def quantisation_error(tokenizer: FixedLevels | FittedLevels, x: torch.Tensor) -> torch.Tensor:
    """(D,) root mean square distance between values and their levels."""
    return (tokenizer.decode(tokenizer.encode(x)) - x).square().mean(0).sqrt()


def test_fitting_resolves_a_narrow_feature(generator: torch.Generator) -> None:
    raw = torch.randn(5000, 2, generator=generator) * torch.tensor([0.05, 3.0])
    seen, unseen = symlog(raw).chunk(2)
    fixed, fitted = FixedLevels(vector(2)), FittedLevels(vector(2), FittedLevelsConfig())
    fitted.fit(seen)
    before, after = quantisation_error(fixed, unseen), quantisation_error(fitted, unseen)
    assert before[0] > 0.01  # 0.046 / sqrt(12)
    assert after[0] < before[0] / 10
    assert after[1] < before[1]


def test_fitted_levels_reach_beyond_the_data() -> None:
    fitted = FittedLevels(vector(1), FittedLevelsConfig(num_levels=41))
    fitted.fit(torch.linspace(0, 1, 101).unsqueeze(-1))
    levels = fitted.quantizer.levels[0]
    assert levels[0].item() == pytest.approx(-0.25) and levels[-1].item() == pytest.approx(1.25)
    assert levels.diff().max() <= 1.5 / (20 - 1) + 1e-6  # half of the levels, evenly spread, bound every gap


@pytest.mark.parametrize("rows", [1, 100])
def test_constant_features_are_exact_and_have_finite_features(rows: int) -> None:
    fitted = FittedLevels(vector(2), FittedLevelsConfig(num_levels=10))
    x = torch.tensor([[0.0, -3.5]]).repeat(rows, 1)
    assert fitted.fit(x)
    ids = fitted.encode(x)
    assert torch.equal(fitted.decode(ids), x)
    assert torch.equal(fitted.features(ids), torch.zeros(rows, 2, 1))
    assert torch.equal(fitted.encode(fitted.decode(ids)), ids)


def test_few_distinct_values_become_exact_levels(generator: torch.Generator) -> None:
    x = torch.randint(0, 8, (500, 1), generator=generator).float() ** 2
    fitted = FittedLevels(vector(1), FittedLevelsConfig())
    fitted.fit(x)
    assert torch.equal(fitted.decode(fitted.encode(x)), x)


def test_features_of_fitted_levels_are_standardised(generator: torch.Generator) -> None:
    x = torch.randn(4000, 3, generator=generator) * torch.tensor([0.01, 1.0, 20.0]) + torch.tensor([5.0, 0.0, -50.0])
    fitted = FittedLevels(vector(3), FittedLevelsConfig())
    fitted.fit(x)
    features = fitted.features(fitted.encode(x)).squeeze(-1)
    torch.testing.assert_close(features.mean(0), torch.zeros(3), atol=0.05, rtol=0)
    torch.testing.assert_close(features.std(0), torch.ones(3), atol=0.05, rtol=0)


# Grids.


@pytest.mark.parametrize(("joined", "num_tokens"), [(1, 12), (2, 6), (3, 4), (6, 2), (12, 1)])
def test_joined_cells(joined: int, num_tokens: int) -> None:
    tokenizer = IdentityConfig(cells_per_token=joined).build(grid(2, 6))
    assert tokenizer.spec.num_tokens == num_tokens
    assert tokenizer.spec.vocabulary == (4,) * joined + (3,) * joined
    assert tokenizer.spec.grid == ((1, 1) if joined == 12 else (2, 6 // joined))
    cells = torch.stack((torch.arange(12) % 4, torch.arange(12) % 3), -1).expand(5, -1, -1)
    ids = tokenizer.encode(cells)
    assert torch.equal(ids[0, -1], cells[0, -joined:].T.flatten())  # neighbours, channel by channel
    assert torch.equal(tokenizer.decode(ids), cells)


@pytest.mark.parametrize("joined", [4, 5, 18, 24])
def test_joined_cells_must_cut_rows_evenly(joined: int) -> None:
    with pytest.raises(ConfigError, match=f"cells_per_token {joined} .* 6 columns of key 'map' evenly"):
        IdentityConfig(cells_per_token=joined).build(grid(2, 6))


# Bundle.


def make_bundle(**by_modality: TokenizerOptions) -> TokenizerBundle:
    """A vector "b/pos.x", a grid "map" and another vector "a", in this order."""
    specs = [vector(2, "b/pos.x"), grid(2, 3), vector(1, "a")]
    return TokenizerBundle(TokenizerConfig(by_modality=by_modality), {spec.key: spec for spec in specs})


def observations(num: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "map": rng.integers(0, (4, 3), (num, 6, 2)).astype(np.uint8),
        "a": rng.normal(size=(num, 1)).astype(np.float32),
        "b/pos.x": 100 * rng.normal(size=(num, 2)).astype(np.float32),
    }


def test_bundle_keeps_the_order_of_keys() -> None:
    bundle = make_bundle()
    assert list(bundle.specs) == list(bundle.encode(observations(3))) == ["b/pos.x", "map", "a"]
    assert {key: spec.num_tokens for key, spec in bundle.specs.items()} == {"b/pos.x": 2, "map": 6, "a": 1}


def test_bundle_reads_vectors_in_symlog_space() -> None:
    bundle, seen = make_bundle(), observations(400)
    bundle.fit(seen)
    decoded = bundle.decode(bundle.encode(seen))
    for key in ("a", "b/pos.x"):
        torch.testing.assert_close(decoded[key], symlog(torch.from_numpy(seen[key])), atol=0.15, rtol=0)
    assert np.array_equal(decoded["map"].numpy(), seen["map"])
    arrays = bundle.encode_arrays(seen)
    for key, ids in bundle.encode(seen).items():
        assert np.array_equal(arrays[key], ids.numpy())


def test_version_counts_the_fits_that_changed_ids() -> None:
    bundle, fixed = make_bundle(), make_bundle(vector=FixedLevelsConfig())
    for count in (1, 2, 3):
        assert bundle.fit(observations(20)) and int(bundle.version) == count
        assert not fixed.fit(observations(20)) and int(fixed.version) == 0
    twin = make_bundle()
    twin.load_state_dict(bundle.state_dict())
    assert int(twin.version) == 3


def test_modalities_that_are_not_named_get_the_tokenizer_that_they_name() -> None:
    config = TokenizerConfig(by_modality={"vector": FixedLevelsConfig()})
    assert config.by_modality["vector"] == FixedLevelsConfig()
    for name, modality in MODALITIES.items():
        assert name == "vector" or type(config.by_modality[name]) is TOKENIZERS[modality.tokenizer]


def test_unknown_modalities_are_named() -> None:
    with pytest.raises(ConfigError, match="unknown modality 'vectr'. Did you mean 'vector'"):
        TokenizerConfig(by_modality={"vectr": FixedLevelsConfig()})
