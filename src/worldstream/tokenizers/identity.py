"""Categories are tokens already. Grids may join neighbouring cells of a row into one token of more channels.

Joining costs nothing in expressiveness where it is used (a block's tokens are predicted independently given their
latents anyway) and divides the length of a block, which is what training time grows with.
"""

from __future__ import annotations

from typing import final

from torch import Tensor

from worldstream.errors import ConfigError
from worldstream.specs import KeySpec, TokenSpec
from worldstream.tokenizers.base import Tokenizer, TokenizerConfig


@final
class Identity(Tokenizer):
    """ids in, ids out; the agent embeds them (``feature_size`` 0).

    Raises ConfigError when ``cells_per_token`` does not divide the columns of the key's grid.
    """

    def __init__(self, spec: KeySpec, config: TokenizerConfig) -> None:
        super().__init__()
        self.num_channels = len(spec.vocabulary)
        joined, num_tokens, grid = 1, 1, None
        if spec.grid is not None:
            rows, columns = spec.grid
            joined = config.cells_per_token
            if columns % joined:
                raise ConfigError(
                    f"cells_per_token {joined} does not divide the {columns} columns of key '{spec.key}': "
                    "choose a divisor (1 always works)."
                )
            num_tokens, grid = rows * columns // joined, (rows, columns // joined)
        self.spec = TokenSpec(num_tokens=num_tokens, vocabulary=spec.vocabulary * joined, grid=grid)

    def encode(self, x: Tensor) -> Tensor:
        return x.reshape(*x.shape[:-2], *self._token_shape)

    def decode(self, ids: Tensor) -> Tensor:
        return ids.reshape(*ids.shape[:-2], -1, self.num_channels)

    def features(self, ids: Tensor) -> Tensor:
        return ids

    @property
    def _token_shape(self) -> tuple[int, int]:
        return self.spec.num_tokens, self.spec.num_channels
