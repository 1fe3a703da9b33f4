"""What every preset must do: survive JSON, and learn from one step of the self-checking environment."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from tiny import Recorded
from worldstream.config import Config
from worldstream.options import at, choices, choose
from worldstream.presets import PRESETS
from worldstream.training.experiment import Experiment
from worldstream.training.trainer import Trainer


@pytest.mark.parametrize("name", PRESETS)
def test_every_component_that_the_command_line_offers_can_be_chosen_by_itself(name: str) -> None:
    config: Config = PRESETS[name]()
    for place, registry in choices(config).items():
        assert all(type(at(choose(config, place, each), place)) is registry[each] for each in registry)


@pytest.mark.parametrize("name", PRESETS)
def test_every_reward_of_a_preset_has_a_weight_that_flags_can_change(name: str) -> None:
    config: Config = PRESETS[name]()
    assert set(config.losses.reward_weights) == set(config.world_model.rewards)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_survives_json_and_learns(name: str) -> None:
    config: Config = PRESETS[name]()
    assert Config.from_json(json.loads(json.dumps(config.to_json()))) == config
    once = {"start_steps": 30, "updates_per_step": 1.0, "batch_size": 8}
    config = replace(
        config,
        environment=replace(config.environment, kwargs={}),  # those of another environment
        world_model_learner=replace(config.world_model_learner, **once),
        actor_critic_learner=replace(config.actor_critic_learner, **once),
        tail_share=0.0,
        log_every_steps=1,
    )
    events = Recorded()
    trainer = Trainer(Experiment.of("clock", config, steps=31), events)
    before = {key: value.clone() for key, value in trainer.models.named_parameters()}
    trainer.run()
    trainer.close()
    assert events.records[-1]["world_model/observation"] > 0
    assert events.records[-1]["actor_critic/critic_loss"] > 0
    changed = {key.split(".")[0] for key, value in trainer.models.named_parameters() if not value.equal(before[key])}
    assert changed == {"world_model", "actor_critic"}
