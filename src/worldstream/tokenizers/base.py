"""The seam of tokenizers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from worldstream.errors import ConfigError
from worldstream.specs import KeySpec, TokenSpec
from worldstream.tokenizers import TOKENIZERS


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizerOptions(ABC):
    """Options of one tokenizer; each defines its own in a subclass, which ``TOKENIZERS`` names."""

    @classmethod
    @abstractmethod
    def reads(cls, spec: KeySpec) -> bool:
        """Whether such keys can be read at all, with some options."""

    def build(self, spec: KeySpec) -> Tokenizer:
        """The tokenizer of a key. Raises ConfigError when it, or its options, do not suit the key."""
        if not self.reads(spec):
            suited = ", ".join(name for name, options in TOKENIZERS.items() if options.reads(spec))
            raise ConfigError(
                f"the tokenizer '{TOKENIZERS.name_of(type(self))}' cannot read key '{spec.key}', whose modality is "
                f"{spec.modality}. Choose another: --tokenizers.by-modality.{spec.modality} with one of {suited}."
            )
        return self.make(spec)

    @abstractmethod
    def make(self, spec: KeySpec) -> Tokenizer:
        """The tokenizer of a key that it ``reads``. Raises ConfigError when the options do not suit it."""

    @property
    def fetches(self) -> bool:
        """Whether ``prepare_training`` of the tokenizer may fetch files from elsewhere."""
        return False


class Tokenizer(nn.Module, ABC):
    """One observation key: tensors of its modality <-> ids (..., K, C)."""

    spec: TokenSpec
    loss_weights: ClassVar[dict[str, float]] = {}
    """What ``losses`` returns, with the weights of each unless configured; fixed and fitted tokenizers have none."""
    adaptive: bool = False
    """Whether ``fit`` adapts to data."""
    growing: bool = False
    """Whether ``grow`` takes in new observations."""

    @property
    def trainable(self) -> bool:
        """Whether ``losses`` returns gradients."""
        return bool(self.loss_weights)

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
        """Scalars () by name, which a tokenizer tells about itself in the log."""
        return {}

    def verdict(self) -> str:
        """What a user should know after the random phase of a run, if these tokens do not suit it; else empty."""
        return ""

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

    def grow(self, x: Tensor) -> None:
        """Take in observations (N, *shape) that were just collected, when ``growing``.

        Every collected observation comes here, in order, before it is first encoded; evaluation and imagination bring
        none. What was encoded before keeps its ids, and ids keep their meaning.
        """
