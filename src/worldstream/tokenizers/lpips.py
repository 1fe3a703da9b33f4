"""LPIPS (Zhang et al. 2018) with VGG16 features, as the published agent uses it (docs/method.md, "LPIPS").

The weights are two public files: VGG16 trained on ImageNet, and the weights of the channels fitted to the judgement of
people. They are read from a folder, and fetched only when ``LpipsConfig.weights`` says "download".
"""

from __future__ import annotations

import hashlib
import http.client
import os
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch
from torch import Tensor, nn

from worldstream.errors import ConfigError
from worldstream.tokenizers.perceptual import PerceptualLoss, PerceptualOptions

VGG_FILE, HEADS_FILE = "vgg16-397923af.pth", "lpips-vgg.pth"
SOURCES = {
    VGG_FILE: "https://download.pytorch.org/models/vgg16-397923af.pth",
    HEADS_FILE: "https://github.com/richzhang/PerceptualSimilarity/raw/master/lpips/weights/v0.1/vgg.pth",
}
VGG_DIGEST = "397923af"
"""First digits of the SHA-256 of VGG's file, which its name repeats."""

STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
"""Channels of VGG16's convolutions; each stage ends with a level of features, the next begins by halving."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LpipsConfig(PerceptualOptions):
    """LPIPS, as published; needs 528 MB of weights."""

    weights: str = ""
    """Folder with the two files of weights, or "download" to fetch them once. Empty: the cache of the user."""

    def __post_init__(self) -> None:
        if self.weights not in ("", "download"):  # an environment may change the current directory
            object.__setattr__(self, "weights", str(Path(self.weights).absolute()))

    def make(self, pretrained: bool) -> PerceptualLoss:
        return Lpips(_folder(self.weights) if pretrained else None)

    @property
    def fetches(self) -> bool:
        return self.weights == "download"


@final
class Lpips(PerceptualLoss):
    """Weighted distance of unit features of five levels; ``folder`` None: with random weights.

    Raises ConfigError when a file does not hold the weights.
    """

    smallest_side = 2 ** (len(STAGES) - 1)
    shift: Tensor
    scale: Tensor

    def __init__(self, folder: Path | None) -> None:
        super().__init__()
        stages: list[nn.Module] = []
        fan_in = 3
        for i, stage in enumerate(STAGES):
            layers: list[nn.Module] = [nn.MaxPool2d(2)] if i else []
            for channels in stage:
                layers += [nn.Conv2d(fan_in, channels, 3, padding=1), nn.ReLU()]
                fan_in = channels
            stages.append(nn.Sequential(*layers))
        self.stages = nn.ModuleList(stages)
        self.heads = nn.ModuleList(nn.Conv2d(stage[-1], 1, 1, bias=False) for stage in STAGES)
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188]).reshape(3, 1, 1))
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450]).reshape(3, 1, 1))
        if folder is not None:
            self._load(folder)

    def features(self, pictures: Tensor) -> list[Tensor]:
        x, levels = (pictures - self.shift) / self.scale, []
        for stage in self.stages:
            x = stage(x)
            levels.append(x)
        return levels

    def weigh(self, level: int, squared: Tensor) -> Tensor:
        weighted: Tensor = self.heads[level](squared)
        return weighted

    def _load(self, folder: Path) -> None:
        vgg, heads = (_read(folder / name) for name in (VGG_FILE, HEADS_FILE))
        convolutions = [m for stage in self.stages for m in stage.children() if isinstance(m, nn.Conv2d)]
        try:
            numbers = sorted({int(name.split(".")[1]) for name in vgg if name.startswith("features.")})
            for number, convolution in zip(numbers, convolutions, strict=True):
                for part in ("weight", "bias"):
                    getattr(convolution, part).data.copy_(vgg[f"features.{number}.{part}"])
            for i, head in enumerate(self.heads):
                head.weight.data.copy_(heads[f"lin{i}.model.1.weight"])  # type: ignore[operator]
        except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
            raise ConfigError(f"the files in {folder} do not hold the weights of LPIPS: {error}.") from error


def default_folder() -> Path:
    """Where weights are kept, and looked for when no folder is given."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "worldstream" / "lpips"


def _folder(weights: str) -> Path:
    """The folder with both files; they are fetched when ``weights`` says so. Raises ConfigError."""
    folder = default_folder() if weights in ("", "download") else Path(weights)
    missing = {name: url for name, url in SOURCES.items() if not (folder / name).is_file()}
    if not missing:
        return folder
    listed = " and ".join(f"{url} as {name}" for name, url in missing.items())
    if weights != "download":
        raise ConfigError(
            f"the perceptual loss 'lpips' needs {listed} in {folder}. Put the files there, name their folder with "
            "--tokenizers.by-modality.image.perceptual.weights FOLDER, fetch them once (528 MB) with "
            "--tokenizers.by-modality.image.perceptual.weights download, or choose another loss: "
            "--tokenizers.by-modality.image.perceptual efficientnet_lite0 (needs no download, is not LPIPS) or none."
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, url in missing.items():
            _download(url, folder / name)
    except (OSError, http.client.HTTPException) as error:
        raise ConfigError(
            f"the weights of the perceptual loss 'lpips' cannot be fetched: {error}. Fetch {listed} on a machine that "
            f"can, put them into {folder}, or choose --tokenizers.by-modality.image.perceptual efficientnet_lite0 or "
            "none."
        ) from error
    return folder


def _download(url: str, path: Path) -> None:
    """Write a file, whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")  # another run may be fetching it too
    digest = hashlib.sha256()
    try:
        with urllib.request.urlopen(url, timeout=60) as source, open(temporary, "wb") as file:
            announced = source.headers.get("Content-Length")
            while chunk := source.read(1 << 20):
                digest.update(chunk)
                file.write(chunk)
            if announced is not None and file.tell() != int(announced):
                raise OSError(f"{url} sent {file.tell()} of {announced} bytes")
        if path.name == VGG_FILE and not digest.hexdigest().startswith(VGG_DIGEST):
            raise OSError(f"what {url} sent is not VGG16, for its SHA-256 does not begin with {VGG_DIGEST}")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _read(path: Path) -> dict[str, Tensor]:
    try:
        weights: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for files that are no weights, and advises to trust them
        raise ConfigError(
            f"{path} does not hold weights ({type(error).__name__}). Delete it, and fetch it again with "
            "--tokenizers.by-modality.image.perceptual.weights download."
        ) from error
    return weights
