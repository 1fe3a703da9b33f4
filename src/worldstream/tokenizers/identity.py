"""Categories are tokens already. Grids may join neighbouring cells into one token of more channels.

Joining costs nothing in expressiveness where it is used (a block's tokens are predicted independently given their
latents anyway) and divides the length of a block, which is what training time grows with.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, final

from torch import Tensor

from worldstream.errors import ConfigError
from worldstream.options import Between
from worldstream.specs import KeySpec, TokenSpec
from worldstream.tokenizers.base import Tokenizer, TokenizerOptions


@dataclass(frozen=True, kw_only=True, slots=True)
class IdentityConfig(TokenizerOptions):
    """Categories as they are."""

    cells_per_token: Annotated[int, Between(0)] = 1
    """Neighbouring cells of a grid, part of a row or whole rows, that share one token (more channels, shorter blocks).
    0: all cells are one token."""

    @classmethod
    def reads(cls, spec: KeySpec) -> bool:
        return bool(spec.vocabulary)

    def make(self, spec: KeySpec) -> Identity:
        return Identity(spec, self)


@final
class Identity(Tokenizer):
    """ids in, ids out; the agent embeds them (``feature_size`` 0).

    The channels of a token are ordered by channel, then by cell: channels of one size then lie side by side, and
    heads handle them in one operation.

    Raises ConfigError when ``cells_per_token`` cuts the rows of the key's grid unevenly.
    """

    def __init__(self, spec: KeySpec, config: IdentityConfig) -> None:
        super().__init__()
        self.num_channels = len(spec.vocabulary)
        self.joined, num_tokens, grid = 1, 1, None
        if spec.grid is not None:
            self.joined = config.cells_per_token or spec.grid[0] * spec.grid[1]
            grid = _joined_grid(spec, self.joined)
            num_tokens = grid[0] * grid[1]
        vocabulary = tuple(size for size in spec.vocabulary for _ in range(self.joined))
        self.spec = TokenSpec(num_tokens=num_tokens, vocabulary=vocabulary, grid=grid)

    def encode(self, x: Tensor) -> Tensor:
        return x.unflatten(-2, (self.spec.num_tokens, self.joined)).transpose(-1, -2).flatten(-2)

    def decode(self, ids: Tensor) -> Tensor:
        return ids.unflatten(-1, (self.num_channels, self.joined)).transpose(-1, -2).flatten(-3, -2)

    def features(self, ids: Tensor) -> Tensor:
        return ids


def _joined_grid(spec: KeySpec, joined: int) -> tuple[int, int]:
    """(rows, columns) of tokens that hold ``joined`` cells each: parts of a row, or several whole rows."""
    assert spec.grid is not None
    rows, columns = spec.grid
    if columns % joined == 0:
        return rows, columns // joined
    if joined % columns == 0 and rows % (joined // columns) == 0:
        return rows // (joined // columns), 1
    raise ConfigError(
        f"cells_per_token {joined} does not cut the {rows} rows and {columns} columns of key '{spec.key}' evenly: "
        f"choose a divisor of {columns}, or {columns} times a divisor of {rows} (1 and 0, the whole grid, always work)."
    )
