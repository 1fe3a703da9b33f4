"""A run that was interrupted and resumed is the run that was not."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

import worldstream
from tiny import tiny_config
from worldstream.cli import main
from worldstream.environments.toy.clock import Clock
from worldstream.errors import ConfigError, EnvironmentFault, Interrupted, RunFolderError
from worldstream.evaluation import episodes as episodes_module
from worldstream.evaluation import evaluate as evaluate_module
from worldstream.report.report import write_report
from worldstream.runs import saving
from worldstream.runs import session as session_module
from worldstream.runs.archive import read_state, write_state
from worldstream.runs.checkpoint import Checkpoints
from worldstream.runs.folder import RunFolder, checksummed
from worldstream.runs.log import read_lines
from worldstream.runs.session import Session
from worldstream.runs.weights import load_weights
from worldstream.tokenizers.base import TokenizerOptions
from worldstream.tokenizers.bundle import TokenizerConfig
from worldstream.tokenizers.exact import ImagePaletteConfig, ImagePatchesConfig

STEPS = 160


def tiny(**collection: Any) -> worldstream.Config:
    config = tiny_config()
    return replace(
        config,
        collection=replace(config.collection, random_steps=30, **collection),
        checkpoint=replace(config.checkpoint, every_steps=50),
        evaluation=replace(config.evaluation, max_episode_steps=60),
        log_every_steps=20,
    )


def stop_after(monkeypatch: pytest.MonkeyPatch, *at: int) -> None:
    """The process receives SIGTERM when the clock shows one of these steps, once each."""
    waiting = list(at)
    original = Session.after_step

    def after_step(session: Session, steps: int) -> bool:
        if waiting and steps >= waiting[0]:
            waiting.pop(0)
            os.kill(os.getpid(), signal.SIGTERM)
        return original(session, steps)

    monkeypatch.setattr(Session, "after_step", after_step)


def facts(path: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Everything that was logged, but for the time it took."""
    folder = RunFolder(path)
    logs = (read_lines(folder.metrics), read_lines(folder.evaluations))
    metrics, evaluations = ([{k: v for k, v in r.items() if "seconds" not in k} for r in log] for log in logs)
    return metrics, evaluations


def same(a: Path, b: Path) -> bool:
    ours, theirs = (load_weights(path / "weights.safetensors") for path in (a, b))
    return facts(a) == facts(b) and all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_run_stopped_after_its_last_environment_step_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(tiny(), tail_share=0.6)
    worldstream.train("clock", steps=100, config=config, output=tmp_path / "whole", quiet=True)
    stop_after(monkeypatch, 93, 131)
    with pytest.raises(Interrupted, match="93 of 160 steps"):
        worldstream.train("clock", steps=100, config=config, output=tmp_path / "parts", quiet=True)
    with pytest.raises(Interrupted, match="131 of 160 steps"):
        worldstream.resume(tmp_path / "parts", quiet=True)
    worldstream.resume(tmp_path / "parts", quiet=True)
    assert same(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.parametrize(
    ("environment", "collection"),
    [
        ("clock", {}),
        ("clock", {"num_environments": 2, "epsilon": 0.2, "hold_random_actions": True}),
        ("keys", {}),
        ("cameras", {}),
        pytest.param("Breakout", {}, marks=pytest.mark.skipif(not find_spec("ale_py"), reason="needs ale-py")),
        ("CartPole-v1", {}),
        ("Pendulum-v1", {}),
    ],
)
def test_resumed_is_bit_identical_to_uninterrupted(
    environment: str, collection: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_resumed(environment, tiny(**collection), tmp_path, monkeypatch)


@pytest.mark.filterwarnings("ignore:key .* codes of 'image:worldstream.errors.WorldstreamWarning")
@pytest.mark.parametrize(
    "options", [ImagePatchesConfig(patch_size=(4, 4), codes=30), ImagePaletteConfig(patch_size=(4, 4))]
)
def test_exact_tokens_go_on_with_the_same_ids(
    options: TokenizerOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(tiny(), tokenizers=TokenizerConfig(by_modality={"image": options}))
    check_resumed("cameras", config, tmp_path, monkeypatch)


def check_resumed(
    environment: str, config: worldstream.Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worldstream.train(environment, steps=STEPS, config=config, output=tmp_path / "whole", quiet=True)
    stop_after(monkeypatch, 7, 50, 93)
    with pytest.raises(Interrupted, match=r"SIGTERM after \d of 160 steps.*--resume"):
        worldstream.train(environment, steps=STEPS, config=config, output=tmp_path / "parts", quiet=True)
    for _ in range(2):
        with pytest.raises(Interrupted):
            worldstream.resume(tmp_path / "parts", quiet=True)
    result = worldstream.resume(tmp_path / "parts", quiet=True)
    assert len(result.evaluation.returns) == 2
    assert same(tmp_path / "whole", tmp_path / "parts")
    with pytest.raises(RunFolderError, match="is finished"):
        worldstream.resume(tmp_path / "parts", quiet=True)


class Stubborn(gym.Env):
    """Cannot give its state; episodes of nine steps."""

    observation_space = gym.spaces.Box(-1, 1, (2,))
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: object = None) -> tuple[object, dict[str, object]]:
        super().reset(seed=seed)
        self.time = 0
        return np.zeros(2, np.float32), {}

    def step(self, action: object) -> tuple[object, float, bool, bool, dict[str, object]]:
        self.time += 1
        return np.full(2, self.time / 9, np.float32), 1.0, self.time == 9, False, {}


def test_an_episode_that_cannot_go_on_is_truncated_and_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stop_after(monkeypatch, 58)
    with pytest.raises(Interrupted):
        worldstream.train(Stubborn, steps=100, config=tiny(), output=tmp_path / "run", quiet=True)
    with pytest.warns(UserWarning, match="1 episodes were under way"):
        worldstream.resume(tmp_path / "run", environment=Stubborn, quiet=True)
    folder = RunFolder(tmp_path / "run")
    events = read_lines(folder.sittings)
    assert [event["event"] for event in events] == ["stopped", "resumed"]
    assert events[1]["truncated"] == 1


def interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *at: int) -> Path:
    stop_after(monkeypatch, *at)
    with pytest.raises(Interrupted):
        worldstream.train("clock", steps=STEPS, config=tiny(), output=tmp_path / "run", quiet=True)
    return tmp_path / "run"


@pytest.mark.parametrize("file", ["checkpoints", "replay"])
@pytest.mark.parametrize("damage", ["flip", "cut", "delete"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(
    file: str, damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worldstream.train("clock", steps=STEPS, config=tiny(), output=tmp_path / "whole", quiet=True)
    run = interrupted(tmp_path, monkeypatch, 130)
    path = sorted((run / file).iterdir())[-1]
    assert path.name == "000000000130.safetensors"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    if damage == "delete":
        path.unlink()
    else:
        path.write_bytes(data if damage == "flip" else data[:-3])
    with pytest.warns(UserWarning, match=rf"{path.name}.* Falling back"):
        worldstream.resume(run, quiet=True)
    assert same(tmp_path / "whole", run)


@pytest.mark.filterwarnings("default::worldstream.errors.WorldstreamWarning")
def test_no_intact_checkpoint_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = interrupted(tmp_path, monkeypatch, 30)
    for path in (run / "checkpoints").iterdir():
        path.write_bytes(b"{}")
    with pytest.raises(SystemExit) as exit_info:
        main(["train", "--resume", str(run)])
    assert exit_info.value.code == 4
    message = capsys.readouterr().err
    assert "no checkpoint" in message and "worldstream: warning: " in message and "Falling back" in message


def test_checkpoints_cannot_lead_out_of_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = interrupted(tmp_path, monkeypatch, 30)
    (path,) = (run / "checkpoints").iterdir()
    state = read_state(path)
    led_out = {"replay": {"../run.json": "0"}}
    for crafted in (led_out, {"state": 1}, {"name": 3}, {"replay": [1]}, {"num_environments": 0}):
        write_state(path, {**state, **crafted}, run=RunFolder(run).run_id)
        with pytest.warns(UserWarning, match="does not describe"), pytest.raises(RunFolderError, match="is intact"):
            worldstream.resume(run, quiet=True)


def test_a_run_folder_of_nonsense_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = interrupted(tmp_path, monkeypatch, 30)
    description = json.loads((run / "run.json").read_text())
    description.pop("sha256")
    for crafted in ({"steps": "x"}, {"seed": None}, {"environment": 3}, {"config": []}, {"specs": 1}, {"device": {}}):
        (run / "run.json").write_text(checksummed({**description, **crafted}))
        with pytest.raises(RunFolderError, match="that makes sense"):
            worldstream.resume(run, quiet=True)
    for origin in ("found", None, 3, ["trained"]):
        (run / "run.json").write_text(checksummed({**description, "origin": origin}))
        for read in (worldstream.resume, worldstream.Agent.load, lambda path: write_report([path])):
            with pytest.raises(RunFolderError, match="has origin .* known are 'trained' and 'imported'"):
                read(run)


def fails_once(monkeypatch: pytest.MonkeyPatch, name: str, *, call: int = 1) -> None:
    """One call of a function that sessions use does not come back."""
    original, left = getattr(session_module, name), [call]

    def wrapped(*arguments: Any, **options: Any) -> Any:
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt
        return original(*arguments, **options)

    monkeypatch.setattr(session_module, name, wrapped)


@pytest.mark.parametrize(
    ("name", "call"),
    [("evaluate", 4), ("record_episodes", 1), ("save_episodes", 1), ("save_weights", 1), ("save_weights", 4)],
)
@pytest.mark.parametrize("every_steps", [40, 50])
def test_a_run_that_died_in_the_middle_of_its_files_goes_on(
    name: str, call: int, every_steps: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Among them: between the last checkpoint and the weights, and between the last evaluation and the episodes."""
    config = replace(tiny(), checkpoint=replace(tiny().checkpoint, every_steps=every_steps))
    worldstream.train("clock", steps=STEPS, config=config, output=tmp_path / "whole", quiet=True)
    fails_once(monkeypatch, name, call=call)
    with pytest.raises(KeyboardInterrupt):
        worldstream.train("clock", steps=STEPS, config=config, output=tmp_path / "run", quiet=True)
    worldstream.resume(tmp_path / "run", quiet=True)
    assert same(tmp_path / "whole", tmp_path / "run")
    assert (tmp_path / "run" / "episodes.safetensors").is_file()


@pytest.mark.parametrize("call", [1, 2, 4])
def test_an_evaluation_that_is_left_is_made_up_for(call: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGTERM in the middle of an evaluation during training, and of the final one."""
    worldstream.train("clock", steps=STEPS, config=tiny(), output=tmp_path / "whole", quiet=True)
    original, left = session_module.evaluate, [call]

    def evaluate(*arguments: Any, **options: Any) -> Any:
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(*arguments, **options)

    monkeypatch.setattr(session_module, "evaluate", evaluate)
    with pytest.raises(Interrupted, match="SIGTERM"):
        worldstream.train("clock", steps=STEPS, config=tiny(), output=tmp_path / "run", quiet=True)
    worldstream.resume(tmp_path / "run", quiet=True)
    assert same(tmp_path / "whole", tmp_path / "run")


@pytest.mark.parametrize("keep", [1, 2])
def test_a_damaged_checkpoint_never_pushes_out_a_good_one(
    keep: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(tiny(), checkpoint=replace(tiny().checkpoint, keep=2))
    worldstream.train("clock", steps=STEPS, config=config, output=tmp_path / "whole", quiet=True)
    stop_after(monkeypatch, 130, 110)
    with pytest.raises(Interrupted):
        worldstream.train("clock", steps=STEPS, config=config, output=tmp_path / "run", quiet=True)
    (tmp_path / "run" / "checkpoints" / "000000000130.safetensors").write_bytes(b"{}")
    monkeypatch.setattr(saving, "Checkpoints", lambda folder, _: Checkpoints(folder, keep))
    with pytest.warns(UserWarning, match="Falling back"), pytest.raises(Interrupted):
        worldstream.resume(tmp_path / "run", quiet=True)
    names = sorted(path.stem for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert names == ["000000000100", "000000000110"][-keep:]
    worldstream.resume(tmp_path / "run", quiet=True)
    assert same(tmp_path / "whole", tmp_path / "run")


def test_old_checkpoints_and_replay_nobody_needs_are_deleted(tmp_path: Path) -> None:
    config = replace(tiny(), replay=replace(tiny().replay, max_steps=60))
    worldstream.train("clock", steps=STEPS, config=config, output=tmp_path / "run", quiet=True)
    names = sorted(path.stem for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert names == ["000000000150", "000000000160"]
    parts = sorted(path.stem for path in (tmp_path / "run" / "replay").iterdir())
    assert parts == ["000000000100", "000000000150", "000000000160"]  # steps up to 50 were evicted


def test_a_full_disk_pauses_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original, failures = Checkpoints.save, iter([True])

    def save(self: Checkpoints, *arguments: Any) -> Path:
        if next(failures, False):
            raise RunFolderError("cannot write: No space left on device.")
        return original(self, *arguments)

    monkeypatch.setattr(Checkpoints, "save", save)
    with pytest.warns(UserWarning, match="no checkpoint at 50 steps.*Training goes on"):
        worldstream.train("clock", steps=STEPS, config=tiny(), output=tmp_path / "run", quiet=True)
    assert len(list((tmp_path / "run" / "checkpoints").iterdir())) == 2


def test_flags_that_contradict_the_run_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = interrupted(tmp_path, monkeypatch, 30)
    with pytest.raises(SystemExit) as exit_info:
        main(["train", "--resume", str(run), "--seed", "3", "--losses.discount", "0.5"])
    assert exit_info.value.code == 2
    assert "leave out --seed, flags of the configuration" in capsys.readouterr().err


def test_the_time_limit_has_its_own_status(tmp_path: Path) -> None:
    with pytest.raises(Interrupted, match="time limit of 0 s after 1 of 160 steps") as error:
        worldstream.train("clock", steps=STEPS, config=tiny(), output=tmp_path / "run", time_limit=0, quiet=True)
    assert error.value.exit_code == 75


def test_the_time_limit_ends_an_evaluation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, config = tmp_path / "run", tiny()
    stop_after(monkeypatch, STEPS)
    with pytest.raises(Interrupted):
        worldstream.train("clock", steps=STEPS, config=config, output=path, quiet=True)

    step = Clock.step

    def slow(clock: Clock, action: Any) -> Any:
        time.sleep(0.5)
        return step(clock, action)

    said = "limit of 2 s .* Only the evaluation is left"
    with monkeypatch.context() as patch, pytest.raises(Interrupted, match=said):
        patch.setattr(Clock, "step", slow)
        worldstream.resume(path, time_limit=2, quiet=True)
    assert len(worldstream.resume(path, quiet=True).evaluation.returns) == config.evaluation.final_episodes


def test_a_run_on_a_nameless_function_needs_its_environment(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        worldstream.train(
            lambda: Stubborn(), steps=50, config=tiny(), output=tmp_path / "run", time_limit=0, quiet=True
        )
    with pytest.raises(ConfigError, match="--env"):
        worldstream.resume(tmp_path / "run", quiet=True)


# States of environments.


def test_a_state_that_no_file_holds_is_no_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Odd(Stubborn):
        def state_dict(self) -> dict[str, Any]:
            return {"seen": {1, 2}}

        def load_state_dict(self, state: dict[str, Any]) -> None:
            raise AssertionError

    stop_after(monkeypatch, 58)
    with pytest.warns(UserWarning, match=r"state_dict\(\)\['seen'\] is a set"), pytest.raises(Interrupted):
        worldstream.train(Odd, steps=100, config=tiny(), output=tmp_path / "run", quiet=True)
    with pytest.warns(UserWarning, match="they count as truncated|is a set"):
        worldstream.resume(tmp_path / "run", environment=Odd, quiet=True)


class Global(Clock):
    """Draws from the generators that belong to the whole process, and shows what it drew."""

    def step(self, action: Any) -> Any:
        observation, reward, *others = super().step(action)
        drawn = random.random() + np.random.random() + float(torch.rand(()))
        return observation, float(reward) + drawn, *others


@pytest.mark.parametrize("call", [1, 4, 5])
def test_an_evaluation_leaves_no_trace_in_global_generators(
    call: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGTERM in the middle of an evaluation during training, of the final one, and of recording."""

    def train(name: str) -> None:
        random.seed(0), np.random.seed(0)
        worldstream.train(Global, steps=STEPS, config=tiny(), output=tmp_path / name, quiet=True)

    train("whole")
    left = [call]

    def stopping(original: Any) -> Any:
        def play(*arguments: Any, **options: Any) -> Any:
            left[0] -= 1
            for i, step in enumerate(original(*arguments, **options)):
                if left[0] == 0 and i == 3:
                    os.kill(os.getpid(), signal.SIGTERM)
                yield step

        return play

    for module in (evaluate_module, episodes_module):
        monkeypatch.setattr(module, "play", stopping(module.play))
    with pytest.raises(Interrupted, match="SIGTERM"):
        train("run")
    monkeypatch.undo()
    random.seed(9), np.random.seed(9)
    worldstream.resume(tmp_path / "run", environment=Global, quiet=True)
    assert same(tmp_path / "whole", tmp_path / "run")
    ours, theirs = (read_state(tmp_path / name / "episodes.safetensors") for name in ("run", "whole"))
    assert all(np.array_equal(a["rewards"], b["rewards"]) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize(("environment", "stops"), [("clock", [3, 5, 18]), ("cameras", [3, 31])])
def test_a_burst_of_updates_is_left_between_two_of_them(
    environment: str, stops: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Updates come 40 steps' worth at once; SIGTERM after some of them, counted over all phases and sittings."""
    base = tiny()
    bursts = {
        f"{name}_learner": replace(getattr(base, f"{name}_learner"), start_steps=20, every_steps=40)
        for name in ("tokenizer", "world_model", "actor_critic")
    }
    config = replace(base, **bursts)
    worldstream.train(environment, steps=100, config=config, output=tmp_path / "whole", quiet=True)
    count, waiting = [0], list(stops)
    original = Session.after_update

    def after_update(session: Session) -> bool:
        count[0] += 1
        if waiting and count[0] == waiting[0]:
            waiting.pop(0)
            os.kill(os.getpid(), signal.SIGTERM)
        return original(session)

    monkeypatch.setattr(Session, "after_update", after_update)
    with pytest.raises(Interrupted, match="40 of 100 steps"):
        worldstream.train(environment, steps=100, config=config, output=tmp_path / "parts", quiet=True)
    assert count == [3]
    for done in stops[1:]:
        with pytest.raises(Interrupted):
            worldstream.resume(tmp_path / "parts", quiet=True)
        assert count == [done]
    worldstream.resume(tmp_path / "parts", quiet=True)
    assert same(tmp_path / "whole", tmp_path / "parts")


class Forgetful(Clock):
    """Refuses the states that it gave, once it was told to."""

    refuses = False

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        if self.refuses and state["_step"] > 3:
            raise ValueError("another version wrote that")


def test_a_refused_state_closes_its_episode_when_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, config = tmp_path / "run", tiny(num_environments=2)
    stop_after(monkeypatch, 10)
    with pytest.raises(Interrupted):
        worldstream.train(Forgetful, steps=40, config=config, output=run, quiet=True)
    monkeypatch.setattr(Forgetful, "refuses", True)
    with pytest.raises(EnvironmentFault, match="another version wrote that.* --close-episodes"):
        worldstream.resume(run, environment=Forgetful, quiet=True)
    with pytest.raises(SystemExit) as end:
        main(["train", "--env", "clock", "--steps", "40", "--close-episodes"])
    assert end.value.code == 2
    with pytest.warns(UserWarning) as told:
        worldstream.resume(run, environment=Forgetful, close_episodes=True, quiet=True)
    assert sum("Its episode is closed as truncated" in str(warning.message) for warning in told) == 2
    assert [event["truncated"] for event in read_lines(run / "sittings.jsonl") if event["event"] == "resumed"] == [2]
