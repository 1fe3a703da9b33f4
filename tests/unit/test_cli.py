"""The command line: one clear message and a non-zero status for every mistake, and nothing lost."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from worldstream import api
from worldstream.api import EvaluationResult
from worldstream.cli import main, parse
from worldstream.cli.commands import COMMANDS
from worldstream.evaluation.evaluate import Evaluation
from worldstream.presets import PRESETS
from worldstream.tokenizers.image import ImageFSQConfig

CLOCK = ["train", "--env", "clock", "--steps", "10"]

FAST = [
    "--world-model-learner.start-steps=60",
    "--actor-critic-learner.start-steps=60",
    "--collection.random-steps=30",
    "--world-model.sequence.width=16",
    "--world-model.sequence.num-layers=1",
    "--actor-critic.hidden=16",
    "--evaluation.final-episodes=2",
    "--imagination.horizon=3",
]


def fails(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Run a command that must fail; its status and its message."""
    with pytest.raises(SystemExit) as error:
        main(list(arguments))
    captured = capsys.readouterr()
    assert isinstance(error.value.code, int)
    assert "Traceback" not in captured.err
    return error.value.code, captured.err + captured.out


def trained(folder: Path, *options: str, env: str = "clock") -> Path:
    main(["train", "--env", env, "--steps", "120", "--output", str(folder), "--quiet", *FAST, *options])
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("runs") / "clock")


def test_train_writes_every_file(run: Path) -> None:
    names = {path.name for path in run.iterdir()}
    assert names == {
        "run.json", "metrics.jsonl", "evaluations.jsonl", "events", "weights.safetensors", "episodes.safetensors",
        "checkpoints", "replay", "lock",
    }  # fmt: skip
    description = json.loads((run / "run.json").read_text())
    assert description["environment"] == "clock"
    assert description["config"]["world_model"]["sequence"]["width"] == 16
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["steps"] == 120
    assert last["world_model/observation"] > 0


def test_evaluate_prints_the_return(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["evaluate", str(run), "--episodes", "3"])
    assert "return_mean" in capsys.readouterr().out


def test_evaluate_prints_incidents(run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    result = EvaluationResult("clock", Evaluation([1.0, 2.0], [3, 4], incidents=2), note="")
    monkeypatch.setattr(api, "evaluate", lambda *_, **options: result)
    main(["evaluate", str(run), "--episodes", "2"])
    assert "incidents: 2 (environments that failed" in capsys.readouterr().out


def test_report_is_written(run: Path, tmp_path: Path) -> None:
    main(["report", str(run), "--output", str(tmp_path / "r.html")])
    assert (tmp_path / "r.html").read_text().lower().startswith("<!doctype html>")


def test_info_names_keys_and_cost(capsys: pytest.CaptureFixture[str]) -> None:
    main(["info", "keys", "--preset", "keys"])
    shown = capsys.readouterr().out
    for text in ("grid", "categorical", "tokens/step", "bytes/step", "parameters, world model", "per 1000 steps"):
        assert text in shown


def test_info_says_what_training_would_not_begin_without(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for perceptual, missing in (("lpips", True), ("none", False)):
        main(["info", "cameras", "--preset", "cameras", "--modality", "left=image:16,16", "--modality",
              "right=image:16,16", "--tokenizers.by-modality.image.perceptual", perceptual])  # fmt: skip
        assert ("training would not begin: the perceptual loss 'lpips' needs" in capsys.readouterr().out) == missing


def test_components_are_chosen_by_flags_and_bring_their_own() -> None:
    flag = "--tokenizers.by-modality.image"
    options = ["train", "--preset", "atari100k", flag, "image_fsq", f"{flag}.ids-per-token", "4"]
    chosen = parse(options).options["config"].tokenizers.by_modality["image"]
    preset = PRESETS["atari100k"]().tokenizers.by_modality["image"]
    assert isinstance(chosen, ImageFSQConfig) and chosen.ids_per_token == 4
    assert chosen.channels == preset.channels != ImageFSQConfig().channels
    assert parse([*options[:3], f"{flag}=image_vq"]).options["config"] == PRESETS["atari100k"]()


def test_an_output_that_holds_something_is_refused_and_kept(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.read_bytes() for path in run.iterdir() if path.is_file()}
    status, message = fails(capsys, "train", "--env", "clock", "--steps", "10", "--output", str(run))
    assert status == 4
    assert str(run) in message and "--output" in message
    assert {path: path.read_bytes() for path in run.iterdir() if path.is_file()} == before


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["trian"], 2, ["trian", "train"]),
        ([], 2, ["usage"]),
        ([*CLOCK, "--preset", "dmeo"], 2, ["dmeo", "demo"]),
        ([*CLOCK, "--sede", "1"], 2, ["--sede", "--seed"]),
        (["train", "--env", "clock", "--steps", "ten"], 2, ["ten", "--steps"]),
        (["train", "--env", "clock", "--steps", "0"], 2, ["steps", "0"]),
        (["train", "--env", "clock"], 2, ["--steps"]),
        (["train", "--env", "CartPol-v1", "--steps", "10"], 3, ["CartPol-v1", "CartPole-v1"]),
        (["train", "--env", "no_such_module:factory", "--steps", "10"], 3, ["no_such_module"]),
        ([*CLOCK, "--device", "tpu9"], 2, ["tpu9", "cpu"]),
        *(([*CLOCK, "--device", name], 2, [name, "cpu"]) for name in ("foo", "meta", "hpu", "xla", "privateuseone")),
        *(([*CLOCK, "--time-limit", limit], 2, ["time_limit", limit]) for limit in ("inf", "nan")),
        ([*CLOCK, "--modality", "step"], 2, ["step", "KEY=KIND"]),
        ([*CLOCK, "--modality", "nokey=ignore"], 2, ["nokey", "step"]),
        ([*CLOCK, "--modality", "step=hologram"], 2, ["hologram"]),
        ([*CLOCK, "--world-model-learner.batch-size", "6"], 2, ["batch_size 6"]),
        ([*CLOCK, "--world-model.sequence.width", "30"], 2, ["width 30"]),
        ([*CLOCK, "--evaluation.temperature", "-1"], 2, ["evaluation.temperature", "-1"]),
        ([*CLOCK, "--seed", "-1"], 2, ["seed", "-1"]),
        ([*CLOCK, "--losses.discount", "1.5"], 2, ["losses.discount", "between 0 and 1"]),
        ([*CLOCK, "--imagination.horizon", "0"], 2, ["imagination.horizon", "at least 1"]),
        ([*CLOCK, "--world-model.sequence", "lstm"], 2, ["lstm", "retention"]),
        ([*CLOCK, "--tokenizers.by-modality.vector", "vq"], 2, ["vq", "fitted_levels", "by_modality.vector"]),
        ([*CLOCK, "--tokenizers.by-modality.vector.num-levels", "1"], 2, ["vector.num_levels", "at least 2"]),
        ([*CLOCK, "--tokenizers.by-modality.vector"], 2, ["by-modality.vector needs a name", "fitted_levels"]),
        (["evaluate", "/nonexistent/run"], 4, ["/nonexistent/run", "worldstream train"]),
        (["report", "/nonexistent/run"], 4, ["/nonexistent/run"]),
        (["info", "CartPol-v1"], 3, ["CartPole-v1"]),
    ],
)
def test_mistakes_get_one_message(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    status: int,
    words: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    found, message = fails(capsys, *arguments)
    assert found == status, message
    for word in words:
        assert word in message
    assert not any(path.name == "weights.safetensors" for path in tmp_path.rglob("*"))


BROKEN = """
import gymnasium as gym
import numpy as np

class Broken(gym.Env):
    observation_space = gym.spaces.Dict({"place": gym.spaces.Box(-1, 1, (2,)), "kind": gym.spaces.Discrete(3)})
    action_space = gym.spaces.Discrete(2)

    def __init__(self, fault="none"):
        self.fault = fault

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return self.observe(), {}

    def observe(self):
        late = self.time == 40
        place = np.full(2, np.nan if late and self.fault == "nan" else 0.5, np.float32)
        return {"place": place, "kind": 7 if late and self.fault == "range" else 1}

    def step(self, action):
        self.time += 1
        if self.time == 40 and self.fault == "raise":
            raise ValueError("motor lost")
        return self.observe(), 1.0, False, self.time >= 50, {}

def nan(): return Broken("nan")
def out_of_range(): return Broken("range")
def raising(): return Broken("raise")
def text(): env = Broken(); env.observation_space = gym.spaces.Text(5); return env
def fails(): raise OSError("no simulator")
def not_env(): return 3
def huge(): env = Broken(); env.observation_space = gym.spaces.Box(-1, 1, (84, 84, 5)); return env

class Camera(Broken):
    action_space = gym.spaces.Discrete(2)

    def __init__(self, shape=(32, 32, 3), dtype=np.uint8, high=255, late_shape=None):
        super().__init__()
        self.observation_space = gym.spaces.Dict({"front": gym.spaces.Box(0, high, shape, dtype)})
        self.late_shape = late_shape or shape

    def observe(self):
        space = self.observation_space["front"]
        return {"front": np.zeros(self.late_shape if self.time >= 5 else space.shape, space.dtype)}

def float_camera(): return Camera(dtype=np.float32, high=1)
def wide_camera(): return Camera(dtype=np.int64)
def empty_camera(): return Camera(shape=(0, 32, 3))
def zooming_camera(): return Camera(late_shape=(16, 32, 3))
"""


@pytest.mark.filterwarnings("ignore::worldstream.errors.WorldstreamWarning")
@pytest.mark.parametrize(
    ("factory", "words"),
    [
        ("nan", ["place", "nan"]),
        ("out_of_range", ["kind", "7"]),
        ("raising", ["motor lost", "step()"]),
        ("text", ["Text"]),
        ("fails", ["no simulator"]),
        ("not_env", ["not_env", "gymnasium.Env"]),
        ("huge", ["observation", "35280", "--modality"]),
        ("float_camera", ["front", "uint8", "multiply by 255", "--modality front=vector"]),
        ("wide_camera", ["front", "uint8", "--modality front=vector"]),
        ("empty_camera", ["front", "is empty", "--modality front=ignore"]),
        ("zooming_camera", ["front", "(16, 32, 3)", "(32, 32, 3)"]),
    ],
)
def test_faulty_environments_get_one_message(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    factory: str,
    words: list[str],
) -> None:
    (tmp_path / "broken_environment.py").write_text(BROKEN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "broken_environment", raising=False)
    env = f"broken_environment:{factory}"
    status, message = fails(
        capsys, "train", "--env", env, "--steps", "100", "--output", str(tmp_path / "run"),
        "--collection.max-restarts", "3", *FAST,
    )  # fmt: skip
    assert status in (2, 3)
    for word in words:
        assert word in message


def test_a_run_folder_without_weights_or_with_other_files_is_refused(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    description = (run / "run.json").read_text()
    for content, word in ((description, "weights"), ("{", "JSON"), ('{"format": 99}', "99"), ("[]", "format")):
        folder = tmp_path / word
        folder.mkdir()
        (folder / "run.json").write_text(content)
        status, message = fails(capsys, "evaluate", str(folder))
        assert status == 4
        assert word in message
    folder = tmp_path / "torn"
    folder.mkdir()
    (folder / "run.json").write_text(description)
    (folder / "weights.safetensors").write_bytes((run / "weights.safetensors").read_bytes()[:1000])
    status, message = fails(capsys, "evaluate", str(folder))
    assert status == 4
    assert "weights.safetensors" in message


def test_a_full_disk_ends_in_one_message(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(source: object, target: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("worldstream.runs.files.os.replace", full)
    output = str(tmp_path / "run")
    status, message = fails(capsys, "train", "--env", "clock", "--steps", "50", "--output", output)
    assert status == 4
    assert "No space left" in message and "run.json" in message


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_about_the_command_line_alone(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([command, "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    for words in ("from Python", "a function", "api.", "Args:", "Raises:", "see train"):
        assert words not in shown


def test_every_preset_shows_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    from worldstream.presets import PRESETS

    for preset in PRESETS:
        with pytest.raises(SystemExit) as end:
            main(["train", "--preset", preset, "--help"])
        assert end.value.code == 0
        shown = capsys.readouterr().out
        assert "--world-model.sequence.num-layers" in shown and "--imagination.horizon" in shown


@pytest.mark.parametrize(
    ("arguments", "preset"),
    [
        (["train", "--env", "Breakout", "--steps", "9"], "atari-small"),
        (["train", "--env", "MiniGrid-DoorKey-5x5-v0", "--steps", "9"], "grid"),
        (["info", "--steps", "9", "keys"], "keys"),
        (["info", "CartPole-v1"], "demo"),
        (["info", "Breakout", "--preset", "atari100k"], "atari100k"),
        (["train", "--env", "keys", "--steps", "9", "--preset=demo"], "demo"),
    ],
)
def test_flags_start_from_the_named_preset_or_the_suited_one(arguments: list[str], preset: str) -> None:
    from worldstream.presets import PRESETS

    options = parse(arguments).options
    assert options["preset"] == preset and options["config"] == PRESETS[preset]()
    changed = parse([*arguments, "--imagination.horizon", "3"]).options["config"]
    expected = PRESETS[preset]()
    assert changed == replace(expected, imagination=replace(expected.imagination, horizon=3))


@pytest.mark.parametrize("command", [["train", "--env", "Breakout", "--steps", "9"], ["info", "Breakout"]])
def test_flags_of_the_suited_preset_alone_are_known(command: list[str]) -> None:
    options = parse([*command, "--replay.start-sampler.temperature", "0.2"]).options["config"].replay.start_sampler
    assert options.temperature == 0.2


def test_flags_that_no_preset_has_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        parse(["info", "Breakout", "--replay.start-sampler.temprature", "0.2"])
    assert end.value.code == 2 and "temprature" in capsys.readouterr().err


def test_resume_takes_an_environment_without_its_preset(tmp_path: Path) -> None:
    command = parse(["train", "--resume", str(tmp_path), "--env", "keys"])
    options = command.options
    assert options["preset"] is None
    assert options["config"] == parse(["train", "--resume", str(tmp_path)]).options["config"]
