"""Both sequence models over a whole segment at once: all context tokens, then the prediction tokens of every block.

Who sees whom is one matrix, and so are the scores: the cost is quadratic, and nothing can get lost on the way.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from parity.reference.names import MODEL, SEQUENCE

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Tokens:
    """Places of the T * L context tokens and, behind them, of the T * n prediction tokens."""

    predicts: Tensor  # (N,) bool
    block: Tensor  # (N,)
    slot: Tensor  # (N,) within the block: a prediction token is where the token is that it predicts
    place: Tensor  # (N,) within the segment

    @staticmethod
    def of(num_blocks: int, length: int, predictions: int) -> Tokens:
        blocks = torch.arange(num_blocks)
        block = torch.cat((blocks.repeat_interleave(length), blocks.repeat_interleave(predictions)))
        slot = torch.cat((torch.arange(length).repeat(num_blocks), torch.arange(predictions).repeat(num_blocks)))
        predicts = torch.arange(len(block)) >= num_blocks * length
        return Tokens(predicts, block, slot, block * length + slot)

    def visible(self, *, full: bool) -> Tensor:
        """(N, N) bool, whether the first sees the second; ``full``: predictions of a block all see each other."""
        of_context = ~self.predicts[None]
        context = of_context & (self.place[None] <= self.place[:, None])
        before = of_context & (self.block[None] < self.block[:, None])
        own = self.predicts[None] & (self.block[None] == self.block[:, None])
        own = own & ((self.slot[None] <= self.slot[:, None]) | full)
        return torch.where(self.predicts[:, None], before | own, context)


def sequence_model(
    blocks: Tensor, weights: Weights, settings: dict[str, Any], predictions: int
) -> tuple[Tensor, Tensor]:
    """blocks (B, T, L, E) -> context (B, T, L, E), predictions (B, T, n, E)."""
    num_blocks, length = blocks.shape[1:3]
    tokens = Tokens.of(num_blocks, length, predictions)
    attention = f"{SEQUENCE}pred_tokens" in weights
    own = weights[f"{SEQUENCE}pred_tokens"] if attention else weights[f"{MODEL}placeholder_embeddings.weight"]
    x = torch.cat((blocks.flatten(1, 2), own[:predictions].repeat(num_blocks, 1).expand(len(blocks), -1, -1)), 1)
    layer = 0
    while f"{SEQUENCE}layers.{layer}.norm1.weight" in weights:
        of_layer = {
            name.removeprefix(f"{SEQUENCE}layers.{layer}."): tensor
            for name, tensor in weights.items()
            if name.startswith(f"{SEQUENCE}layers.{layer}.")
        }
        if attention:
            x = _attention_layer(x, of_layer, tokens, weights[f"{SEQUENCE}rotary_emb.inv_freq"], settings)
        else:
            x = _retention_layer(x, of_layer, tokens, length, settings)
        layer += 1
    context, predicted = x.split((num_blocks * length, num_blocks * predictions), 1)
    return context.unflatten(1, (num_blocks, -1)), predicted.unflatten(1, (num_blocks, -1))


def _attention_layer(
    x: Tensor, weights: Weights, tokens: Tokens, frequencies: Tensor, settings: dict[str, Any]
) -> Tensor:
    """LN(x + Att x), LN(x + W2 gelu(W1 x)); feature i turns together with i + d/2."""
    head_width = 2 * len(frequencies)
    angle = _angles(tokens.place, frequencies)
    full = settings["world_model"]["transformer"]["pred_self_mask"] == "full"

    def rotated(y: Tensor) -> Tensor:
        a, b = y.chunk(2, -1)
        return torch.cat((a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()), -1)

    q, k, v = (_heads(x @ weights[f"self_attn.{part}_proj.weight"].mT, head_width) for part in "qkv")
    scores = (rotated(q) @ rotated(k).mT) / math.sqrt(head_width)
    seen = scores.masked_fill(~tokens.visible(full=full), -math.inf).softmax(-1) @ v
    x = _norm(x + seen.transpose(1, 2).flatten(2) @ weights["self_attn.out_proj.weight"].mT, weights, "norm1", 1e-5)
    return _norm(x + _linear(F.gelu(_linear(x, weights, "ff.0")), weights, "ff.2"), weights, "norm2", 1e-5)


def _retention_layer(x: Tensor, weights: Weights, tokens: Tokens, length: int, settings: dict[str, Any]) -> Tensor:
    """x + Ret(LN x), x + W2 silu(W1 LN x); feature 2i turns together with 2i + 1, and what is seen decays with age."""
    thetas = weights["retention.thetas"]
    head_width, width = len(thetas), x.shape[-1]
    options = settings["world_model"]["retnet"]
    spans = [options[f"decay_scale_{end}_num_blocks"] * length for end in ("min", "max")]
    steps = torch.linspace(math.log(1 / spans[0]), math.log(1 / spans[1]), width // head_width, dtype=x.dtype)
    rates = (1 - steps.exp()).float().to(x.dtype)  # the published rates are single-precision numbers
    lag = (tokens.place[:, None] - tokens.place).clamp(min=0)
    decay = torch.where(tokens.visible(full=False), rates[:, None, None] ** lag, 0.0)
    angle = _angles(tokens.place, thetas[::2])

    def rotated(y: Tensor) -> Tensor:
        a, b = y[..., ::2], y[..., 1::2]
        return torch.stack((a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()), -1).flatten(-2)

    y = _norm(x, weights, "norm1", 1e-6)
    q, k, v = (_heads(_linear(y, weights, f"retention.{part}_proj"), head_width) for part in "qkv")
    retained = ((rotated(q) @ rotated(k).mT) / math.sqrt(head_width) * decay) @ v
    normed = F.layer_norm(retained, (head_width,), eps=1e-6).transpose(1, 2).flatten(2)
    x = x + _linear(F.silu(_linear(y, weights, "retention.g_proj")) * normed, weights, "retention.out_proj")
    hidden = F.silu(_linear(_norm(x, weights, "norm2", 1e-6), weights, "linear1"))
    return x + _linear(hidden, weights, "linear2")


def _angles(place: Tensor, frequencies: Tensor) -> Tensor:
    """(N, d / 2); like the decay rates, the published ones are single-precision numbers."""
    return (place[:, None] * frequencies.float()).to(frequencies.dtype)


def _heads(x: Tensor, head_width: int) -> Tensor:
    """(B, N, E) -> (B, H, N, d)."""
    return x.unflatten(-1, (-1, head_width)).transpose(1, 2)


def _linear(x: Tensor, weights: Weights, name: str) -> Tensor:
    return F.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])


def _norm(x: Tensor, weights: Weights, name: str, eps: float) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"], eps)
