"""Block retention: the retention layer of RetNet (Sun et al. 2023) in the form that a stream of blocks needs.

A block holds L context tokens and n *prediction* tokens that stand for the next thing to be predicted::

    block t:   | o_1 ... o_n  a_1 ... a_m |  u_1 ... u_n |
               '---------- L -------------' '---- n -----'

Context tokens retain each other and the memory S of all earlier blocks; prediction tokens retain each other and a
memory, but never enter it (docs/method.md, "parallel observation prediction"). With decay g per token, keys scaled by
1/sqrt(d) and rotary phases, one head computes::

    r_j = sum_{i<=j} g^(j-i) (q_j . k_i) v_i  +  g^j q_j S          S' = g^L S + sum_j g^(L-j) k_j' v_j

Where the order of the tokens in a block shall not matter (block teacher forcing, n = 0), all of them are as old as the
last one, so that memory fades from block to block only::

    r_j = sum_i (q_j . k_i) v_i  +  g^L q_j S                       S' = g^L S + sum_j k_j' v_j

Everything inside of a block is a small masked product, and the memories at the block borders follow from one H x T x T
decay matrix: no loop over tokens or blocks, and gradients flow through all of it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from worldstream.nn.rotary import Phases, rotate


def decay_rates(num_heads: int, block_length: int, decay_blocks: tuple[float, float]) -> Tensor:
    """(H,) decay per token: memory spans 1/(1-g) run geometrically between the two limits, given in blocks.

    In double precision, for powers of them, but rounded to single as the published ones are: over hundreds of tokens
    the difference adds up to 1e-5.
    """
    limits = torch.tensor([1.0 / (limit * block_length) for limit in decay_blocks], dtype=torch.float64, device="cpu")
    low, high = limits.log().tolist()
    rates = 1.0 - torch.linspace(low, high, num_heads, dtype=torch.float64).exp()
    return rates.float().double()


class BlockRetention(nn.Module):
    """Multi-head retention over blocks of L context tokens followed by n prediction tokens; d = E / H must be even.

    ``rates`` (H,) are the decays per token; with ``full`` all context tokens of a block retain each other alike.
    Dropout acts on the retained values, before their normalisation.
    """

    mask: Tensor
    incoming: Tensor
    outgoing: Tensor
    rates: Tensor

    def __init__(
        self,
        width: int,
        rates: Tensor,
        *,
        block_length: int,
        num_predictions: int,
        full: bool = False,
        dropout: float,
    ) -> None:
        super().__init__()
        self.num_heads, self.head_width = len(rates), width // len(rates)
        self.block_length = block_length
        self.dropout = nn.Dropout(dropout)
        self.qkvg = nn.Linear(width, 4 * width)
        self.out = nn.Linear(width, width)
        context_age = torch.full((block_length,), block_length - 1) if full else torch.arange(block_length)
        age = torch.cat((context_age, torch.arange(num_predictions)))
        stream = torch.cat((torch.zeros(block_length), torch.ones(num_predictions)))
        lag = age[:, None] - age[None, :]
        visible = (lag >= 0) & (stream[:, None] == stream[None, :])
        powers = rates[:, None, None] ** lag.clamp(min=0)
        self._constant("mask", torch.where(visible, powers, 0.0))  # (H, L+n, L+n)
        self._constant("incoming", (rates[:, None] ** (age + 1)).unsqueeze(-1))  # (H, L+n, 1)
        self._constant("outgoing", (rates[:, None] ** (block_length - 1 - context_age)).unsqueeze(-1))
        self._constant("rates", rates**block_length)  # (H,) decay of one block
        for linear in (self.qkvg, self.out):
            nn.init.normal_(linear.weight, std=width**-0.5)  # Xavier for each of the E x E maps that qkvg fuses
            nn.init.zeros_(linear.bias)

    def _constant(self, name: str, value: Tensor) -> None:
        self.register_buffer(name, value.float(), persistent=False)

    def _heads(self, x: Tensor, phases: Phases) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Project x (..., N, E) to q, k, v of (..., H, N, d) and gate (..., N, E)."""
        width = x.shape[-1]
        qkv, gate = self.qkvg(x).split((3 * width, width), -1)
        qkv = qkv.unflatten(-1, (3 * self.num_heads, self.head_width)).transpose(-2, -3)
        qk, v = qkv.split((2 * self.num_heads, self.num_heads), -3)
        q, k = rotate(qk, phases).chunk(2, -3)
        return q, k * self.head_width**-0.5, v, gate

    def _merge(self, retained: Tensor, gate: Tensor) -> Tensor:
        """(..., H, N, d) -> (..., N, E): normalise per head and token, gate, project."""
        retained = nn.functional.layer_norm(self.dropout(retained), (self.head_width,), eps=1e-6)
        return self.out(nn.functional.silu(gate) * retained.transpose(-2, -3).flatten(-2))

    def _written(self, k: Tensor, v: Tensor) -> Tensor:
        """What the context tokens of a block add to the memory: (..., H, d, d)."""
        length = self.block_length
        return (k[..., :length, :] * self.outgoing).transpose(-1, -2) @ v[..., :length, :]

    def parallel(self, x: Tensor, phases: Phases, memory: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """All blocks at once; the prediction tokens of block t see the memory *before* block t.

        Args:
            x: (B, T, L + n, E), or the context tokens alone: (B, T, L, E).
            phases: cos, sin of (T, 1, L + n, d/2), or of the context tokens alone.
            memory: (B, H, d, d) before the first block.
            mask: (B, T) bool; blocks where it is false are not written to the memory. None: all are.

        Returns what x becomes, and the memory after the last block.
        """
        num_tokens = x.shape[2]
        q, k, v, gate = self._heads(x, phases)
        written = self._written(k, v)  # (B, T, H, d, d)
        if mask is not None:
            written = written * mask[:, :, None, None, None]
        num_blocks = x.shape[1]
        age = torch.arange(num_blocks + 1, device=x.device)
        lag = age[:, None] - 1 - age[None, :-1]  # blocks between the one written and the one that reads
        across = torch.where(lag >= 0, self.rates[:, None, None] ** lag.clamp(min=0), 0.0)  # (H, T+1, T)
        with torch.autocast(x.device.type, enabled=False):  # a memory sums up many blocks
            memories = torch.einsum("hts,bshij->bthij", across, written.float())
        memories = memories + (self.rates[None, :] ** age[:, None])[:, :, None, None] * memory.unsqueeze(1)
        within = (q @ k.transpose(-1, -2)) * self.mask[:, :num_tokens, :num_tokens]
        retained = within @ v + (q * self.incoming[:, :num_tokens]) @ memories[:, :-1]
        return self._merge(retained, gate), memories[:, -1]

    def step(self, x: Tensor, phases: Phases, memory: Tensor) -> tuple[Tensor, Tensor]:
        """One block, fused with the prediction of the next: its prediction tokens see the memory *after* the block.

        x is (B, L + n, E), phases are cos, sin of (1, L + n, d/2). Returns what x becomes, and the memory (B, H, d, d).
        """
        q, k, v, gate = self._heads(x, phases)
        after = self.rates[:, None, None] * memory + self._written(k, v)
        within = (q @ k.transpose(-1, -2)) * self.mask
        queries = q * self.incoming
        length = self.block_length
        past = torch.cat((queries[..., :length, :] @ memory, queries[..., length:, :] @ after), -2)
        return self._merge(within @ v + past, gate), after
