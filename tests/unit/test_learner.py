"""Which weights decay, and what one step of a learner does."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from worldstream.config import Config, LearnerConfig
from worldstream.models import Models
from worldstream.nn.layers import EnsembleHead
from worldstream.specs import ActionComponent, ActionSpec, KeySpec
from worldstream.training.learner import Learner, parameter_groups
from worldstream.world_model.model import WorldModelConfig
from worldstream.world_model.sequence.retention import RetentionConfig

CONFIG = LearnerConfig(batch_size=4, learning_rate=0.1, weight_decay=0.5, updates_per_step=1.0, start_steps=0)


def make_models() -> Models:
    sequence = RetentionConfig(num_layers=2, width=16, num_heads=2)
    config = Config(world_model=WorldModelConfig(sequence=sequence))
    config = dataclasses.replace(
        config, actor_critic=dataclasses.replace(config.actor_critic, hidden=(16,), grid_channels=(4,))
    )
    keys = {
        "map": KeySpec(key="map", modality="grid", shape=(6, 2), dtype="uint8", vocabulary=(4, 3), grid=(2, 3)),
        "x": KeySpec(key="x", modality="vector", shape=(2,), dtype="float32"),
        "eye": KeySpec(key="eye", modality="image", shape=(16, 16, 3), dtype="uint8"),
    }
    action = ActionComponent(path="action", kind="discrete", sizes=(3,), shape=(), dtype="int64")
    return Models(config, keys, ActionSpec(components=(action,), structure="action"))


def decayed_names(module: nn.Module) -> set[str]:
    names = {id(p): name for name, p in module.named_parameters()}
    decayed, others = parameter_groups(module, 0.3)
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.3, 0.0)
    listed = [id(p) for group in (decayed, others) for p in group["params"]]  # type: ignore[attr-defined]
    assert sorted(listed) == sorted(names)  # every parameter once
    return {names[id(p)] for p in decayed["params"]}  # type: ignore[attr-defined]


@pytest.mark.parametrize("part", ["world_model", "actor_critic"])
def test_matrices_decay_and_nothing_else(part: str) -> None:
    """C15: decided by the type of the module that owns a weight."""
    module = getattr(make_models(), part)
    decayed = decayed_names(module)
    kinds = set()
    for path, child in module.named_modules():
        kinds.add(type(child))
        for name, parameter in child.named_parameters(recurse=False):
            full = f"{path}.{name}" if path else name
            matrix = isinstance(child, nn.Linear | nn.Conv2d | nn.LSTMCell) and parameter.ndim > 1
            if type(child).__name__ == "EnsembleLinear":
                matrix = name == "weight"
            assert (full in decayed) == matrix, full
    expected = {nn.Linear, nn.LayerNorm, nn.Embedding}
    assert kinds >= expected | ({nn.LSTMCell, nn.Conv2d} if part == "actor_critic" else {EnsembleHead})


def test_prediction_tokens_slots_gains_and_tables_do_not_decay() -> None:
    decayed = decayed_names(make_models().world_model)
    for part in ("prediction_tokens", "slots", "table", "norm", "gain", "shift", "bias", "embed.action"):
        assert not any(part in name for name in decayed), part
    for part in ("qkvg.weight", "up.weight", "observation.0.net.0.weight", "disagreement.0.net.first.weight"):
        assert any(name.endswith(part) for name in decayed), part
    assert decayed_names(EnsembleHead(3, 4, 5, 6)) == {"first.weight", "last.weight"}


def test_decay_is_applied_to_the_matrices() -> None:
    module = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3))
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    Learner(module, CONFIG).step(0.0 * sum(p.sum() for p in module.parameters()))
    for name, parameter in module.named_parameters():
        factor = 1 - 0.1 * 0.5 if name == "0.weight" else 1.0
        torch.testing.assert_close(parameter.detach(), factor * before[name])


@pytest.mark.parametrize("size", [1e-3, 1.0, 1e4])
def test_the_gradient_is_clipped_by_its_norm(size: float) -> None:
    module = nn.Linear(4, 4, bias=False)
    learner = Learner(module, dataclasses.replace(CONFIG, clip_norm=2.0))
    direction = torch.randn(4, 4)
    direction *= size / direction.norm()
    norm = learner.step((module.weight * direction).sum())
    assert norm.item() == pytest.approx(size, rel=1e-5) and not norm.requires_grad
    assert module.weight.grad is not None
    torch.testing.assert_close(module.weight.grad, direction * min(1.0, 2.0 / size), rtol=1e-4, atol=1e-9)


def test_steps_do_not_accumulate_gradients_and_reduce_the_loss() -> None:
    module = nn.Linear(3, 1)
    learner = Learner(module, dataclasses.replace(CONFIG, weight_decay=0.0, learning_rate=0.05))
    x, y = torch.randn(16, 3), torch.randn(16, 3).sum(1, keepdim=True)

    def loss() -> torch.Tensor:
        return (module(x) - y).square().mean()

    first = loss().item()
    for _ in range(100):
        learner.step(loss())
    assert loss().item() < 0.9 * first
    learner.step(0 * module(x).sum())
    assert all(not p.grad.any() for p in module.parameters() if p.grad is not None)


@pytest.mark.parametrize(
    ("cooldown", "stop_steps", "clock", "factor"),
    [
        (0.0, 0, 1000, 1.0),
        (0.4, 0, 500, 1.0),
        (0.4, 0, 800, 0.5),
        (0.4, 0, 999, 0.0025),
        (0.4, 500, 400, 0.5),
        (0.4, 500, 900, 0.0),
        (0.4, 2000, 800, 0.5),  # the run ends first
    ],
)
def test_the_learning_rate_falls_over_the_last_share_of_the_updates(
    cooldown: float, stop_steps: int, clock: int, factor: float
) -> None:
    config = dataclasses.replace(CONFIG, cooldown=cooldown, stop_steps=stop_steps)
    learner = Learner(nn.Linear(2, 1), config)
    for at in (1, clock):  # it may be set in any order
        learner.schedule(at, 1000)
    rates = [group["lr"] for group in learner.optimizer.param_groups]
    assert rates == pytest.approx([CONFIG.learning_rate * factor] * 2)
