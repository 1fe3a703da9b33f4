"""The whole loop on the clock environment, whose observations and rewards tell when and why they occurred."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tiny import Recorded
from worldstream.agent.actor_critic import ActorCriticConfig, Carry
from worldstream.config import (
    CollectionConfig,
    Config,
    EvaluationConfig,
    ImaginationConfig,
    LearnerConfig,
)
from worldstream.environments.config import EnvironmentConfig
from worldstream.environments.toy.clock import NUM_PHASES, Clock
from worldstream.environments.vector import VectorEnvironment
from worldstream.errors import ConfigError, DivergedError
from worldstream.nn.numerics import symexp
from worldstream.replay import ReplayConfig
from worldstream.replay.samplers import PrioritizedConfig, PrioritizedSampler, UniformConfig
from worldstream.replay.segments import gather
from worldstream.training.experiment import Experiment
from worldstream.training.phases import Phase
from worldstream.training.trainer import Trainer
from worldstream.types import Batch, Features
from worldstream.world_model.model import WorldModelConfig
from worldstream.world_model.sequence.retention import RetentionConfig

STEPS = 300
EPISODE_LENGTH = 7
CONFIG = Config(
    environment=EnvironmentConfig(kwargs={"episode_length": EPISODE_LENGTH}),
    world_model=WorldModelConfig(sequence=RetentionConfig(num_layers=1, width=16, num_heads=2)),
    actor_critic=ActorCriticConfig(hidden=(16,), embedding_width=4),
    imagination=ImaginationConfig(horizon=3, context_length=2, burn_in=4),
    collection=CollectionConfig(num_environments=1, epsilon=0.1, random_steps=40),
    evaluation=EvaluationConfig(every_steps=120),
    world_model_learner=LearnerConfig(batch_size=4, learning_rate=1e-3, updates_per_step=0.2, start_steps=60),
    actor_critic_learner=LearnerConfig(batch_size=4, learning_rate=1e-3, updates_per_step=0.1, start_steps=100),
    segment_length=6,
    log_every_steps=50,
)


class Run(Recorded):
    """A trainer and what it told."""

    def __init__(self, config: Config = CONFIG, *, seed: int = 0, steps: int = STEPS) -> None:
        super().__init__()
        self.trainer = Trainer(Experiment.of("clock", config, seed=seed, steps=steps), self)
        self.world_model, self.actor_critic = self.trainer.phases
        self.store = self.trainer.experience.store

    def weights(self) -> dict[str, Tensor]:
        return {name: x.clone() for name, x in self.trainer.models.state_dict().items()}


@pytest.fixture
def make() -> Iterator[Callable[..., Run]]:
    """Makes runs, and closes their environments in the end."""
    runs: list[Run] = []

    def start(*args: Any, **kwargs: Any) -> Run:
        runs.append(Run(*args, **kwargs))
        return runs[-1]

    yield start
    for run in runs:
        run.trainer.close()


@pytest.fixture(scope="module")
def trained() -> Iterator[Run]:
    """One run of 300 steps, shared by the tests that only look."""
    run = Run()
    run.trainer.run()
    yield run
    run.trainer.close()


def with_two_environments() -> Config:
    return dataclasses.replace(CONFIG, collection=dataclasses.replace(CONFIG.collection, num_environments=2))


def num_updates(phase: Phase) -> int:
    counts = {int(state["step"]) for state in phase.learner.optimizer.state.values()}
    assert len(counts) <= 1
    return counts.pop() if counts else 0


# The clock.


def test_updates_follow_their_ratios(trained: Run) -> None:
    assert trained.trainer.collector.steps == trained.store.total_steps == STEPS
    assert num_updates(trained.world_model) == math.floor((STEPS - 60) * 0.2)
    assert num_updates(trained.actor_critic) == math.floor((STEPS - 100) * 0.1)


def test_logging_and_evaluation_follow_the_clock(trained: Run) -> None:
    assert [record["steps"] for record in trained.records] == [50, 100, 150, 200, 250, 300]
    assert trained.evaluations == [120, 240]


def test_metrics_are_finite_and_named(trained: Run) -> None:
    last = trained.records[-1]
    assert {"world_model/observation", "world_model/reward", "actor_critic/actor_loss", "episode/return"} <= set(last)
    assert "actor_critic/actor_loss" not in trained.records[0]
    for record in trained.records:
        for name, value in record.items():
            assert isinstance(value, int | float) and np.isfinite(value), name
    assert last["episode/length"] == EPISODE_LENGTH
    assert last["frames"] == STEPS and last["replay/steps"] == STEPS
    first, second = (record["world_model/observation"] for record in (trained.records[1], last))
    assert second < first  # it learns something even in so few steps


def test_tokenizers_are_fitted_at_each_doubling(trained: Run) -> None:
    assert int(trained.trainer.models.tokenizers.version) == 2  # at 60 and 120 of 300 steps; never in the second half


def test_two_environments_share_the_clock(make: Callable[..., Run]) -> None:
    run = make(with_two_environments())
    run.trainer.run()
    assert run.trainer.collector.steps == run.store.total_steps == STEPS
    assert num_updates(run.world_model) == 48
    assert [record["steps"] for record in run.records] == [50, 100, 150, 200, 250, 300]


# Replay.


def check_clock(run: Run, batch: Batch, rows: np.ndarray) -> int:
    """Tokens, actions and rewards of a batch tell the same story, step by step; returns the steps looked at."""
    trainer = run.trainer
    decoded = trainer.models.tokenizers.decode(batch.tokens)
    step = symexp(decoded["step"]).squeeze(-1)
    phase = decoded["phase"][..., 0, 0]
    seen, acted = batch.observed, batch.acted
    stored = run.store.observations(rows)
    torch.testing.assert_close(step, torch.from_numpy(stored["step"][..., 0]), atol=1e-3, rtol=0)
    assert np.array_equal(phase.numpy(), stored["phase"][..., 0])
    torch.testing.assert_close(step[seen], step[seen].round(), atol=1e-3, rtol=0)
    step = step.round().long()
    both = seen[:, 1:] & seen[:, :-1]
    assert torch.equal(step[:, 1:][both], step[:, :-1][both] + 1)
    assert torch.equal(phase[:, 1:][both], (phase[:, :-1][both] + 1) % NUM_PHASES)
    expected = [Clock.reward(s, a) for s, a in zip(step[acted].tolist(), batch.actions[acted].squeeze(-1).tolist())]
    assert batch.rewards[acted].tolist() == pytest.approx(expected)
    assert (step[batch.terminated] == EPISODE_LENGTH - 1).all()
    newest = torch.from_numpy(np.isin(rows, run.store.ring.rows_of(run.store.ring.newest_serials)))
    assert (step[seen & ~acted & ~newest] == EPISODE_LENGTH).all()  # final observations
    return int(both.sum())


@pytest.mark.parametrize("anchor", ["first", "last"])
@pytest.mark.parametrize("environments", [1, 2])
def test_replayed_batches_are_what_happened(
    make: Callable[..., Run], trained: Run, anchor: str, environments: int
) -> None:
    run = trained if environments == 1 else make(with_two_environments(), steps=150)
    if run is not trained:
        run.trainer.run()
    sampler = (run.world_model if anchor == "first" else run.actor_critic).sampler  # type: ignore[attr-defined]
    looked_at = 0
    for _ in range(10):
        segments = gather(run.store, sampler.sample(16), 5, anchor)  # type: ignore[arg-type]
        batch = run.trainer.experience.batch(segments)
        assert batch.padded != bool(batch.acted[:, :-1].all())
        looked_at += check_clock(run, batch, segments.rows)
    assert looked_at > 100


def test_tokens_are_fresh_after_a_fit(make: Callable[..., Run]) -> None:
    run = make(steps=30)
    run.trainer.run()  # before learning starts: levels are evenly spread, and coarse
    anchors = run.store.ring.stored_serials()
    segments = gather(run.store, anchors, 1, "first")
    before = run.trainer.experience.batch(segments).tokens["step"]
    run.trainer.experience.fit_tokenizers()
    after = run.trainer.experience.batch(segments)
    assert not torch.equal(after.tokens["step"], before)
    check_clock(run, after, segments.rows)


def test_agents_begin_only_where_an_episode_goes_on(trained: Run) -> None:
    store, first, last = trained.store, trained.world_model.sampler, trained.actor_critic.sampler
    ends = np.unique(np.concatenate([last.sample(32) for _ in range(20)]))
    assert not store.facts["terminal"][store.ring.rows_of(ends)].any()
    starts = np.unique(np.concatenate([first.sample(32) for _ in range(20)]))
    batch = trained.trainer.experience.batch(gather(store, starts, 2, "first"))
    assert batch.observed.all()  # there is something to predict


def test_the_memory_of_the_collecting_policy_holds_executed_actions(
    make: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    """C8: with exploration, too; and nothing is carried over to the next episode."""
    collection = CollectionConfig(num_environments=2, epsilon=0.5, random_steps=0)
    trainer = make(dataclasses.replace(CONFIG, collection=collection)).trainer
    agent, carries = trainer.models.actor_critic, []
    remember = agent.remember

    def recording(features: Features, carry: Carry) -> Carry:
        carries.append(carry)
        return remember(features, carry)

    monkeypatch.setattr(agent, "remember", recording)
    for _ in range(20):
        trainer.collector.step()
    store = trainer.experience.store
    ring, facts = store.ring, store.facts
    stored = ring.stored_serials()
    for environment in range(2):
        rows = ring.rows_of(stored[stored % 2 == environment])
        acted = facts["acted"][rows]
        executed = facts["actions"][rows][acted].tolist()
        first = np.diff(facts["episode"][rows][acted], prepend=0) > 0
        assert len(executed) == 20
        for t, carry in enumerate(carries):
            assert bool(carry.acted[environment]) == (not first[t])
            if carry.acted[environment]:
                assert carry.action[environment].tolist() == executed[t - 1]
            else:
                assert not any(x[environment].any() for x in carry.memory)


@pytest.mark.parametrize("hold", [False, True])
def test_random_actions_are_held_when_asked(make: Callable[..., Run], hold: bool) -> None:
    """Lengths of runs of equal actions; two random draws in a row agree with probability 1/3."""
    collection = CollectionConfig(num_environments=1, random_steps=10_000, hold_random_actions=hold)
    environment = EnvironmentConfig(kwargs={"episode_length": 4000})
    collector = make(dataclasses.replace(CONFIG, environment=environment, collection=collection)).trainer.collector
    chosen = [int(collector._choose()[0, 0]) for _ in range(4000)]
    changes = [0, *(t for t in range(1, 4000) if chosen[t] != chosen[t - 1])]
    lengths = np.diff(changes)
    # Without holding a run is geometric, and one of 14 or longer a matter of one in a million.
    assert (lengths.max() >= 20) == hold
    if hold:
        assert 0.3 < (lengths == 1).mean() < 0.5  # 6 / pi^2 of the draws, two thirds of which are followed by another


def test_learning_goes_on_after_the_last_environment_step(make: Callable[..., Run]) -> None:
    """As many updates as that many more steps would have brought, and no step."""
    updates = {}
    for tail in (0, 80):
        run = make(dataclasses.replace(CONFIG, tail_share=tail / 200), steps=200)
        run.trainer.run()
        updates[tail] = [phase.cadence.state_dict() for phase in run.trainer.phases]
        assert (run.trainer.clock, run.trainer.collector.steps, run.store.num_steps) == (200 + tail, 200, 200)
        assert run.records[-1]["steps"] == 200 + tail and run.records[-1]["frames"] == 200
    # 0.2 updates of the world model a step, 0.1 of the actor-critic
    assert [more - fewer for more, fewer in zip(updates[80], updates[0], strict=True)] == [16, 8]
    assert run.evaluations == [120, 240]


# Reproducibility and trouble.


def test_same_seed_same_weights(trained: Run, make: Callable[..., Run]) -> None:
    torch.manual_seed(12345)  # whatever the global state was before
    again, other = make(), make(seed=1)
    again.trainer.run()
    expected = trained.weights()
    for name, weight in again.weights().items():
        assert torch.equal(weight, expected[name]), name
    name = "world_model.heads.reward.0.net.0.weight"
    assert not torch.equal(other.weights()[name], expected[name])
    for mine, theirs in zip(again.records, trained.records):
        assert {k: v for k, v in mine.items() if not k.startswith("seconds")} == {
            k: v for k, v in theirs.items() if not k.startswith("seconds")
        }


@pytest.mark.parametrize(
    ("part", "component"),
    [
        ("world_model.heads.observation.0.net.0.weight", "world_model"),
        ("world_model.heads.termination.0.net.0.weight", "world_model"),
        ("actor_critic.critic.linear.weight", "actor_critic"),
    ],
)
def test_losses_that_stay_not_finite_end_the_run(make: Callable[..., Run], part: str, component: str) -> None:
    run = make(dataclasses.replace(CONFIG, max_skipped_updates=3), steps=150)
    with torch.no_grad():
        run.trainer.models.get_parameter(part)[0, 0] = torch.nan
    message = rf"of the {component} is not finite after \d+ steps, and 4 updates were skipped.*Lower {component}"
    with pytest.raises(DivergedError, match=message):
        run.trainer.run()
    assert DivergedError.exit_code == 5


def test_small_replay_keeps_the_newest_steps(make: Callable[..., Run]) -> None:
    run = make(dataclasses.replace(CONFIG, replay=ReplayConfig(max_steps=64)))
    run.trainer.run()
    assert run.store.num_steps < 64 and run.store.total_steps == STEPS
    segments = gather(run.store, run.world_model.sampler.sample(16), 5, "first")
    check_clock(run, run.trainer.experience.batch(segments), segments.rows)


def test_uniform_replay_can_be_chosen(make: Callable[..., Run]) -> None:
    run = make(dataclasses.replace(CONFIG, replay=ReplayConfig(sampler=UniformConfig())), steps=120)
    run.trainer.run()
    assert num_updates(run.world_model) == 12


def test_priorities_are_the_losses_of_the_batch(make: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> None:
    """C3: they come back under the anchors that travelled with the batch."""
    run = make()
    trainer, store = run.trainer, run.store
    for _ in range(60):
        trainer.collector.step()
    sampler, expected = run.world_model.sampler, {}
    sample = sampler.sample

    def recording(batch_size: int) -> np.ndarray:
        anchors = sample(batch_size)
        batch = trainer.experience.batch(gather(store, anchors, CONFIG.segment_length, "first"))
        expected.update(zip(anchors.tolist(), trainer.models.world_model.losses(batch).priorities.tolist()))
        return anchors

    monkeypatch.setattr(sampler, "sample", recording)
    for _ in range(5):
        trainer.update(run.world_model, 60)
    anchors = np.array(list(expected))
    assert 4 < len(anchors) <= 20
    assert sampler.priorities(anchors).tolist() == pytest.approx(list(expected.values()), rel=1e-5)
    others = np.setdiff1d(store.ring.stored_serials(), anchors)
    priorities = sampler.priorities(others)
    assert (priorities[~np.isnan(priorities)] == 10.0).all()  # never trained on


def test_prioritised_starts_come_back_where_the_critic_was_wrong(make: Callable[..., Run]) -> None:
    replay = dataclasses.replace(CONFIG.replay, start_sampler=PrioritizedConfig(initial_priority=50.0))
    run = make(dataclasses.replace(CONFIG, replay=replay))
    run.trainer.run()
    sampler = run.actor_critic.sampler
    assert isinstance(sampler, PrioritizedSampler)
    priorities = sampler.priorities(run.store.ring.stored_serials())
    known = priorities[np.isfinite(priorities) & (priorities != 50.0)]
    assert len(known) > 20  # trajectories reported what they found
    assert (known < 0).any() and len(np.unique(known)) > len(known) / 2  # logarithms


def test_losses_of_prioritised_segments_are_corrected_where_asked(make: Callable[..., Run]) -> None:
    sampler = PrioritizedConfig(uniform_fraction=0.5, initial_priority=0.0, temperature=0.1)
    replay = dataclasses.replace(CONFIG.replay, sampler=sampler, correction=1.0)
    run = make(dataclasses.replace(CONFIG, replay=replay))
    run.trainer.run()
    weights = torch.stack([run.world_model.draw().weights for _ in range(50)])
    assert weights.dtype == torch.float32 and (weights > 0).all() and (weights <= 2 + 1e-5).all()
    assert len(weights.unique()) > 10
    assert run.actor_critic.draw().weights is None  # where imagination begins is a choice, not a bias


def test_a_trainer_that_cannot_be_built_closes_its_environments(monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[object] = []
    monkeypatch.setattr(VectorEnvironment, "close", lambda self: closed.append(self))
    replay = dataclasses.replace(CONFIG.replay, max_bytes=1)
    with pytest.raises(ConfigError, match="Raise max_steps"):
        Run(dataclasses.replace(CONFIG, replay=replay))
    assert len(closed) == 1
