"""Atari: names, the published protocol frame by frame, state, and a whole run of the published preset in small."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

import worldstream
from worldstream.environments import EnvironmentConfig, make_environment
from worldstream.environments.suites import ENVIRONMENTS
from worldstream.errors import ConfigError, EnvironmentFault
from worldstream.evaluation.evaluate import evaluate
from worldstream.options import at, from_plain, put
from worldstream.presets.atari import EVALUATED, TRAINED
from worldstream.runs.weights import load_run
from worldstream.tokenizers.bundle import TokenizerConfig
from worldstream.tokenizers.lpips import LpipsConfig
from worldstream.tokenizers.perceptual import NoPerceptualConfig
from worldstream.training.experiment import Experiment

pytest.importorskip("ale_py")

from worldstream.environments.suite.atari import known_games
from worldstream.environments.suite.atari_game import AtariGame, AtariOptions


def play(game: str, options: dict[str, Any]) -> AtariGame:
    """A game under a protocol, with pictures of the published size."""
    made = AtariGame(game, from_plain(AtariOptions, options, "options"))
    made.resize_to((64, 64))
    return made


@pytest.mark.parametrize(
    ("name", "game"),
    [
        ("Breakout", "breakout"),
        ("ALE/Breakout-v5", "breakout"),
        ("BreakoutNoFrameskip-v4", "breakout"),
        ("BreakoutDeterministic-v4", "breakout"),
        ("Breakout-v4", "breakout"),
        ("MsPacman", "ms_pacman"),
        ("ALE/UpNDown-v5", "up_n_down"),
        ("ale_py:ALE/Breakout-v5", "breakout"),
    ],
)
def test_every_way_to_name_a_game(name: str, game: str) -> None:
    assert make_environment(name).protocol["game"] == game


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Brekout", "unknown Atari game 'Brekout'. The nearest names are: Breakout"),
        ("ALE/MsPackman-v5", "The nearest names are: MsPacman"),
        ("zzzzNoFrameskip-v4", "The nearest names are: .*Boxing"),
        ("Brekout-v5", "The nearest names are: Breakout"),
        ("ALE/Combat-v5", "unknown Atari game 'Combat'"),
        ("ALE/Warlords-v5", "unknown Atari game 'Warlords'"),
        ("Breakot-v4", "The nearest names are: Breakout"),
        ("ALE/Breakout-ram-v5", "from pictures, not from the console's memory"),
        ("Breakout-ram-v4", "from pictures, not from the console's memory"),
    ],
)
def test_unknown_games_list_the_nearest_names(name: str, message: str) -> None:
    with pytest.raises(EnvironmentFault, match=message):
        make_environment(name)


@pytest.mark.parametrize("name", ["CartPole-v1", "Acrobot-v1", "CartPole", "my_module:Breakout", "clock", "keys"])
def test_other_names_are_left_to_others(name: str) -> None:
    assert not ENVIRONMENTS["atari"].claims(name)


def test_an_environment_of_the_users_own_keeps_its_name() -> None:
    gymnasium.register("Backgammon-v0", entry_point="gymnasium.envs.classic_control.cartpole:CartPoleEnv")
    try:
        assert not ENVIRONMENTS["atari"].claims("Backgammon-v0")
    finally:
        del gymnasium.registry["Backgammon-v0"]


def test_no_action_is_none_in_games_without_one() -> None:
    """The smallest set of actions of Backgammon begins with the button."""
    from ale_py import Action

    pressed: list[Action] = []

    class Listening:
        def __init__(self, ale: object) -> None:
            self._ale = ale

        def __getattr__(self, name: str) -> object:
            return getattr(self._ale, name)

        def act(self, action: Action) -> float:
            pressed.append(action)
            return float(self._ale.act(action))  # type: ignore[attr-defined]

    game = play("backgammon", {"noops": [3, 3]})
    game._ale = Listening(game._ale)
    game.reset(seed=0)
    assert pressed == [Action.NOOP] * 3
    game.step(np.int64(0))
    assert pressed[3:] == [Action.FIRE] * 4


def test_the_card_says_what_the_settings_change() -> None:
    options = EnvironmentConfig(max_episode_steps=100, sizes={"image": ()})
    plain = make_environment("Pong", EnvironmentConfig()).protocol
    assert plain["size"] == [64, 64] and "area" in plain["resize"] and "max_decisions" not in plain
    changed = make_environment("Pong", options).protocol
    assert changed["size"] == [210, 160] and changed["resize"] == "none" and changed["max_decisions"] == 25


def test_all_games_of_the_wheel_are_known() -> None:
    assert len(known_games()) > 100


def test_options_that_make_no_sense() -> None:
    with pytest.raises(ConfigError, match=r"environment.kwargs.resize: expected one of 'bilinear', 'area', 'decimate'"):
        make_environment("Pong", EnvironmentConfig(kwargs={"resize": "nearest"}))
    with pytest.raises(ConfigError, match=r"environment.kwargs.sticky must be between 0 and 1"):
        make_environment("Pong", EnvironmentConfig(kwargs={"sticky": 1.5}))
    with pytest.raises(ConfigError, match=r"environment.kwargs: unknown field 'stick'; known: .*sticky"):
        make_environment("Pong", EnvironmentConfig(kwargs={"stick": 0.25}))
    with pytest.raises(ConfigError, match="noops are the fewest and the most"):
        make_environment("Pong", EnvironmentConfig(kwargs={"noops": [3, 1]}))
    for argument, elsewhere in (("frame_skip", "environment.action_repeat"), ("size", "environment.sizes")):
        with pytest.raises(EnvironmentFault, match=f"kwargs.{argument}: of a game this is set by {elsewhere}"):
            make_environment("Pong", EnvironmentConfig(kwargs={argument: 4}))


@pytest.mark.parametrize("resize", ["bilinear", "area"])
@pytest.mark.parametrize(
    ("config", "shape"),
    [
        (EnvironmentConfig(), (64, 64, 3)),
        (EnvironmentConfig(modality={"observation": "image:96,80"}), (96, 80, 3)),
        (EnvironmentConfig(sizes={"image": (48,)}), (48, 48, 3)),
        (EnvironmentConfig(sizes={"image": ()}), (210, 160, 3)),
    ],
)
def test_pictures_are_resized_once_to_the_size_that_is_asked_for(
    resize: str, config: EnvironmentConfig, shape: tuple[int, ...]
) -> None:
    environment = make_environment("Breakout", replace(config, kwargs={"resize": resize}))
    observation, _ = environment.reset(seed=0)
    assert observation["observation"].shape == shape
    raw = environment.environment.observation_space.shape
    assert raw == (shape if resize == "bilinear" else (210, 160, 3))


@pytest.mark.parametrize(("size", "first", "stride"), [((104, 80), 0, 2), ((80, 80), 34, 2), ((208, 160), 2, 1)])
def test_decimated_pictures_are_rows_and_columns_of_the_screen(size: tuple[int, int], first: int, stride: int) -> None:
    options = EnvironmentConfig(sizes={"image": size}, kwargs={"resize": "decimate", "first_row": first})
    environment = make_environment("Breakout", options)
    game: Any = environment.environment.unwrapped
    frames = Recorder(game)
    environment.reset(seed=0)
    for action in (1, 2, 3):
        observation, *_ = environment.step(np.array([action]))
        whole = np.maximum(*frames.screens[-2:])
        expected = whole[first : first + stride * size[0] : stride, ::stride]
        np.testing.assert_array_equal(observation["observation"], expected)
    assert environment.protocol["stride"] == stride and "picked" in environment.protocol["resize"]


@pytest.mark.parametrize(("size", "first"), [((64, 64), 0), ((112, 80), 0), ((104, 80), 8)])
def test_sizes_that_no_decimation_gives_are_refused(size: tuple[int, int], first: int) -> None:
    options = EnvironmentConfig(sizes={"image": size}, kwargs={"resize": "decimate", "first_row": first})
    with pytest.raises(ConfigError, match=f"pictures of {size[0]} x {size[1]} are no decimation .* such as .*,80"):
        make_environment("Breakout", options)


def test_a_game_repeats_actions_four_times_unless_told_otherwise() -> None:
    assert make_environment("Breakout").protocol["frame_skip"] == 4
    assert make_environment("Breakout", EnvironmentConfig(action_repeat=2)).protocol["frame_skip"] == 2


class Recorder:
    """The emulator's calls of one game, and the raw screens in between."""

    def __init__(self, game: AtariGame) -> None:
        self._ale = game._ale
        self.rewards: list[float] = []
        self.screens: list[np.ndarray] = []
        game._ale = self  # type: ignore[assignment]

    def act(self, action: int) -> float:
        self.rewards.append(self._ale.act(action))
        self.screens.append(self._ale.getScreenRGB())
        return self.rewards[-1]

    def __getattr__(self, name: str):
        return getattr(self._ale, name)


def test_a_step_is_four_frames_their_clipped_rewards_and_the_maximum_of_the_last_two() -> None:
    from PIL import Image

    game = play("qbert", TRAINED)  # rewards of 25 a cube
    frames = Recorder(game)
    game.reset(seed=0)
    rewarded = 0
    rng = np.random.default_rng(0)
    for _ in range(150):
        before = len(frames.rewards)
        picture, reward, terminated, truncated, _ = game.step(np.int64(rng.integers(6)))
        assert len(frames.rewards) - before == 4 or terminated or truncated
        assert reward == np.sign(frames.rewards[before:]).sum()
        rewarded += reward > 0
        last = [
            np.asarray(Image.fromarray(screen).resize((64, 64), Image.Resampling.BILINEAR))
            for screen in frames.screens[-2:]
        ]
        np.testing.assert_array_equal(picture, np.maximum(*last))
        if terminated or truncated:
            game.reset()
    assert rewarded


def test_noops_lie_in_their_range_and_evaluation_begins_with_one() -> None:
    trained = play("breakout", TRAINED)
    counts = []
    for seed in range(12):
        trained.reset(seed=seed)
        counts.append(trained._frames)
    assert 1 <= min(counts) < max(counts) <= 30
    evaluated = play("breakout", EVALUATED)
    evaluated.reset(seed=0)
    assert evaluated._frames == 1


def test_a_lost_life_ends_the_episode_but_not_the_game() -> None:
    game = play("breakout", TRAINED)
    _, info = game.reset(seed=0)
    lives = [info["lives"]]
    for _ in range(5):
        while True:
            _, _, terminated, _, info = game.step(np.int64(1))
            if terminated:
                break
        frames = game._frames
        _, info = game.reset()
        lives.append(info["lives"])
        if info["lives"] < lives[0]:
            assert game._frames == frames + 4  # one step, as the wrapper of lives lies around that of the repetition
    assert lives == [5, 4, 3, 2, 1, 5]
    whole = play("breakout", EVALUATED)
    whole.reset(seed=0)
    while not whole.step(np.int64(1))[2]:
        pass
    assert whole._ale.game_over()


def test_a_game_is_truncated_after_its_frames_and_begins_anew() -> None:
    game = play("pong", {"noops": [0, 0], "max_frames": 22})
    game.reset(seed=0)
    ends = [game.step(np.int64(0))[2:4] for _ in range(6)]
    assert ends == [(False, False)] * 5 + [(False, True)]
    assert game._frames == 22
    game.reset()
    assert game._frames == 0


@pytest.mark.parametrize("kwargs", [TRAINED, {"sticky": 0.25, "full_action_space": True}, {"sticky": 0.9}])
def test_a_game_goes_on_from_its_state(kwargs) -> None:
    config = EnvironmentConfig(action_repeat=4, kwargs=kwargs)
    ours, theirs = make_environment("Breakout", config), make_environment("Breakout", config)
    ours.reset(seed=1)
    theirs.reset(seed=2)
    rng = np.random.default_rng(0)
    for _ in range(60):
        if any(ours.step(rng.integers(ours.action_spec.sizes))[2:4]):
            ours.reset()
    theirs.saved_state = ours.saved_state
    for _ in range(150):
        action = rng.integers(ours.action_spec.sizes)
        one, two = ours.step(action), theirs.step(action)
        np.testing.assert_equal(one, two)
        if one[2] or one[3]:
            np.testing.assert_equal(ours.reset(), theirs.reset())


def test_sticky_actions_come_from_the_seed() -> None:
    config = EnvironmentConfig(action_repeat=4, kwargs={"sticky": 0.25, "noops": [0, 0]})

    def sums_of_pictures(seed: int) -> list[float]:
        environment = make_environment("Breakout", config)
        observation = environment.reset(seed=seed)[0]["observation"]
        rng, sums = np.random.default_rng(0), [float(observation.sum())]
        for _ in range(80):
            sums.append(float(environment.step(rng.integers(environment.action_spec.sizes))[0]["observation"].sum()))
        return sums

    assert sums_of_pictures(1) == sums_of_pictures(1) != sums_of_pictures(2)


def with_image(tokenizers: TokenizerConfig, **changes: Any) -> TokenizerConfig:
    """Other options of the tokenizer of pictures."""
    place = "by_modality.image"
    return put(tokenizers, place, replace(at(tokenizers, place), **changes))


def shrunken(name: str) -> worldstream.Config:
    """A preset with its protocol and order of events, but small networks and few updates."""
    config = worldstream.PRESETS[name]()
    model = config.world_model
    image = {"channels": (8, 8, 16, 16), "code_size": 16, "perceptual": NoPerceptualConfig()}
    return replace(
        config,
        tokenizers=with_image(config.tokenizers, **image),
        world_model=replace(model, sequence=replace(model.sequence, num_layers=1, width=16)),
        actor_critic=replace(config.actor_critic, hidden=(16,), grid_channels=(8,)),
        imagination=replace(config.imagination, horizon=2, burn_in=4),
        evaluation=replace(config.evaluation, every_steps=0, final_episodes=1, max_episode_steps=40),
        tokenizer_learner=replace(
            config.tokenizer_learner, batch_size=4, updates_per_step=0.1, start_steps=50, every_steps=50
        ),
        world_model_learner=replace(config.world_model_learner, batch_size=4, updates_per_step=0.05, start_steps=100),
        actor_critic_learner=replace(config.actor_critic_learner, batch_size=4, updates_per_step=0.05, start_steps=150),
    )


@pytest.mark.parametrize(("preset", "steps"), [("atari100k", 400), ("atari-sticky", 170), ("atari-small", 170)])
def test_presets_run_from_end_to_end(preset: str, steps: int, tmp_path: Path) -> None:
    config = shrunken(preset)
    output = tmp_path / "run"
    result = worldstream.train("Breakout", steps=steps, preset=preset, config=config, output=output, quiet=True)
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    last = lines[-1]
    assert (last["steps"], last["frames"]) == (config.last_step(steps), 4 * steps)
    seen = set().union(*lines)
    assert {"tokenizers/reconstruction", "world_model/observation", "actor_critic/critic_loss"} <= seen
    card = json.loads((output / "run.json").read_text())["protocol"]
    assert card["training"]["rewards"] == "sign of each frame's"
    assert card["evaluation"]["rewards"] == "as the game gives them"
    assert card["evaluation"]["temperature"] == 0.5 and card["training"]["frame_skip"] == 4
    assert card["training"]["full_action_space"] == (preset == "atari-sticky")
    assert len(result.evaluation.returns) == 1
    loaded = load_run(output)  # nothing that only training needs is asked for
    again = evaluate(loaded.models, Experiment.of("Breakout", config), 1)
    assert again.returns == result.evaluation.returns


PUBLISHED = {
    "environment.action_repeat": 4,
    "environment.kwargs": {
        "noops": [1, 30], "life_loss": True, "clip_rewards": True, "max_frames": 20_000, "resize": "bilinear",
    },
    "environment.evaluation_kwargs": {
        "noops": [1, 1], "life_loss": False, "clip_rewards": False, "max_frames": 108_000,
    },
    "tokenizers.by_modality.image.kind": "image_vq",
    "tokenizers.by_modality.image.channels": [64, 128, 256, 512],
    "tokenizers.by_modality.image.patch": 1,
    "tokenizers.by_modality.image.code_size": 256,
    "tokenizers.by_modality.image.codebook_size": 512,
    "tokenizers.by_modality.image.ema_decay": 0.0,
    "tokenizers.by_modality.image.revive_below": 0.0,
    "tokenizers.by_modality.image.rarity": 0.0,
    "tokenizers.by_modality.image.batch_norm": True,
    "tokenizers.by_modality.image.perceptual": {"kind": "lpips", "weights": ""},
    "tokenizers.loss_weights": {},
    "tokenizer_learner.batch_size": 128,
    "tokenizer_learner.learning_rate": 1e-4,
    "tokenizer_learner.cooldown": 0.0,
    "tokenizer_learner.clip_norm": 10.0,
    "tokenizer_learner.weight_decay": 0.01,
    "tokenizer_learner.updates_per_step": 1.0,
    "tokenizer_learner.start_steps": 1000,
    "tokenizer_learner.every_steps": 200,
    "tokenizer_learner.stop_steps": 0,
    "segment_length": 10,
    "world_model.context_length": 2,
    "world_model.sequence.kind": "retention",
    "world_model.sequence.num_layers": 10,
    "world_model.sequence.num_heads": 4,
    "world_model.sequence.width": 256,
    "world_model.sequence.dropout": 0.1,
    "world_model.sequence.decay_blocks": [4.0, 16.0],
    "world_model.shared_embeddings": True,
    "world_model.slot_embedding": False,
    "world_model.heads": {
        "observation": {"kind": "observation", "copy_prior": False, "sticky": 0.0},
        "reward": {"kind": "reward", "output": "hl_gauss"},
        "termination": {"kind": "termination", "num_logits": 2},
        "disagreement": {"kind": "disagreement", "num_members": 4},
    },
    "world_model.loss_weights": {"observation": 1.0, "reward": 1.0, "termination": 1.0, "disagreement": 1.0},
    "world_model.priority_weights": {"observation": 1.0, "reward": 1.0},
    "world_model_learner.batch_size": 32,
    "world_model_learner.learning_rate": 2e-4,
    "world_model_learner.cooldown": 0.0,
    "world_model_learner.clip_norm": 3.0,
    "world_model_learner.weight_decay": 0.05,
    "world_model_learner.updates_per_step": 1.0,
    "world_model_learner.start_steps": 5000,
    "replay.sampler": {"kind": "prioritized", "uniform_fraction": 0.7, "initial_priority": 10.0, "temperature": 1.0},
    "replay.correction": 0.0,
    "replay.start_sampler": {"kind": "uniform"},
    "actor_critic.hidden": [512],
    "actor_critic.grid_channels": [128, 64],
    "actor_critic.separate_networks": False,
    "actor_critic.value_output": "hl_gauss",
    "actor_critic_learner.batch_size": 128,
    "actor_critic_learner.learning_rate": 2e-4,
    "actor_critic_learner.cooldown": 0.0,
    "actor_critic_learner.clip_norm": 3.0,
    "actor_critic_learner.weight_decay": 0.01,
    "actor_critic_learner.updates_per_step": 0.4,
    "actor_critic_learner.start_steps": 10_000,
    "imagination.horizon": 8,
    "imagination.burn_in": 20,
    "imagination.context_length": 1,
    "losses.discount": 0.99,
    "losses.lambda_": 0.95,
    "losses.critic_warmup": 0,
    "losses.return_scale": {"floor": 1.0, "window": 501},
    "losses.entropy_weight": 0.001,
    "losses.reward_weights": {"extrinsic": 1.0, "disagreement": 1.0},
    "collection.num_environments": 1,
    "collection.epsilon": 0.01,
    "collection.random_steps": 0,
    "collection.hold_random_actions": False,
    "evaluation.every_steps": 4000,
    "evaluation.episodes": 16,
    "evaluation.final_episodes": 100,
    "evaluation.num_environments": 8,
    "evaluation.temperature": 0.5,
    "tail_share": 0.2,
}  # fmt: skip
"""The published settings, where an epoch is 200 decisions, and a phase begins after the epoch that is named."""


def test_published_settings_are_those_of_the_paper() -> None:
    plain = json.loads(json.dumps(worldstream.PRESETS["atari100k"]().to_json()))

    def value(path: str) -> Any:
        found = plain
        for part in path.split("."):
            found = found[part]
        return found

    assert {path: value(path) for path in PUBLISHED} == PUBLISHED


def test_published_sizes_are_those_of_the_paper() -> None:
    """Sizes of the published networks, for the 4 actions of Breakout."""
    from worldstream.models import Models, num_parameters

    config = worldstream.PRESETS["atari100k"]()
    environment = make_environment("Breakout", config.environment)
    models = Models(config, environment.observation_specs, environment.action_spec)
    assert num_parameters(models.tokenizers) == 5_596_931
    spec = models.tokenizers.specs["observation"]
    assert (spec.num_tokens, spec.vocabulary, spec.feature_size) == (64, (512,), 256)
    assert num_parameters(models.actor_critic) == 4_639_045
    assert num_parameters(models.world_model.sequence.layers) == 8_555_520
    unused = (65 - 64) * 256  # rows of the published table of prediction tokens, of which there is one a slot
    assert num_parameters(models.world_model) == 10_814_083 - unused


def test_missing_lpips_weights_end_a_run_before_it_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    config = shrunken("atari100k")
    config = replace(config, tokenizers=with_image(config.tokenizers, perceptual=LpipsConfig()))
    with pytest.raises(worldstream.ConfigError, match="'lpips' needs"):
        worldstream.train("Breakout", steps=10, config=config, output=tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def test_the_small_preset_keeps_what_it_does_not_name() -> None:
    """Defect 17: naming the size of the sequence model had lost its dropout."""
    full, small = (worldstream.PRESETS[name]().world_model.sequence for name in ("atari100k", "atari-small"))
    assert (small.num_layers, small.width) == (3, 128)
    assert dataclasses.replace(full, num_layers=3, width=128) == small
    assert small.dropout == 0.1
