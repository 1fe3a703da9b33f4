"""Atari games on the Arcade Learning Environment (extra ``atari``; the wheel of ale-py brings the ROMs).

``Breakout``, ``ALE/Breakout-v5`` and ``BreakoutNoFrameskip-v4`` all name the game and nothing else: how it is played
follows from the settings (``environment.kwargs``, ``environment.action_repeat``), and the run folder says it on a
protocol card. The defaults are the plain game; presets set the published protocol (method.md 10.1) or the later one
with sticky actions (Machado et al. 2018).
"""

from __future__ import annotations

import difflib
import functools
import importlib.util
import re
from collections.abc import Sequence
from importlib import metadata
from math import ceil
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit

from worldstream.environments.config import EnvironmentConfig
from worldstream.environments.flat import FlatEnvironment, sizes_of_root
from worldstream.environments.suite import gym
from worldstream.environments.suites import EnvironmentName, Suite
from worldstream.errors import EnvironmentFault

ATARI_100K = (
    "Alien", "Amidar", "Assault", "Asterix", "BankHeist", "BattleZone", "Boxing", "Breakout", "ChopperCommand",
    "CrazyClimber", "DemonAttack", "Freeway", "Frostbite", "Gopher", "Hero", "Jamesbond", "Kangaroo", "Krull",
    "KungFuMaster", "MsPacman", "Pong", "PrivateEye", "Qbert", "RoadRunner", "Seaquest", "UpNDown",
)  # fmt: skip
"""The 26 games of the benchmark."""

RESIZES = {
    "bilinear": "the last two frames are resized (Pillow, bilinear), then their maximum is taken",
    "area": "the maximum of the last two frames is taken, then resized by area averaging",
}
_NAME = re.compile(
    r"(?:ale_py:)?(?P<space>ALE/)?(?P<game>[A-Za-z0-9]+?)(?P<ram>-ram)?(?P<kind>NoFrameskip|Deterministic)?(?P<version>-v[045])?"
)
_TWO_PLAYERS = frozenset({"combat", "joust", "maze_craze", "warlords"})
"""ROMs without a game for one player: the emulator would end the whole process."""
_NOOP = -1
"""In place of the index of an action: nothing is pressed. A few games have no such action among those they use."""
_SET_ELSEWHERE = {
    "frame_skip": "environment.action_repeat",
    "size": "environment.sizes or --modality observation=image:HEIGHT,WIDTH",
    "game": "the environment's name",
}
"""Arguments of a game that are no keyword arguments, and what sets them."""


class _Frames(NamedTuple):
    """What a repeated action brought."""

    picture: np.ndarray
    reward: float
    over: bool
    truncated: bool


class AtariGame(gymnasium.Env[np.ndarray, np.int64]):
    """One game: RGB pictures (height, width, 3) uint8, Discrete actions.

    A step repeats the action for ``frame_skip`` frames and adds up the rewards. The picture is the maximum of the last
    two frames, because sprites flicker; after a reset it is a single frame.

    Args:
        game: a key of ``known_games``.
        frame_skip: frames of a step; 4 frames are a 15th of a second.
        sticky: probability that a frame repeats the action of the frame before instead.
        full_action_space: all 18 actions instead of those the game uses.
        noops: fewest and most frames, drawn uniformly, that pass without an action when a game begins.
        life_loss: whether a lost life ends the episode; the next one then goes on in the same game, after one step
            without an action.
        clip_rewards: whether the reward of each frame is replaced by its sign.
        max_frames: frames of a game after which it is truncated, those without an action included.
        resize: a key of ``RESIZES``.
        size: (height, width) for "bilinear"; None leaves the screen as it is.
        render_mode: None or "rgb_array".

    Raises EnvironmentFault for a resize that is none, and ranges that make no sense.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 15}

    def __init__(
        self,
        game: str,
        *,
        frame_skip: int = 4,
        sticky: float = 0.0,
        full_action_space: bool = False,
        noops: Sequence[int] = (0, 30),
        life_loss: bool = False,
        clip_rewards: bool = False,
        max_frames: int = 108_000,
        resize: str = "area",
        size: Sequence[int] | None = (64, 64),
        render_mode: str | None = None,
    ) -> None:
        if resize not in RESIZES:
            raise EnvironmentFault(f"resize '{resize}' of an Atari game: choose one of {', '.join(RESIZES)}.")
        if not (0 <= sticky < 1 and len(noops) == 2 and 0 <= noops[0] <= noops[1] and max_frames > noops[1]):
            raise EnvironmentFault(
                f"an Atari game with sticky={sticky}, noops={tuple(noops)}, max_frames={max_frames}: sticky is a "
                "probability below 1, noops are the fewest and the most, and max_frames exceeds them."
            )
        from ale_py import Action, ALEInterface, LoggerMode, roms

        ALEInterface.setLoggerMode(LoggerMode.Error)
        self._ale = ALEInterface()
        # Stickiness is ours: the emulator's own is no part of the state that it gives.
        self._ale.setFloat("repeat_action_probability", 0.0)
        self._sticky, self._last = sticky, _NOOP
        rom = roms.get_rom_path(game)
        assert rom is not None, game
        self._rom = rom
        self._ale.loadROM(self._rom)
        self._noop = Action.NOOP
        self._actions = self._ale.getLegalActionSet() if full_action_space else self._ale.getMinimalActionSet()
        self._frame_skip, self._noops, self._max_frames = frame_skip, (int(noops[0]), int(noops[1])), max_frames
        self._life_loss, self._clip_rewards = life_loss, clip_rewards
        self._size = (int(size[0]), int(size[1])) if resize == "bilinear" and size is not None else None
        self.render_mode = render_mode
        shape = (*(self._size or self._ale.getScreenDims()), 3)
        self.observation_space = spaces.Box(0, 255, shape, np.uint8)
        self.action_space = spaces.Discrete(len(self._actions))
        self._frames = self._lives = 0
        self._goes_on = False  # the episode ended by a lost life, the game has not
        self.protocol: dict[str, Any] = {
            "suite": "Arcade Learning Environment",
            "ale_py": metadata.version("ale-py"),
            "game": game,
            "frame_skip": frame_skip,
            "sticky_action_probability": sticky,
            "actions": len(self._actions),
            "full_action_space": full_action_space,
            "noop_frames": list(self._noops),
            "life_loss_ends_episode": life_loss,
            "rewards": "sign of each frame's" if clip_rewards else "as the game gives them",
            "max_frames": max_frames,
            "resize": "none" if size is None else RESIZES[resize],
            "size": list(shape[:2]) if size is None else [int(side) for side in size],
            "pillow": metadata.version("pillow"),
        }

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        if seed is not None:
            self._ale.setInt("random_seed", seed & 0x7FFFFFFF)
            self._ale.loadROM(self._rom)  # the seed counts from here on
            self._goes_on = False
        frames = self._repeat(_NOOP) if self._goes_on else None
        self._goes_on = False
        if frames is None or frames.over or frames.truncated:
            self._begin()
            picture = self._picture()
        else:
            picture = frames.picture
        self._lives = self._ale.lives()
        return picture, {"lives": self._lives}

    def _begin(self) -> None:
        self._ale.reset_game()
        self._frames, self._last = 0, _NOOP
        for _ in range(int(self.np_random.integers(self._noops[0], self._noops[1] + 1))):
            self._act(_NOOP)
            if self._ale.game_over():
                self._ale.reset_game()

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        picture, reward, over, truncated = self._repeat(int(action))
        lives = self._ale.lives()
        lost = self._life_loss and 0 < lives < self._lives
        self._lives = lives
        self._goes_on = lost and not over and not truncated
        return picture, reward, over or lost, truncated and not (over or lost), {"lives": lives}

    def _repeat(self, index: int) -> _Frames:
        """The frames of one step, fewer where the game ends."""
        reward, pictures = 0.0, []
        over = truncated = False
        for i in range(self._frame_skip):
            reward += self._act(index)
            over, truncated = self._ale.game_over(), self._frames >= self._max_frames
            if i >= self._frame_skip - 2 or over or truncated:
                pictures.append(self._picture())
            if over or truncated:
                break
        picture = pictures[0] if len(pictures) == 1 else np.maximum(*pictures)
        return _Frames(picture, reward, over, truncated)

    def state_dict(self) -> dict[str, Any]:
        """Everything about the game, its random numbers included (see ``worldstream.environments.state``)."""
        system = self._ale.cloneState(include_rng=True).serialize()
        return {
            "system": np.frombuffer(system, np.uint8),
            "frames": self._frames,
            "lives": self._lives,
            "goes_on": self._goes_on,
            "last": self._last,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state_dict``."""
        from ale_py import ALEState

        self._ale.restoreState(ALEState(np.asarray(state["system"], np.uint8).tobytes()))
        self._frames, self._lives = state["frames"], state["lives"]
        self._goes_on, self._last = state["goes_on"], state["last"]

    def render(self) -> Any:
        """The whole screen, (210, 160, 3) in most games."""
        return self._ale.getScreenRGB()

    def _act(self, index: int) -> float:
        """One frame."""
        if self._sticky and self.np_random.random() < self._sticky:
            index = self._last
        self._last = index
        reward = float(self._ale.act(self._noop if index == _NOOP else self._actions[index]))
        self._frames += 1
        return float(np.sign(reward)) if self._clip_rewards else reward

    def _picture(self) -> np.ndarray:
        screen: np.ndarray = self._ale.getScreenRGB()
        if self._size is None:
            return screen
        from PIL import Image

        resized = Image.fromarray(screen).resize((self._size[1], self._size[0]), Image.Resampling.BILINEAR)
        return np.asarray(resized)


def known_games() -> dict[str, str]:
    """Names in lower case without separators -> name of the ROM; without ale-py the games of the benchmark."""
    spec = importlib.util.find_spec("ale_py")
    folders = list(spec.submodule_search_locations or []) if spec else []
    roms = [file.stem for folder in folders for file in Path(folder, "roms").glob("*.bin")]
    roms = [rom for rom in roms if rom not in _TWO_PLAYERS]
    return {rom.replace("_", ""): rom for rom in sorted(roms)} or {game.lower(): game for game in ATARI_100K}


def _claims(name: EnvironmentName) -> bool:
    """Names in the manner of Atari, known games, and names that nobody has registered but are nearly one."""
    if not isinstance(name, str) or (match := _NAME.fullmatch(name)) is None:
        return False
    if match["space"] or match["kind"]:
        return True
    known = gymnasium.registry.get(name)
    if known is not None and not str(known.entry_point).startswith("ale_py"):
        return False  # of somebody else, whatever it is called
    games = known_games()
    if match["game"].lower() in games:
        return True
    registered = {entry.rpartition("-v")[0] for entry in gymnasium.registry}
    near = difflib.get_close_matches(match["game"].lower(), games, cutoff=0.75)
    return match["game"] not in registered and bool(near)


def make(name: EnvironmentName, config: EnvironmentConfig, render_mode: str | None = None) -> FlatEnvironment:
    """Make a game; ``config.action_repeat`` is its frame skip.

    Raises:
        EnvironmentFault: the extra is not installed, or there is no such game.
    """
    assert isinstance(name, str)
    try:
        import ale_py  # noqa: F401
    except ImportError as error:
        raise EnvironmentFault(
            f"environment '{name}' is taken for an Atari game, which needs ale-py. Run: pip install worldstream[atari]"
        ) from error
    match, games = _NAME.fullmatch(name), known_games()
    assert match is not None and config.action_repeat is not None
    if match["ram"]:
        raise EnvironmentFault(f"environment '{name}': games are played from pictures, not from the console's memory.")
    if wrong := [argument for argument in _SET_ELSEWHERE if argument in config.kwargs]:
        raise EnvironmentFault(f"environment.kwargs.{wrong[0]}: of a game this is set by {_SET_ELSEWHERE[wrong[0]]}.")
    game = games.get(match["game"].lower())
    if game is None:
        near = difflib.get_close_matches(match["game"].lower(), games, n=4, cutoff=0.5)
        titles = [_title(games[key]) for key in near] or list(ATARI_100K)
        raise EnvironmentFault(f"unknown Atari game '{match['game']}'. The nearest names are: {', '.join(titles)}.")
    size = (sizes_of_root(config, "image") * 2)[:2] or None
    factory = functools.partial(AtariGame, game, frame_skip=config.action_repeat, size=size)
    raw = gym.call(name, factory, config, render_mode)
    if config.max_episode_steps is not None:
        decisions = ceil(config.max_episode_steps / config.action_repeat)
        raw.unwrapped.protocol["max_decisions"] = decisions
        raw = TimeLimit(raw, decisions)
    return FlatEnvironment(raw, config, name)


def _title(rom: str) -> str:
    return "".join(part.capitalize() for part in rom.split("_"))


def _identity(name: str) -> str:
    match = _NAME.fullmatch(name)
    assert match is not None
    return match["game"].lower()


SUITE = Suite(
    claims=_claims,
    make=make,
    example="ALE/Breakout-v5",
    package="ale_py",
    action_repeat=4,
    preset="atari-small",
    identity=_identity,
)
