"""The copy prior of observation heads and sticky sampling: probabilities, limits, gradients, what is never told."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from worldstream.nn.outputs import NEVER, CopyCategorical, FactoredCategorical
from worldstream.specs import ActionComponent, ActionSpec, TokenSpec
from worldstream.types import Batch
from worldstream.world_model.heads.base import TOKENS
from worldstream.world_model.heads.observation import UNCHANGED, ObservationConfig, ObservationHead
from worldstream.world_model.model import WorldModel, WorldModelConfig

WIDTH, VOCABULARY = 8, (4, 3, 3)
SPEC = TokenSpec(num_tokens=2, vocabulary=VOCABULARY, grid=(1, 2))


def make_head(spec: TokenSpec = SPEC, **options: Any) -> ObservationHead:
    torch.manual_seed(0)
    return ObservationHead(ObservationConfig(**options), "cells", spec, WIDTH).eval()


def random_ids(*shape: int, vocabulary: tuple[int, ...] = VOCABULARY, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randint(size, shape, generator=generator) for size in vocabulary], -1)


def make_batch(tokens: Tensor, observed: Tensor | None = None) -> Batch:
    """A batch of tokens (B, T, K, C) of one key."""
    real = torch.ones(tokens.shape[:2], dtype=torch.bool) if observed is None else observed
    zeros = torch.zeros(tokens.shape[:2])
    return Batch(
        anchors=np.arange(len(tokens)),
        tokens={"cells": tokens},
        actions=torch.zeros(*tokens.shape[:2], 1, dtype=torch.int64),
        rewards=zeros,
        terminated=zeros.bool(),
        observed=real,
        acted=real,
    )


# The mixture.


def test_probabilities_are_the_mixture_and_sum_to_one() -> None:
    fresh, previous = FactoredCategorical(torch.randn(5, 2, 10), VOCABULARY), random_ids(5, 2)
    logit = torch.randn(5, 2, 3)
    mixed, single = (output.mean.split(VOCABULARY, -1) for output in (CopyCategorical(fresh, previous, logit), fresh))
    for c, (ours, theirs) in enumerate(zip(mixed, single, strict=True)):
        g = logit[..., c, None].sigmoid()
        unchanged = torch.nn.functional.one_hot(previous[..., c], VOCABULARY[c])
        torch.testing.assert_close(ours, g * unchanged + (1 - g) * theirs)
        torch.testing.assert_close(ours.sum(-1), torch.ones(5, 2))


def test_without_copies_the_loss_is_that_of_the_softmax_bit_for_bit() -> None:
    plain, copying = make_head(), make_head(copy_prior=True)
    assert copying.copies is not None
    torch.nn.init.constant_(copying.copies.bias, NEVER)
    batch, latents = make_batch(random_ids(4, 6, 2)), torch.randn(4, 6, 2, WIDTH)
    assert torch.equal(copying.loss(latents, batch), plain.loss(latents, batch))


def test_everything_is_copied_with_the_same_probability_at_first() -> None:
    head, previous = make_head(copy_prior=True), random_ids(7, 2)
    assert head.copies is not None
    torch.nn.init.constant_(head.net[-1].weight, 0.0)
    torch.nn.init.constant_(head.net[-1].bias, 0.0)
    copied = head(torch.randn(7, 2, WIDTH), previous).log_prob(previous).exp()
    torch.testing.assert_close(
        copied, torch.full((7, 2), math.prod(UNCHANGED + (1 - UNCHANGED) / v for v in VOCABULARY))
    )


def test_on_a_static_stream_the_loss_is_that_of_copying() -> None:
    head, batch = make_head(copy_prior=True), make_batch(torch.zeros(3, 5, 2, 3, dtype=torch.int64))
    with torch.no_grad():
        head.net[-1].weight.zero_()
        head.net[-1].bias.copy_(
            torch.tensor([-60.0] + 3 * [0.0] + 2 * [-60.0] + 4 * [0.0])
        )  # the rest never predicts 0
    loss = head.loss(torch.randn(3, 5, 2, WIDTH), batch)
    torch.testing.assert_close(loss[:, 1:], torch.full((3, 4), -3 * math.log(UNCHANGED)))
    assert (loss[:, 0] > 100).all()  # of the first block nothing is known


@pytest.mark.parametrize("low", [-torch.inf, -500.0])
def test_gradients_are_finite_where_the_softmax_excludes_what_was_there(low: float) -> None:
    logits = torch.zeros(2, 1, 4)
    logits[..., 0] = low
    logits.requires_grad_()
    gate = torch.tensor([[[0.3]], [[-torch.inf]]], requires_grad=True)
    output = CopyCategorical(FactoredCategorical(logits, (4,)), torch.zeros(2, 1, 1, dtype=torch.int64), gate)
    output.loss(torch.tensor([[[0]], [[2]]])).sum().backward()
    assert logits.grad is not None and logits.grad.isfinite().all()
    assert gate.grad is not None and gate.grad.isfinite().all() and gate.grad[0].abs() > 0


def test_the_softmax_learns_mostly_from_what_changes() -> None:
    logits = torch.zeros(2, 1, 4, requires_grad=True)
    gate = torch.full((2, 1, 1), math.log(19))
    output = CopyCategorical(FactoredCategorical(logits, (4,)), torch.tensor([[[0]], [[0]]]), gate)
    output.loss(torch.tensor([[[0]], [[1]]])).sum().backward()
    assert logits.grad is not None
    same, changed = logits.grad.abs().sum((1, 2)).tolist()
    assert same < 0.02 * changed


# Which tokens it is told.


def test_the_block_before_is_told_and_never_the_target() -> None:
    """Summed over all values of the target the probabilities give one: the prediction does not depend on it."""
    head = make_head(TokenSpec(num_tokens=1, vocabulary=(5,)), copy_prior=True)
    latents, tokens = torch.randn(1, 4, 1, WIDTH), random_ids(1, 4, 1, vocabulary=(5,))
    for t in range(4):
        total = torch.zeros(())
        for value in range(5):
            changed = tokens.clone()
            changed[:, t] = value
            total = total + (-head.loss(latents, make_batch(changed))[0, t]).exp()
        torch.testing.assert_close(total, torch.ones(()))
    before = head.loss(latents, make_batch(tokens))
    for s in range(4):
        changed = tokens.clone()
        changed[:, s] = (changed[:, s] + 1) % 5
        differs = (head.loss(latents, make_batch(changed)) != before)[0]
        assert set(differs.nonzero().flatten().tolist()) <= {s, s + 1}
    assert head.loss(latents, make_batch(tokens[:, 1:2].expand(-1, 4, -1, -1)))[0, 1] < before[0, 0]


def test_padding_is_not_copied() -> None:
    head, tokens = make_head(copy_prior=True), random_ids(1, 3, 2)
    latents, observed = torch.randn(1, 3, 2, WIDTH), torch.tensor([[False, True, True]])
    loss = head.loss(latents, make_batch(tokens, observed))
    torch.testing.assert_close(loss[:, 1], head.fresh(latents[:, 1]).loss(tokens[:, 1]).mean(-1))


def test_a_world_model_copies_from_the_observation_it_is_given() -> None:
    action = ActionComponent(path="action", kind="discrete", sizes=(3,), shape=(), dtype="int64")
    specs = {"cells": SPEC, "levels": TokenSpec(num_tokens=2, vocabulary=(9,), feature_size=1)}
    heads = {**WorldModelConfig().heads, "observation": ObservationConfig(copy_prior=True)}
    config, actions = WorldModelConfig(heads=heads), ActionSpec(components=(action,), structure="action")
    model = WorldModel(config, specs, actions, max_blocks=8).eval()
    for head in model.heads_of("observation"):
        torch.nn.init.constant_(head.copies.bias, -NEVER)
    tokens = {"cells": random_ids(6, 2), "levels": random_ids(6, 2, vocabulary=(9,))}
    step, _ = model.step(tokens, torch.zeros(6, 1, dtype=torch.int64), model.init_state(6))
    assert all(torch.equal(step.tokens[key], tokens[key]) for key in tokens)


# Sticky sampling.


def test_without_a_bonus_sampling_is_categorical() -> None:
    probs = torch.tensor([0.5, 0.3, 0.15, 0.05])
    output = FactoredCategorical(probs.log().expand(100_000, 4), (4,))
    previous = torch.full((100_000, 1), 3)
    drawn = output.sample_sticky(previous, 0.0, torch.Generator().manual_seed(0))
    counts, expected = drawn.flatten().bincount(minlength=4), 100_000 * probs
    assert ((counts - expected).square() / expected).sum() < 16.3  # chi-square of three degrees of freedom, p = 0.001
    noise = -torch.empty(100_000, 1, 4).exponential_(generator=torch.Generator().manual_seed(0)).log()
    assert torch.equal(drawn, (output.log_probs[0] + noise).argmax(-1))


def test_the_largest_bonus_keeps_everything() -> None:
    output = FactoredCategorical(20 * torch.randn(50, 10), VOCABULARY)
    previous = random_ids(50)
    assert torch.equal(output.sample_sticky(previous, 1.0), previous)


def test_tokens_of_many_channels_may_change() -> None:
    """Products of 130 probabilities vanish beside any bonus: everything was kept."""
    changed = torch.arange(130) % 5 == 0
    logits = torch.where(torch.arange(16)[:, None] == changed.long(), 7.0, 0.0)  # of value 0 of all variables first
    output = FactoredCategorical(logits.flatten().expand(200, -1), (16,) * 130)
    previous = torch.zeros(200, 130, dtype=torch.long)
    assert (output.sample_sticky(previous, 0.01) != previous).any(-1).float().mean() > 0.95


def test_a_token_stays_or_changes_as_a_whole() -> None:
    output, previous = FactoredCategorical(torch.randn(1000, 10), VOCABULARY), random_ids(1000)
    free, sticky = (output.sample_sticky(previous, bonus, torch.Generator().manual_seed(0)) for bonus in (0.0, 0.2))
    stays = (sticky != free).any(-1)
    assert 50 < stays.sum() < 950
    assert torch.equal(sticky[stays], previous[stays])


@pytest.mark.parametrize("seed", range(5))
def test_the_rule_is_the_assignment_where_moving_costs_more_than_the_bonus(seed: int) -> None:
    """Copying i to j costs c_d |i - j|^2 - p_j[u_i] - c_w, drawing at j -p_j[s_j]; every source may be used once."""
    length, size, bonus, distance = 4, 5, 0.1, 0.15
    output = FactoredCategorical(torch.randn(length, size), (size,))
    previous = random_ids(length, vocabulary=(size,), seed=seed)
    rule = output.sample_sticky(previous, bonus, torch.Generator().manual_seed(seed)).flatten()
    noise = -torch.empty(length, 1, size).exponential_(generator=torch.Generator().manual_seed(seed)).log()
    p = (output.log_probs[0] + noise).softmax(-1).squeeze(1)
    drawn, before = p.argmax(-1), previous.flatten()
    best: tuple[float, list[int]] = (math.inf, [])
    for sources in itertools.product([None, *range(length)], repeat=length):
        used = [source for source in sources if source is not None]
        if len(set(used)) < len(used):
            continue
        cost, ids = 0.0, []
        for j, i in enumerate(sources):
            chosen = drawn[j] if i is None else before[i]
            cost += -p[j, chosen].item() + (0.0 if i is None else distance * (i - j) ** 2 - bonus)
            ids.append(int(chosen))
        best = min(best, (cost, ids), key=lambda found: found[0])
    assert rule.tolist() == best[1]


def test_only_tokens_of_a_grid_stick() -> None:
    loose = TokenSpec(num_tokens=2, vocabulary=VOCABULARY)
    previous, latents = {"cells": random_ids(9, 2)}, torch.randn(9, 2, WIDTH)
    stuck = make_head(sticky=1.0).predict(latents, previous, None)[TOKENS]
    assert torch.equal(stuck, previous["cells"])
    assert not torch.equal(make_head(loose, sticky=1.0).predict(latents, previous, None)[TOKENS], previous["cells"])
