"""Which prediction each target is read from, what the ensemble learns and measures, and how losses are counted."""

from __future__ import annotations

import copy
import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from worldstream.errors import ConfigError
from worldstream.nn.layers import EnsembleHead
from worldstream.specs import ActionComponent, ActionSpec, TokenSpec
from worldstream.types import EXTRINSIC, Batch
from worldstream.world_model import SEQUENCE_MODELS
from worldstream.world_model.block import SUMMARY, BlockLayout
from worldstream.world_model.embed import BlockEmbedder, CodeEmbedding
from worldstream.world_model.heads.disagreement import DisagreementConfig, DisagreementHead
from worldstream.world_model.heads.termination import TerminationConfig, TerminationHead
from worldstream.world_model.model import WorldModel, WorldModelConfig
from worldstream.world_model.sequence.retention import RetentionConfig, RetentionState
from worldstream.world_model.sequence.teacher_forcing import ForcedState

BATCH, BLOCKS, WIDTH = 4, 6, 16
TOKEN_SPECS = {
    "cells": TokenSpec(num_tokens=3, vocabulary=(4, 3, 3)),
    "levels": TokenSpec(num_tokens=2, vocabulary=(9,), feature_size=1),
}
ACTION_SPEC = ActionSpec(
    components=(ActionComponent(path="action", kind="multi_discrete", sizes=(3, 2), shape=(2,), dtype="int64"),),
    structure="action",
)
HEADS_OF_TWO = {**WorldModelConfig().heads, "disagreement": DisagreementConfig(num_members=2)}
CHANNELS = [slice(0, 4), slice(4, 10, 2), slice(5, 10, 2)]  # of a run of equal channels, value by value


def make_model(**changes: Any) -> WorldModel:
    torch.manual_seed(0)
    heads = HEADS_OF_TWO | changes.pop("heads", {})
    changes = {"sequence": RetentionConfig(num_layers=1, width=WIDTH, num_heads=2), "heads": heads, **changes}
    return WorldModel(WorldModelConfig(**changes), TOKEN_SPECS, ACTION_SPEC, max_blocks=32).eval()


def random_batch(seed: int = 0, length: int = BLOCKS) -> Batch:
    generator = torch.Generator().manual_seed(seed)

    def ids(size: int, *shape: int) -> Tensor:
        return torch.randint(size, (BATCH, length, *shape), generator=generator)

    return Batch(
        anchors=np.arange(BATCH),
        tokens={
            key: torch.stack([ids(size, spec.num_tokens) for size in spec.vocabulary], -1)
            for key, spec in TOKEN_SPECS.items()
        },
        actions=torch.stack([ids(size) for size in ACTION_SPEC.sizes], -1),
        rewards=3 * torch.randn(BATCH, length, generator=generator),
        terminated=ids(2).bool(),
        observed=torch.ones(BATCH, length, dtype=torch.bool),
        acted=torch.ones(BATCH, length, dtype=torch.bool),
    )


def changed_at(batch: Batch, t: int, *names: str) -> Batch:
    """``batch`` with every value of the named fields at time t replaced by another one."""
    values: dict[str, Any] = {}
    for name in names:
        if name == "tokens":
            values[name] = {key: ids.clone() for key, ids in batch.tokens.items()}
            for key, spec in TOKEN_SPECS.items():
                values[name][key][:, t] = (values[name][key][:, t] + 1) % torch.tensor(spec.vocabulary)
        elif name == "actions":
            values[name] = batch.actions.clone()
            values[name][:, t] = (values[name][:, t] + 1) % torch.tensor(ACTION_SPEC.sizes)
        elif name == "rewards":
            values[name] = batch.rewards.clone()
            values[name][:, t] += 2.0
        else:
            values[name] = batch.terminated.clone()
            values[name][:, t] ^= True
    return dataclasses.replace(batch, **values)


def only_acted_at(batch: Batch, t: int) -> Batch:
    return dataclasses.replace(batch, acted=torch.arange(BLOCKS).expand(BATCH, -1) == t)


# Alignment.


@pytest.mark.parametrize(("loss", "target"), [("reward", "rewards"), ("termination", "terminated")])
@pytest.mark.parametrize("t", [1, 3])
def test_consequences_of_an_action_are_read_from_the_next_prediction(loss: str, target: str, t: int) -> None:
    """C1: what action t caused is predicted from blocks 0..t, and nothing later."""
    model = make_model(context_length=1)
    batch = only_acted_at(random_batch(), t)
    before = model.losses(batch).means[loss]

    def changes(s: int, name: str) -> bool:
        return bool(model.losses(changed_at(batch, s, name)).means[loss] != before)

    for s in range(BLOCKS):
        assert changes(s, target) == (s == t), f"{target}[:, {s}]"
        assert changes(s, "tokens") == (s <= t), f"tokens[:, {s}]"
        assert changes(s, "actions") == (s <= t), f"actions[:, {s}]"


@pytest.mark.parametrize("t", [2, 4])
def test_an_observation_is_predicted_from_earlier_blocks_only(t: int) -> None:
    model = make_model()
    batch = random_batch()
    blocks = model.embed(batch.tokens, batch.actions)
    predictions = model.sequence.parallel(blocks, model.init_state(BATCH))[1]
    head = model.heads_of("observation")[0]
    loss = head.loss(predictions[..., model.layout.positions("cells"), :], batch)
    (gradient,) = torch.autograd.grad(loss[:, t].sum(), blocks)
    touched = gradient.abs().amax((0, 2, 3)) > 0
    assert touched.tolist() == [s < t for s in range(BLOCKS)]


@pytest.mark.parametrize("context", [0, 1, 3])
def test_targets_without_enough_context_do_not_count(context: int) -> None:
    """C17: one rule for observations, rewards and ends: ``context_length`` blocks before the prediction."""
    model, batch = make_model(context_length=context), random_batch()
    before = model.losses(batch).means
    for s in range(BLOCKS):
        after = model.losses(changed_at(batch, s, "rewards", "terminated")).means
        counts = max(context, 1) <= s + 1 <= BLOCKS - 1  # read from prediction s + 1
        for name in ("reward", "termination"):
            assert bool(after[name] != before[name]) == counts
        assert after["observation"] == before["observation"]
    # An observation is input to later predictions; as a target alone it counts from block ``context`` on.
    blocks = model.embed(batch.tokens, batch.actions)
    predictions = model.sequence.parallel(blocks, model.init_state(BATCH))[1]
    expected = 0.0
    for head in model.heads_of("observation"):
        latents = predictions[..., model.layout.positions(head.positions), :]
        loss = head.loss(latents, batch)[:, context:].mean()
        expected = expected + loss * TOKEN_SPECS[head.positions].num_tokens / 5
    torch.testing.assert_close(before["observation"], expected.detach())


def test_unpredictable_ends_of_segments_do_not_count() -> None:
    """The action of the last block and the newest observation have no following prediction or no action."""
    model, batch = make_model(), random_batch()
    before = model.losses(batch)
    after = model.losses(changed_at(batch, BLOCKS - 1, "rewards", "terminated", "actions"))
    assert after.means == before.means
    waiting = dataclasses.replace(batch, acted=torch.arange(BLOCKS).expand(BATCH, -1) < 3)
    assert model.losses(changed_at(waiting, 3, "rewards")).means == model.losses(waiting).means
    assert model.losses(changed_at(waiting, 2, "rewards")).means != model.losses(waiting).means


# Priorities, totals, weights.


def rows(batch: Batch, row: int) -> Batch:
    """One segment of a batch."""
    fields = {
        field.name: getattr(batch, field.name)[row : row + 1]
        for field in dataclasses.fields(Batch)
        if field.name not in ("tokens", "padded", "weights")
    }
    return Batch(tokens={key: ids[row : row + 1] for key, ids in batch.tokens.items()}, **fields)


def test_priorities_are_the_losses_of_each_segment_alone() -> None:
    model = make_model(heads={"disagreement": DisagreementConfig(num_members=1)})
    real = torch.arange(BLOCKS) < torch.tensor([6, 5, 3, 2])[:, None]
    batch = dataclasses.replace(random_batch(), observed=real, acted=real)
    priorities = model.losses(batch).priorities
    assert priorities.shape == (BATCH,) and not priorities.requires_grad
    for row in range(BATCH):
        alone = model.losses(rows(batch, row))
        torch.testing.assert_close(priorities[row], alone.means["observation"] + alone.means["reward"])


def test_a_batch_of_padding_teaches_nothing_and_is_finite() -> None:
    nothing = torch.zeros(BATCH, BLOCKS, dtype=torch.bool)
    losses = make_model().losses(dataclasses.replace(random_batch(), observed=nothing, acted=nothing))
    assert losses.total == 0 and not losses.priorities.any()


def test_total_is_the_weighted_sum() -> None:
    weights = {"observation": 1.0, "reward": 10.0, "termination": 0.0, "disagreement": 0.5}
    losses = make_model(loss_weights=weights).losses(random_batch())
    expected = sum(weights[name] * loss for name, loss in losses.means.items())
    torch.testing.assert_close(losses.total.detach(), expected)
    assert losses.total.requires_grad and not any(loss.requires_grad for loss in losses.means.values())


@pytest.mark.parametrize(
    "weights",
    [
        {"observation": 1.0, "reward": 1.0, "termination": 1.0},
        {"observation": 1.0, "reward": 1.0, "termination": 1.0, "disagreement": 1.0, "entropy": 1.0},
        {},
    ],
)
def test_weights_must_name_exactly_the_losses(weights: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="loss_weights"):
        make_model(loss_weights=weights)


def test_priorities_are_weighted_losses_of_the_segments() -> None:
    batch = random_batch()
    both = make_model().losses(batch).priorities
    parts = {
        name: make_model(priority_weights={name: 1.0}).losses(batch).priorities for name in ("observation", "reward")
    }
    torch.testing.assert_close(both, parts["observation"] + parts["reward"])
    weighted = make_model(priority_weights={"observation": 0.5, "reward": 3.0}).losses(batch).priorities
    torch.testing.assert_close(weighted, 0.5 * parts["observation"] + 3.0 * parts["reward"])
    with pytest.raises(ConfigError, match="priority_weights"):
        make_model(priority_weights={"novelty": 1.0})


def test_weights_of_segments_weigh_their_losses() -> None:
    model, batch = make_model(heads={"disagreement": DisagreementConfig(num_members=1)}), random_batch()
    weights = torch.tensor([0.0, 3.0, 0.0, 1.0])
    weighted = model.losses(dataclasses.replace(batch, weights=weights))
    one, other = (model.losses(rows(batch, row)).means for row in (1, 3))
    for name, mean in weighted.means.items():
        torch.testing.assert_close(mean, (3 * one[name] + other[name]) / 4)
    torch.testing.assert_close(weighted.priorities, model.losses(batch).priorities)
    equal = model.losses(dataclasses.replace(batch, weights=torch.full((BATCH,), 0.3)))
    torch.testing.assert_close(equal.total, model.losses(batch).total)


@pytest.mark.parametrize("sequence", SEQUENCE_MODELS)
@torch.no_grad()
def test_bfloat16_changes_products_only(sequence: str, generator: torch.Generator) -> None:
    batch = random_batch()
    changes = {"sequence": SEQUENCE_MODELS[sequence]()}
    single, mixed = make_model(**changes), make_model(precision="bfloat16", **changes)
    mixed.load_state_dict(single.state_dict())
    expected, losses = single.losses(batch), mixed.losses(batch)
    assert losses.total.dtype == torch.float32 and not torch.equal(losses.total, expected.total)
    torch.testing.assert_close(losses.total, expected.total, rtol=0.01, atol=0)
    last = {key: ids[:, -1] for key, ids in batch.tokens.items()}
    state = mixed.warm_up(batch.tokens, batch.actions)
    for _ in range(2):
        step, state = mixed.step(last, batch.actions[:, -1], state, generator)
        assert {reward.dtype for reward in step.rewards.values()} == {torch.float32}
    state = state.inner if isinstance(state, ForcedState) else state
    kept = state.memory if isinstance(state, RetentionState) else state.cache.layers
    assert {x.dtype for x in kept} == {torch.float32 if isinstance(state, RetentionState) else torch.bfloat16}


@torch.no_grad()
def test_two_logits_of_an_end_are_the_distribution_of_one() -> None:
    (head,) = make_model(heads={"termination": TerminationConfig(num_logits=2)}).heads_of("termination")
    assert isinstance(head, TerminationHead)
    latents = torch.randn(7, 1, 16)
    assert head.net(latents).shape == (7, 1, 2)
    torch.testing.assert_close(head(latents).mean, head.net(latents).softmax(-1)[..., 1])


def test_losses_leave_the_batch_as_it_was() -> None:
    batch = random_batch()
    before = copy.deepcopy(batch)
    make_model(context_length=3).losses(batch)
    for field in dataclasses.fields(Batch):
        ours, theirs = getattr(batch, field.name), getattr(before, field.name)
        if field.name == "tokens":
            assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
        else:
            assert np.array_equal(ours, theirs)


def test_every_parameter_of_the_world_model_is_trained() -> None:
    model = make_model()
    model.losses(random_batch()).total.backward()
    idle = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().any()]
    assert idle == []


# The ensemble (curiosity).


def make_ensemble(members: int = 4, vocabulary: tuple[int, ...] = (4, 3, 3), width: int = WIDTH) -> DisagreementHead:
    return DisagreementHead("x", TokenSpec(num_tokens=3, vocabulary=vocabulary), width, members)


def divergence(head: DisagreementHead, latents: Tensor) -> Tensor:
    return head.predict(latents, {}, None)["disagreement"]


def test_divergence_is_computed_per_channel() -> None:
    """C6: the offset between channels is never trained, so it must not matter."""
    head, latents = make_ensemble(), torch.randn(5, 3, WIDTH)
    with torch.no_grad():
        head.net.last.weight *= 5
    before = divergence(head, latents)
    assert before.min() > 0.02
    with torch.no_grad():
        for channel, offset in zip(CHANNELS, (3.0, -2.0, 0.5)):
            head.net.last.bias[..., channel] += offset
    torch.testing.assert_close(divergence(head, latents), before, rtol=1e-4, atol=1e-6)
    with torch.no_grad():
        head.net.last.bias[:, :, 0] += 1.0  # one value of a channel is no offset
    assert (divergence(head, latents) - before).abs().min() > 1e-4


def test_divergence_equals_its_definition() -> None:
    head, latents = make_ensemble(), torch.randn(5, 3, WIDTH)
    logits = torch.stack([head.net(latents.flatten(0, 1).expand(4, -1, -1))[p].unflatten(0, (5, 3)) for p in range(4)])
    expected = torch.zeros(5)
    for channel in CHANNELS:
        members = torch.distributions.Categorical(logits=logits[..., channel])
        mixture = torch.distributions.Categorical(probs=members.probs.mean(0))
        expected += (mixture.entropy() - members.entropy().mean(0)).mean(-1)  # over tokens; channels are summed
    torch.testing.assert_close(divergence(head, latents), expected, rtol=1e-3, atol=1e-6)


def test_members_that_agree_have_no_divergence() -> None:
    head = make_ensemble()
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.copy_(3 * parameter[:1].expand_as(parameter))
    found = divergence(head, torch.randn(5, 3, WIDTH))
    assert (found >= 0).all() and found.max() < 1e-5


@pytest.mark.parametrize("members", [2, 4])
def test_divergence_of_a_channel_is_at_most_the_logarithm_of_the_members(members: int) -> None:
    head = make_ensemble(members, (5, 5))
    with torch.no_grad():
        head.net.last.weight.zero_()
        head.net.last.bias.copy_(100 * torch.eye(5)[:members].repeat(1, 2).unsqueeze(1))
    found = divergence(head, torch.randn(5, 3, WIDTH))
    torch.testing.assert_close(found, torch.full((5,), 2 * math.log(members)))


@pytest.mark.parametrize(("size", "expected"), [(125, 0.044), (4, 0.031)])
def test_divergence_of_untrained_members(size: int, expected: float) -> None:
    """Golden values of the published initialisation."""
    divergences = [divergence(make_ensemble(4, (size,), width=64), torch.randn(64, 3, 64)).mean() for _ in range(8)]
    assert torch.stack(divergences).mean().item() == pytest.approx(expected, rel=0.15)


@pytest.mark.parametrize("row", range(8))
def test_a_member_learns_from_its_own_share_of_the_batch(row: int) -> None:
    head = make_ensemble(4)
    batch = dataclasses.replace(random_batch(), tokens={"x": torch.zeros(8, 2, 3, 3, dtype=torch.int64)})
    loss = head.loss(torch.randn(8, 2, 3, WIDTH), batch)
    loss[row].sum().backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None
        touched = parameter.grad.flatten(1).abs().amax(1) > 0
        assert touched.tolist() == [member == row // 2 for member in range(4)], name


def test_the_ensemble_teaches_nothing_but_itself() -> None:
    weights = {"observation": 0.0, "reward": 0.0, "termination": 0.0, "disagreement": 1.0}
    model = make_model(loss_weights=weights)
    model.losses(random_batch()).total.backward()
    for name, parameter in model.named_parameters():
        touched = parameter.grad is not None and bool(parameter.grad.abs().any())
        assert touched == name.startswith("heads.disagreement."), name


def test_an_ensemble_is_independent_heads(generator: torch.Generator) -> None:
    ensemble = EnsembleHead(3, 8, 12, 5)
    x = torch.randn(3, 7, 8, generator=generator)
    changed = x.clone()
    changed[1] += torch.randn(7, 8, generator=generator)
    difference = (ensemble(changed) - ensemble(x)).abs().amax((1, 2))
    assert (difference > 1e-6).tolist() == [False, True, False]


# One imagined step.


@torch.no_grad()
def test_step_draws_valid_tokens_and_sums_disagreement_over_keys(generator: torch.Generator) -> None:
    model, batch = make_model(), random_batch()
    tokens, actions = {key: ids[:, 0] for key, ids in batch.tokens.items()}, batch.actions[:, 0]
    step, _ = model.step(tokens, actions, model.init_state(BATCH), generator)
    for key, spec in TOKEN_SPECS.items():
        assert step.tokens[key].shape == (BATCH, spec.num_tokens, spec.num_channels)
        assert (step.tokens[key] < torch.tensor(spec.vocabulary)).all() and (step.tokens[key] >= 0).all()
    assert {x.shape for x in (*step.rewards.values(), step.terminated)} == {(BATCH,)}
    assert step.terminated.dtype == torch.bool
    latents, _ = model.sequence.step(model.embed(tokens, actions), model.init_state(BATCH))
    expected = {
        name: sum(head.predict(latents[:, model.layout.positions(head.positions)], {}, None)[name] for head in heads)
        for name, heads in ((EXTRINSIC, model.heads_of("reward")), ("disagreement", model.heads_of("disagreement")))
    }
    torch.testing.assert_close(step.rewards, expected)


@torch.no_grad()
def test_step_reads_the_prediction_that_training_uses() -> None:
    model, batch = make_model(), random_batch()
    blocks = model.embed(batch.tokens, batch.actions)
    predictions = model.sequence.parallel(blocks, model.init_state(BATCH))[1]
    before = {key: ids[:, :3] for key, ids in batch.tokens.items()}
    state = model.warm_up(before, batch.actions[:, :3], batch.observed[:, :3])
    step, _ = model.step({key: ids[:, 3] for key, ids in batch.tokens.items()}, batch.actions[:, 3], state)
    expected = model.heads_of("reward")[0].predict(predictions[:, 4, -1:], {}, None)[EXTRINSIC]
    torch.testing.assert_close(step.rewards[EXTRINSIC], expected, rtol=1e-4, atol=1e-6)


@torch.no_grad()
def test_without_an_ensemble_there_is_no_disagreement() -> None:
    heads = {name: head for name, head in HEADS_OF_TWO.items() if name != "disagreement"}
    config = WorldModelConfig(heads=heads, loss_weights=dict.fromkeys(heads, 1.0))
    model, batch = WorldModel(config, TOKEN_SPECS, ACTION_SPEC, max_blocks=32).eval(), random_batch()
    tokens = {key: ids[:, 0] for key, ids in batch.tokens.items()}
    assert set(model.step(tokens, batch.actions[:, 0], model.init_state(BATCH))[0].rewards) == {EXTRINSIC}


@pytest.mark.parametrize("missing", ["observation", "reward", "termination"])
def test_heads_that_imagination_needs_are_asked_for(missing: str) -> None:
    heads = {name: head for name, head in HEADS_OF_TWO.items() if name != missing}
    weights = dict.fromkeys(heads, 1.0)
    with pytest.raises(ConfigError, match="imagination needs it"):
        WorldModelConfig(heads=heads, loss_weights=weights, priority_weights={})


@pytest.mark.parametrize("twice", ["observation", "reward", "termination"])
def test_what_only_one_head_may_predict_is_not_predicted_by_two(twice: str) -> None:
    heads = {**HEADS_OF_TWO, "second": HEADS_OF_TWO[twice]}
    with pytest.raises(ConfigError, match=rf"\['{twice}', 'second'\] all predict '.*exactly one"):
        WorldModelConfig(heads=heads, loss_weights=dict.fromkeys(heads, 1.0))


# Layout and embedding.


def test_positions_of_a_block() -> None:
    layout = BlockLayout(TOKEN_SPECS, ACTION_SPEC)
    assert (layout.num_observation_tokens, layout.num_action_tokens, layout.length) == (5, 2, 7)
    assert layout.positions("cells") == slice(0, 3)
    assert layout.positions("levels") == slice(3, 5)
    assert layout.positions(SUMMARY) == slice(-1, None)
    with pytest.raises(KeyError):
        layout.positions("action")
    named = BlockLayout({"summary": TOKEN_SPECS["cells"], "levels": TOKEN_SPECS["levels"]}, ACTION_SPEC)
    assert (named.positions("summary"), named.positions(SUMMARY)) == (slice(0, 3), slice(-1, None))


@torch.no_grad()
def test_embedding_reads_every_channel_and_action_token() -> None:
    embedder = BlockEmbedder(BlockLayout(TOKEN_SPECS, ACTION_SPEC), WIDTH, slot_embedding=False)
    batch = random_batch(length=1)
    tokens, actions = {key: ids[:, 0] for key, ids in batch.tokens.items()}, batch.actions[:, 0]
    block = embedder(tokens, actions)
    assert block.shape == (BATCH, 7, WIDTH)
    table = embedder.observation[0].channels.table.weight
    first = tokens["cells"][0, 0]
    torch.testing.assert_close(block[0, 0], (table[first[0]] + table[4 + first[1]] + table[7 + first[2]]) / 3**0.5)
    torch.testing.assert_close(block[:, 5], embedder.action.table.weight[actions[:, 0]])
    torch.testing.assert_close(block[:, 6], embedder.action.table.weight[3 + actions[:, 1]])


def test_codes_enter_as_loud_as_other_embeddings() -> None:
    """Defect 16: codes of a deviation of 0.13 were not heard beside slot embeddings of one."""
    quiet = CodeEmbedding(WIDTH, WIDTH, unit_scale=True)
    for _ in range(30):
        entered = quiet(0.13 * torch.randn(BATCH, 5, WIDTH))
    assert entered.square().mean().sqrt().item() == pytest.approx(1, abs=0.1)
    quiet.eval()
    before = quiet.mean_square.clone()
    assert torch.equal(quiet(torch.ones(1, 1, WIDTH)), torch.full((1, 1, WIDTH), before.rsqrt().item()))
    assert torch.equal(quiet.mean_square, before)  # only training measures
    published, codes = CodeEmbedding(WIDTH, WIDTH, unit_scale=False), torch.randn(2, 3, WIDTH)
    assert published(codes) is codes and not list(published.buffers())
