"""Block retention against its formula, token by token; decays and rotary phases against published values."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from worldstream.nn.retention import BlockRetention, decay_rates
from worldstream.nn.rotary import Phases, rotary_frequencies, rotary_phases, rotate

BATCH, BLOCKS, LENGTH, PREDICTIONS, WIDTH, HEADS = 2, 4, 5, 3, 16, 2
HEAD_WIDTH = WIDTH // HEADS
CONTEXT_AGE, PREDICTION_AGE = torch.arange(LENGTH), torch.arange(PREDICTIONS)


def phases_at(position: Tensor, head_width: int) -> Phases:
    return rotary_phases(position, rotary_frequencies(head_width // 2, last_included=True))


@pytest.mark.parametrize(
    ("block_length", "blocks", "per_token", "per_block"),
    [
        (65, (4.0, 16.0), [0.996154, 0.997577, 0.998474, 0.999038], [0.778, 0.854, 0.905, 0.939]),
        (30, (2.0, 2.0), [0.983333] * 3, [0.604] * 3),
        (148, (8.0, 40.0), [0.999155, 0.999506, 0.999711, 0.999831], [0.882, 0.929, 0.958, 0.975]),
    ],
)
def test_decay_rates(block_length: int, blocks: tuple[float, float], per_token: list, per_block: list) -> None:
    rates = decay_rates(len(per_token), block_length, blocks)
    assert rates.tolist() == pytest.approx(per_token, abs=6e-7)
    assert (rates**block_length).tolist() == pytest.approx(per_block, abs=6e-4)
    spans = 1 / (1 - rates) / block_length
    assert spans[[0, -1]].tolist() == pytest.approx(blocks, rel=1e-5)  # rates are of single precision


def test_rotary_frequencies() -> None:
    cos, sin = phases_at(torch.tensor(1), 64)
    theta = torch.atan2(sin, cos)
    assert theta[[0, 1, -1]].tolist() == pytest.approx([1.0, 0.7430, 1e-4], rel=1e-4)
    assert theta.diff().max() < 0


@given(p=st.integers(0, 200), lag=st.integers(0, 200), shift=st.integers(0, 2000))
def test_rotated_products_depend_on_the_distance_only(p: int, lag: int, shift: int) -> None:
    q, k = torch.randn(2, 8)

    def product(first: int, second: int) -> Tensor:
        return rotate(q, phases_at(torch.tensor(first), 8)) @ rotate(k, phases_at(torch.tensor(second), 8))

    torch.testing.assert_close(product(p + shift, p + lag + shift), product(p, p + lag), atol=2e-3, rtol=0)


def test_rotation_turns_adjacent_pairs() -> None:
    x = torch.randn(3, 8)
    phases = phases_at(torch.tensor([0, 1, 7]), 8)
    turned = rotate(x, phases)
    assert torch.equal(turned[0], x[0])
    as_complex, result = (torch.view_as_complex(v.unflatten(-1, (4, 2)).contiguous()) for v in (x, turned))
    torch.testing.assert_close(result, as_complex * torch.complex(*phases))


def make() -> BlockRetention:
    retention = BlockRetention(
        WIDTH,
        decay_rates(HEADS, LENGTH, (1.0, 4.0)),
        block_length=LENGTH,
        num_predictions=PREDICTIONS,
        dropout=0.0,
    )
    torch.nn.init.normal_(retention.qkvg.bias)
    return retention.eval()


def by_recurrence(layer: BlockRetention, x: Tensor, positions: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
    """One stream of tokens (N, E) of one row, one token after the other: S <- g S + k' v, r = q S."""
    rates = decay_rates(HEADS, LENGTH, (1.0, 4.0)).float()
    q, k, v, gate = layer.qkvg(x).chunk(4, -1)
    rows = []
    memory = memory.clone()
    for j, position in enumerate(positions):
        phases = phases_at(position, HEAD_WIDTH)
        retained = []
        for h in range(HEADS):
            own = slice(h * HEAD_WIDTH, (h + 1) * HEAD_WIDTH)
            key = rotate(k[j, own], phases) / HEAD_WIDTH**0.5
            memory[h] = rates[h] * memory[h] + torch.outer(key, v[j, own])
            result = rotate(q[j, own], phases) @ memory[h]
            retained.append((result - result.mean()) / (result.var(correction=0) + 1e-6).sqrt())
        rows.append(layer.out(torch.nn.functional.silu(gate[j]) * torch.cat(retained)))
    return torch.stack(rows), memory


@torch.no_grad()
def test_parallel_equals_the_recurrence() -> None:
    layer = make()
    x = torch.randn(BATCH, BLOCKS, LENGTH + PREDICTIONS, WIDTH)
    memory = torch.randn(BATCH, HEADS, HEAD_WIDTH, HEAD_WIDTH)
    starts = LENGTH * torch.arange(BLOCKS)[:, None]
    ages = starts + torch.cat((CONTEXT_AGE, PREDICTION_AGE))
    out, final = layer.parallel(x, phases_at(ages[:, None], HEAD_WIDTH), memory)
    for row in range(BATCH):
        state = memory[row]
        for t in range(BLOCKS):
            start = t * LENGTH
            predicted, _ = by_recurrence(layer, x[row, t, LENGTH:], start + PREDICTION_AGE, state)
            torch.testing.assert_close(out[row, t, LENGTH:], predicted, rtol=1e-4, atol=1e-5)
            context, state = by_recurrence(layer, x[row, t, :LENGTH], start + CONTEXT_AGE, state)
            torch.testing.assert_close(out[row, t, :LENGTH], context, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(final[row], state, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_step_equals_the_recurrence() -> None:
    layer = make()
    x = torch.randn(BATCH, LENGTH + PREDICTIONS, WIDTH)
    memory = torch.randn(BATCH, HEADS, HEAD_WIDTH, HEAD_WIDTH)
    ages = torch.cat((CONTEXT_AGE, LENGTH + PREDICTION_AGE))
    out, after = layer.step(x, phases_at(ages[None], HEAD_WIDTH), memory)
    for row in range(BATCH):
        context, state = by_recurrence(layer, x[row, :LENGTH], CONTEXT_AGE, memory[row])
        predicted, _ = by_recurrence(layer, x[row, LENGTH:], LENGTH + PREDICTION_AGE, state)
        torch.testing.assert_close(out[row], torch.cat((context, predicted)), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(after[row], state, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_masked_blocks_write_nothing_but_time_goes_on() -> None:
    layer = make()
    x = torch.randn(1, 2, LENGTH + PREDICTIONS, WIDTH)
    memory = torch.randn(1, HEADS, HEAD_WIDTH, HEAD_WIDTH)
    ages = LENGTH * torch.arange(2)[:, None] + torch.cat((CONTEXT_AGE, PREDICTION_AGE))
    _, after = layer.parallel(
        x, phases_at(ages[:, None], HEAD_WIDTH), memory, torch.zeros(1, 2, dtype=torch.bool)
    )  # fmt: skip
    decay = decay_rates(HEADS, LENGTH, (1.0, 4.0)).float() ** (2 * LENGTH)
    torch.testing.assert_close(after, decay[:, None, None] * memory)


def test_fused_projections_start_like_separate_ones() -> None:
    layer = BlockRetention(128, decay_rates(4, 3, (1.0, 2.0)), block_length=3, num_predictions=2, dropout=0.0)
    for part in layer.qkvg.weight.chunk(4):
        assert part.std().item() == pytest.approx((2 / (128 + 128)) ** 0.5, rel=0.05)  # Xavier
    assert not layer.qkvg.bias.any() and not layer.out.bias.any()
