"""Atari games on the Arcade Learning Environment (extra ``atari``; the wheel of ale-py brings the ROMs).

``Breakout``, ``ALE/Breakout-v5`` and ``BreakoutNoFrameskip-v4`` all name the game and nothing else: how it is played
follows from the settings (``environment.kwargs``, ``environment.action_repeat``), and the run folder says it on a
protocol card.
"""

from __future__ import annotations

import difflib
import importlib.util
import re
from dataclasses import dataclass
from math import ceil
from pathlib import Path

import gymnasium
from gymnasium.wrappers import TimeLimit

from worldstream.environments.config import EnvironmentConfig
from worldstream.environments.flat import FlatEnvironment, picture_size
from worldstream.environments.suite.atari_game import AtariGame, AtariOptions
from worldstream.environments.suites import EnvironmentName, Suite
from worldstream.errors import EnvironmentFault
from worldstream.options import from_plain

ATARI_100K = (
    "Alien", "Amidar", "Assault", "Asterix", "BankHeist", "BattleZone", "Boxing", "Breakout", "ChopperCommand",
    "CrazyClimber", "DemonAttack", "Freeway", "Frostbite", "Gopher", "Hero", "Jamesbond", "Kangaroo", "Krull",
    "KungFuMaster", "MsPacman", "Pong", "PrivateEye", "Qbert", "RoadRunner", "Seaquest", "UpNDown",
)  # fmt: skip
"""The 26 games of the benchmark."""

_NAME = re.compile(
    r"(?:ale_py:)?(?P<space>ALE/)?(?P<game>[A-Za-z0-9]+?)(?P<ram>-ram)?(?P<kind>NoFrameskip|Deterministic)?(?P<version>-v[045])?"
)
_TWO_PLAYERS = frozenset({"combat", "joust", "maze_craze", "warlords"})
"""ROMs without a game for one player: the emulator would end the whole process."""
_SET_ELSEWHERE = {
    "frame_skip": "environment.action_repeat",
    "size": "environment.sizes or --modality observation=image:HEIGHT,WIDTH",
    "game": "the environment's name",
}
"""Arguments of a game that are no keyword arguments, and what sets them."""


def known_games() -> dict[str, str]:
    """Names in lower case without separators -> name of the ROM; without ale-py the games of the benchmark."""
    spec = importlib.util.find_spec("ale_py")
    folders = list(spec.submodule_search_locations or []) if spec else []
    roms = {file.stem for folder in folders for file in Path(folder, "roms").glob("*.bin")} - _TWO_PLAYERS
    return {rom.replace("_", ""): rom for rom in sorted(roms)} or {game.lower(): game for game in ATARI_100K}


@dataclass(frozen=True, kw_only=True)
class AtariSuite(Suite):
    """Atari games by any of their names."""

    def claims(self, name: EnvironmentName) -> bool:
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

    def make(self, name: EnvironmentName, config: EnvironmentConfig, render_mode: str | None) -> FlatEnvironment:
        """Make a game; ``config.action_repeat`` is its frame skip."""
        assert isinstance(name, str)
        try:
            import ale_py  # noqa: F401
        except ImportError as error:
            raise EnvironmentFault(
                f"environment '{name}' is taken for an Atari game, which needs ale-py. Run: {self.installation}"
            ) from error
        assert config.action_repeat is not None
        game = _rom(name)
        if wrong := [argument for argument in _SET_ELSEWHERE if argument in config.kwargs]:
            setter = _SET_ELSEWHERE[wrong[0]]
            raise EnvironmentFault(f"environment.kwargs.{wrong[0]}: of a game this is set by {setter}.")
        protocol = from_plain(AtariOptions, config.kwargs, "environment.kwargs")
        made = AtariGame(game, protocol, frame_skip=config.action_repeat, render_mode=render_mode)
        made.resize_to(picture_size(made.screen, config, name))
        if config.max_episode_steps is None:
            return FlatEnvironment(made, config, name)
        decisions = ceil(config.max_episode_steps / config.action_repeat)
        made.protocol["max_decisions"] = decisions
        return FlatEnvironment(TimeLimit(made, decisions), config, name)

    def identity(self, name: str) -> str:
        """The game."""
        return _parts(name)["game"].lower()


def _parts(name: str) -> re.Match[str]:
    match = _NAME.fullmatch(name)
    assert match is not None, name
    return match


def _rom(name: str) -> str:
    """Name of the ROM. Raises EnvironmentFault, with the nearest names, when there is none."""
    match, games = _parts(name), known_games()
    if match["ram"]:
        raise EnvironmentFault(f"environment '{name}': games are played from pictures, not from the console's memory.")
    key = match["game"].lower()
    if key not in games:
        near = difflib.get_close_matches(key, games, n=4, cutoff=0.5)
        titles = ["".join(map(str.capitalize, games[other].split("_"))) for other in near] or list(ATARI_100K)
        raise EnvironmentFault(f"unknown Atari game '{match['game']}'. The nearest names are: {', '.join(titles)}.")
    return games[key]


SUITE = AtariSuite(example="ALE/Breakout-v5", package="ale_py", extra="atari", action_repeat=4, preset="atari-small")
