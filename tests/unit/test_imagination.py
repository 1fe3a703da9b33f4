"""Who sees what when in imagination: with stand-ins that count, and with the real models."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from worldstream.config import Config, ImaginationConfig
from worldstream.imagination import Start, imagine
from worldstream.models import Models
from worldstream.specs import ActionComponent, ActionSpec, KeySpec
from worldstream.training.updates import imagine_from, past_length
from worldstream.types import EXTRINSIC, Batch, Features, Tokens, Trajectories
from worldstream.world_model.model import Imagined, WorldModelConfig
from worldstream.world_model.sequence.retention import RetentionConfig

BATCH, HORIZON = 4, 5
KEY_SPECS = {
    "position": KeySpec(key="position", modality="vector", shape=(2,), dtype="float32"),
    "phase": KeySpec(key="phase", modality="categorical", shape=(1,), dtype="uint8", vocabulary=(4,)),
}
ACTION_SPEC = ActionSpec(
    components=(
        ActionComponent(path="choice", kind="discrete", sizes=(3,), shape=(), dtype="int64"),
        ActionComponent(
            path="force", kind="continuous", sizes=(2,), shape=(1,), dtype="float32", low=(0.0,), high=(1.0,),
            ordinal=True,
        ),
    ),
    structure={"tuple": ["choice", "force"]},
)  # fmt: skip
LENGTHS = ImaginationConfig(horizon=HORIZON, context_length=2, burn_in=4)


# Stand-ins: tokens count up by one a step, the state counts blocks, the carry counts observations.


class CountingWorldModel:
    def __init__(self) -> None:
        self.calls: list[tuple[Tensor, Tensor, int]] = []

    def step(self, tokens: Tokens, action: Tensor, state: int, generator: Any, **options: Any) -> tuple[Imagined, int]:
        assert not torch.is_grad_enabled()
        self.calls.append((tokens["x"], action, state))
        number = tokens["x"][:, 0, 0]
        reward = 100.0 * number + action[:, 0]
        return Imagined({"x": tokens["x"] + 1}, {"a": reward, "b": 0.5 * reward}, number % 2 == 0), state + 1


class CountingPolicy:
    def __init__(self) -> None:
        self.calls: list[tuple[Tensor, int]] = []

    def __call__(self, features: Features, carry: int, generator: Any) -> tuple[Tensor, int, dict[str, Any]]:
        self.calls.append((features["x"], carry))
        action = features["x"][:, 0, :1].long() % 7
        return action, carry + 1, {"seen": features["x"][:, 0, 0]}


def rolled_out() -> tuple[CountingWorldModel, CountingPolicy, Trajectories]:
    world_model, policy = CountingWorldModel(), CountingPolicy()
    start = torch.tensor([10, 20, 30, 40]).reshape(BATCH, 1, 1)
    result = imagine(
        world_model,  # type: ignore[arg-type]
        policy,
        Start(tokens={"x": start}, state=70, carry=90),
        horizon=HORIZON,
    )
    return world_model, policy, result


def test_the_world_model_is_called_once_less_than_the_policy() -> None:
    """P6: the values of the last observation are needed, its successor is not."""
    world_model, policy, _ = rolled_out()
    assert [state for _, _, state in world_model.calls] == [70 + t for t in range(HORIZON)]
    assert [carry for _, carry in policy.calls] == [90 + t for t in range(HORIZON + 1)]


def test_both_see_the_same_observation_at_every_step() -> None:
    """C2."""
    world_model, policy, _ = rolled_out()
    for t, (tokens, action, _) in enumerate(world_model.calls):
        seen, _ = policy.calls[t]
        assert torch.equal(seen, tokens)
        assert tokens.flatten().tolist() == [10 + t, 20 + t, 30 + t, 40 + t]
        assert torch.equal(action, tokens[:, 0] % 7)


def test_trajectories_line_up() -> None:
    _, _, result = rolled_out()
    t = torch.arange(HORIZON + 1)
    numbers = torch.tensor([10, 20, 30, 40])[:, None] + t
    assert torch.equal(result.tokens["x"][:, :, 0, 0], numbers)
    assert torch.equal(result.info["seen"].long(), numbers)
    assert torch.equal(result.actions[..., 0], numbers[:, :-1] % 7)
    rewards = (100.0 * numbers + numbers % 7)[:, :-1]
    assert torch.equal(result.rewards["a"], rewards)
    assert torch.equal(result.rewards["b"], rewards / 2)
    assert torch.equal(result.terminated, numbers[:, :-1] % 2 == 0)


# Real models.


@pytest.fixture(params=[False, True], ids=["shared networks", "separate networks"])
def models(request: pytest.FixtureRequest) -> Models:
    config = Config(world_model=WorldModelConfig(sequence=RetentionConfig(num_layers=1, width=16, num_heads=2)))
    actor_critic = dataclasses.replace(config.actor_critic, hidden=(16,), separate_networks=request.param)
    return Models(dataclasses.replace(config, actor_critic=actor_critic), KEY_SPECS, ACTION_SPEC).eval()


def segments(models: Models, padding: tuple[int, ...] = (0, 0, 0, 0), seed: int = 0) -> Batch:
    """Left-padded segments as replay gives them for the agent: every observation real behind the padding."""
    rng = np.random.default_rng(seed)
    length = past_length(LENGTHS) + 1
    stored = {
        "position": rng.normal(size=(BATCH, length, 2)).astype(np.float32),
        "phase": rng.integers(4, size=(BATCH, length, 1)).astype(np.uint8),
    }
    observed = torch.arange(length) >= torch.tensor(padding)[:, None]
    return Batch(
        anchors=np.arange(BATCH),
        tokens=models.tokenizers.encode(stored),
        actions=torch.from_numpy(rng.integers((3, 2), size=(BATCH, length, 2))),
        rewards=torch.zeros(BATCH, length),
        terminated=torch.zeros(BATCH, length, dtype=torch.bool),
        observed=observed,
        acted=observed,
    )


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(5)


def test_shapes(models: Models) -> None:
    result = imagine_from(models, segments(models), LENGTHS, seeded())
    for key, spec in models.tokenizers.specs.items():
        assert result.tokens[key].shape == (BATCH, HORIZON + 1, spec.num_tokens, spec.num_channels)
        assert (result.tokens[key] < torch.tensor(spec.vocabulary)).all()
    assert result.actions.shape == (BATCH, HORIZON, 2)
    assert set(result.rewards) == {EXTRINSIC, "disagreement"}
    assert all(x.shape == (BATCH, HORIZON) for x in (*result.rewards.values(), result.terminated))
    assert result.info["policy_logits"].shape == (BATCH, HORIZON + 1, 5)
    assert result.info["value_logits"].shape == (BATCH, HORIZON + 1, models.actor_critic.critic.num_logits)


@torch.no_grad()
def test_imagination_begins_at_the_last_real_observation_for_both(models: Models) -> None:
    """C2, C9: the world model has seen the two blocks before it, the policy every step before it, no more."""
    batch = segments(models)
    result = imagine_from(models, batch, LENGTHS, seeded())
    for key, ids in batch.tokens.items():
        assert torch.equal(result.tokens[key][:, 0], ids[:, -1])
    agent, policy = models.actor_critic, models.actor_critic.policy()
    carry = agent.initial_carry(BATCH)
    for t in range(past_length(LENGTHS)):
        _, carry, _ = policy(models.tokenizers.features({k: x[:, t] for k, x in batch.tokens.items()}), carry, None)
        carry = carry.with_action(batch.actions[:, t])
    last = {key: ids[:, -1] for key, ids in batch.tokens.items()}
    _, _, info = policy(models.tokenizers.features(last), carry, None)
    for name, value in info.items():
        torch.testing.assert_close(result.info[name][:, 0], value, rtol=1e-4, atol=1e-5)
    world_model = models.world_model
    state = world_model.init_state(BATCH)
    for t in range(past_length(LENGTHS) - 2, past_length(LENGTHS)):
        block = world_model.embed({key: ids[:, t] for key, ids in batch.tokens.items()}, batch.actions[:, t])
        _, state = world_model.sequence.step(block, state)
    latents, _ = world_model.sequence.step(world_model.embed(last, result.actions[:, 0]), state)
    (head,) = world_model.heads_of("reward")
    reward = head.predict(latents[:, -1:], {}, None)[EXTRINSIC]
    torch.testing.assert_close(result.rewards[EXTRINSIC][:, 0], reward, rtol=1e-4, atol=1e-6)


@torch.no_grad()
def test_imagination_equals_a_loop_by_hand(models: Models) -> None:
    batch, world_model, agent = segments(models), models.world_model, models.actor_critic
    result = imagine_from(models, batch, LENGTHS, seeded())
    generator, policy = seeded(), agent.policy()
    features = models.tokenizers.features({key: ids[:, :-1] for key, ids in batch.tokens.items()})
    carry = agent.burn_in(features, batch.actions[:, :-1], batch.acted[:, :-1])
    recent = {key: ids[:, -3:-1] for key, ids in batch.tokens.items()}
    state = world_model.warm_up(recent, batch.actions[:, -3:-1], batch.acted[:, -3:-1])
    tokens = {key: ids[:, -1] for key, ids in batch.tokens.items()}
    for t in range(HORIZON):
        action, carry, info = policy(models.tokenizers.features(tokens), carry, generator)
        step, state = world_model.step(tokens, action, state, generator)
        assert torch.equal(result.actions[:, t], action)
        assert torch.equal(result.info["value_logits"][:, t], info["value_logits"])
        assert torch.equal(result.rewards[EXTRINSIC][:, t], step.rewards[EXTRINSIC])
        assert torch.equal(result.terminated[:, t], step.terminated)
        tokens = step.tokens
        for key, ids in tokens.items():
            assert torch.equal(result.tokens[key][:, t + 1], ids)


@torch.no_grad()
def test_padding_before_the_episode_leaves_no_trace(models: Models) -> None:
    padding = (0, 1, 3, 4)
    batch, other = segments(models, padding), segments(models, padding, seed=1)
    real = batch.observed
    mixed = dataclasses.replace(
        batch,
        tokens={k: torch.where(real[..., None, None], x, other.tokens[k]) for k, x in batch.tokens.items()},
        actions=torch.where(real[..., None], batch.actions, other.actions),
    )
    assert not torch.equal(mixed.actions, batch.actions)
    first, second = (imagine_from(models, b, LENGTHS, seeded()) for b in (batch, mixed))
    torch.testing.assert_close(first.rewards, second.rewards)
    torch.testing.assert_close(first.info, second.info)


@torch.no_grad()
def test_nothing_is_masked_where_nothing_is_padded(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    batch, masks = segments(models), []
    warm_up = models.world_model.warm_up

    def recorded(tokens: dict[str, torch.Tensor], actions: torch.Tensor, mask: torch.Tensor | None) -> object:
        masks.append(mask)
        return warm_up(tokens, actions, mask)

    monkeypatch.setattr(models.world_model, "warm_up", recorded)
    first, second = (
        imagine_from(models, dataclasses.replace(batch, padded=padded), LENGTHS, seeded()) for padded in (True, False)
    )
    assert masks[0] is not None and masks[1] is None
    torch.testing.assert_close(first.rewards, second.rewards)
    torch.testing.assert_close(first.info, second.info)


def test_gradients_reach_the_policy_through_time_but_not_the_world_model(models: Models) -> None:
    models.train()
    result = imagine_from(models, segments(models), LENGTHS, seeded())
    assert not any(x.requires_grad for x in (*result.rewards.values(), result.terminated, result.actions))
    (result.info["policy_logits"].square().sum() + result.info["value_logits"].square().sum()).backward()
    assert all(p.grad is None for p in models.world_model.parameters())
    assert all(p.grad is None for p in models.tokenizers.parameters())
    idle = [name for name, p in models.actor_critic.named_parameters() if p.grad is None or not p.grad.abs().any()]
    assert idle == []
    # The action table is reached through memory alone: actions are heard one step later.
    models.zero_grad()
    imagine_from(models, segments(models), LENGTHS, seeded()).info["policy_logits"][:, -1].sum().backward()
    gradient = models.actor_critic.get_submodule("trunks.0").action_embed.tables.table.weight.grad
    assert gradient is not None and gradient.abs().any()


@torch.no_grad()
def test_imagination_depends_on_the_generator_only(models: Models) -> None:
    batch = segments(models)
    first, second = (imagine_from(models, batch, LENGTHS, seeded()) for _ in range(2))
    other = imagine_from(models, batch, LENGTHS, torch.Generator().manual_seed(6))
    assert torch.equal(first.actions, second.actions)
    assert torch.equal(first.rewards[EXTRINSIC], second.rewards[EXTRINSIC])
    assert not torch.equal(first.tokens["position"], other.tokens["position"])


@torch.no_grad()
def test_rewards_are_predicted_when_asked(models: Models) -> None:
    batch = segments(models)
    carry, state = models.actor_critic.initial_carry(BATCH), models.world_model.init_state(BATCH)
    tokens = {key: ids[:, -1] for key, ids in batch.tokens.items()}
    start, policy = Start(tokens, state, carry), models.policy_of_tokens()
    measured, skipped = (
        imagine(models.world_model, policy, start, horizon=HORIZON, generator=seeded(), rewards=rewards)
        for rewards in (None, (EXTRINSIC,))
    )
    assert (measured.rewards["disagreement"] > 0).all() and set(skipped.rewards) == {EXTRINSIC}
    assert torch.equal(measured.rewards[EXTRINSIC], skipped.rewards[EXTRINSIC])
    assert torch.equal(measured.actions, skipped.actions)
