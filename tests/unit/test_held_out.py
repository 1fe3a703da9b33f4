"""Held-out episodes: never trained on, measured in every log line, and a pace that follows their loss."""

from __future__ import annotations

import json
import math
import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import worldstream
from small_replay import extend, make_store
from tiny import tiny_config
from worldstream.config import Config, HeldOutConfig
from worldstream.errors import ConfigError, Interrupted
from worldstream.replay.segments import is_held_out
from worldstream.runs.folder import RunFolder
from worldstream.runs.log import read_lines
from worldstream.runs.session import Session
from worldstream.training.cadence import Paced, Ratio
from worldstream.training.experiment import Experiment
from worldstream.training.phases import WorldModelPhase
from worldstream.training.trainer import Trainer

SHARE = 0.25


def config_with(**held_out: float) -> Config:
    config = tiny_config()
    return replace(config, held_out=HeldOutConfig(**held_out), log_every_steps=20)


@pytest.mark.parametrize("num_environments", [1, 3])
@pytest.mark.parametrize("share", [0.05, 0.25, 0.5])
def test_the_share_is_kept_evenly_and_environments_take_turns(share: float, num_environments: int) -> None:
    store = make_store(num_environments)
    extend(store, 240, episode=3)
    rows = np.arange(store.ring.num_used_rows)
    episodes, held_out = store.facts["episode"][rows], is_held_out(store, rows, share)
    assert not held_out[episodes == 1].any() and not is_held_out(store, rows, 0.0).any()
    for environment in range(num_environments):
        own = rows % num_environments == environment
        numbers = np.unique(episodes[own])
        chosen = np.isin(numbers, episodes[own & held_out])
        assert (held_out[own] == np.isin(episodes[own], numbers[chosen])).all()  # whole episodes
        assert np.abs(chosen.cumsum() - share * numbers).max() <= 2
    if num_environments > 1 and share < 0.3:
        together = [held_out[episodes == number].all() for number in np.unique(episodes)]
        assert not any(together)


@pytest.mark.parametrize("environment", ["clock", "cameras"])
def test_nothing_that_trains_sees_a_held_out_episode(environment: str) -> None:
    config = config_with(share=SHARE)
    config = replace(config, environment=replace(config.environment, max_episode_steps=9))
    trainer = Trainer(Experiment.of(environment, config, seed=0, steps=160))
    store, seen = trainer.experience.store, set[int]()
    (phase,) = (phase for phase in trainer.phases if isinstance(phase, WorldModelPhase))
    draw, observations = phase.draw, store.observations

    def drawn() -> object:
        batch = draw()
        seen.update(store.facts["episode"][store.ring.rows_of(batch.anchors)].tolist())
        return batch

    def looked_at(rows: np.ndarray, keys: object = None) -> object:
        if keys is not None:  # tokenizers name the keys that they learn from
            seen.update(store.facts["episode"][rows].flatten().tolist())
        return observations(rows, keys)

    phase.draw, store.observations = drawn, looked_at
    try:
        trainer.run()
        held_out = trainer.held_out.measure()
    finally:
        trainer.close()
    episodes = np.array(sorted(seen))
    assert len(episodes) > 5 and not (episodes % 4 == 0).any()  # one environment holds out its fourth, eighth, ...
    assert {"observation", "reward", "termination"} <= held_out.keys()
    assert all(loss.isfinite() for loss in held_out.values())


def test_measuring_changes_nothing_but_the_log(tmp_path: Path) -> None:
    """Dropout is off, statistics stand still, and no generator that training draws from moves."""
    trainer = Trainer(Experiment.of("clock", config_with(share=SHARE), seed=0, steps=120))
    try:
        trainer.run()
        before = {name: x.clone() for name, x in trainer.models.state_dict().items()}
        random = torch.get_rng_state()
        first, second = trainer.held_out.measure(), trainer.held_out.measure()
        assert torch.equal(torch.get_rng_state(), random)
        assert all(torch.equal(x, before[name]) for name, x in trainer.models.state_dict().items())
        assert first.keys() == second.keys()
    finally:
        trainer.close()


def test_losses_of_held_out_play_are_logged_and_a_paced_run_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worldstream.training.held_out.EVERY_UPDATES", 3)
    config = config_with(share=SHARE, pace=3.0)
    worldstream.train("clock", steps=160, config=config, output=tmp_path / "whole", quiet=True)
    original, stops = Session.after_step, [71, 118]

    def after_step(session: Session, steps: int) -> bool:
        stop = bool(stops) and steps >= stops[0]
        if stop:
            stops.pop(0)
            os.kill(os.getpid(), signal.SIGTERM)
        return original(session, steps)

    monkeypatch.setattr(Session, "after_step", after_step)
    with pytest.raises(Interrupted):
        worldstream.train("clock", steps=160, config=config, output=tmp_path / "parts", quiet=True)
    with pytest.raises(Interrupted):
        worldstream.resume(tmp_path / "parts", quiet=True)
    worldstream.resume(tmp_path / "parts", quiet=True)
    logs = [
        [{name: x for name, x in line.items() if "seconds" not in name} for line in read_lines(RunFolder(run).metrics)]
        for run in (tmp_path / "whole", tmp_path / "parts")
    ]
    assert logs[0] == logs[1]
    measured = [line for line in logs[0] if "held_out/observation" in line]
    assert len(measured) >= 3 and measured[-1]["held_out/pace"] != 1


def test_updates_follow_the_loss_on_held_out_play() -> None:
    trainer = Trainer(Experiment.of("clock", config_with(share=SHARE, pace=2.0), seed=0, steps=10))
    trainer.close()
    cadence = trainer.held_out.phase.cadence
    assert isinstance(cadence, Paced)
    for loss in np.linspace(5, 1, 40):
        trainer.held_out._pace(cadence, float(loss))
    assert cadence.factor == 2.0
    for loss in np.linspace(1, 5, 60):
        trainer.held_out._pace(cadence, float(loss))
    assert cadence.factor == 0.5
    for noise in np.random.default_rng(0).normal(0, 0.005, 60):
        trainer.held_out._pace(cadence, 5 + float(noise))
    settled = cadence.factor
    for noise in np.random.default_rng(1).normal(0, 0.005, 200):
        trainer.held_out._pace(cadence, 5 + float(noise))
    assert cadence.factor == settled  # neither rising nor falling


@given(
    gaps=st.lists(st.integers(0, 60), min_size=1, max_size=30), per_step=st.floats(0.01, 3), start=st.integers(0, 99)
)
def test_a_pace_of_one_is_a_ratio(gaps: list[int], per_step: float, start: int) -> None:
    ratio, paced, clock = Ratio(per_step, start), Paced(per_step, start), 0
    for gap in gaps:
        clock += gap
        list(ratio.due(clock)), list(paced.due(clock))
        assert abs(ratio.mark - paced.mark) <= 1  # where a sum rounds otherwise than a product


def test_a_changed_rate_holds_for_the_steps_to_come_and_is_saved() -> None:
    paced = Paced(0.5, 10)
    assert len(list(paced.due(50))) == 20
    paced.factor = 0.25
    twin = Paced(0.5, 10)
    twin.load_state_dict(json.loads(json.dumps(paced.state_dict())))
    turns = list(twin.due(130))
    assert turns == list(paced.due(130)) and len(turns) == math.floor(80 * 0.125)
    assert all(50 <= turn < 130 for turn in turns) and turns == sorted(turns)


def test_a_pace_needs_episodes_to_go_by() -> None:
    with pytest.raises(ConfigError, match=r"held_out\.pace is 2.*held_out\.share"):
        config_with(pace=2.0)
