"""What every tokenizer keeps: valid ids of the announced shape, and ids that survive decoding."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from worldstream.cli import parse
from worldstream.config import Config
from worldstream.errors import ConfigError
from worldstream.modalities import build
from worldstream.options import at, put
from worldstream.specs import KeySpec
from worldstream.tokenizers import TOKENIZERS
from worldstream.tokenizers.base import Tokenizer, TokenizerOptions
from worldstream.tokenizers.exact import ImagePaletteConfig, ImagePatchesConfig
from worldstream.tokenizers.fitted_levels import FittedLevelsConfig
from worldstream.tokenizers.identity import IdentityConfig
from worldstream.tokenizers.image import ImageFSQConfig, ImageVQConfig
from worldstream.tokenizers.levels import FixedLevelsConfig

VECTOR = KeySpec(key="x", modality="vector", shape=(5,), dtype="float32")
CATEGORIES = KeySpec(key="x", modality="categorical", shape=(3,), dtype="uint8", vocabulary=(2, 7, 7))
GRID = KeySpec(key="x", modality="grid", shape=(12, 2), dtype="uint8", vocabulary=(5, 3), grid=(2, 6))
PICTURE = KeySpec(key="x", modality="image", shape=(8, 16, 3), dtype="uint8")
VQ = ImageVQConfig(channels=(8, 8, 16), code_size=8, codebook_size=16)
FSQ = ImageFSQConfig(channels=(8, 8, 16), code_size=8, levels=(4, 3))

CASES: dict[str, tuple[KeySpec, TokenizerOptions]] = {
    "fixed levels": (VECTOR, FixedLevelsConfig()),
    "fitted levels": (VECTOR, FittedLevelsConfig()),
    "fitted levels, few": (VECTOR, FittedLevelsConfig(num_levels=6, uniform_share=0.3)),
    "fitted levels, even": (VECTOR, FittedLevelsConfig(num_levels=9, uniform_share=1.0)),
    "fitted levels, quantiles": (VECTOR, FittedLevelsConfig(num_levels=9, uniform_share=0.0)),
    "identity": (CATEGORIES, IdentityConfig()),
    "identity, grid": (GRID, IdentityConfig()),
    "identity, joined cells": (GRID, IdentityConfig(cells_per_token=3)),
    "image_vq, moving average": (PICTURE, VQ),
    "image_vq, gradient": (PICTURE, replace(VQ, ema_decay=0.0, revive_below=0.0, batch_norm=True, rarity=0.5)),
    "image_fsq": (PICTURE, FSQ),
    "image_patches": (PICTURE, ImagePatchesConfig(patch_size=(4, 8), codes=40)),
    "image_patches, room for all": (PICTURE, ImagePatchesConfig(patch_size=(8, 4), codes=4096)),
    "image_palette": (PICTURE, ImagePaletteConfig(patch_size=(4, 8), colours=8)),
    "image_fsq, channels and patches": (PICTURE, replace(FSQ, channels=(8, 16), patch=2, ids_per_token=3)),
}
SEEDS = st.integers(0, 2**31)


def stored(spec: KeySpec, leading: tuple[int, ...], seed: int, scale: float = 1.0) -> np.ndarray:
    """Random stored items; vectors hold a wide, a narrow, a repetitive, a constant and a heavy-tailed feature."""
    rng = np.random.default_rng(seed)
    if spec.vocabulary:
        return rng.integers(0, spec.vocabulary, (*leading, *spec.shape)).astype(spec.dtype)
    if spec.dtype == "uint8":
        return np.clip(rng.integers(0, 256, (*leading, *spec.shape)) * scale, 0, 255).astype(spec.dtype)
    x = rng.normal(size=(*leading, 5)) * [30.0, 0.01, 1.0, 0.0, 1.0]
    x[..., 2] = np.rint(x[..., 2])
    x[..., 3] = 2.5
    x[..., 4] = rng.standard_cauchy(leading) * 10
    return (scale * x).astype(spec.dtype)


def tensors(spec: KeySpec, leading: tuple[int, ...], seed: int, scale: float = 1.0) -> Tensor:
    return build(spec).load(stored(spec, leading, seed, scale))


def make(case: str) -> Tokenizer:
    spec, options = CASES[case]
    return options.build(spec).eval()


def fitted(case: str, seed: int = 0) -> Tokenizer:
    tokenizer = make(case)
    x = tensors(CASES[case][0], (200,), seed)
    tokenizer.grow(x)
    tokenizer.fit(x)
    return tokenizer


def assert_valid(tokenizer: Tokenizer, x: Tensor, leading: tuple[int, ...]) -> None:
    """Ids, decoded values and features of x are as ``tokenizer.spec`` announces them, and ids survive decoding."""
    spec = tokenizer.spec
    ids = tokenizer.encode(x)
    assert ids.dtype == torch.int64
    assert ids.shape == (*leading, spec.num_tokens, spec.num_channels)
    assert (ids >= 0).all() and (ids < torch.tensor(spec.vocabulary)).all()
    decoded = tokenizer.decode(ids)
    assert decoded.shape == x.shape and decoded.dtype == x.dtype
    if not tokenizer.trainable:  # what is learned only comes near to that
        assert torch.equal(tokenizer.encode(decoded), ids)
    features = tokenizer.features(ids)
    if spec.feature_size:
        assert features.shape == (*leading, spec.num_tokens, spec.feature_size)
        assert features.is_floating_point() and features.isfinite().all()
    else:
        assert torch.equal(features, ids)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_some_case_here_exercises_every_tokenizer(name: str) -> None:
    assert any(type(options) is TOKENIZERS[name] for _, options in CASES.values())


@pytest.mark.parametrize("spec", [VECTOR, CATEGORIES, GRID, PICTURE], ids=lambda spec: spec.modality)
@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_tokenizer_reads_a_modality_or_says_which_one_would(name: str, spec: KeySpec) -> None:
    options = next(options for _, options in CASES.values() if type(options) is TOKENIZERS[name])
    if any(options == suited and spec == key for key, suited in CASES.values()):
        tokenizer = options.build(spec).eval()
        assert_valid(tokenizer, tensors(spec, (3,), 0), (3,))
    else:
        others = [each for each in TOKENIZERS if TOKENIZERS[each].reads(spec)]
        message = f"'{name}' cannot read key 'x', whose modality is {spec.modality}.*one of {', '.join(others)}"
        with pytest.raises(ConfigError, match=message):
            options.build(spec)


@pytest.mark.parametrize("case", CASES)
@given(seed=SEEDS, leading=st.sampled_from([(), (1,), (7,), (2, 3)]), scale=st.sampled_from([0.0, 0.3, 1.0, 1e6]))
def test_ids_before_any_fit(case: str, seed: int, leading: tuple[int, ...], scale: float) -> None:
    assert_valid(make(case), tensors(CASES[case][0], leading, seed, scale), leading)


@pytest.mark.parametrize("case", CASES)
@given(seed=SEEDS, rows=st.sampled_from([1, 2, 50]), scale=st.sampled_from([0.0, 0.3, 1.0, 1e6]))
def test_ids_after_fits_to_whatever_data(case: str, seed: int, rows: int, scale: float) -> None:
    spec, tokenizer = CASES[case][0], make(case)
    for i in range(2):
        x = tensors(spec, (rows,), seed + i, scale)
        tokenizer.grow(x)
        tokenizer.fit(x)
        assert_valid(tokenizer, tensors(spec, (40,), seed + 9), (40,))
        assert_valid(tokenizer, tensors(spec, (rows,), seed + i, scale), (rows,))


@pytest.mark.parametrize("case", CASES)
def test_leading_axes_do_not_matter(case: str) -> None:
    tokenizer, x = fitted(case), tensors(CASES[case][0], (4, 3), seed=1)
    ids = tokenizer.encode(x)
    assert torch.equal(ids[2, 1], tokenizer.encode(x[2, 1]))
    assert torch.equal(tokenizer.decode(ids)[2, 1], tokenizer.decode(ids[2, 1]))
    assert torch.equal(tokenizer.features(ids)[2, 1], tokenizer.features(ids[2, 1]))


@pytest.mark.parametrize("case", CASES)
def test_fit_tells_whether_ids_changed_their_meaning(case: str) -> None:
    tokenizer, spec = make(case), CASES[case][0]
    before = tokenizer.decode(tokenizer.encode(tensors(spec, (50,), seed=3)))
    ids = tokenizer.encode(tensors(spec, (50,), seed=3))
    changed = tokenizer.fit(tensors(spec, (200,), seed=4))
    assert changed != torch.equal(tokenizer.decode(ids), before)
    assert tokenizer.adaptive or not changed


@pytest.mark.parametrize("case", CASES)
def test_growing_leaves_ids_and_their_meaning_as_they_were(case: str) -> None:
    tokenizer, old = fitted(case), tensors(CASES[case][0], (200,), seed=0)
    ids = tokenizer.encode(old)
    before = {name: value.clone() for name, value in tokenizer.state_dict().items()}
    for seed in range(1, 4):
        tokenizer.grow(tensors(CASES[case][0], (50,), seed))
        assert torch.equal(tokenizer.encode(old), ids)
    same = all(torch.equal(value, before[name]) for name, value in tokenizer.state_dict().items())
    assert same != tokenizer.growing


@pytest.mark.parametrize("case", CASES)
def test_trainable_means_losses_with_gradient(case: str) -> None:
    tokenizer = make(case)
    losses = tokenizer.losses(tensors(CASES[case][0], (2, 3), seed=1))
    trained = list(tokenizer.parameters())
    if not tokenizer.trainable:
        assert losses == {} and trained == []
        return
    assert tuple(losses) == tuple(tokenizer.loss_weights) and all(loss.shape == (2, 3) for loss in losses.values())
    torch.stack([loss.sum() for loss in losses.values()]).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.abs().any() for p in trained)
    assert set(tokenizer.statistics()) and all(value.shape == () for value in tokenizer.statistics().values())


@pytest.mark.parametrize("case", CASES)
def test_weights_carry_everything_that_was_fitted(case: str) -> None:
    tokenizer, twin = fitted(case), make(case)
    twin.load_state_dict(tokenizer.state_dict())
    x = tensors(CASES[case][0], (50,), seed=5)
    ids = tokenizer.encode(x)
    assert torch.equal(twin.encode(x), ids)
    assert torch.equal(twin.decode(ids), tokenizer.decode(ids))
    assert torch.equal(twin.features(ids), tokenizer.features(ids))


SIGNS = '''
"""Vectors as signs: one token for each number, and a margin around zero that counts as none."""

from dataclasses import dataclass
from typing import Annotated

from worldstream.options import Between
from worldstream.specs import TokenSpec
from worldstream.tokenizers.base import Tokenizer, TokenizerOptions


@dataclass(frozen=True, kw_only=True, slots=True)
class SignsConfig(TokenizerOptions):
    """Signs of numbers."""

    margin: Annotated[float, Between(0, 1)] = 0.1
    """Largest magnitude that counts as zero."""

    @classmethod
    def reads(cls, spec):
        return spec.modality == "vector"

    def make(self, spec):
        return Signs(spec, self)


class Signs(Tokenizer):
    def __init__(self, spec, config):
        super().__init__()
        self.margin = config.margin
        self.spec = TokenSpec(num_tokens=spec.shape[0], vocabulary=(3,), ordered=True)

    def encode(self, x):
        return ((x.abs() > self.margin) * x.sign() + 1).long().unsqueeze(-1)

    def decode(self, ids):
        return (ids.squeeze(-1) - 1).float()

    def features(self, ids):
        return ids
'''


def test_a_tokenizer_is_one_file_and_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "signs.py").write_text(SIGNS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(TOKENIZERS, "_entries", {**TOKENIZERS._entries, "signs": "signs:SignsConfig"})
    place = "tokenizers.by_modality.vector"
    command = parse(["train", "--preset", "demo", f"--{place.replace('_', '-')}", "signs", f"--{place}.margin", "0.5"])
    config = command.options["config"]
    options = at(config, place)
    assert options == TOKENIZERS["signs"](margin=0.5)
    assert Config.from_json(config.to_json()) == config
    with pytest.raises(ConfigError, match="vector.margin must be between 0 and 1"):
        put(config, f"{place}.margin", 2.0)
    monkeypatch.setitem(CASES, "signs", (VECTOR, options))
    test_leading_axes_do_not_matter("signs")
    test_fit_tells_whether_ids_changed_their_meaning("signs")
    test_trainable_means_losses_with_gradient("signs")
    test_weights_carry_everything_that_was_fitted("signs")
    assert_valid(make("signs"), tensors(VECTOR, (7,), seed=0), (7,))
