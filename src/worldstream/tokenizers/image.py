"""Image tokenizers: a picture becomes a grid of code ids (docs/method.md, "VQ" and "FSQ")."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, final

import torch
from torch import Tensor

from worldstream.errors import ConfigError
from worldstream.options import Between
from worldstream.specs import KeySpec, TokenSpec
from worldstream.tokenizers.base import Tokenizer
from worldstream.tokenizers.image_networks import ImageDecoder, ImageEncoder, ImageOptions, code_grid, pixel_weights
from worldstream.tokenizers.perceptual import PERCEPTUAL, PerceptualLoss
from worldstream.tokenizers.quantizers import FiniteScalarQuantizer, Quantizer, VectorQuantizer

ENCODED_TOGETHER = 256
"""Pictures that pass the networks at once outside of training: the first layers hold megabytes for each."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageVQConfig(ImageOptions):
    """Codes from a learned codebook."""

    codebook_size: Annotated[int, Between(2, 65_536)] = 256
    """Number of codes."""
    ema_decay: Annotated[float, Between(0, 1)] = 0.99
    """Codes follow an exponential average of the encoder's outputs with this decay; 0: they follow the gradient."""
    revive_below: Annotated[float, Between(0, 1)] = 0.03
    """Codes used less than this share of the average are put where the encoder's outputs lack one; 0: never."""

    def make(self, spec: KeySpec) -> ImageTokenizer:
        quantizer = VectorQuantizer(
            self.codebook_size, self.code_size, ema_decay=self.ema_decay, revive_below=self.revive_below
        )
        return ImageTokenizer(spec, self, quantizer)


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageFSQConfig(ImageOptions):
    """Codes from a fixed lattice of a few scalars."""

    levels: tuple[int, ...] = (8, 8, 8)
    """Levels of each scalar; their product is the vocabulary."""
    ids_per_token: Annotated[int, Between(1)] = 1
    """Ids of a token, each with such scalars of its own. More of them let a coarse grid say more. Published: 1."""

    def make(self, spec: KeySpec) -> ImageTokenizer:
        return ImageTokenizer(spec, self, FiniteScalarQuantizer(self.levels, self.code_size, self.ids_per_token))


@final
class ImageTokenizer(Tokenizer):
    """uint8 pictures (..., c, h, w) <-> ids (..., K, C) on a grid; each token has a code of ``code_size``.

    Decoding an id and encoding the picture again need not give the id back, as the codes are learned. ``decode`` and
    ``features`` have no gradient. Raises ConfigError when the sizes do not fit the key.
    """

    error: Tensor
    """() even squared error of the last trained batch, in units of half the range of a byte: unlike the loss
    "reconstruction" it can be compared between settings of ``rarity``."""
    loss_weights: ClassVar[dict[str, float]] = {"reconstruction": 1.0, "quantization": 1.0, "perceptual": 1.0}

    def __init__(self, spec: KeySpec, config: ImageOptions, quantizer: Quantizer) -> None:
        super().__init__()
        self.config = config
        self._key, self._side = spec.key, min(spec.shape[:2])
        rows, columns = code_grid(spec, config)
        self.spec = TokenSpec(
            num_tokens=rows * columns,
            vocabulary=quantizer.vocabulary,
            grid=(rows, columns),
            feature_size=config.code_size,
            coded=True,
        )
        self.encoder = ImageEncoder(spec.shape[2], config)
        self.decoder = ImageDecoder(spec.shape[2], config)
        self.quantizer = quantizer
        self.register_buffer("error", torch.zeros(()), persistent=False)
        self._perceptual: list[PerceptualLoss] = []  # in a list: no part of the weights, needed in training only
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        pictures = x.reshape(-1, *x.shape[-3:])
        parts = pictures.split(ENCODED_TOGETHER)
        ids = [self.quantizer.encode(self._rows(self.encoder(scaled(part)))) for part in parts]
        return torch.cat(ids).reshape(*x.shape[:-3], self.spec.num_tokens, self.spec.num_channels)

    @torch.no_grad()
    def decode(self, ids: Tensor) -> Tensor:
        codes = self.features(ids).reshape(-1, self.spec.num_tokens, self.spec.feature_size)
        pictures = torch.cat([self._pictures(part) for part in codes.split(ENCODED_TOGETHER)])
        levels = ((pictures + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
        return levels.reshape(*ids.shape[:-2], *levels.shape[1:])

    @torch.no_grad()
    def features(self, ids: Tensor) -> Tensor:
        return self.quantizer.codes(ids)

    def losses(self, x: Tensor) -> dict[str, Tensor]:
        if not self._perceptual:
            self.prepare_training()
        pictures = scaled(x.flatten(0, 1))
        quantized = self.quantizer(self._rows(self.encoder(pictures)))
        decoded = self._pictures(quantized.codes.unflatten(0, (len(pictures), -1)))
        squared = (decoded - pictures).square()
        self.error.copy_(squared.detach().mean())
        losses = {
            "reconstruction": (pixel_weights(pictures, self.config.rarity) * squared).mean((1, 2, 3)),
            "quantization": quantized.loss.unflatten(0, (len(pictures), -1)).mean(1),
            "perceptual": self._perceptual[0](decoded, pictures),
        }
        return {name: loss.unflatten(0, x.shape[:2]) for name, loss in losses.items()}

    def prepare_training(self, *, pretrained: bool = True) -> None:
        loss = self.config.perceptual.build(pretrained=pretrained)
        if self._side < loss.smallest_side:
            name = PERCEPTUAL.name_of(type(self.config.perceptual))
            raise ConfigError(
                f"key '{self._key}': the perceptual loss '{name}' compares pictures from "
                f"{loss.smallest_side} pixels a side on, and these have {self._side}. Choose another "
                "(--tokenizers.by-modality.image.perceptual none) or larger pictures "
                f"(--modality {self._key}=image:H,W)."
            )
        self._perceptual = [loss.to(self.quantizer.usage.device)]

    def written_while_training(self) -> list[Tensor]:
        return [*super().written_while_training(), *self.quantizer.revived_parameters()]

    def statistics(self) -> dict[str, Tensor]:
        return {**self.quantizer.statistics(), "squared_error": self.error}

    @staticmethod
    def _rows(outputs: Tensor) -> Tensor:
        """(N, D, rows, columns) -> (N * K, D), row by row."""
        return outputs.movedim(1, -1).flatten(0, -2)

    def _pictures(self, codes: Tensor) -> Tensor:
        """codes (N, K, D) -> decoded pictures (N, c, h, w) in [-1, 1]."""
        assert self.spec.grid is not None
        pictures: Tensor = self.decoder(codes.unflatten(1, self.spec.grid).movedim(-1, 1))
        return pictures


def scaled(pictures: Tensor) -> Tensor:
    """Bytes to floats in [-1, 1]."""
    return pictures.float() / 127.5 - 1.0
