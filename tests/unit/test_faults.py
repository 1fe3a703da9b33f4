"""Environments that fail and losses that are not finite: survived, counted, and given up on after a limit."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

import worldstream
from tiny import tiny_config
from worldstream.environments import EnvironmentConfig, VectorEnvironment, WorkerConfig, resolve
from worldstream.environments.pool import MAX_FAILURES_IN_A_ROW
from worldstream.environments.toy.clock import Clock
from worldstream.errors import (
    DivergedError,
    EnvironmentFault,
    OutOfMemoryError,
    RunFolderError,
    WorldstreamWarning,
)
from worldstream.evaluation.episodes import record_episodes
from worldstream.evaluation.evaluate import evaluate
from worldstream.models import Models
from worldstream.replay.segments import gather
from worldstream.runs.folder import RunFolder
from worldstream.runs.log import read_lines
from worldstream.runs.skipped import reproduce
from worldstream.runs.weights import load_weights
from worldstream.training import phases, updates
from worldstream.training.experiment import Experiment
from worldstream.training.phases import Phase
from worldstream.training.trainer import Trainer

STEPS = 300
IN_PROCESS = {"raise": 0.02, "nan": 0.02, "shape": 0.02}
ANYWHERE = {**IN_PROCESS, "die": 0.02, "hang": 0.004}

pytestmark = pytest.mark.filterwarnings("ignore::worldstream.errors.WorldstreamWarning")


def config(log: Path, probabilities: dict[str, float], **collection: Any) -> worldstream.Config:
    kwargs = {"log": str(log), "probabilities": probabilities}
    base = tiny_config()
    return replace(
        base,
        environment=EnvironmentConfig(kwargs=kwargs),
        collection=replace(base.collection, random_steps=30, max_restarts=1000, **collection),
        log_every_steps=20,
    )


@pytest.mark.parametrize(
    ("backend", "probabilities", "environments"), [("sync", IN_PROCESS, 1), ("process", ANYWHERE, 2)]
)
def test_a_run_survives_faults_and_counts_them_all(
    backend: str, probabilities: dict[str, float], environments: int, tmp_path: Path, capsys: Any
) -> None:
    log = tmp_path / "faults"
    chosen = config(log, probabilities, backend=backend, num_environments=environments, timeout=20.0)
    worldstream.train("faulty:make", steps=STEPS, config=chosen, output=tmp_path / "run")
    said = capsys.readouterr().out
    injected = Counter(log.read_text().split())
    assert set(injected) == set(probabilities)
    folder = RunFolder(tmp_path / "run")
    count = read_lines(folder.evaluations)[-1]["incidents"]
    assert (f"incidents: {count} " in said) == (count > 0)
    incidents = [r for r in read_lines(folder.sittings) if r["event"] == "environment restarted"]
    assert len(incidents) == injected.total()
    words = {"raise": "motor is stuck", "nan": "nan", "shape": "shape", "die": "exit code -9", "hang": "did not answer"}
    for kind, count in injected.items():
        assert sum(words[kind] in incident["problem"] for incident in incidents) == count, kind
    last = read_lines(folder.metrics)[-1]
    assert STEPS <= last["steps"] < STEPS + environments
    assert last["faults/restarted_environments"] == sum(r["during"] == "training" for r in incidents)


def test_replay_shows_the_clock_counting_through_faults(tmp_path: Path) -> None:
    """No transition leads from one episode into another; where the environment failed, the last observation repeats."""
    chosen = config(tmp_path / "faults", IN_PROCESS, num_environments=2)
    run = Trainer(Experiment.of("faulty:make", chosen, seed=3, steps=200))
    run.run()
    store = run.experience.store
    segments = gather(store, store.ring.stored_serials(), 2, "first")
    counters = store.observations(segments.rows)["step"][..., 0]
    both = segments.observed[:, 1]
    repeats = both & (counters[:, 1] == counters[:, 0])
    assert repeats.sum() == run.environments.num_restarts > 5
    assert (segments.truncated & ~segments.terminated)[repeats, 0].all()
    assert not segments.rewards[repeats, 0].any()
    np.testing.assert_array_equal(counters[both & ~repeats, 1], counters[both & ~repeats, 0] + 1)
    assert store.num_steps == run.collector.steps == 200
    run.close()


def test_an_evaluation_counts_incidents_and_whole_episodes(tmp_path: Path) -> None:
    chosen = config(tmp_path / "faults", {"raise": 0.05})
    experiment = Experiment.of("faulty:make", chosen)
    with VectorEnvironment(resolve("clock")) as clock:
        models = Models(chosen, clock.observation_specs, clock.action_spec).eval()
    with pytest.warns(WorldstreamWarning, match=r"is stuck. It is made anew; its episode counts as truncated"):
        result = evaluate(models, experiment, 20)
    recorded = record_episodes(models, experiment, 20)
    assert result.incidents > 3 and len(result.returns) == 20
    assert result.reservation.startswith(f"incidents: {result.incidents} ")
    assert [episode.length for episode in recorded] == result.lengths
    assert all(episode.truncated for episode in recorded if episode.length < 10)


def vector(
    log: Path, probabilities: dict[str, float], *, in_reset: bool = False, max_restarts: int = 1000, **options: Any
) -> VectorEnvironment:
    kwargs = {"log": str(log), "probabilities": probabilities, "in_reset": in_reset}
    factory = resolve("faulty:make", EnvironmentConfig(kwargs=kwargs))
    return VectorEnvironment(factory, 1, 0, WorkerConfig(max_restarts=max_restarts), **options)


@pytest.mark.parametrize("backend", ["sync", "process"])
def test_a_fault_ends_the_episode_as_truncated(backend: str, tmp_path: Path) -> None:
    """The closing transition repeats the last observation; the next reset is the first of the new environment."""
    seen: list[int] = []
    workers = WorkerConfig(backend=backend, max_restarts=1000)
    kwargs = {"log": str(tmp_path / "f"), "probabilities": IN_PROCESS}
    factory = resolve("faulty:make", EnvironmentConfig(kwargs=kwargs))
    with VectorEnvironment(factory, 2, 0, workers, on_fault=lambda index, error: seen.append(index)) as environments:
        latest = environments.reset()
        for _ in range(100):
            before = len(seen)
            result = environments.step(np.zeros((2, 1), int))
            for i in seen[before:]:
                assert all((result.observations[key][i] == latest[key][i]).all() for key in latest)
                assert (result.rewards[i], result.terminated[i], result.truncated[i]) == (0, False, True)
                assert environments.state_dict()["states"][i] is None
            latest, ended = result.observations, result.terminated | result.truncated
            if ended.any():
                latest = environments.reset_where(ended)
                assert (latest["step"][ended] == 0).all()
        assert len(seen) == environments.num_restarts == len((tmp_path / "f").read_text().split()) > 5
        assert set(seen) == {0, 1}


def test_an_environment_without_faults_does_not_notice_those_of_another() -> None:
    """Its seeds and random numbers are its own: what it shows is what it shows alone."""

    class Second(Clock):
        made = 0

        def __init__(self) -> None:
            super().__init__()
            Second.made += 1
            self.fails = Second.made != 2

        def step(self, action: Any) -> Any:
            if self.fails and self._step == 7:
                raise RuntimeError("the motor is stuck")
            return super().step(action)

    def phases(environments: Any) -> list[int]:
        rows = [environments.reset()["phase"][-1, 0]]
        for _ in range(60):
            result = environments.step(np.zeros((environments.num_envs, 1), int))
            ended = result.terminated | result.truncated
            latest = environments.reset_where(ended) if ended.any() else result.observations
            rows.append(latest["phase"][-1, 0])
        return rows

    faulty = VectorEnvironment(resolve(Second), 2, 5, WorkerConfig(max_restarts=10))
    with faulty, VectorEnvironment(resolve("clock"), 2, 5) as clocks:
        assert phases(faulty) == phases(clocks)
        assert faulty.num_restarts > 5


def steps_until_fault(environments: Any) -> None:
    environments.reset()
    for _ in range(1000):
        result = environments.step(np.zeros((1, 1), int))
        if result.terminated.any() or result.truncated.any():
            environments.reset_where(np.array([True]))


def test_the_limit_of_restarts(tmp_path: Path) -> None:
    seen: list[str] = []
    with (
        vector(tmp_path / "f", {"raise": 0.1}, max_restarts=4, on_fault=lambda i, e: seen.append(str(e))) as limited,
        pytest.raises(EnvironmentFault, match=r"is stuck. Environments were restarted 4 times.*max_restarts is 4"),
    ):
        steps_until_fault(limited)
    assert len(seen) == 4 and len((tmp_path / "f").read_text().split()) == 5


def test_an_environment_that_always_fails_is_given_up_soon(tmp_path: Path) -> None:
    for name, in_reset in (("step", False), ("reset", True)):
        with (
            vector(tmp_path / name, {"nan": 1.0}, in_reset=in_reset) as broken,
            pytest.raises(EnvironmentFault, match=r"nan.*restarted 9 times"),
        ):
            steps_until_fault(broken)
        assert (tmp_path / name).read_text().split() == ["nan"] * MAX_FAILURES_IN_A_ROW


def test_a_failing_reset_is_tried_again(tmp_path: Path) -> None:
    with vector(tmp_path / "f", {"raise": 0.3}, in_reset=True) as environments:
        environments.reset()
        for _ in range(60):
            result = environments.step(np.zeros((1, 1), int))
            if result.terminated.any() or result.truncated.any():
                assert environments.reset_where(np.array([True]))["step"][0, 0] == 0
        assert environments.num_restarts == len((tmp_path / "f").read_text().split()) > 0


def test_a_run_survives_a_first_reset_that_fails(tmp_path: Path) -> None:
    log = tmp_path / "faults"
    chosen = config(log, {"raise": 0.5})
    chosen = replace(chosen, environment=EnvironmentConfig(kwargs={**chosen.environment.kwargs, "in_reset": True}))
    (tmp_path / "run").mkdir()
    for seed in range(10):  # one of these begins with a failure
        log.unlink(missing_ok=True)
        output = tmp_path / f"run{seed}"
        worldstream.train("faulty:make", steps=40, seed=seed, config=chosen, output=output, quiet=True)
        incidents = read_lines(RunFolder(output).sittings)
        assert len(incidents) == len(log.read_text().split())
        if incidents[0]["steps"] == 0:
            return
    raise AssertionError("no seed began with a failure")


class Delicate(Clock):
    """Cannot be made the third time, nor the fourth: when the second evaluation makes it."""

    made: ClassVar[int] = 0

    def __init__(self) -> None:
        super().__init__()
        Delicate.made += 1
        if Delicate.made in (3, 4):
            raise RuntimeError("the port is taken")


@pytest.mark.parametrize("limit", [1, 2])
def test_an_environment_that_cannot_be_made_for_an_evaluation_is_tried_again(
    limit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Delicate, "made", 0)
    base = tiny_config()
    evaluation = replace(base.evaluation, every_steps=5, max_episode_steps=3)
    chosen = replace(base, evaluation=evaluation, collection=replace(base.collection, max_restarts=limit))

    def train() -> None:
        worldstream.train(Delicate, steps=12, config=chosen, output=tmp_path / "run", quiet=True)

    if limit == 1:
        with pytest.raises(EnvironmentFault, match="port is taken.*restarted 1 times"):
            train()
        return
    with pytest.warns(WorldstreamWarning, match="port is taken.*It is made anew"):
        train()
    incidents = read_lines(RunFolder(tmp_path / "run").sittings)
    assert [(record["during"], record["steps"]) for record in incidents] == [("evaluation", 10)] * 2


def test_an_environment_that_cannot_be_made_at_all_is_refused_at_once() -> None:
    with pytest.raises(EnvironmentFault, match="unknown environment"):
        VectorEnvironment(resolve("NoSuchThing-v0"), workers=WorkerConfig(max_restarts=100))


# Losses that are not finite.


def poison(monkeypatch: pytest.MonkeyPatch, *numbers: int) -> None:
    """The rewards of the world-model batches with these numbers contain a NaN."""
    original, count = Trainer.update, [0]

    def update(self: Trainer, phase: Phase, turn: float) -> dict[str, torch.Tensor]:
        count[0] += phase.name == "world_model"
        if phase.name != "world_model" or count[0] not in numbers:
            return original(self, phase, turn)
        batch_of = self.experience.batch

        def poisoned(segments: Any) -> Any:
            batch = batch_of(segments)
            batch.rewards[:, 1] = torch.nan
            return batch

        before = {name: tensor.clone() for name, tensor in self.models.state_dict().items()}
        with monkeypatch.context() as patch:
            patch.setattr(self.experience, "batch", poisoned)
            metrics = original(self, phase, turn)
        after = self.models.state_dict()
        assert all(torch.equal(before[name], after[name]) for name in before)
        return metrics

    monkeypatch.setattr(Trainer, "update", update)


def test_an_update_that_is_not_finite_is_skipped_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    poison(monkeypatch, 3, 9)
    base = replace(tiny_config(), log_every_steps=20)
    worldstream.train("clock", steps=160, config=base, output=tmp_path / "run", quiet=True)
    folder = RunFolder(tmp_path / "run")
    kept = [Path(r["kept"]) for r in read_lines(folder.sittings) if r["event"] == "update skipped"]
    assert len(kept) == 2 and read_lines(folder.metrics)[-1]["faults/skipped_updates"] == 2
    for path in kept:
        assert np.isnan(reproduce(path)["gradient_norm"])
    for record in read_lines(folder.metrics):
        assert all(np.isfinite(value) for value in record.values())
    assert all(tensor.isfinite().all() for tensor in load_weights(folder.weights).values())
    kept[0].write_bytes(kept[0].read_bytes()[:-5])
    with pytest.raises(RunFolderError, match="cannot be read"):
        reproduce(kept[0])


def test_too_many_skipped_updates_end_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    poison(monkeypatch, *range(3, 100))
    base = replace(tiny_config(), max_skipped_updates=2)
    with pytest.raises(DivergedError, match=r"3 updates were skipped.*max_skipped_updates is 2.*world_model_learner"):
        worldstream.train("clock", steps=160, config=base, output=tmp_path / "run", quiet=True)
    assert len(list((tmp_path / "run" / "skipped").glob("*"))) == 3
    weights = load_weights(RunFolder(tmp_path / "run").weights)  # of that moment: nothing was learned from the updates
    assert all(tensor.isfinite().all() for tensor in weights.values())


def test_a_dream_that_is_not_finite_is_skipped_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original, count = updates.imagine_from, [0]

    def imagine_from(*arguments: Any, **options: Any) -> Any:
        trajectories, count[0] = original(*arguments, **options), count[0] + 1
        infinite = {name: rewards * torch.inf for name, rewards in trajectories.rewards.items()}
        return replace(trajectories, rewards=infinite) if count[0] == 2 else trajectories

    monkeypatch.setattr(updates, "imagine_from", imagine_from)
    base = replace(tiny_config(), log_every_steps=20)
    worldstream.train("clock", steps=120, config=base, output=tmp_path / "run", quiet=True)
    folder = RunFolder(tmp_path / "run")
    (event,) = (r for r in read_lines(folder.sittings) if r["event"] == "update skipped")
    assert event["component"] == "actor_critic"
    assert all(tensor.isfinite().all() for tensor in load_weights(folder.weights).values())  # the return scale too
    assert np.isfinite(reproduce(Path(event["kept"]))["gradient_norm"])  # the fault was not in what is kept


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), MemoryError(),
              RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")]
)  # fmt: skip
def test_exhausted_memory_names_the_setting(error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> Any:
        raise error

    monkeypatch.setattr(phases, "update_actor_critic", fails)
    with pytest.raises(OutOfMemoryError, match=r"actor_critic_learner.batch_size or imagination.horizon"):
        worldstream.train("clock", steps=160, config=tiny_config(), output=tmp_path / "run", quiet=True)
