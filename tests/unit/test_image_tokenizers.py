"""Image tokenizers: sizes, quantisers against the formulas of the method, revival, weights of pixels, messages."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from worldstream.config import LearnerConfig
from worldstream.errors import ConfigError
from worldstream.modalities import build
from worldstream.models import num_parameters
from worldstream.specs import KeySpec
from worldstream.tokenizers.bundle import TokenizerBundle, TokenizerConfig
from worldstream.tokenizers.image import ImageFSQConfig, ImageVQConfig
from worldstream.tokenizers.image_networks import ImageDecoder, ImageEncoder, ImageOptions, pixel_weights
from worldstream.tokenizers.quantizers import FiniteScalarQuantizer, VectorQuantizer
from worldstream.training.learner import Learner
from worldstream.training.updates import update_tokenizers

SPEC = KeySpec(key="front", modality="image", shape=(16, 16, 3), dtype="uint8")
VQ = ImageVQConfig(channels=(16, 16, 32), code_size=16, codebook_size=32)
FSQ = ImageFSQConfig(channels=(16, 16, 32), code_size=16)
PUBLISHED = ImageVQConfig(
    channels=(64, 128, 256, 512), code_size=256, codebook_size=512, ema_decay=0.0, revive_below=0.0, batch_norm=True
)
CPU = torch.device("cpu")


def squares(count: int, seed: int = 0) -> np.ndarray:
    """Pictures of one coloured square each, (count, 16, 16, 3)."""
    rng = np.random.default_rng(seed)
    pictures = np.zeros((count, 16, 16, 3), np.uint8)
    for picture in pictures:
        row, column = rng.integers(0, 13, 2)
        picture[row : row + 4, column : column + 4, rng.integers(3)] = 255
    return pictures


def bundle(options: ImageOptions) -> TokenizerBundle:
    return TokenizerBundle(TokenizerConfig(by_modality={"image": options}), {"front": SPEC})


def test_published_sizes() -> None:
    """Sizes of the published networks."""
    encoder, decoder = ImageEncoder(3, PUBLISHED), ImageDecoder(3, PUBLISHED)
    assert num_parameters(encoder) == 2_732_800
    assert num_parameters(decoder) == 2_733_059
    assert num_parameters(VectorQuantizer(512, 256)) == 131_072
    quantizer = FiniteScalarQuantizer((8, 8, 8), 256)
    assert (num_parameters(quantizer.shrink), num_parameters(quantizer.expand)) == (771, 1_024)
    outputs = encoder(torch.zeros(2, 3, 64, 64))
    assert outputs.shape == (2, 256, 8, 8)
    assert decoder(outputs).shape == (2, 3, 64, 64)


def test_fsq_matches_the_formula_and_its_round_trip_is_exact() -> None:
    quantizer = FiniteScalarQuantizer((8, 8, 8), 3)
    nn.init.eye_(quantizer.shrink.weight), nn.init.zeros_(quantizer.shrink.bias)
    nn.init.eye_(quantizer.expand.weight), nn.init.zeros_(quantizer.expand.bias)
    z = torch.linspace(-4, 4, 301).unsqueeze(-1).expand(-1, 3)
    half, shift = 3.4965, 0.143983
    expected = (torch.tanh(z + shift) * half - 0.5).round() / 4
    torch.testing.assert_close(quantizer(z).codes, expected)
    assert set(expected[:, 0].tolist()) == {-1, -0.75, -0.5, -0.25, 0, 0.25, 0.5, 0.75}
    ids = torch.arange(512).unsqueeze(-1)
    codes = quantizer.codes(ids)
    assert len({tuple(code) for code in codes.tolist()}) == 512
    number = ((codes * 4 + 4) @ torch.tensor([1.0, 8.0, 64.0])).long()
    assert torch.equal(number, ids.squeeze(-1))
    inverse = torch.atanh(((codes * 4 + 0.5) / half).clamp(-0.999, 0.999)) - shift
    assert torch.equal(quantizer.encode(inverse), ids)


@pytest.mark.parametrize("levels", [(2,), (3, 5), (7, 4, 2)])
def test_fsq_uses_every_id(levels: tuple[int, ...]) -> None:
    quantizer = FiniteScalarQuantizer(levels, len(levels))
    nn.init.eye_(quantizer.shrink.weight)
    rows = 4 * torch.randn(20_000, len(levels))
    assert set(quantizer.encode(rows).flatten().tolist()) == set(range(quantizer.num_codes))


def test_channels_of_fsq_are_independent_and_the_code_depends_on_all() -> None:
    """C channels with the scalars of one each are C quantisers of one channel, side by side."""
    both, rows = FiniteScalarQuantizer((3, 4), 4, 2), torch.randn(200, 4)
    ones = [FiniteScalarQuantizer((3, 4), 4) for _ in range(2)]
    for i, one in enumerate(ones):
        part = slice(2 * i, 2 * i + 2)
        one.shrink.load_state_dict({"weight": both.shrink.weight[part], "bias": both.shrink.bias[part]})
        one.expand.load_state_dict({"weight": both.expand.weight[:, part], "bias": both.expand.bias / 2})
    result = both(rows)
    assert both.vocabulary == (12, 12) and result.ids.shape == (200, 2)
    assert torch.equal(result.ids, torch.cat([one(rows).ids for one in ones], -1))
    assert torch.equal(both.encode(rows), result.ids)
    torch.testing.assert_close(both.codes(result.ids), result.codes)
    summed = sum(one.codes(ids.unsqueeze(-1)) for one, ids in zip(ones, result.ids.unbind(-1), strict=True))
    torch.testing.assert_close(both.codes(result.ids), summed)


def test_vq_takes_the_nearest_code_and_passes_gradients_straight_through() -> None:
    quantizer = VectorQuantizer(16, 4)
    rows = (torch.randn(50, 4) * 0.05).requires_grad_()
    result = quantizer(rows)
    distances = torch.cdist(rows, quantizer.codebook)
    assert torch.equal(result.ids, distances.argmin(-1, keepdim=True))
    torch.testing.assert_close(result.codes, quantizer.codes(result.ids))
    upstream = torch.randn(50, 4)
    (gradient,) = torch.autograd.grad((result.codes * upstream).sum(), rows, retain_graph=True)
    torch.testing.assert_close(gradient, upstream)
    expected = 2 * (rows - quantizer.codes(result.ids)).square().mean()
    torch.testing.assert_close(result.loss.mean(), expected.detach() + 0 * expected)


def test_moving_average_is_that_of_the_rows_that_chose_a_code() -> None:
    quantizer = VectorQuantizer(3, 2, ema_decay=0.9)
    quantizer.codebook.copy_(torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]]))
    quantizer.totals.copy_(quantizer.codebook)
    rows = torch.tensor([[9.0, 1.0], [11.0, 1.0], [0.0, 8.0]])
    quantizer(rows)
    # In units of the average use: code 1 has 2 of 3 rows, code 2 has 1, code 0 none.
    expected = [[0.0, 0.0], [(9 + 2.0) / (0.9 + 0.2), 0.2 / 1.1], [0.0, (9 + 0.8) / 1.0]]
    torch.testing.assert_close(quantizer.codebook, torch.tensor(expected))
    before = quantizer.codebook.clone()
    quantizer.eval()(rows)
    assert torch.equal(quantizer.codebook, before)


@pytest.mark.parametrize("ema_decay", [0.0, 0.99])
def test_a_revived_code_stays_where_it_was_put(ema_decay: float) -> None:
    """C16: the published code overwrites revived codes at the next update."""
    quantizer = VectorQuantizer(8, 2, ema_decay=ema_decay, revive_below=0.5)
    far = 100 + torch.randn(64, 2)  # every row chooses the same code; the others die
    for _ in range(70):
        quantizer(far)
    revived = (quantizer.codebook.detach() - 100).abs().amax(-1) < 10
    assert revived.sum() >= 7
    at = quantizer.codebook.detach().clone()
    elsewhere = at[~revived].mean(0, keepdim=True).expand(64, 2) if (~revived).any() else torch.full((64, 2), 1e4)
    quantizer.life.fill_(1.0)  # none is dead any more
    quantizer(elsewhere + torch.zeros(64, 2))
    moved = (quantizer.codebook.detach() - at).abs().amax(-1)
    assert (moved[revived].sort().values[:-1] < 1e-3).all()  # all but the one nearest to these rows


def test_revival_brings_codes_into_use() -> None:
    torch.manual_seed(1)
    shares = {}
    for revive_below in (0.0, 0.1):
        quantizer = VectorQuantizer(64, 4, ema_decay=0.99, revive_below=revive_below)
        for _ in range(600):
            quantizer(5 + torch.randn(256, 4))
        shares[revive_below] = quantizer.statistics()
    assert shares[0.0]["perplexity"] < 8
    assert shares[0.1]["perplexity"] > 32 and shares[0.1]["usage"] > 0.9


def test_perplexity_of_even_use_is_the_number_of_codes() -> None:
    quantizer = FiniteScalarQuantizer((4, 4), 4)
    for _ in range(3):
        quantizer._count(torch.arange(16).unsqueeze(-1))
    torch.testing.assert_close(quantizer.statistics()["perplexity"], torch.tensor(16.0))
    for _ in range(800):
        quantizer._count(torch.zeros(10, 1, dtype=torch.int64))
    assert quantizer.statistics()["perplexity"] < 1.1


@pytest.mark.parametrize("rarity", [0.0, 0.5, 1.0])
def test_pixel_weights_have_mean_one_and_follow_what_is_unusual_at_a_place(rarity: float) -> None:
    pictures = torch.full((8, 3, 16, 16), -1.0)
    for i in range(8):
        pictures[i, :, i, 2 * i] = 1.0
    weights = pixel_weights(pictures, rarity)
    torch.testing.assert_close(weights.mean(), torch.tensor(1.0))
    assert (weights >= 0).all()
    if rarity:
        assert weights[3, 0, 3, 6] > 20 * weights[3, 0, 12, 1]
    else:
        assert (weights == 1).all()
    still = pixel_weights(torch.zeros(4, 3, 16, 16), rarity)  # nothing differs: nothing to weigh by
    torch.testing.assert_close(still, torch.ones_like(still))


def test_a_place_weighs_alike_whether_it_changes_seldom_or_always() -> None:
    """One bright pixel in 32 pictures gets the weight that another place spreads over all its changes."""
    pictures = -torch.ones(32, 1, 8, 8)
    pictures[5, 0, 2, 2] = 1.0
    pictures[::2, 0, 6, 6] = 1.0  # a lower median of -1
    weights = pixel_weights(pictures, 1.0)[:, 0]
    assert weights[5, 2, 2] > 10 * weights[:, 6, 6].max()
    torch.testing.assert_close(weights[:, 2, 2].sum(), weights[:, 6, 6].sum(), rtol=0.3, atol=0.0)


def test_patches_halve_nothing_but_the_resolution() -> None:
    config = replace(FSQ, channels=(16, 32), patch=4)
    spec = replace(SPEC, shape=(16, 32, 3))
    tokenizer = config.build(spec)
    assert tokenizer.spec.grid == (2, 4)
    picture = torch.randint(0, 256, (5, 3, 16, 32), dtype=torch.uint8)
    assert tokenizer.decode(tokenizer.encode(picture)).shape == picture.shape
    # A pixel of a patch is a channel of it: the encoder's first convolution sees every pixel once.
    seen = tokenizer.encoder[0](torch.ones(1, 3, 16, 32, requires_grad=True))
    assert seen.shape == (1, 16, 4, 8)


@pytest.mark.parametrize("patch", [1, 2])
def test_local_codes_follow_their_own_pixels_only(patch: int) -> None:
    """Published networks have group norms over the picture, through which every code follows every pixel."""
    torch.manual_seed(0)
    config = replace(VQ, channels=VQ.channels[patch - 1 :], patch=patch)
    picture = torch.rand(1, 3, 16, 16)
    other = picture.clone()
    other[..., 4:8, 8:12] = torch.rand(3, 4, 4)  # the square of one token
    for local in (False, True):
        encoder = ImageEncoder(3, replace(config, local=local))
        changed = (encoder(picture) != encoder(other)).any(1)[0]
        assert changed.shape == (4, 4) and changed[1, 2]
        assert changed.sum() == (1 if local else 16)


@pytest.mark.parametrize("options", [VQ, FSQ], ids=["vq", "fsq"])
def test_learns_to_reconstruct(options: ImageOptions) -> None:
    torch.manual_seed(0)
    tokenizers = bundle(options)
    tokenizers.prepare_training()
    learner = Learner(tokenizers, LearnerConfig(batch_size=32, learning_rate=2e-3, updates_per_step=1, start_steps=0))
    data = squares(512)
    version = int(tokenizers.version)
    first: dict[str, Tensor] = {}
    for _ in range(250):
        rows = data[torch.randint(512, (32,)).numpy()]
        metrics = update_tokenizers(tokenizers, learner, {"front": rows[:, None]})
        first = first or metrics
    assert int(tokenizers.version) == version + 250
    assert {"reconstruction", "quantization", "perceptual", "usage", "perplexity"} <= metrics.keys()
    assert metrics["reconstruction"] < 0.1 * first["reconstruction"]
    held_out = {"front": squares(64, seed=1)}
    decoded = build(SPEC).unload(tokenizers.decode(tokenizers.encode(held_out))["front"])
    assert np.abs(decoded.astype(float) - held_out["front"]).mean() < 12


def test_networks_are_in_evaluation_mode_outside_of_updates() -> None:
    tokenizers = bundle(replace(VQ, batch_norm=True))
    tokenizers.prepare_training()
    learner = Learner(tokenizers, LearnerConfig(batch_size=8, learning_rate=1e-3, updates_per_step=1, start_steps=0))
    update_tokenizers(tokenizers, learner, {"front": squares(8)[:, None]})
    saved = {name: value.clone() for name, value in tokenizers.state_dict().items()}
    tokens = tokenizers.encode({"front": squares(8)})
    tokenizers.decode(tokens)
    assert all(torch.equal(value, saved[name]) for name, value in tokenizers.state_dict().items())


@pytest.mark.parametrize("options", [VQ, replace(VQ, ema_decay=0.0, revive_below=0.5), FSQ], ids=["ema", "vq", "fsq"])
@pytest.mark.parametrize("broken", ["encoder", "decoder"])
def test_a_skipped_update_leaves_no_trace(options: ImageOptions, broken: str) -> None:
    """Codebooks by moving average, revived codes and batch norms are written before the loss is known."""
    tokenizers = bundle(replace(options, batch_norm=True))
    tokenizers.prepare_training()
    learner = Learner(tokenizers, LearnerConfig(batch_size=8, learning_rate=1e-3, updates_per_step=1, start_steps=0))
    update_tokenizers(tokenizers, learner, {"front": squares(8)[:, None]})
    tokenizer = tokenizers.by_key["front"]
    {"encoder": tokenizer.encoder[0], "decoder": tokenizer.decoder[0][1]}[broken].bias.data.fill_(torch.nan)
    saved = {name: value.clone() for name, value in tokenizers.state_dict().items() if name != "version"}
    metrics = update_tokenizers(tokenizers, learner, {"front": squares(8, seed=1)[:, None]})
    assert not metrics["gradient_norm"].isfinite()
    for name, value in saved.items():
        torch.testing.assert_close(tokenizers.state_dict()[name], value, rtol=0, atol=0, equal_nan=True)


def test_the_even_error_is_told_whatever_the_rarity() -> None:
    found = {}
    for rarity in (0.0, 0.8):
        torch.manual_seed(0)
        tokenizers = bundle(replace(FSQ, rarity=rarity))
        _, means = tokenizers.losses({"front": squares(16)[:, None]})
        found[rarity] = (means["reconstruction"], tokenizers.statistics()["squared_error"])
    torch.testing.assert_close(*found[0.0])
    torch.testing.assert_close(found[0.8][1], found[0.0][1])
    assert not torch.isclose(*found[0.8])


def test_features_are_codes_without_gradient() -> None:
    tokenizers = bundle(FSQ)
    spec = tokenizers.specs["front"]
    assert (spec.num_tokens, spec.grid, spec.feature_size, spec.coded) == (16, (4, 4), 16, True)
    features = tokenizers.features(tokenizers.encode({"front": squares(2)}))["front"]
    assert features.shape == (2, 16, 16) and not features.requires_grad


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((20, 16, 3), replace(FSQ, channels=(8, 8, 8, 8)), "key 'front': 20 x 16 pixels cannot be halved 3 times"),
        ((24, 16, 3), replace(FSQ, patch=4), "24 x 16 pixels cannot be cut into patches of 4 and halved 2 times"),
        ((16, 16, 3), replace(FSQ, channels=(12, 8)), "must be multiples of 8"),
        ((16, 16, 3), replace(FSQ, code_size=4), "must be multiples of 8"),
        ((16, 16, 3), replace(FSQ, levels=(1, 4)), "levels must be numbers of at least 2"),
        ((16, 16, 3), replace(FSQ, levels=(300, 300)), "make 90000 ids, more than 65536: use fewer, and more"),
    ],
)
def test_sizes_that_do_not_fit(shape: tuple[int, ...], options: ImageOptions, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        options.build(replace(SPEC, shape=shape))


def test_loss_weights_replace_the_tokenizers_own_and_name_their_losses() -> None:
    pictures = {"front": np.random.default_rng(0).integers(0, 256, (2, 3, *SPEC.shape), dtype=np.uint8)}

    def bundle(**weights: float) -> TokenizerBundle:
        torch.manual_seed(0)
        return TokenizerBundle(TokenizerConfig(by_modality={"image": VQ}, loss_weights=weights), {"front": SPEC})

    (own, means), (other, _) = bundle().losses(pictures), bundle(reconstruction=3.0).losses(pictures)
    torch.testing.assert_close(own, torch.stack([*means.values()]).sum())
    torch.testing.assert_close(other - own, 2 * means["reconstruction"], rtol=1e-4, atol=1e-5)
    with pytest.raises(ConfigError, match=r"\['sharpness'\], but the tokenizers have \['perceptual', 'quant"):
        bundle(sharpness=1.0)
