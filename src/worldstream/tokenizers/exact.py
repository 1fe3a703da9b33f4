"""Exact tokens for pictures of few colours: every cell is looked up among those seen, nothing is learned.

Two tokenizers are one: a token is a patch of the picture, cut into cells, and each cell is a channel whose id is its
number in a table of cells in the order in which they first appeared. With one cell a patch the table is a codebook of
patches (the nearest-neighbour tokenizer of Dedieu et al. 2025, arXiv 2502.01591, without a threshold); with one cell a
pixel it is a palette. Rows are only ever appended, so an id never changes its meaning, and what was coded stays valid.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Annotated, ClassVar, final

import torch
from torch import Tensor, nn

from worldstream.errors import ConfigError
from worldstream.options import Between
from worldstream.specs import KeySpec, TokenSpec
from worldstream.tokenizers import TOKENIZERS
from worldstream.tokenizers.base import Tokenizer, TokenizerOptions

UNUSED = torch.iinfo(torch.int64).max
"""In place of the hash of a row that is not taken."""
COMPARED_TOGETHER = 1024
"""Rows whose distances to all others are computed at once."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ExactOptions(TokenizerOptions):
    """What the exact tokenizers share."""

    patch_size: tuple[Annotated[int, Between(1)], Annotated[int, Between(1)]] = (8, 8)
    """Height and width of a token, in pixels; they divide those of the pictures."""
    spare: ClassVar[int]
    """How many times what random play fills the table should hold."""

    @classmethod
    def reads(cls, spec: KeySpec) -> bool:
        return spec.dtype == "uint8" and len(spec.shape) == 3 and not spec.vocabulary

    @property
    @abstractmethod
    def capacity(self) -> int:
        """Most cells that are told apart."""

    @property
    @abstractmethod
    def cell(self) -> tuple[int, int]:
        """Height and width of a cell, in pixels."""

    def make(self, spec: KeySpec) -> ExactTokenizer:
        return ExactTokenizer(spec, self)


@dataclass(frozen=True, kw_only=True, slots=True)
class ImagePatchesConfig(ExactOptions):
    """One id a token: the number of its patch among all that were seen."""

    codes: Annotated[int, Between(2, 65_536)] = 2048
    """Most patches that are told apart; later ones become the nearest. Four times the number that random play shows
    leaves room for what only skilled play does."""
    spare: ClassVar[int] = 2

    @property
    def capacity(self) -> int:
        return self.codes

    @property
    def cell(self) -> tuple[int, int]:
        return self.patch_size


@dataclass(frozen=True, kw_only=True, slots=True)
class ImagePaletteConfig(ExactOptions):
    """One id a pixel: the number of its colour among all that were seen."""

    colours: Annotated[int, Between(2, 256)] = 16
    """Most colours that are told apart; later ones become the nearest."""
    spare: ClassVar[int] = 1

    @property
    def capacity(self) -> int:
        return self.colours

    @property
    def cell(self) -> tuple[int, int]:
        return 1, 1


class GrowingTable(nn.Module):
    """Up to ``capacity`` different rows of ``width`` bytes, in the order in which they came; the first is all zeros.

    Rows are found by a hash and then compared. It is linear modulo 2^64 with random odd coefficients: that two of some
    thousand rows share one is less likely than 1e-9, and would cost an id, not the right answer.
    """

    rows: Tensor
    size: Tensor
    _coefficients: Tensor
    _hashes: Tensor
    _order: Tensor

    def __init__(self, capacity: int, width: int) -> None:
        super().__init__()
        self.register_buffer("rows", torch.zeros(capacity, width, dtype=torch.uint8))
        self.register_buffer("size", torch.ones((), dtype=torch.int64))
        generator = torch.Generator().manual_seed(0)
        coefficients = torch.randint(-(2**62), 2**62, (width,), generator=generator)
        self.register_buffer("_coefficients", 2 * coefficients + 1, persistent=False)
        self.register_buffer("_hashes", torch.full((capacity,), UNUSED), persistent=False)
        self.register_buffer("_order", torch.arange(capacity), persistent=False)
        self.register_load_state_dict_post_hook(lambda module, _: module._sort())
        self._sort()

    def find(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """(N, width) -> ids (N,), and whether they are exact (N,); the others mean nothing."""
        place = torch.searchsorted(self._hashes, self._hash(rows)).clamp(max=len(self._hashes) - 1)
        ids = self._order[place]
        return ids, (ids < self.size) & (self.rows[ids] == rows).all(-1)

    def nearest(self, rows: Tensor) -> Tensor:
        """(N, width) -> ids (N,) of the rows with the smallest squared distance, the oldest of equally near ones."""
        ids, exact = self.find(rows)
        if not exact.all():
            missed, place = rows[~exact].unique(dim=0, return_inverse=True)
            known = self.rows[: self.size].double()  # sums of squares of bytes are exact in double precision
            closest = [
                (known.square().sum(-1) - 2 * part.double() @ known.t()).argmin(-1)
                for part in missed.split(COMPARED_TOGETHER)
            ]
            ids[~exact] = torch.cat(closest)[place]
        return ids

    def append(self, rows: Tensor) -> Tensor:
        """Add those of (N, width) that are new, while there is room. Returns () how many of all N found none."""
        _, exact = self.find(rows)
        missed = rows[~exact]
        room = len(self.rows) - self.size
        if len(missed) and room:
            different, place = missed.unique(dim=0, return_inverse=True)
            seen = torch.arange(len(missed), device=missed.device)
            first = torch.full_like(seen[: len(different)], len(missed)).scatter_reduce(0, place, seen, "amin")
            new = missed[first.sort().values[:room]]
            self.rows[self.size : self.size + len(new)] = new
            self.size += len(new)
            self._sort()
        return (~self.find(missed)[1]).sum()

    def _hash(self, rows: Tensor) -> Tensor:
        return (rows.long() * self._coefficients).sum(-1)

    def _sort(self) -> None:
        taken = torch.arange(len(self.rows), device=self.rows.device) < self.size
        hashes, order = self._hash(self.rows).where(taken, UNUSED).sort(stable=True)
        self._hashes.copy_(hashes)
        self._order.copy_(order)


@final
class ExactTokenizer(Tokenizer):
    """A grid of patches, whose channels are the ids of their cells; the agent and the world model read their pixels.

    Raises ConfigError when the patches do not divide the pictures.
    """

    growing = True
    seen: Tensor
    """() cells that ``grow`` was shown."""
    inexact: Tensor
    """() how many of these were neither in the table nor found room in it."""

    def __init__(self, spec: KeySpec, config: ExactOptions) -> None:
        super().__init__()
        (height, width, self.num_colours), (rows, columns) = spec.shape, config.patch_size
        if height % rows or width % columns:
            raise ConfigError(
                f"key '{spec.key}': patches of {rows} x {columns} pixels do not divide pictures of {height} x {width}. "
                "Choose others (--tokenizers.by-modality.image.patch-size HEIGHT WIDTH), or pictures of another size "
                f"(--modality {spec.key}=image:H,W)."
            )
        self.key, self.config = spec.key, config
        self.grid, self.cell = (height // rows, width // columns), config.cell
        self.cells = rows // self.cell[0], columns // self.cell[1]
        num_cells, num_bytes = self.cells[0] * self.cells[1], self.cell[0] * self.cell[1] * self.num_colours
        self.spec = TokenSpec(
            num_tokens=self.grid[0] * self.grid[1],
            vocabulary=(config.capacity,) * num_cells,
            grid=self.grid,
            feature_size=num_cells * num_bytes,
            coded=True,
        )
        self.table = GrowingTable(config.capacity, num_bytes)
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        self.register_buffer("inexact", torch.zeros((), dtype=torch.int64))

    @property
    def closes(self) -> bool:
        """Whether the table holds all that was seen, and what more may be expected."""
        return bool((self.config.spare * self.table.size <= self.config.capacity) & (self.inexact == 0))

    def verdict(self) -> str:
        if self.closes:
            return ""
        name = TOKENIZERS.name_of(type(self.config))
        return (
            f"key '{self.key}': {int(self.table.size)} of {self.config.capacity} codes of '{name}' are taken, and "
            f"{float(self.statistics()['inexact']):.2%} of what was looked up found no room. Skilled play shows more: "
            "`worldstream tokens` says what would suit."
        )

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        ids = self.table.nearest(self._cut(x).flatten(0, -2))
        return ids.reshape(*x.shape[:-3], self.spec.num_tokens, self.spec.num_channels)

    @torch.no_grad()
    def decode(self, ids: Tensor) -> Tensor:
        cells = self.table.rows[ids].reshape(-1, *self.grid, *self.cells, *self.cell, self.num_colours)
        pictures = cells.permute(0, 1, 3, 5, 2, 4, 6, 7).flatten(4, 6).flatten(1, 3).movedim(-1, 1)
        return pictures.reshape(*ids.shape[:-2], *pictures.shape[1:])

    @torch.no_grad()
    def features(self, ids: Tensor) -> Tensor:
        return self.table.rows[ids].flatten(-2).float() / 127.5 - 1.0

    @torch.no_grad()
    def grow(self, x: Tensor) -> None:
        cells = self._cut(x).flatten(0, -2)
        self.inexact += self.table.append(cells)
        self.seen += len(cells)

    def statistics(self) -> dict[str, Tensor]:
        return {"codes": self.table.size.float(), "inexact": self.inexact / self.seen.clamp(min=1)}

    def _cut(self, x: Tensor) -> Tensor:
        """Pictures (..., c, h, w) -> cells (N, K, C, bytes)."""
        (rows, columns), (down, right), (height, width) = self.grid, self.cells, self.cell
        pictures = x.reshape(-1, *x.shape[-3:]).movedim(1, -1)
        cells = pictures.reshape(-1, rows, down, height, columns, right, width, self.num_colours)
        cut = cells.permute(0, 1, 4, 2, 5, 3, 6, 7)
        return cut.reshape(len(pictures), self.spec.num_tokens, self.spec.num_channels, -1)
