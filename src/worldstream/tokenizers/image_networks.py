"""Encoder and decoder of the image tokenizers (docs/method.md, "image encoder, decoder").

No residual blocks, no attention: a convolution, halvings, a convolution; and the same backwards.

    (N, c, h, w) --> (N, channels[0], h / p, w / p) --> ... halvings ... --> (N, code_size, h / p2^n, w / p2^n)
    --> and back, with patches of p x p pixels (published: p = 1)
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

import torch
from torch import Tensor, nn

from worldstream.errors import ConfigError
from worldstream.options import Between, OneOf
from worldstream.specs import KeySpec
from worldstream.tokenizers.base import TokenizerOptions
from worldstream.tokenizers.perceptual import PERCEPTUAL, NoPerceptualConfig, PerceptualOptions

NUM_GROUPS = 8
"""Groups of every group norm; all numbers of channels are multiples of it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageOptions(TokenizerOptions):
    """Networks and losses of the image tokenizers, which differ in their quantizers."""

    channels: tuple[int, ...] = (16, 32, 64, 128, 128)
    """Channels of the first convolution, then after each halving of height and width. Four halvings make 4 x 4 tokens
    of 64 x 64 pixels."""
    patch: Annotated[int, Between(1)] = 1
    """Side of the squares of pixels that the first convolution takes in without overlap, and the last one gives back:
    most of the work of the networks is done at the full resolution, which patches leave out. Published: 1."""
    local: bool = False
    """Tokens say what is at their place and nothing else: each comes from its own square of pixels, and norms act at
    each place alone. Otherwise norms over whole pictures and overlapping convolutions let whatever changes anywhere
    change every token, and a world model has to predict that. Published: False."""
    code_size: int = 64
    """Width of the code of one token: what the decoder, the agent and, by shared embeddings, the world model read."""
    batch_norm: bool = False
    """Open the decoder with a batch norm, as published with VQ; else with a group norm, as published with FSQ."""
    rarity: Annotated[float, Between(0, 1)] = 0.0
    """Share of the weight of pixels that goes by how unusual a pixel is at its place in the batch; the rest is even.
    Small moving things are a few pixels in thousands: weighted evenly, leaving them out costs next to nothing.
    Published: 0."""
    perceptual: Annotated[PerceptualOptions, OneOf(PERCEPTUAL)] = field(default_factory=NoPerceptualConfig)
    """Perceptual loss beside the squared error."""

    @classmethod
    def reads(cls, spec: KeySpec) -> bool:
        return spec.dtype == "uint8" and len(spec.shape) == 3 and not spec.vocabulary

    @property
    def fetches(self) -> bool:
        return self.perceptual.fetches


class PlaceNorm(nn.LayerNorm):
    """Layer norm over the channels of (N, C, h, w), at each place alone."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class ImageEncoder(nn.Sequential):
    """Pictures (N, c, h, w) in [-1, 1] -> outputs (N, code_size, h / p2^n, w / p2^n)."""

    def __init__(self, num_channels: int, config: ImageOptions) -> None:
        sizes, patch, local = config.channels, config.patch, config.local

        def same(fan_in: int, fan_out: int) -> nn.Module:
            return nn.Conv2d(fan_in, fan_out, 1) if local else nn.Conv2d(fan_in, fan_out, 3, padding=1)

        def half(fan_in: int, fan_out: int) -> list[nn.Module]:
            if local:
                return [nn.Conv2d(fan_in, fan_out, 2, stride=2)]
            return [nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(fan_in, fan_out, 3, stride=2)]

        halvings = [
            nn.Sequential(*_activated(fan_in, config), *half(fan_in, fan_out))
            for fan_in, fan_out in zip(sizes, sizes[1:], strict=False)
        ]
        opening = same(num_channels, sizes[0]) if patch == 1 else nn.Conv2d(num_channels, sizes[0], patch, stride=patch)
        super().__init__(
            opening,
            nn.Sequential(*halvings),
            nn.Sequential(*_activated(sizes[-1], config), same(sizes[-1], config.code_size)),
        )


class ImageDecoder(nn.Sequential):
    """Codes (N, code_size, h / p2^n, w / p2^n) -> pictures (N, c, h, w), nominally in [-1, 1]; nothing clamps them."""

    def __init__(self, num_channels: int, config: ImageOptions) -> None:
        sizes, width = config.channels[::-1], config.code_size
        opening = nn.BatchNorm2d(width) if config.batch_norm else _norm(width, config)
        doublings = [
            nn.Sequential(
                *_activated(fan_in, config),
                nn.Upsample(scale_factor=2, mode="nearest-exact"),
                nn.Conv2d(fan_in, fan_out, 3, padding=1),
            )
            for fan_in, fan_out in zip(sizes, sizes[1:], strict=False)
        ]
        super().__init__(
            nn.Sequential(opening, nn.Conv2d(width, sizes[0], 3, padding=1)),
            nn.Sequential(*doublings),
            nn.Sequential(
                *_activated(sizes[-1], config),
                nn.Conv2d(sizes[-1], num_channels * config.patch**2, 3, padding=1),
                *([nn.PixelShuffle(config.patch)] if config.patch > 1 else []),
            ),
        )


def _norm(width: int, config: ImageOptions) -> nn.Module:
    return PlaceNorm(width, eps=1e-6) if config.local else nn.GroupNorm(NUM_GROUPS, width, eps=1e-6)


def _activated(width: int, config: ImageOptions) -> tuple[nn.Module, nn.Module]:
    return _norm(width, config), nn.SiLU()


def code_grid(spec: KeySpec, config: ImageOptions) -> tuple[int, int]:
    """(rows, columns) of tokens of a key.

    Raises ConfigError when its sides cannot be halved so often, or channels do not split into groups.
    """
    height, width, _ = spec.shape
    num_halvings = len(config.channels) - 1
    factor = config.patch * 2**num_halvings
    if height % factor or width % factor:
        patches = f"cut into patches of {config.patch} and " if config.patch > 1 else ""
        raise ConfigError(
            f"key '{spec.key}': {height} x {width} pixels cannot be {patches}halved {num_halvings} times. Give it "
            f"sides that are multiples of {factor} (--modality {spec.key}=image:H,W), or "
            "tokenizers.by_modality.image.channels fewer entries."
        )
    sizes = (*config.channels, config.code_size)
    if not config.channels or any(size < 1 or size % NUM_GROUPS for size in sizes):
        raise ConfigError(
            f"tokenizers.by_modality.image: channels {config.channels} and code_size {config.code_size} must be "
            f"multiples of {NUM_GROUPS}, the groups of their norms."
        )
    return height // factor, width // factor


STILL = 1e-6
"""Mean rarity below which nothing in a batch is rare."""
TYPICAL = 0.02
"""Deviation, in units of half the range of a byte, that is too small to count as one: 2.5 levels of a byte."""


def pixel_weights(pictures: Tensor, rarity: float) -> Tensor:
    """Weight (N, 1, h, w) of every pixel of a batch (N, c, h, w) in the squared error, mean 1: even, but for the share
    ``rarity``; even where all of the batch is still.

    That share goes by the deviation of a pixel from the median of its place in the batch, as a multiple of the mean
    deviation there. So what is seldom at a place weighs most, a ball more than a large thing that is somewhere always,
    and the batch as a whole weighs all places alike where anything changes.
    """
    deviation = (pictures - pictures.median(0, keepdim=True).values).abs().mean(1, keepdim=True)
    rare = deviation / (deviation.mean(0, keepdim=True) + TYPICAL)
    mean = rare.mean()
    rare = torch.where(mean > STILL, rare / mean.clamp(min=STILL), torch.ones_like(rare))
    return torch.lerp(torch.ones_like(rare), rare, rarity)
