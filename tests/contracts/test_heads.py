"""What every head keeps: one loss per block, padding that does not count, and the ability to learn."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from worldstream.specs import ActionComponent, ActionSpec, TokenSpec
from worldstream.types import Batch
from worldstream.world_model import HEADS
from worldstream.world_model.block import BlockLayout
from worldstream.world_model.heads.base import Head
from worldstream.world_model.model import WorldModel, WorldModelConfig
from worldstream.world_model.sequence.base import SequenceConfig

WIDTH = 16
TOKEN_SPECS = {
    "cells": TokenSpec(num_tokens=3, vocabulary=(4, 3, 3)),
    "levels": TokenSpec(num_tokens=2, vocabulary=(9,), feature_size=1),
}
ACTION_SPEC = ActionSpec(
    components=(ActionComponent(path="action", kind="discrete", sizes=(3,), shape=(), dtype="int64"),),
    structure="action",
)
MAKE: dict[str, Callable[[], Head]] = {
    "tokens": lambda: HEADS["tokens"]("cells", TOKEN_SPECS["cells"], WIDTH),
    "reward": lambda: HEADS["reward"](WIDTH, output="hl_gauss"),
    "termination": lambda: HEADS["termination"](WIDTH),
    "disagreement": lambda: HEADS["disagreement"]("cells", TOKEN_SPECS["cells"], WIDTH, num_members=2),
}
FLOORS = {"reward": 1.2}
"""Entropy of the target, which no prediction gets below (nats); 0 where the target is a fact."""


def random_batch(batch: int, length: int, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)

    def ids(size: int, *shape: int) -> Tensor:
        return torch.randint(size, (batch, length, *shape), generator=generator)

    tokens = {
        key: torch.stack([ids(size, spec.num_tokens) for size in spec.vocabulary], -1)
        for key, spec in TOKEN_SPECS.items()
    }
    return Batch(
        ids=np.arange(batch),
        tokens=tokens,
        actions=ids(3, 1),
        rewards=3 * torch.randn(batch, length, generator=generator),
        terminated=ids(2).bool(),
        observed=torch.ones(batch, length, dtype=torch.bool),
        acted=torch.ones(batch, length, dtype=torch.bool),
    )


def make_model() -> WorldModel:
    torch.manual_seed(0)
    sequence = SequenceConfig(num_layers=1, width=WIDTH, num_heads=2)
    config = WorldModelConfig(sequence=sequence, ensemble_size=2)
    return WorldModel(config, TOKEN_SPECS, ACTION_SPEC, max_blocks=32).eval()


def random_latents(head: Head, batch: int, length: int) -> Tensor:
    positions = BlockLayout(TOKEN_SPECS, ACTION_SPEC).positions(head.positions)
    return torch.randn(batch, length, positions.stop - positions.start, WIDTH)


@pytest.fixture(params=HEADS)
def head(request: pytest.FixtureRequest) -> Head:
    assert request.param in MAKE, f"teach this file how to make a '{request.param}' head"
    return MAKE[request.param]()


def test_loss_has_one_finite_value_per_block(head: Head) -> None:
    batch = random_batch(4, 6)
    loss = head.loss(random_latents(head, 4, 6), head.target(batch))
    assert loss.shape == (4, 6)
    assert loss.isfinite().all() and (loss > 0).all()


def test_loss_of_a_block_depends_on_that_block_only(head: Head) -> None:
    latents, target = random_latents(head, 4, 6), head.target(random_batch(4, 6))
    loss = head.loss(latents, target)
    changed = latents.clone()
    changed[1, 2] += torch.randn_like(changed[1, 2])
    where = (head.loss(changed, target) - loss).abs() > 1e-6
    assert where.nonzero().tolist() == [[1, 2]]


def test_ten_items_are_learnt_by_heart(head: Head) -> None:
    latents, target = random_latents(head, 10, 1), head.target(random_batch(10, 1))
    floor = FLOORS.get(head.loss_name, 0.0)
    optimizer = torch.optim.Adam(head.parameters(), lr=0.01)
    before = head.loss(latents, target).mean().item()
    for _ in range(200):
        optimizer.zero_grad()
        loss = head.loss(latents, target).mean()
        loss.backward()
        optimizer.step()
    assert before > floor + 0.5
    assert loss.item() < floor + 0.1


@pytest.mark.parametrize("name", HEADS)
def test_the_world_model_counts_every_kind_of_head(name: str) -> None:
    losses = make_model().losses(random_batch(4, 6))
    assert set(losses.means) == {MAKE[kind]().loss_name for kind in HEADS}
    assert losses.means[MAKE[name]().loss_name] > 0


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
