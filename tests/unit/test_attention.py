"""Block attention against a dense reference, its cache, its limits, and where tokens stand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from worldstream.errors import ConfigError
from worldstream.nn import attention as nn_attention
from worldstream.nn.attention import BlockMasks
from worldstream.nn.rotary import axial_frequencies, rotary_frequencies, rotary_phases, rotate
from worldstream.options import check
from worldstream.specs import ActionComponent, ActionSpec, TokenSpec
from worldstream.world_model.block import BlockLayout
from worldstream.world_model.sequence.attention import AttentionConfig, AttentionModel
from worldstream.world_model.sequence.base import SequenceConfig
from worldstream.world_model.sequence.retention import RetentionConfig

BATCH, BLOCKS, WIDTH, HEADS = 2, 6, 16, 2
LAYOUT = BlockLayout(
    {
        "cells": TokenSpec(num_tokens=4, vocabulary=(5,), grid=(2, 2)),
        "levels": TokenSpec(num_tokens=2, vocabulary=(9,)),
    },
    ActionSpec(
        components=(ActionComponent(path="action", kind="discrete", sizes=(3,), shape=(), dtype="int64"),),
        structure="action",
    ),
)
LENGTH, PREDICTIONS = LAYOUT.length, LAYOUT.num_observation_tokens


def make(max_blocks: int = 8, **options: Any) -> AttentionModel:
    torch.manual_seed(0)
    config = AttentionConfig(num_layers=2, width=WIDTH, num_heads=HEADS, **options)
    return AttentionModel(config, LAYOUT, max_blocks=max_blocks).eval()


def random_blocks(num_blocks: int = BLOCKS) -> Tensor:
    return torch.randn(BATCH, num_blocks, LENGTH, WIDTH, generator=torch.Generator().manual_seed(1))


def dense(model: AttentionModel, blocks: Tensor, *, post: bool, full: bool) -> tuple[Tensor, Tensor]:
    """All tokens of one row in one sequence, [context | predictions], with an explicit mask and soft-max."""
    num_blocks = blocks.shape[1]
    x = torch.cat((blocks.flatten(1, 2), model.prediction_tokens.repeat(num_blocks, 1).expand(BATCH, -1, -1)), 1)
    places = [(False, t, i) for t in range(num_blocks) for i in range(LENGTH)]
    places += [(True, t, j) for t in range(num_blocks) for j in range(PREDICTIONS)]

    def sees(q: tuple[bool, int, int], k: tuple[bool, int, int]) -> bool:
        if k[0]:  # a prediction token is seen by those of its own block
            return q[0] and q[1] == k[1] and (full or k[2] <= q[2])
        return k[1] < q[1] or (not q[0] and k[1] == q[1] and k[2] <= q[2])

    mask = torch.tensor([[sees(q, k) for k in places] for q in places])
    position = torch.tensor([t * LENGTH + i for _, t, i in places])
    phases = rotary_phases(position, rotary_frequencies(WIDTH // HEADS // 2))
    for layer in model.layers:

        def attend(y: Tensor, attention: Any = layer.attention) -> Tensor:
            q, k, v = (part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in attention.qkv(y).chunk(3, -1))
            scores = rotate(q, phases, "half") @ rotate(k, phases, "half").mT / math.sqrt(WIDTH // HEADS)
            weights = scores.masked_fill(~mask, -torch.inf).softmax(-1)
            return attention.out((weights @ v).transpose(1, 2).flatten(2))

        def feed(y: Tensor, layer: Any = layer) -> Tensor:
            return layer.down(torch.nn.functional.gelu(layer.up(y)))

        for branch, norm in ((attend, layer.attention_norm), (feed, layer.feed_forward_norm)):
            x = norm(x + branch(x)) if post else x + branch(norm(x))
    context, predictions = x.split((num_blocks * LENGTH, num_blocks * PREDICTIONS), 1)
    return context.unflatten(1, (num_blocks, -1)), predictions.unflatten(1, (num_blocks, -1))


@pytest.mark.parametrize("chunk_tokens", [1, 2 * (LENGTH + PREDICTIONS), 512])
@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize("slots", ["causal", "full"])
@torch.no_grad()
def test_parallel_equals_dense_attention(
    monkeypatch: pytest.MonkeyPatch, chunk_tokens: int, norm: str, slots: str
) -> None:
    monkeypatch.setattr(nn_attention, "CHUNK_TOKENS", chunk_tokens)
    model, blocks = make(norm=norm, slots=slots), random_blocks()
    assert model.masks.chunk_blocks == {1: 1, 26: 2, 512: 8}[chunk_tokens]
    expected = dense(model, blocks, post=norm == "post", full=slots == "full")
    context, predictions, state = model.parallel(blocks, model.init_state(BATCH))
    torch.testing.assert_close(context, expected[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(predictions, expected[1], rtol=0, atol=1e-5)
    following = torch.cat((blocks, blocks[:, :1], torch.zeros_like(blocks[:, :1])), 1)
    last = dense(model, following, post=norm == "post", full=slots == "full")[1][:, -1]
    torch.testing.assert_close(model.step(blocks[:, 0], state)[0], last, rtol=0, atol=1e-5)


@torch.no_grad()
def test_chunks_and_masked_rows_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    mask = torch.arange(BLOCKS) >= torch.tensor([[2], [0]])
    whole = make().parallel(random_blocks(), make().init_state(BATCH), mask)
    monkeypatch.setattr(nn_attention, "CHUNK_TOKENS", 1)
    parts = make().parallel(random_blocks(), make().init_state(BATCH), mask)
    for a, b in zip(whole[:2], parts[:2]):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


def test_a_block_longer_than_a_chunk_is_a_chunk() -> None:
    masks = BlockMasks(400, 300, max_blocks=2)
    assert [(chunk.first, chunk.last) for chunk in masks.chunks(0, 2, None, None)] == [(0, 1), (1, 2)]


@torch.no_grad()
def test_steps_write_into_one_preallocated_cache() -> None:
    model, blocks = make(), random_blocks()
    _, state = model.step(blocks[:, 0], model.init_state(BATCH))
    places = [layer.data_ptr() for layer in state.cache.layers]
    for t in range(1, BLOCKS):
        _, state = model.step(blocks[:, t], state)
        assert [layer.data_ptr() for layer in state.cache.layers] == places
    assert state.cache.layers[0].shape[3] == 8 * LENGTH + PREDICTIONS


@torch.no_grad()
def test_masks_and_phases_are_views_of_constants() -> None:
    model = make()
    constants = {"chunk": model.masks.chunk.data_ptr(), "step": model.masks.step.data_ptr()}
    (chunk,) = model.masks.chunks(2 * LENGTH, 3, None, None)
    step = model.masks.one(2 * LENGTH, None)
    for name, visible in (("chunk", chunk.visible), ("step", step)):
        assert constants[name] <= visible.data_ptr() < constants[name] + getattr(model.masks, name).numel()


def test_gradients_flow_through_steps() -> None:
    model = make()
    stepped, whole = random_blocks().requires_grad_(), random_blocks().requires_grad_()
    state, total = model.init_state(BATCH), torch.zeros(())
    for t in range(BLOCKS - 1):
        latents, state = model.step(stepped[:, t], state)
        total = total + latents.sin().sum()
    total.backward()
    model.parallel(whole, model.init_state(BATCH))[1][:, 1:].sin().sum().backward()
    assert stepped.grad is not None and whole.grad is not None
    torch.testing.assert_close(stepped.grad, whole.grad, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_more_blocks_than_configured_are_refused() -> None:
    model = make(max_blocks=3)
    state = model.parallel(random_blocks(2), model.init_state(BATCH))[2]
    last, state = model.step(random_blocks()[:, 2], state)
    assert last.isfinite().all()
    with pytest.raises(ConfigError, match=r"remember 4 blocks; it has room for 3 .*imagination\.horizon.*retention"):
        model.step(random_blocks()[:, 0], state)
    with pytest.raises(ConfigError, match="remember 4 blocks"):
        model.parallel(random_blocks(4), model.init_state(BATCH))


# Where tokens stand.


def test_coordinates_of_a_block() -> None:
    cells, levels, action = [(0, 0), (0, 1), (1, 0), (1, 1)], [(2, 2), (3, 3)], [(4, 4)]
    assert LAYOUT.coordinates() == cells + levels + action


def test_grid_positions_make_neighbours_alike() -> None:
    """A product of query and key depends on the distance in blocks, rows and columns only."""
    frequencies = axial_frequencies(6, 3)
    q, k = torch.randn(2, 12)

    def product(a: tuple[int, ...], b: tuple[int, ...]) -> Tensor:
        phases = [rotary_phases(torch.tensor(place), frequencies) for place in (a, b)]
        return rotate(q, phases[0], "half") @ rotate(k, phases[1], "half")

    torch.testing.assert_close(product((0, 1, 5), (0, 2, 3)), product((7, 3, 6), (7, 4, 4)), rtol=0, atol=1e-4)
    for axis in range(3):
        moved = tuple(5 * (i == axis) for i in range(3))
        assert (product((0, 0, 0), moved) - product((0, 0, 0), (0, 0, 0))).abs() > 1e-3


def test_axes_share_the_pairs() -> None:
    frequencies = axial_frequencies(8, 3)
    assert (frequencies > 0).sum(1).tolist() == [4, 2, 2]
    assert ((frequencies > 0).sum(0) == 1).all()
    with pytest.raises(ValueError, match="2 pairs"):
        axial_frequencies(2, 3)


def test_published_frequencies() -> None:
    assert rotary_frequencies(32)[:3].tolist() == pytest.approx([1, 0.7499, 0.5623], abs=1e-4)


def test_pairings_differ_by_a_permutation_only() -> None:
    x, phases = torch.randn(5, 8), rotary_phases(torch.arange(5), rotary_frequencies(4))
    order = torch.arange(8).reshape(2, 4).t().flatten()  # half -> interleaved
    torch.testing.assert_close(rotate(x[:, order], phases, "interleaved"), rotate(x, phases, "half")[:, order])


def test_grid_positions_need_three_pairs() -> None:
    config = AttentionConfig(width=16, num_heads=4, positions="grid")
    with pytest.raises(ConfigError, match="heads of at least 6 features"):
        AttentionModel(config, LAYOUT, max_blocks=2)


def test_unknown_options_are_refused() -> None:
    with pytest.raises(ConfigError, match="slots must be one of causal, full, not some"):
        check(AttentionConfig(slots="some"))  # type: ignore[arg-type]


@pytest.mark.parametrize("options", [RetentionConfig, AttentionConfig])
@pytest.mark.parametrize(("width", "num_heads"), [(16, 3), (12, 4), (20, 8)])
def test_heads_must_have_an_even_width(options: type[SequenceConfig], width: int, num_heads: int) -> None:
    with pytest.raises(ConfigError, match=f"width {width}"):
        options(width=width, num_heads=num_heads).build(LAYOUT, max_blocks=8)
