"""One Atari game on the Arcade Learning Environment: how a step, an episode and a picture come about."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import metadata
from typing import Annotated, Any, Literal, NamedTuple

import gymnasium
import numpy as np
from gymnasium import spaces

from worldstream import options
from worldstream.errors import ConfigError
from worldstream.options import Between

Info = dict[str, Any]
_RESIZES = {
    "bilinear": "the last two frames are resized (Pillow, bilinear), then their maximum is taken",
    "area": "the maximum of the last two frames is taken, then resized by area averaging",
    "decimate": "rows and columns are picked at equal distances, then the maximum of the last two frames is taken",
}
_COUNTERS = ("_frames", "_lives", "_goes_on", "_last")
"""All that changes in a game beside the emulator."""
_NOOP = -1
"""In place of the index of an action: nothing is pressed. A few games have no such action among those they use."""


@dataclass(frozen=True, kw_only=True)
class AtariOptions:
    """The protocol of a game: its keyword arguments (``environment.kwargs``). The defaults are the plain game."""

    sticky: Annotated[float, Between(0, 1)] = 0.0
    """Probability that a frame repeats the action of the frame before instead (Machado et al. 2018)."""
    full_action_space: bool = False
    """All 18 actions instead of those the game uses."""
    noops: tuple[int, int] = (0, 30)
    """Fewest and most frames, drawn uniformly, that pass without an action when a game begins."""
    life_loss: bool = False
    """Whether a lost life ends the episode; the next one then goes on in the same game, after one step without an
    action."""
    clip_rewards: bool = False
    """Whether the reward of each frame is replaced by its sign."""
    max_frames: int = 108_000
    """Frames of a game after which it is truncated, those without an action included."""
    resize: Literal["bilinear", "area", "decimate"] = "area"
    """"bilinear" resizes the last two frames before their maximum is taken, "area" leaves that to the modality.
    "decimate" keeps every k-th row and column as they are: a sprite then looks the same wherever it is, and there are
    no colours but the game's. The width of the screen must be k times that of the picture."""
    first_row: Annotated[int, Between(0)] = 0
    """First row of the screen that "decimate" keeps; what lies above it, and below the last one, is cut off."""

    def __post_init__(self) -> None:
        options.check(self, "environment.kwargs")
        fewest, most = self.noops
        if not 0 <= fewest <= most < self.max_frames:
            raise ConfigError(
                f"environment.kwargs of an Atari game, noops={self.noops}, max_frames={self.max_frames}: noops are "
                "the fewest and the most, and max_frames exceeds them."
            )


_PLAIN = AtariOptions()


class _Frames(NamedTuple):
    picture: np.ndarray
    reward: float
    over: bool
    truncated: bool


class AtariGame(gymnasium.Env[np.ndarray, np.int64]):
    """One game: RGB pictures (height, width, 3) uint8, Discrete actions.

    A step repeats the action for ``frame_skip`` frames (4 are a 15th of a second) and adds up the rewards. The picture
    is the maximum of the last two frames, because sprites flicker; after a reset it is a single frame. ``game`` is the
    name of the ROM.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 15}

    def __init__(
        self, game: str, options: AtariOptions = _PLAIN, *, frame_skip: int = 4, render_mode: str | None = None
    ) -> None:
        from ale_py import Action, ALEInterface, LoggerMode, roms

        ALEInterface.setLoggerMode(LoggerMode.Error)
        self._ale = ALEInterface()
        # Stickiness is ours: the emulator's own is no part of the state that it gives.
        self._ale.setFloat("repeat_action_probability", 0.0)
        rom = roms.get_rom_path(game)
        assert rom is not None, game
        self._rom = rom
        self._ale.loadROM(self._rom)
        self._options, self._frame_skip = options, frame_skip
        self._noop = Action.NOOP
        ale = self._ale
        self._actions = ale.getLegalActionSet() if options.full_action_space else ale.getMinimalActionSet()
        self._size: tuple[int, int] | None = None
        self._stride = 1
        self.render_mode = render_mode
        self.screen: tuple[int, int] = self._ale.getScreenDims()  # (height, width)
        self.observation_space = spaces.Box(0, 255, (*self.screen, 3), np.uint8)
        self.action_space = spaces.Discrete(len(self._actions))
        self._last = _NOOP
        self._frames = self._lives = 0
        self._goes_on = False  # the episode ended by a lost life, the game has not
        self.protocol: dict[str, Any] = {
            "suite": "Arcade Learning Environment",
            "ale_py": metadata.version("ale-py"),
            "game": game,
            "frame_skip": frame_skip,
            "sticky_action_probability": options.sticky,
            "actions": len(self._actions),
            "full_action_space": options.full_action_space,
            "noop_frames": list(options.noops),
            "life_loss_ends_episode": options.life_loss,
            "rewards": "sign of each frame's" if options.clip_rewards else "as the game gives them",
            "max_frames": options.max_frames,
            "resize": "none",
            "size": list(self.screen),
            "pillow": metadata.version("pillow"),
        }

    def resize_to(self, size: tuple[int, int]) -> None:
        """Tell the (height, width) at which pictures are stored; where the protocol says so, the game shows them so.

        Raises ConfigError for a size that no decimation gives.
        """
        if size == self.screen:
            return
        way = self._options.resize
        self.protocol.update(resize=_RESIZES[way], size=list(size))
        if way == "decimate":
            self._stride = self._stride_to(size)
            self.protocol.update(stride=self._stride, first_row=self._options.first_row)
        if way != "area":
            self._size = size
            self.observation_space = spaces.Box(0, 255, (*size, 3), np.uint8)

    def _stride_to(self, size: tuple[int, int]) -> int:
        """Distance of the rows, and of the columns, that make a picture of ``size``."""
        (height, width), first = self.screen, self._options.first_row
        stride, rest = divmod(width, size[1])
        if rest == 0 and first + stride * size[0] <= height:
            return stride
        kept = height - first
        fits = [(kept // k // 8 * 8, width // k) for k in range(1, 5) if width % k == 0]
        raise ConfigError(
            f"pictures of {size[0]} x {size[1]} are no decimation of the {kept} rows (from row {first} on) and {width} "
            "columns of the screen. Choose, by environment.sizes, a width that divides that of the screen and a height "
            f"that lies inside of it at the same distance, such as {' or '.join(f'{h},{w}' for h, w in fits)}."
        )

    def reset(self, *, seed: int | None = None, options: Info | None = None) -> tuple[np.ndarray, Info]:
        super().reset(seed=seed)
        if seed is not None:
            self._ale.setInt("random_seed", seed & 0x7FFFFFFF)
            self._ale.loadROM(self._rom)  # the seed counts from here on
            self._goes_on = False
        frames = self._repeat(_NOOP) if self._goes_on else None
        self._goes_on = False
        picture = self._begin() if frames is None or frames.over or frames.truncated else frames.picture
        self._lives = self._ale.lives()
        return picture, {"lives": self._lives}

    def _begin(self) -> np.ndarray:
        """The first picture of a new game."""
        self._ale.reset_game()
        self._frames, self._last = 0, _NOOP
        fewest, most = self._options.noops
        for _ in range(int(self.np_random.integers(fewest, most + 1))):
            self._act(_NOOP)
            if self._ale.game_over():
                self._ale.reset_game()
        return self._picture()

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, Info]:
        picture, reward, over, truncated = self._repeat(int(action))
        lives = self._ale.lives()
        lost = self._options.life_loss and 0 < lives < self._lives
        self._lives = lives
        self._goes_on = lost and not over and not truncated
        return picture, reward, over or lost, truncated and not (over or lost), {"lives": lives}

    def _repeat(self, index: int) -> _Frames:
        """The frames of one step, fewer where the game ends."""
        reward, pictures = 0.0, []
        over = truncated = False
        for i in range(self._frame_skip):
            reward += self._act(index)
            over, truncated = self._ale.game_over(), self._frames >= self._options.max_frames
            if i >= self._frame_skip - 2 or over or truncated:
                pictures.append(self._picture())
            if over or truncated:
                break
        picture = pictures[0] if len(pictures) == 1 else np.maximum(*pictures)
        return _Frames(picture, reward, over, truncated)

    def state_dict(self) -> dict[str, Any]:
        """Everything about the game, its random numbers included (see ``worldstream.environments.state``)."""
        system = self._ale.cloneState(include_rng=True).serialize()
        return {"system": np.frombuffer(system, np.uint8), **{name: getattr(self, name) for name in _COUNTERS}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state_dict``."""
        from ale_py import ALEState

        self._ale.restoreState(ALEState(np.asarray(state["system"], np.uint8).tobytes()))
        for name in _COUNTERS:
            setattr(self, name, state[name])

    def render(self) -> np.ndarray:
        """The whole screen, (210, 160, 3) in most games."""
        screen: np.ndarray = self._ale.getScreenRGB()
        return screen

    def _act(self, index: int) -> float:
        """One frame."""
        if self._options.sticky and self.np_random.random() < self._options.sticky:
            index = self._last
        self._last = index
        reward = float(self._ale.act(self._noop if index == _NOOP else self._actions[index]))
        self._frames += 1
        return float(np.sign(reward)) if self._options.clip_rewards else reward

    def _picture(self) -> np.ndarray:
        if self._size is None:
            return self.render()
        if self._options.resize == "decimate":
            first, stride = self._options.first_row, self._stride
            return self.render()[first : first + stride * self._size[0] : stride, ::stride]
        from PIL import Image

        resized = Image.fromarray(self.render()).resize((self._size[1], self._size[0]), Image.Resampling.BILINEAR)
        return np.asarray(resized)
