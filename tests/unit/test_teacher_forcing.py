"""Block teacher forcing: its formulas, what it predicts before it has learned anything, and what summaries read."""

from __future__ import annotations

from typing import Any, cast

import pytest
import torch
from torch import Tensor

from worldstream.nn.attention import BlockAttention
from worldstream.nn.retention import BlockRetention, decay_rates
from worldstream.nn.rotary import rotary_frequencies, rotary_phases, rotate
from worldstream.specs import ActionComponent, ActionSpec, TokenSpec
from worldstream.world_model import SEQUENCE_MODELS
from worldstream.world_model.block import SUMMARY, BlockLayout
from worldstream.world_model.sequence.attention import AttentionStack
from worldstream.world_model.sequence.attention_btf import AttentionBTFConfig
from worldstream.world_model.sequence.base import SequenceConfig
from worldstream.world_model.sequence.readout import Readout, SummaryOfBlock
from worldstream.world_model.sequence.retention import RetentionStack
from worldstream.world_model.sequence.retention_btf import RetentionBTFConfig
from worldstream.world_model.sequence.teacher_forcing import BlockTeacherForcing

BATCH, BLOCKS, WIDTH, HEADS = 2, 5, 16, 2
HEAD_WIDTH = WIDTH // HEADS
LAYOUT = BlockLayout(
    {
        "cells": TokenSpec(num_tokens=4, vocabulary=(5,), grid=(2, 2)),
        "levels": TokenSpec(num_tokens=2, vocabulary=(9,)),
    },
    ActionSpec(
        components=(ActionComponent(path="action", kind="discrete", sizes=(3, 3), shape=(2,), dtype="int64"),),
        structure="action",
    ),
)
LENGTH, PREDICTIONS = LAYOUT.length, LAYOUT.num_observation_tokens

every_kind = pytest.mark.parametrize("kind", ["attention_btf", "retention_btf"])


def make(kind: str, **options: Any) -> BlockTeacherForcing[Any]:
    torch.manual_seed(0)
    config: SequenceConfig = SEQUENCE_MODELS[kind](num_layers=2, width=WIDTH, num_heads=HEADS, **options)
    return cast(BlockTeacherForcing[Any], config.build(LAYOUT, max_blocks=8).eval())


def random_blocks() -> Tensor:
    return torch.randn(BATCH, BLOCKS, LENGTH, WIDTH, generator=torch.Generator().manual_seed(1))


def run(model: BlockTeacherForcing[Any], blocks: Tensor) -> tuple[Tensor, Tensor]:
    context, predictions, _ = model.parallel(blocks, model.init_state(BATCH))
    return context, predictions


# Formulas.


@every_kind
@torch.no_grad()
def test_predictions_are_outputs_of_the_block_before(kind: str) -> None:
    model = make(kind, summary="last")
    context, predictions = run(model, random_blocks())
    assert torch.equal(predictions[:, 1:], context[:, :-1, :PREDICTIONS])
    assert torch.equal(predictions[:, 0], model.first.expand(BATCH, -1, -1))


@torch.no_grad()
def test_attention_sees_whole_blocks() -> None:
    stack = cast(AttentionStack, make("attention_btf").stack)
    attention = cast(BlockAttention, stack.layers[0].attention)
    x = random_blocks()
    cos, sin = stack.phases[:, :BLOCKS]
    chunks = stack.masks.chunks(0, BLOCKS, None, None)
    result, _ = attention.parallel(x, (cos, sin), torch.zeros(2, BATCH, HEADS, 0, HEAD_WIDTH), chunks)
    q, k, v = (p.unflatten(-1, (HEADS, -1)).transpose(1, 2) for p in attention.qkv(x.flatten(1, 2)).chunk(3, -1))
    phases = rotary_phases(torch.arange(BLOCKS * LENGTH), rotary_frequencies(HEAD_WIDTH // 2))
    scores = rotate(q, phases, "half") @ rotate(k, phases, "half").mT / HEAD_WIDTH**0.5
    block = torch.arange(BLOCKS * LENGTH) // LENGTH
    weights = scores.masked_fill(block[:, None] < block, -torch.inf).softmax(-1)
    expected = attention.out((weights @ v).transpose(1, 2).flatten(2)).unflatten(1, (BLOCKS, LENGTH))
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-5)


@torch.no_grad()
def test_retention_fades_from_block_to_block() -> None:
    """The weight of key k for query q is g^(L (b_q - b_k)), 1 inside of a block."""
    rates = decay_rates(HEADS, LENGTH, (1.0, 4.0))
    layer = BlockRetention(WIDTH, rates, block_length=LENGTH, num_predictions=0, full=True, dropout=0.0).eval()
    x = random_blocks()
    phases = rotary_phases(torch.arange(BLOCKS * LENGTH), rotary_frequencies(HEAD_WIDTH // 2))
    by_block = tuple(part.unflatten(0, (BLOCKS, 1, LENGTH)) for part in phases)
    result, _ = layer.parallel(x, (by_block[0], by_block[1]), torch.zeros(BATCH, HEADS, HEAD_WIDTH, HEAD_WIDTH))
    q, k, v, gate = layer.qkvg(x.flatten(1, 2)).chunk(4, -1)
    q, k, v = (part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in (q, k, v))
    block = torch.arange(BLOCKS * LENGTH) // LENGTH
    lag = block[:, None] - block
    decay = torch.where(lag >= 0, rates.float()[:, None, None] ** (LENGTH * lag.clamp(min=0)), 0.0)
    retained = (rotate(q, phases) @ rotate(k, phases).mT / HEAD_WIDTH**0.5 * decay) @ v
    retained = torch.nn.functional.layer_norm(retained, (HEAD_WIDTH,), eps=1e-6).transpose(1, 2).flatten(2)
    expected = layer.out(torch.nn.functional.silu(gate) * retained).unflatten(1, (BLOCKS, LENGTH))
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-5)


@every_kind
@torch.no_grad()
def test_the_order_inside_of_a_block_does_not_matter(kind: str) -> None:
    """Tokens that change places together with their positions give the same outputs, in the other places."""
    model, order = make(kind, summary="last"), torch.tensor([5, 2, 7, 0, 1, 6, 4, 3])
    blocks = random_blocks()
    context, _ = run(model, blocks)
    if isinstance(model.stack, AttentionStack):
        model.stack.phases = model.stack.phases[:, :, order]
    else:
        model.stack.parallel_age = cast(RetentionStack, model.stack).parallel_age[order]
    torch.testing.assert_close(run(model, blocks[:, :, order])[0], context[:, :, order], rtol=0, atol=1e-5)


@every_kind
@torch.no_grad()
def test_without_residual_branches_nothing_changes(kind: str) -> None:
    """With a head that is tied to the embeddings every token is then predicted to be what it was."""
    model, table = make(kind), torch.randn(9, WIDTH)
    for name, parameter in model.stack.named_parameters():
        if name.rpartition(".")[0].endswith((".out", ".down")):
            parameter.zero_()
    ids = torch.randint(9, (BATCH, BLOCKS, LENGTH))
    predictions = run(model, table[ids])[1][:, 1:, :PREDICTIONS]
    assert torch.equal((predictions @ table.mT).argmax(-1), (table[ids] @ table.mT).argmax(-1)[:, :-1, :PREDICTIONS])
    assert torch.equal(predictions, table[ids][:, :-1, :PREDICTIONS])


# Summaries.


@every_kind
@torch.no_grad()
def test_the_action_is_the_summary(kind: str) -> None:
    assert SEQUENCE_MODELS[kind]().summary == "action"
    context, predictions = run(make(kind), random_blocks())
    assert predictions.shape[2] == PREDICTIONS + 1
    assert torch.equal(predictions[:, 1:, LAYOUT.positions(SUMMARY)], context[:, :-1, -1:])


@pytest.mark.parametrize("kind", SEQUENCE_MODELS)
def test_a_summary_of_all_reads_every_position(kind: str) -> None:
    torch.manual_seed(0)
    model = SEQUENCE_MODELS[kind](num_layers=1, width=WIDTH, num_heads=HEADS, summary="all").build(LAYOUT, max_blocks=8)
    positions = LENGTH if kind.endswith("btf") else PREDICTIONS
    latents = torch.randn(3, positions, WIDTH, requires_grad=True)
    predictions = model.readout(latents)
    assert torch.equal(predictions[:, :PREDICTIONS], latents[:, :PREDICTIONS])
    predictions[:, LAYOUT.positions(SUMMARY)].sum().backward()
    assert latents.grad is not None and (latents.grad.abs().amax(-1) > 0).all()


def loss_after_learning(summary: SummaryOfBlock, slot: int) -> float:
    """Mean squared error of a linear reading, after 150 updates, of a number that one slot says."""
    torch.manual_seed(0)
    readout = Readout(AttentionBTFConfig(width=WIDTH), LAYOUT, num_positions=LENGTH, summary=summary)
    head = torch.nn.Linear(WIDTH, 1)
    optimizer = torch.optim.Adam([*readout.parameters(), *head.parameters()], lr=0.01)
    for _ in range(150):
        latents = torch.randn(64, LENGTH, WIDTH)
        loss = (head(readout(latents)[:, -1]).squeeze(-1) - latents[:, slot, 0]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return loss.item()


def test_what_the_first_slot_says_is_learned_like_what_the_last_says() -> None:
    first, last = (loss_after_learning("all", slot) for slot in (0, PREDICTIONS - 1))
    assert max(first, last) < 0.1
    assert loss_after_learning("last", 0) > 0.5 > loss_after_learning("last", PREDICTIONS - 1)


def test_a_summary_adds_no_parameters_unless_it_is_of_all() -> None:
    for config in (AttentionBTFConfig, RetentionBTFConfig):
        for summary, adds in (("last", False), ("action", False), ("all", True)):
            readout = Readout(config(), LAYOUT, num_positions=LENGTH, summary=cast(SummaryOfBlock, summary))
            assert bool(list(readout.parameters())) == adds
