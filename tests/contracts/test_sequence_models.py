"""What every sequence model keeps: one mathematics behind ``parallel``, ``remember`` and ``step``."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from worldstream.specs import ActionComponent, ActionSpec, TokenSpec
from worldstream.world_model import SEQUENCE_MODELS
from worldstream.world_model.block import BlockLayout
from worldstream.world_model.sequence.base import AnySequenceModel

BATCH, BLOCKS, LENGTH, PREDICTIONS, WIDTH = 3, 20, 5, 3, 16
LAYOUT = BlockLayout(
    {"cells": TokenSpec(num_tokens=PREDICTIONS, vocabulary=(9,), grid=(1, 3))},
    ActionSpec(
        components=(ActionComponent(path="action", kind="discrete", sizes=(3, 3), shape=(2,), dtype="int64"),),
        structure="action",
    ),
)
EXACT = {"rtol": 0.0, "atol": 1e-5}

VARIANTS: dict[str, dict[str, Any]] = {
    **{name: {"kind": name} for name in SEQUENCE_MODELS},
    "attention as published": {"kind": "attention", "norm": "post"},
    "attention on a grid": {"kind": "attention", "positions": "grid", "slots": "full"},
    "attention, interleaved": {"kind": "attention", "pairing": "interleaved"},
    "attention, summary of all": {"kind": "attention", "summary": "all"},
    "retention, summary of all": {"kind": "retention", "summary": "all"},
    "attention_btf on a grid, summary last": {"kind": "attention_btf", "positions": "grid", "summary": "last"},
    "attention_btf, summary of all": {"kind": "attention_btf", "summary": "all"},
    "retention_btf, summary of all": {"kind": "retention_btf", "summary": "all"},
}
"""Every model, and the options that change its mathematics."""

pytestmark = pytest.mark.parametrize("name", VARIANTS)


def make(name: str, dropout: float = 0.0, **changes: Any) -> AnySequenceModel:
    torch.manual_seed(0)
    options = {"num_layers": 2, "width": WIDTH, "num_heads": 2, "dropout": dropout, **VARIANTS[name], **changes}
    model: AnySequenceModel = SEQUENCE_MODELS[options.pop("kind")](**options).build(LAYOUT, max_blocks=2 * BLOCKS)
    return model.eval()


def random_blocks(num_blocks: int = BLOCKS, batch: int = BATCH, seed: int = 1) -> Tensor:
    return torch.randn(batch, num_blocks, LENGTH, WIDTH, generator=torch.Generator().manual_seed(seed))


def run(model: AnySequenceModel, blocks: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor, Any]:
    return model.parallel(blocks, model.init_state(len(blocks)), mask)


def predicted(model: AnySequenceModel, state: Any, batch: int = BATCH) -> Tensor:
    """(B, n or n + 1, E) what a model makes of the observation of the block after a state, which no block tells it."""
    return model.parallel(random_blocks(1, batch, seed=3), state)[1][:, 0]


@torch.no_grad()
def test_shapes(name: str) -> None:
    model, blocks = make(name), random_blocks(4)
    context, predictions, state = run(model, blocks)
    assert context.shape == (BATCH, 4, LENGTH, WIDTH)
    number = predictions.shape[2]
    assert number in (PREDICTIONS, PREDICTIONS + 1)  # the summary may have a latent of its own
    assert predictions.shape == (BATCH, 4, number, WIDTH)
    stepped, state = model.step(blocks[:, 0], state)
    assert stepped.shape == (BATCH, number, WIDTH)


@torch.no_grad()
def test_step_equals_parallel(name: str) -> None:
    model, blocks = make(name), random_blocks()
    _, predictions, final = run(model, blocks)
    assert predictions.std() > 1e-2  # the comparison below has something to compare
    state = model.init_state(BATCH)
    for t in range(BLOCKS - 1):
        stepped, state = model.step(blocks[:, t], state)
        torch.testing.assert_close(stepped, predictions[:, t + 1], **EXACT)
    stepped, state = model.step(blocks[:, -1], state)
    torch.testing.assert_close(stepped, predicted(model, final), **EXACT)
    torch.testing.assert_close(predicted(model, state), stepped, **EXACT)


@pytest.mark.parametrize("masked", [False, True])
@torch.no_grad()
def test_remembering_is_parallel_without_predictions(name: str, masked: bool) -> None:
    model, blocks = make(name), random_blocks()
    mask = torch.arange(BLOCKS) >= torch.arange(BATCH)[:, None] if masked else None
    state = run(model, blocks, mask)[2]
    remembered = model.remember(blocks, model.init_state(BATCH), mask)
    torch.testing.assert_close(predicted(model, remembered), predicted(model, state), **EXACT)
    following, expected = (model.step(blocks[:, 0], s)[0] for s in (remembered, state))
    torch.testing.assert_close(following, expected, **EXACT)


@given(cut=st.integers(1, BLOCKS - 1))
@torch.no_grad()
def test_a_segment_in_two_parts_equals_the_whole(name: str, cut: int) -> None:
    model, blocks = make(name), random_blocks()
    context, predictions, final = run(model, blocks)
    first_context, first, state = run(model, blocks[:, :cut])
    second_context, second, state = model.parallel(blocks[:, cut:], state)
    torch.testing.assert_close(torch.cat((first_context, second_context), 1), context, **EXACT)
    torch.testing.assert_close(torch.cat((first, second), 1), predictions, **EXACT)
    torch.testing.assert_close(predicted(model, state), predicted(model, final), **EXACT)


@given(t=st.integers(0, 5), position=st.integers(0, LENGTH - 1))
@torch.no_grad()
def test_the_future_changes_nothing(name: str, t: int, position: int) -> None:
    model, blocks = make(name), random_blocks(7)
    changed = blocks.clone()
    changed[:, t, position] = random_blocks(7, seed=2)[:, t, position]
    context, predictions, _ = run(model, blocks)
    new_context, new_predictions, _ = run(model, changed)
    assert torch.equal(new_predictions[:, : t + 1], predictions[:, : t + 1])
    assert torch.equal(new_context[:, :t], context[:, :t])
    # ... while every prediction from there on takes notice.
    assert (new_predictions[:, t + 1 :] - predictions[:, t + 1 :]).abs().amax(-1).min() > 1e-7


@torch.no_grad()
def test_rows_of_a_batch_do_not_see_each_other(name: str) -> None:
    model, blocks = make(name), random_blocks(6)
    context, predictions, state = run(model, blocks)
    together, _ = model.step(blocks[:, 0], state)
    for row in range(BATCH):
        alone = blocks[row : row + 1]
        own_context, own_predictions, own_state = run(model, alone)
        torch.testing.assert_close(own_context, context[row : row + 1], **EXACT)
        torch.testing.assert_close(own_predictions, predictions[row : row + 1], **EXACT)
        stepped, _ = model.step(alone[:, 0], own_state)
        torch.testing.assert_close(stepped, together[row : row + 1], **EXACT)


@torch.no_grad()
def test_masked_blocks_on_the_left_leave_no_trace(name: str) -> None:
    model, blocks = make(name), random_blocks(8)
    padding = torch.tensor([0, 3, 7])
    mask = torch.arange(8) >= padding[:, None]
    context, predictions, state = run(model, blocks, mask)
    following, _ = model.step(blocks[:, 0], state)
    other_state = run(model, torch.where(mask[..., None, None], blocks, 50 * random_blocks(8, seed=2)), mask)[2]
    torch.testing.assert_close(predicted(model, other_state), predicted(model, state), **EXACT)
    for row, pad in enumerate(padding.tolist()):
        own = blocks[row : row + 1, pad:]
        own_context, own_predictions, own_state = run(model, own)
        torch.testing.assert_close(context[row : row + 1, pad:], own_context, **EXACT)
        torch.testing.assert_close(predictions[row : row + 1, pad:], own_predictions, **EXACT)
        torch.testing.assert_close(predicted(model, state)[row : row + 1], predicted(model, own_state, 1), **EXACT)
        own_following, _ = model.step(blocks[row : row + 1, 0], own_state)
        torch.testing.assert_close(following[row : row + 1], own_following, **EXACT)


@torch.no_grad()
def test_a_row_that_is_masked_altogether_is_at_its_beginning(name: str) -> None:
    model = make(name)
    state = run(model, random_blocks(4), torch.zeros(BATCH, 4, dtype=torch.bool))[2]
    torch.testing.assert_close(predicted(model, state), predicted(model, model.init_state(BATCH)), **EXACT)


@torch.no_grad()
def test_a_mask_of_real_blocks_is_no_mask(name: str) -> None:
    model, blocks = make(name), random_blocks(4)
    for masked, plain in zip(run(model, blocks, torch.ones(BATCH, 4, dtype=torch.bool))[:2], run(model, blocks)[:2]):
        assert torch.equal(masked, plain)


@torch.no_grad()
def test_same_inputs_give_same_outputs_and_states_are_not_changed_in_place(name: str) -> None:
    model, blocks = make(name), random_blocks(6)
    _, _, state = run(model, blocks)
    before = predicted(model, state)

    def outputs() -> list[Tensor]:
        return [
            model.parallel(blocks, state)[1],
            predicted(model, model.remember(blocks, state)),
            model.step(blocks[:, 0], state)[0],
        ]

    for a, b in zip(outputs(), outputs()):
        assert torch.equal(a, b)
    assert torch.equal(predicted(model, state), before)


def test_gradients_cross_the_border_between_chunks(name: str) -> None:
    model = make(name)  # (the sine, because a sum or sum of squares of normalised features is constant)
    whole = random_blocks(8).requires_grad_()
    run(model, whole)[1].sin().sum().backward()
    parts = random_blocks(8).requires_grad_()
    _, first, state = run(model, parts[:, :5])
    second = model.parallel(parts[:, 5:], state)[1]
    (first.sin().sum() + second.sin().sum()).backward()
    assert whole.grad is not None and parts.grad is not None
    scale = whole.grad.abs().max()
    torch.testing.assert_close(parts.grad / scale, whole.grad / scale, **EXACT)
    late = random_blocks(8).requires_grad_()
    model.parallel(late[:, 5:], run(model, late[:, :5])[2])[1].sin().sum().backward()
    assert late.grad is not None and (late.grad[:, :5].abs().amax((-1, -2)) > 0).all()


def test_every_parameter_is_trained(name: str) -> None:
    model = make(name).train()
    context, predictions, _ = run(model, random_blocks(4))
    (context.sin().sum() + predictions.sin().sum()).backward()
    idle = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().any()]
    assert idle == []


@torch.no_grad()
def test_bfloat16_is_finite_and_near_float32(name: str) -> None:
    model, blocks = make(name), random_blocks()
    _, expected, _ = run(model, blocks)
    with torch.autocast("cpu", torch.bfloat16):
        _, predictions, _ = run(model, blocks)
        state = model.init_state(BATCH)
        for t in range(BLOCKS - 1):
            stepped, state = model.step(blocks[:, t], state)
    for result, reference in ((predictions, expected), (stepped, expected[:, -1])):
        assert result.isfinite().all()
        assert (result.float() - reference).abs().mean() < 0.05 * reference.abs().mean()


@torch.no_grad()
def test_training_mode_matters_only_for_dropout(name: str) -> None:
    blocks = random_blocks(4)
    expected = run(make(name), blocks)[1]
    assert torch.equal(run(make(name).train(), blocks)[1], expected)
    assert torch.equal(run(make(name, dropout=0.5), blocks)[1], expected)
    assert not torch.allclose(run(make(name, dropout=0.5).train(), blocks)[1], expected, atol=1e-3)


@torch.no_grad()
def test_two_futures_of_one_state_do_not_meet(name: str) -> None:
    model, blocks, others = make(name), random_blocks(6), random_blocks(6, seed=2)
    _, _, start = run(model, blocks)
    first, second = start, start
    for t in range(6):  # in turns
        _, first = model.step(blocks[:, t], first)
        _, second = model.step(others[:, t], second)
    for state, future in ((first, blocks), (second, others)):
        whole = model.parallel(future, start)[2]
        torch.testing.assert_close(predicted(model, state), predicted(model, whole), **EXACT)
