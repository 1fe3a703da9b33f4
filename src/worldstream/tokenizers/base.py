"""The seam of tokenizers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Annotated

from torch import Tensor, nn

from worldstream.options import Between
from worldstream.specs import TokenSpec
from worldstream.tokenizers.image_networks import ImageTokenizerConfig


def _default_choice() -> dict[str, str]:
    return {"vector": "fitted_levels", "categorical": "identity", "grid": "identity", "image": "image_vq"}


def _default_weights() -> dict[str, float]:
    return {"reconstruction": 1.0, "quantization": 1.0, "perceptual": 1.0}


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizerConfig:
    """Which tokenizer each modality gets, and their sizes."""

    choice: dict[str, str] = field(default_factory=_default_choice)
    """Tokenizer (a name in the registry) for each modality."""
    num_levels: Annotated[int, Between(2)] = 125
    """Fitted levels: number of levels of a feature. (The fixed level set has 125 by definition.)"""
    uniform_levels: Annotated[float, Between(0, 1)] = 0.5
    """Fitted levels: share of the levels spread evenly over the seen range; the others sit at quantiles."""
    cells_per_token: Annotated[int, Between(0)] = 1
    """Grids: neighbouring cells, part of a row or whole rows, that share one token (more channels, shorter blocks).
    0: all cells are one token."""
    image: ImageTokenizerConfig = field(default_factory=ImageTokenizerConfig)
    """Images: networks, quantisers and losses."""
    loss_weights: dict[str, float] = field(default_factory=_default_weights)
    """Weight of each named loss of tokenizers that are trained; the names must be exactly theirs."""


class Tokenizer(nn.Module, ABC):
    """One observation key: tensors of its modality <-> ids (..., K, C).

    Constructor: ``(spec: KeySpec, config: TokenizerConfig)``.
    """

    spec: TokenSpec
    loss_names: tuple[str, ...] = ()
    """Names of what ``losses`` returns; fixed and fitted tokenizers have none."""
    adaptive: bool = False
    """Whether ``fit`` adapts to data."""

    @property
    def trainable(self) -> bool:
        """Whether ``losses`` returns gradients."""
        return bool(self.loss_names)

    @abstractmethod
    def encode(self, x: Tensor) -> Tensor:
        """Modality tensor (..., *shape) -> int64 ids (..., K, C)."""

    @abstractmethod
    def decode(self, ids: Tensor) -> Tensor:
        """ids (..., K, C) -> modality tensor.

        Unless the tokenizer is trained, ``encode(decode(ids)) == ids`` for every id that encode returns.
        """

    @abstractmethod
    def features(self, ids: Tensor) -> Tensor:
        """What the agent reads: (..., K, F) floats, or the ids themselves when ``spec.feature_size`` is 0."""

    def losses(self, x: Tensor) -> dict[str, Tensor]:
        """Named (B, T) losses of modality tensors (B, T, *shape); in training mode statistics may be taken, too."""
        return {}

    def statistics(self) -> dict[str, Tensor]:
        """() each: what a trained tokenizer tells about itself, for the log."""
        return {}

    def written_while_training(self) -> list[Tensor]:
        """Tensors that a pass in training mode writes itself, so that an update that is skipped can put them back."""
        return list(self.buffers())

    def prepare_training(self, *, pretrained: bool = True) -> None:
        """Load what only training needs. ``pretrained=False``: of the same shapes, where only the cost matters.

        Raises ConfigError when something is not there; so no run fails in its middle.
        """

    def fit(self, x: Tensor) -> bool:
        """Adapt to data (N, *shape) without gradients, when ``adaptive``; True when ids changed their meaning."""
        return False
