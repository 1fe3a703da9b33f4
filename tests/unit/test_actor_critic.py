"""One recurrence for acting, burn-in and imagination; losses that stop at the end; the scale of returns."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from worldstream.agent.actor_critic import ActionEmbedding, ActorCritic, ActorCriticConfig, Carry
from worldstream.agent.losses import ActorCriticLossConfig, ActorCriticLosses, actor_critic_losses
from worldstream.agent.return_scale import ReturnScale, ReturnScaleConfig
from worldstream.nn.numerics import lambda_returns
from worldstream.specs import ActionComponent, ActionSpec, TokenSpec
from worldstream.types import EXTRINSIC, Features, Trajectories

BATCH, HIDDEN = 4, 16
SEEN = 50.0
"""Returns that the critic of a test has seen."""
TOKEN_SPECS = {
    "cells": TokenSpec(num_tokens=6, vocabulary=(3, 2), grid=(2, 3)),
    "levels": TokenSpec(num_tokens=2, vocabulary=(9,), feature_size=1),
    "codes": TokenSpec(num_tokens=4, vocabulary=(8,), grid=(2, 2), feature_size=3, coded=True),
}
ACTION_SPEC = ActionSpec(
    components=(
        ActionComponent(path="kind", kind="discrete", sizes=(3,), shape=(), dtype="int64"),
        ActionComponent(
            path="force", kind="continuous", sizes=(5, 3), shape=(2,), dtype="float32", low=(-1.0, 0.0),
            high=(1.0, 4.0), ordinal=True,
        ),
    ),
    structure={"dict": {"kind": "kind", "force": "force"}},
)  # fmt: skip
VARIANTS: list[dict[str, Any]] = [{}, {"separate_networks": True}, {"grid_channels": (4, 5)}]


def make(**changes: Any) -> ActorCritic:
    torch.manual_seed(0)
    config = ActorCriticConfig(**{"hidden": (HIDDEN,), "embedding_width": 4, **changes})
    return ActorCritic(config, TOKEN_SPECS, ACTION_SPEC)


def random_ids(sizes: tuple[int, ...], *leading: int) -> Tensor:
    return torch.stack([torch.randint(size, leading) for size in sizes], -1)


def random_features(*leading: int) -> Features:
    return {
        "cells": random_ids((3, 2), *leading, 6),
        "levels": torch.randn(*leading, 2, 1),
        "codes": torch.randn(*leading, 4, 3),
    }


def at(features: Features, *index: Any) -> Features:
    return {key: x[index] for key, x in features.items()}


def act_along(agent: ActorCritic, features: Features, actions: Tensor) -> Carry:
    """Carry after the policy saw features (B, T, ...) one by one while ``actions`` (B, T, M) were executed."""
    carry, policy = agent.initial_carry(len(actions)), agent.policy()
    for t in range(actions.shape[1]):
        _, carry, _ = policy(at(features, slice(None), t), carry, None)
        carry = carry.with_action(actions[:, t])
    return carry


def assert_same(ours: Carry, theirs: Carry) -> None:
    for a, b in zip(ours.memory, theirs.memory, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    assert torch.equal(ours.acted, theirs.acted)
    assert torch.equal(ours.action[ours.acted], theirs.action[theirs.acted])


# Observations.


def test_convolutions_read_codes_on_a_grid_and_nothing_else() -> None:
    cells, levels, codes = make(grid_channels=(5, 7)).trunks[0].encoder.encoders
    assert [len(encoder.convolutions) for encoder in (cells, levels, codes)] == [0, 0, 4]
    assert [encoder.out_features for encoder in (cells, levels, codes)] == [6 * 4, 2, 4 * 7]


def test_the_critic_has_as_many_bins_as_it_is_told() -> None:
    assert make(num_value_bins=65).critic.num_logits == 65
    assert make(num_value_bins=65, value_output="squared_error").critic.num_logits == 1


# Memory.


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
@torch.no_grad()
def test_burn_in_equals_acting(variant: dict[str, Any]) -> None:
    """C9: observations *and* executed actions, exactly as they were interleaved."""
    agent, features, actions = make(**variant), random_features(BATCH, 7), random_ids(ACTION_SPEC.sizes, BATCH, 7)
    burnt_in = agent.burn_in(features, actions, torch.ones(BATCH, 7, dtype=torch.bool))
    assert_same(burnt_in, act_along(agent, features, actions))
    other = agent.burn_in(features, random_ids(ACTION_SPEC.sizes, BATCH, 7), torch.ones(BATCH, 7, dtype=torch.bool))
    assert (other.memory[0] - burnt_in.memory[0]).abs().max() > 1e-3  # actions are heard


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
@torch.no_grad()
def test_burn_in_skips_what_precedes_the_episode(variant: dict[str, Any]) -> None:
    agent, features, actions = make(**variant), random_features(BATCH, 6), random_ids(ACTION_SPEC.sizes, BATCH, 6)
    padding = torch.tensor([0, 2, 5, 6])
    burnt_in = agent.burn_in(features, actions, torch.arange(6) >= padding[:, None])
    following = agent.remember(random_features(BATCH), burnt_in)
    for row, pad in enumerate(padding.tolist()):
        own = act_along(agent, at(features, slice(row, row + 1), slice(pad, None)), actions[row : row + 1, pad:])
        mine = torch.tensor([row])
        picked = Carry(tuple(x[mine] for x in burnt_in.memory), burnt_in.action[mine], burnt_in.acted[mine])
        assert_same(picked, own)
    assert burnt_in.acted.tolist() == [True, True, True, False]
    assert all(x.isfinite().all() for x in following.memory)


@torch.no_grad()
def test_the_executed_action_enters_the_memory() -> None:
    """C8: what counts at the next step is the action in the carry, not the one that the policy chose."""
    agent, features = make(), random_features(BATCH)
    chosen, carry, _ = agent.policy()(features, agent.initial_carry(BATCH), torch.Generator().manual_seed(0))
    assert torch.equal(carry.action, chosen) and carry.acted.all()
    other = (chosen + 1) % torch.tensor(ACTION_SPEC.sizes)
    replaced = carry.with_action(other)
    assert torch.equal(replaced.action, other) and torch.equal(carry.action, chosen)
    following = random_features(BATCH)
    as_chosen, as_executed = (agent.policy()(following, c, None)[2]["policy_logits"] for c in (carry, replaced))
    assert (as_chosen - as_executed).abs().amax(-1).min() > 1e-5


@torch.no_grad()
def test_before_the_first_action_none_is_heard() -> None:
    agent, features = make(), random_features(BATCH)
    fresh = agent.initial_carry(BATCH)
    other = fresh.with_action(torch.ones_like(fresh.action))
    for a, b in zip(agent.remember(features, fresh).memory, agent.remember(features, other).memory):
        assert torch.equal(a, b)


@torch.no_grad()
def test_rows_of_a_carry_are_chosen_by_mask() -> None:
    agent = make(separate_networks=True)
    first, second = (
        act_along(agent, random_features(BATCH, t), random_ids(ACTION_SPEC.sizes, BATCH, t)) for t in (1, 3)
    )
    fresh = dataclasses.replace(second, acted=torch.zeros(BATCH, dtype=torch.bool))
    mask = torch.tensor([True, False, False, True])
    mixed = first.where(mask, fresh)
    for name in ("action", "acted"):
        assert torch.equal(getattr(mixed, name)[mask], getattr(first, name)[mask])
        assert torch.equal(getattr(mixed, name)[~mask], getattr(fresh, name)[~mask])
    for own, a, b in zip(mixed.memory, first.memory, fresh.memory):
        assert torch.equal(own[mask], a[mask]) and torch.equal(own[~mask], b[~mask])


# Policy.


@torch.no_grad()
def test_temperature_zero_takes_the_mode() -> None:
    agent, features, carry = make(), random_features(64), make().initial_carry(64)
    agent.actor.weight.mul_(3)
    greedy, _, info = agent.policy(0.0)(features, carry, None)
    parts = info["policy_logits"].split(list(ACTION_SPEC.sizes), -1)
    assert torch.equal(greedy, torch.stack([part.argmax(-1) for part in parts], -1))
    for temperature, agrees in ((1e-4, 1.0), (1.0, 0.9)):
        sampled, _, _ = agent.policy(temperature)(features, carry, torch.Generator().manual_seed(0))
        share = (sampled == greedy).float().mean()
        assert share >= agrees if agrees == 1.0 else share < agrees
    assert torch.equal(agent.policy(0.0)(features, carry, torch.Generator().manual_seed(9))[0], greedy)


@torch.no_grad()
def test_actions_are_valid_ids_and_all_occur(generator: torch.Generator) -> None:
    agent = make()
    actions, _, info = agent.policy()(random_features(400), agent.initial_carry(400), generator)
    assert actions.shape == (400, 3) and actions.dtype == torch.int64
    for m, size in enumerate(ACTION_SPEC.sizes):
        assert set(actions[:, m].tolist()) == set(range(size))
    assert info["policy_logits"].shape == (400, 11) and info["value_logits"].shape == (400, agent.critic.num_logits)
    assert agent.value_output(info["value_logits"]).mean.abs().max() < 1  # untrained values are about zero


def test_every_component_adds_to_log_probability_and_entropy() -> None:
    """C11: sums over action tokens, the joint log-probability."""
    output = make().policy_output(torch.zeros(BATCH, 11))
    expected = torch.tensor([3.0, 5.0, 3.0]).log().sum().expand(BATCH)
    torch.testing.assert_close(output.entropy(), expected)
    torch.testing.assert_close(-output.log_prob(random_ids(ACTION_SPEC.sizes, BATCH)), expected)


@torch.no_grad()
def test_ordered_actions_are_read_as_values() -> None:
    embedding = ActionEmbedding(ACTION_SPEC, HIDDEN)
    ids = random_ids(ACTION_SPEC.sizes, 50)
    levels = ids[:, 1:] * 2 / torch.tensor([4, 2]) - 1  # from -1 to 1
    numbers = torch.cat((torch.zeros(50, 1), levels), -1)
    expected = embedding.tables.table.weight[ids[:, 0]] + embedding.linear(numbers)
    torch.testing.assert_close(embedding(ids), expected)
    embedding.tables.table.weight[3:] += 1.0  # the rows of ordered ids are not looked up
    torch.testing.assert_close(embedding(ids), expected)


# Networks.


def gradient_names(agent: ActorCritic, output: Tensor) -> set[str]:
    agent.zero_grad()
    output.square().sum().backward()
    return {name for name, p in agent.named_parameters() if p.grad is not None and p.grad.abs().any()}


@pytest.mark.parametrize("separate", [False, True])
def test_actor_and_critic_share_networks_only_when_told(separate: bool) -> None:
    agent = make(separate_networks=separate)
    carry = agent.initial_carry(BATCH)
    assert len(carry.memory) == (4 if separate else 2)
    with torch.no_grad():
        _, carry, _ = agent.policy()(random_features(BATCH), carry, None)
    by_actor, by_critic = (
        gradient_names(agent, agent.policy()(random_features(BATCH), carry, None)[2][name])
        for name in ("policy_logits", "value_logits")
    )
    assert any(name.startswith("trunks") for name in by_actor & by_critic) == (not separate)
    assert any(name.startswith("actor") for name in by_actor) and any(n.startswith("critic") for n in by_critic)
    assert by_actor | by_critic == {name for name, _ in agent.named_parameters()}


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_every_input_is_heard(variant: dict[str, Any]) -> None:
    agent, features = make(**variant), random_features(BATCH)
    carry = agent.initial_carry(BATCH)
    before = agent.remember(features, carry).memory
    for key in features:
        changed = {**features, key: random_features(BATCH)[key]}
        for a, b in zip(agent.remember(changed, carry).memory, before):
            assert (a - b).abs().max() > 1e-5


# Losses.


def trajectories(horizon: int = 5) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        "policy_logits": torch.randn(BATCH, horizon, 11, generator=generator),
        "value_logits": torch.randn(BATCH, horizon + 1, 129, generator=generator),
        "actions": random_ids(ACTION_SPEC.sizes, BATCH, horizon),
        "rewards": 20 * torch.randn(BATCH, horizon, generator=generator),
        "disagreement": torch.rand(BATCH, horizon, generator=generator),
        "terminated": torch.zeros(BATCH, horizon, dtype=torch.bool),
    }


def losses_of(
    data: dict[str, Tensor], *, extrinsic: float = 1.0, intrinsic: float = 1.0, **config: float
) -> ActorCriticLosses:
    last = data["policy_logits"][:, -1:]  # the policy is asked at the last state too, where no action follows
    data = {**data, "policy_logits": torch.cat((data["policy_logits"], last), 1)}
    weights = {EXTRINSIC: extrinsic, "disagreement": intrinsic}
    imagined = Trajectories(
        tokens={},
        actions=data["actions"],
        rewards={EXTRINSIC: data["rewards"], "disagreement": data["disagreement"]},
        terminated=data["terminated"],
        info={"policy_logits": data["policy_logits"], "value_logits": data["value_logits"]},
    )
    agent = make()
    agent.critic.remember(torch.tensor([-SEEN, SEEN]))
    return actor_critic_losses(
        agent, scale_over(5, 64), ActorCriticLossConfig(reward_weights=weights, **config), imagined
    )


def test_losses_equal_their_definition() -> None:
    data = trajectories()
    data["terminated"][1, 2] = True
    agent, config = make(), {"discount": 0.9, "lambda_": 0.8}
    losses = losses_of(data, extrinsic=2.0, intrinsic=3.0, entropy_weight=0.01, **config)
    agent.critic.remember(torch.tensor([-SEEN, SEEN]))
    value = agent.value_output(data["value_logits"])
    rewards = 2 * data["rewards"] + 3 * data["disagreement"]
    returns = lambda_returns(rewards, data["terminated"], value.mean, 0.9, 0.8)
    alive = torch.ones(BATCH, 5, dtype=torch.bool)
    alive[1, 3:] = False
    policy = agent.policy_output(data["policy_logits"])
    scale = losses.metrics["return_scale"]
    assert scale > 1
    advantage = (returns - value.mean[:, :-1]) / scale
    actor = -(policy.log_prob(data["actions"]) * advantage)[alive].mean()
    critic = agent.value_output(data["value_logits"][:, :-1]).loss(returns)[alive].mean()
    entropy = policy.entropy()[alive].mean()
    torch.testing.assert_close(losses.metrics["actor_loss"], actor)
    torch.testing.assert_close(losses.metrics["critic_loss"], critic)
    torch.testing.assert_close(losses.total, actor + critic - 0.01 * entropy)
    assert losses.metrics["imagined_length"] == (5 + 3 + 5 + 5) / 4
    mistaken = torch.where(alive, advantage.abs(), 0.0).sum(1) / alive.sum(1)
    torch.testing.assert_close(losses.priorities.exp(), mistaken)  # a soft-max of logarithms is proportional


def test_a_critic_that_warms_up_is_trained_alone() -> None:
    data = trajectories()
    plain, warming = losses_of(data, entropy_weight=0.01), losses_of(data, entropy_weight=0.01, critic_warmup=1)
    torch.testing.assert_close(warming.total, plain.metrics["critic_loss"])
    assert not torch.equal(warming.total, plain.total)
    assert torch.equal(losses_of(data, entropy_weight=0.01, critic_warmup=0).total, plain.total)


@given(row=st.integers(0, BATCH - 1), end=st.integers(0, 3))
def test_nothing_after_an_imagined_end_teaches(row: int, end: int) -> None:
    """C10: neither losses, nor metrics, nor the scale of returns notice it."""
    data = trajectories()
    data["terminated"][row, end] = True
    changed = {name: x.clone() for name, x in data.items()}
    after = slice(end + 1, None)
    changed["policy_logits"][row, after] *= -3
    changed["value_logits"][row, after] *= -3
    changed["rewards"][row, after] = 1e4
    changed["disagreement"][row, after] += 7
    changed["actions"][row, after] = 0
    changed["terminated"][row, after] = True
    before, now = losses_of(data), losses_of(changed)
    assert before.metrics["return_scale"] > 1
    torch.testing.assert_close(now.total, before.total)
    torch.testing.assert_close(now.metrics, before.metrics)


def test_gradients_of_the_losses() -> None:
    data = trajectories()
    data["terminated"][0, 1] = True
    data["policy_logits"].requires_grad_()
    data["value_logits"].requires_grad_()
    losses_of(data, entropy_weight=0.0).total.backward()
    policy, value = (data[name].grad.abs().amax(-1) for name in ("policy_logits", "value_logits"))
    assert (policy[0] > 0).tolist() == [True, True, False, False, False]
    assert (value[0] > 0).tolist() == [True, True, False, False, False, False]
    assert (policy[1:] > 0).all() and (value[1:, :-1] > 0).all()
    assert not value[:, -1].any()  # the bootstrap value is no target and has no gradient


def test_entropy_bonus_widens_the_policy() -> None:
    data = trajectories()
    data["policy_logits"].requires_grad_()
    for weight in (0.0, 1.0):
        data["policy_logits"].grad = None
        losses_of(data, entropy_weight=weight).total.backward()
        if not weight:
            without = data["policy_logits"].grad.clone()
    direction = without - data["policy_logits"].grad
    entropy = make().policy_output(data["policy_logits"].detach()).entropy().mean()
    wider = make().policy_output(data["policy_logits"].detach() + 10 * direction).entropy().mean()
    assert wider > entropy + 0.01


def test_good_actions_become_likelier() -> None:
    data = trajectories(1)
    data["rewards"] = torch.tensor([[5.0], [-5.0], [5.0], [-5.0]])
    data["value_logits"].zero_()
    data["policy_logits"].requires_grad_()
    losses_of(data, entropy_weight=0.0, intrinsic=0.0, discount=0.0).total.backward()
    stepped = data["policy_logits"].detach() - data["policy_logits"].grad
    gain = make().policy_output(stepped).log_prob(data["actions"]) - make().policy_output(
        data["policy_logits"].detach()
    ).log_prob(data["actions"])
    assert (gain.squeeze(-1) > 0).tolist() == [True, False, True, False]


# Scale of returns.


def scale_over(window: int, num_samples: int, **config: float) -> ReturnScale:
    return ReturnScale(ReturnScaleConfig(window=window, **config), num_samples)


def test_return_scale_is_half_the_range_of_the_latest_updates() -> None:
    scale, window = scale_over(3, 24), []
    for update in range(7):
        returns = torch.randn(6, 4) * 10 * (update + 1) + 5
        window = [*window, returns][-3:]
        low, high = torch.quantile(torch.stack(window).flatten(), torch.tensor([0.025, 0.975]))
        torch.testing.assert_close(scale.update(returns), (high - low) / 2)


@pytest.mark.parametrize("floor", [1.0, 0.05])
def test_return_scale_has_a_floor_and_remembers_501_updates(floor: float) -> None:
    assert ReturnScale().returns.shape[0] == 501
    scale = scale_over(2, 8, floor=floor)
    assert scale.update(1000 * torch.arange(8.0)) > 1000
    assert scale.update(torch.full((8,), 0.3)) > 1000
    torch.testing.assert_close(scale.update(torch.full((8,), 0.3)), torch.tensor(floor))


def test_return_scale_samples_large_batches_evenly() -> None:
    """P12: a subset stands for all, first and last included."""
    scale = scale_over(1, 101)
    assert scale.update(torch.arange(50_001.0)).item() == pytest.approx(0.475 * 50_000, rel=1e-3)


def test_return_scale_survives_saving() -> None:
    scale, twin = scale_over(3, 8), scale_over(3, 8)
    for _ in range(2):
        scale.update(10 * torch.randn(8))
    twin.load_state_dict(scale.state_dict())
    returns = 10 * torch.randn(8)
    assert scale.update(returns) == twin.update(returns)
