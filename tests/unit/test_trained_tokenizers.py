"""Tokenizers that learn during a run: when, what stays cached, what the world model reads of them, what a run costs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from tiny import Recorded, tiny_config
from worldstream.config import Config
from worldstream.environments import make_environment
from worldstream.errors import DivergedError
from worldstream.models import Models
from worldstream.runs.estimate import estimate
from worldstream.training.experiment import Experiment
from worldstream.training.synthetic import synthetic_observations
from worldstream.training.trainer import Trainer


def with_learner(**changes: Any) -> Config:
    config = tiny_config()
    return replace(config, tokenizer_learner=replace(config.tokenizer_learner, **changes), log_every_steps=20)


def trained(config: Config, steps: int) -> tuple[Trainer, list[dict[str, Any]]]:
    events = Recorded()
    trainer = Trainer(Experiment.of("cameras", config, steps=steps), events)
    trainer.run()
    trainer.close()
    return trainer, events.records


def models(**world_model: Any) -> Models:
    environment = make_environment("cameras", tiny_config().environment)
    config = tiny_config()
    config = replace(config, world_model=replace(config.world_model, **world_model))
    return Models(config, environment.observation_specs, environment.action_spec)


def test_updates_come_in_bursts_and_are_logged() -> None:
    trainer, records = trained(with_learner(updates_per_step=0.5, start_steps=20, every_steps=10), 100)
    assert int(trainer.models.tokenizers.version) == 40 + 1  # and one fit of the vector's levels
    last = records[-1]
    assert {"tokenizers/reconstruction", "tokenizers/usage", "tokenizers/perplexity"} <= last.keys()
    assert last["tokenizers/gradient_norm"] > 0


def test_after_the_last_update_every_observation_is_encoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    config = with_learner(updates_per_step=0.5, start_steps=20, every_steps=10, stop_steps=60)
    config = replace(config, fit_until_steps=60)
    counted: list[int] = []
    trainer = Trainer(Experiment.of("cameras", config, steps=200))
    tokenizers = trainer.models.tokenizers
    encode = type(tokenizers).encode_arrays

    def counting(observations: Any) -> Any:
        if trainer.collector.steps > 60:
            counted.append(len(observations["left"]))
        return encode(tokenizers, observations)

    monkeypatch.setattr(tokenizers, "encode_arrays", counting)
    trainer.run()
    trainer.close()
    assert int(tokenizers.version) == 20 + 1
    assert 0 < sum(counted) <= trainer.experience.store.ring.num_used_rows


def test_tokens_of_a_burst_are_those_of_its_weights() -> None:
    """What the cache gives equals encoding again."""
    trainer, _ = trained(with_learner(), 60)
    tokenizers = trainer.models.tokenizers
    rows = trainer.experience.store.ring.rows_of(trainer.experience.store.ring.stored_serials())
    for _ in range(2):
        cached = trainer.experience.cache.tokens(rows, int(tokenizers.version), tokenizers.encode_arrays)
        fresh = tokenizers.encode_arrays(trainer.experience.store.observations(rows))
        assert all((cached[key] == fresh[key]).all() for key in fresh)
        trainer.update(trainer.phases[0], 60)


def test_a_tokenizer_that_diverges_is_named() -> None:
    with pytest.raises(DivergedError, match="tokenizers"):
        trained(with_learner(learning_rate=1e15, updates_per_step=1.0), 80)


def test_the_world_model_embeds_codes_and_sends_no_gradient_to_them() -> None:
    shared, own = models(), models(shared_embeddings=False)
    observations = synthetic_observations(shared.key_specs, 2)
    tokens = shared.tokenizers.encode(observations)
    actions = torch.zeros(2, len(shared.action_spec.sizes), dtype=torch.int64)
    blocks = shared.world_model.embed(tokens, actions)
    before = blocks.detach().clone()
    blocks.sum().backward()
    assert all(parameter.grad is None for parameter in shared.tokenizers.parameters())
    for tokenizer in shared.tokenizers.by_key.values():
        if tokenizer.trainable:
            tokenizer.quantizer.codebook.add_(1.0)
    assert not torch.equal(shared.world_model.embed(tokens, actions), before)
    unmoved = own.world_model.embed(tokens, actions)
    for tokenizer in own.tokenizers.by_key.values():
        if tokenizer.trainable:
            tokenizer.quantizer.codebook.add_(1.0)
    assert torch.equal(own.world_model.embed(tokens, actions), unmoved)


def test_cost_includes_the_tokenizers() -> None:
    result = estimate(Experiment.of("cameras", tiny_config(), steps=1000))
    assert result.parameters["tokenizers"] > 0
    assert result.seconds["tokenizers"] > 0 and result.seconds["encoding anew"] > 0
    without = estimate(Experiment.of("clock", tiny_config(), steps=1000))
    assert "tokenizers" not in without.parameters and "encoding anew" not in without.seconds


@pytest.mark.parametrize("unit_codes", [True, False])
def test_codes_enter_at_unit_scale_unless_told_otherwise(unit_codes: bool) -> None:
    config = tiny_config()
    config = replace(config, world_model=replace(config.world_model, unit_codes=unit_codes))
    trainer, _ = trained(config, 100)
    model = trainer.models.world_model
    measured = {name: x for name, x in model.embed.state_dict().items() if name.endswith(("mean_square", "count"))}
    updates = next(phase.cadence.mark for phase in trainer.phases if phase.name == "world_model")
    assert len(measured) == (4 if unit_codes else 0)  # of two cameras
    assert all(int(x) == updates for name, x in measured.items() if name.endswith("count"))
    kept = {x.data_ptr() for x in model.written_while_training()}  # so that a skipped update puts them back
    assert all(x.data_ptr() in kept for x in measured.values())
