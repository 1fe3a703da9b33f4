"""Random network distillation: what is trained, and in which units novelty is told."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from worldstream.config import LearnerConfig
from worldstream.specs import ActionSpec
from worldstream.training.learner import Learner
from worldstream.types import Batch
from worldstream.world_model.block import BlockLayout
from worldstream.world_model.heads.novelty import NoveltyConfig, NoveltyHead

BATCH, BLOCKS, WIDTH = 8, 5, 16


@pytest.fixture
def head() -> NoveltyHead:
    torch.manual_seed(0)
    (made,) = NoveltyConfig().build(BlockLayout({}, ActionSpec(components=(), structure={})), WIDTH)
    assert isinstance(made, NoveltyHead)
    return made


def batch() -> Batch:
    real = torch.ones(BATCH, BLOCKS, dtype=torch.bool)
    nothing = torch.zeros(BATCH, BLOCKS)
    return Batch(np.arange(BATCH), {}, nothing[..., None].long(), nothing, nothing.bool(), real, real)


def novelty(head: NoveltyHead, latents: Tensor) -> Tensor:
    return head.eval().predict(latents, {}, None)["novelty"]


def test_the_random_network_stays_and_the_familiar_is_less_novel(head: NoveltyHead) -> None:
    config = LearnerConfig(batch_size=8, learning_rate=0.01, weight_decay=0.1, updates_per_step=1.0, start_steps=0)
    learner, before = Learner(head, config), {name: x.clone() for name, x in head.state_dict().items()}
    familiar, other = torch.randn(BATCH, BLOCKS, 1, WIDTH), torch.randn(BATCH, 1, WIDTH)
    first = novelty(head, familiar[:, 1]).mean()
    assert first == pytest.approx(novelty(head, other).mean(), rel=0.5)
    for _ in range(100):
        loss = head.loss(familiar, batch())
        learner.step(loss.mean())
        head.learned(loss.detach(), batch().observed)
    changed = {name.split(".")[0] for name, x in head.state_dict().items() if not torch.equal(x, before[name])}
    assert changed == {"predictor", "count", "mean", "squares"}
    assert novelty(head, other).mean() > 4 * novelty(head, familiar[:, 1]).mean()
    Learner(head, config).load_state_dict(learner.state_dict())


def test_novelty_is_told_in_standard_deviations_of_the_errors_of_training(head: NoveltyHead) -> None:
    counted = torch.arange(BLOCKS) < torch.randint(1, BLOCKS + 1, (BATCH, 1))
    errors = []
    for padding in (1.0, 300.0, -5.0):
        latents = torch.where(counted[..., None, None], torch.randn(BATCH, BLOCKS, 1, WIDTH), padding)
        loss = head.loss(latents, batch()).detach()
        head.learned(loss, counted)
        errors.append(loss[counted])
    torch.testing.assert_close(head.deviation, torch.cat(errors).std(correction=0))
    unit = novelty(head, latents[:, 1]) * head.deviation
    torch.testing.assert_close(unit, head.loss(latents[:, 1:2], batch()).squeeze(1).detach())


def test_its_loss_reaches_nothing_but_the_predictor(head: NoveltyHead) -> None:
    latents = torch.randn(BATCH, BLOCKS, 1, WIDTH, requires_grad=True)
    head.loss(latents, batch()).sum().backward()
    assert latents.grad is None
    assert {name.split(".")[0] for name, p in head.named_parameters() if p.grad is not None} == {"predictor"}
