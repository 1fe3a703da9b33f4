"""What every head keeps: one loss per block, padding that does not count, predictions with their names, and learning.

A line in the registry enrols a head; its default options are tested.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from worldstream.config import LearnerConfig
from worldstream.specs import ActionComponent, ActionSpec, TokenSpec
from worldstream.training.learner import Learner
from worldstream.training.updates import update_world_model
from worldstream.types import Batch, Tokens
from worldstream.world_model import HEADS
from worldstream.world_model.block import BlockLayout
from worldstream.world_model.heads.base import TERMINATED, TOKENS, Head
from worldstream.world_model.model import WorldModel, WorldModelConfig
from worldstream.world_model.sequence.retention import RetentionConfig

WIDTH = 16
TOKEN_SPECS = {
    "cells": TokenSpec(num_tokens=3, vocabulary=(4, 3, 3)),
    "levels": TokenSpec(num_tokens=2, vocabulary=(9,), feature_size=1),
}
ACTION_SPEC = ActionSpec(
    components=(ActionComponent(path="action", kind="discrete", sizes=(3,), shape=(), dtype="int64"),),
    structure="action",
)
LAYOUT = BlockLayout(TOKEN_SPECS, ACTION_SPEC)
FLOORS = {"reward": 1.2}
"""Entropy of the target, which no prediction gets below (nats); 0 where the target is a fact."""

every_head = pytest.mark.parametrize("name", HEADS)


def random_batch(batch: int, length: int, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)

    def ids(size: int, *shape: int) -> Tensor:
        return torch.randint(size, (batch, length, *shape), generator=generator)

    tokens = {
        key: torch.stack([ids(size, spec.num_tokens) for size in spec.vocabulary], -1)
        for key, spec in TOKEN_SPECS.items()
    }
    return Batch(
        anchors=np.arange(batch),
        tokens=tokens,
        actions=ids(3, 1),
        rewards=3 * torch.randn(batch, length, generator=generator),
        terminated=ids(2).bool(),
        observed=torch.ones(batch, length, dtype=torch.bool),
        acted=torch.ones(batch, length, dtype=torch.bool),
    )


def first_tokens(batch: int) -> Tokens:
    return {key: tokens[:, 0] for key, tokens in random_batch(batch, 1).tokens.items()}


def make_heads(name: str) -> list[Head]:
    torch.manual_seed(0)
    heads: list[Head] = HEADS[name]().build(LAYOUT, WIDTH)
    return [head.eval() for head in heads]


def make_model(**changes: Any) -> WorldModel:
    torch.manual_seed(0)
    sequence = RetentionConfig(num_layers=1, width=WIDTH, num_heads=2)
    heads = {name: HEADS[name]() for name in HEADS}
    changes = {"loss_weights": dict.fromkeys(heads, 1.0), **changes}
    return WorldModel(
        WorldModelConfig(sequence=sequence, heads=heads, **changes), TOKEN_SPECS, ACTION_SPEC, max_blocks=32
    ).eval()


def random_latents(head: Head, *leading: int) -> Tensor:
    latents = torch.randn(*leading, LAYOUT.num_observation_tokens, WIDTH)
    return latents[..., LAYOUT.positions(head.positions), :]


@every_head
def test_loss_has_one_finite_value_per_block(name: str) -> None:
    for head in make_heads(name):
        loss = head.loss(random_latents(head, 4, 6), random_batch(4, 6))
        assert loss.shape == (4, 6)
        assert loss.isfinite().all() and (loss > 0).all()


@every_head
def test_loss_of_a_block_depends_on_that_block_only(name: str) -> None:
    for head in make_heads(name):
        latents, batch = random_latents(head, 4, 6), random_batch(4, 6)
        loss = head.loss(latents, batch)
        changed = latents.clone()
        changed[1, 2] += torch.randn_like(changed[1, 2])
        where = (head.loss(changed, batch) - loss).abs() > 1e-6
        assert where.nonzero().tolist() == [[1, 2]]


@every_head
def test_ten_items_are_learnt_by_heart(name: str) -> None:
    shares = HEADS[name]().batch_shares
    items, floor = shares * math.ceil(10 / shares), FLOORS.get(name, 0.0)
    for head in make_heads(name):
        latents, batch = random_latents(head, items, 1), random_batch(items, 1)
        optimizer = torch.optim.Adam(head.parameters(), lr=0.01)
        before = head.loss(latents, batch).mean().item()
        for _ in range(200):
            optimizer.zero_grad()
            loss = head.loss(latents, batch).mean()
            loss.backward()
            optimizer.step()
        assert loss.item() - floor < 0.1 * (before - floor)


@every_head
def test_predictions_have_the_names_that_are_announced_and_a_row_each(name: str) -> None:
    for head in make_heads(name):
        predicted = head.predict(random_latents(head, 5), first_tokens(5), torch.Generator())
        assert set(predicted) == set(HEADS[name]().yields)
        for what, value in predicted.items():
            tokens = first_tokens(5)[head.positions] if what == TOKENS else torch.zeros(5)
            assert value.shape == tokens.shape and value.isfinite().all()


@every_head
def test_the_state_of_a_head_is_all_in_its_state_dict(name: str) -> None:
    """Same inputs, same outputs; and a twin with the same state goes on alike after some training."""
    for head, twin in zip(make_heads(name), make_heads(name), strict=True):
        for _ in range(3):
            batch = random_batch(4, 6)
            loss = head.train().loss(random_latents(head, 4, 6), batch)
            head.learned(loss.detach(), batch.observed)
            loss.mean().backward()
            with torch.no_grad():
                for parameter in head.parameters():
                    parameter -= 0 if parameter.grad is None else 0.01 * parameter.grad
        twin.load_state_dict(copy.deepcopy(head.eval().state_dict()))
        latents = random_latents(head, 5)
        outputs = [x.predict(latents, first_tokens(5), torch.Generator().manual_seed(0)) for x in (head, head, twin)]
        assert all(torch.equal(outputs[0][what], other[what]) for other in outputs[1:] for what in other)


@every_head
def test_the_world_model_counts_and_asks_every_head(name: str) -> None:
    model, batch = make_model(), random_batch(4, 6)
    assert model.losses(batch).means[name] > 0
    tokens = {key: ids[:, 0] for key, ids in batch.tokens.items()}
    yields = HEADS[name]().yields
    for rewards in ((), yields):
        step, _ = model.step(tokens, batch.actions[:, 0], model.init_state(4), rewards=rewards)
        assert set(step.rewards) == set(rewards) - {TOKENS, TERMINATED}


@every_head
def test_a_skipped_update_leaves_no_trace(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither where the head's own loss is not finite, nor where another's is."""
    config = LearnerConfig(batch_size=4, learning_rate=0.01, updates_per_step=1.0, start_steps=0)
    for broken in (name, "observation"):
        model = make_model()
        learner = Learner(model, config)
        update_world_model(model, learner, random_batch(4, 6))
        before = copy.deepcopy(model.state_dict())
        head = model.heads_of(broken)[0]
        with monkeypatch.context() as patch:
            loss = head.loss
            patch.setattr(head, "loss", lambda latents, batch: loss(latents, batch) * torch.nan)  # noqa: B023
            metrics, _ = update_world_model(model, learner, random_batch(4, 6, seed=1))
        assert not metrics["gradient_norm"].isfinite()
        after = model.state_dict()
        assert [key for key, value in before.items() if not torch.equal(value, after[key])] == []


@every_head
def test_a_head_without_weight_is_not_computed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model(loss_weights={**dict.fromkeys(HEADS, 1.0), name: 0.0}, priority_weights={})
    for head in model.heads_of(name):
        monkeypatch.setattr(head, "loss", lambda latents, batch: torch.full(batch.acted.shape, torch.nan))
    losses = model.train().losses(random_batch(4, 6))
    assert losses.total.isfinite() and set(losses.means) == set(HEADS) - {name}


@every_head
def test_a_head_is_told_which_blocks_count(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, told = make_model(), []
    for head in model.heads_of(name):
        monkeypatch.setattr(head, "learned", lambda loss, mask: told.append((loss[mask].mean(), int(mask.sum()))))
    batch = random_batch(4, 6)
    model.losses(batch)
    assert told == []  # only in training mode
    mean = model.train().losses(batch).means[name]
    assert {number for _, number in told} == {20}  # of 24: nothing precedes the first block
    if len(told) == 1:
        torch.testing.assert_close(told[0][0], mean)


@settings(max_examples=10)
@given(lengths=st.lists(st.integers(1, 6), min_size=4, max_size=4), ended=st.booleans(), seed=st.integers(1, 1000))
def test_padding_changes_nothing(lengths: list[int], ended: bool, seed: int) -> None:
    """``lengths`` observations are real; the last of them has an action or (``ended``) has not."""
    real = torch.arange(6) < torch.tensor(lengths)[:, None]
    acted = torch.arange(6) < torch.tensor(lengths)[:, None] - int(ended)
    batch, other = (dataclasses.replace(random_batch(4, 6, s), observed=real, acted=acted) for s in (0, seed))
    mixed = dataclasses.replace(
        batch,
        tokens={key: torch.where(real[..., None, None], ids, other.tokens[key]) for key, ids in batch.tokens.items()},
        actions=torch.where(acted[..., None], batch.actions, other.actions),
        rewards=torch.where(acted, batch.rewards, 1000 * other.rewards),
        terminated=torch.where(acted, batch.terminated, ~batch.terminated),
    )
    model = make_model()
    expected, losses = model.losses(batch), model.losses(mixed)
    torch.testing.assert_close(losses.means, expected.means, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(losses.priorities, expected.priorities, rtol=1e-5, atol=1e-6)
    assert losses.total.isfinite()
