"""FlatEnvironment: a Gymnasium environment that speaks stored arrays and action ids, and holds the user's
environment to Gymnasium's protocol.

    user's environment --observation--> store --> dict of arrays (flat keys)
                       <---- action ---- decode <- ids (M,)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import gymnasium
import numpy as np
from gymnasium import spaces

from worldstream.actions import decode, spec_from_space
from worldstream.environments import state
from worldstream.environments.config import EnvironmentConfig
from worldstream.errors import FOREIGN, EnvironmentFault, SpaceError, let_person_through
from worldstream.modalities import ObservationAdapter
from worldstream.modalities.observation import ROOT_KEY
from worldstream.specs import KeySpec

Result = TypeVar("Result")
Info = dict[str, Any]
Stored = dict[str, np.ndarray]
"""Stored arrays by observation key."""
_STEP_CONTRACT = "step() must return (observation, reward, terminated, truncated, info)"
_RESET_CONTRACT = "reset(*, seed=None, options=None) must return (observation, info)"


class FlatEnvironment(gymnasium.Env[Stored, np.ndarray]):
    """Wraps an environment so that its observation is a flat dictionary of stored arrays and its action is ids (M,).

    Messages call it ``name``. Raises EnvironmentFault for what is no Gymnasium environment, and SpaceError for an
    observation or action space that is not supported.
    """

    def __init__(self, environment: gymnasium.Env[Any, Any], config: EnvironmentConfig, name: str) -> None:
        self.name = name
        if not isinstance(environment, gymnasium.Env):
            raise self._fault(
                f"it is a {type(environment).__qualname__}, not a gymnasium.Env",
                "Subclass gymnasium.Env; environments of the old 'gym' package can be converted with 'shimmy'.",
            )
        self.environment = environment
        for part in ("observation_space", "action_space"):
            if not isinstance(getattr(environment, part, None), gymnasium.Space):
                raise self._fault(f"it has no {part}", f"Set self.{part} to a gymnasium.spaces.Space in __init__.")
        self.observation_adapter = _adapter(environment.observation_space, config, name)
        try:
            self.action_spec = spec_from_space(environment.action_space, config.num_action_levels)
        except SpaceError as error:
            raise SpaceError(f"environment '{name}': {error}") from None
        self.observation_specs: dict[str, KeySpec] = self.observation_adapter.specs
        boxes = spaces.Dict({key: _storage_space(spec) for key, spec in self.observation_specs.items()})
        self.observation_space = cast(gymnasium.Space[Stored], boxes)
        self.action_space = spaces.MultiDiscrete(np.asarray(self.action_spec.sizes))
        self.metadata = environment.metadata
        self.render_mode = environment.render_mode

    def reset(self, *, seed: int | None = None, options: Info | None = None) -> tuple[Stored, Info]:
        """Begin an episode. Raises EnvironmentFault when the environment fails or breaks the protocol."""
        result = self._guarded("reset()", lambda: self.environment.reset(seed=seed, options=options or None))
        if not isinstance(result, tuple) or len(result) != 2 or not isinstance(result[1], dict):
            raise self._fault(f"reset() returned {_outline(result)}", f"{_RESET_CONTRACT}.")
        return self._store("reset()", result[0]), result[1]

    def step(self, action: np.ndarray) -> tuple[Stored, float, bool, bool, Info]:
        """Act with ids (M,). Raises EnvironmentFault when the environment fails or breaks the protocol."""
        raw_action = decode(self.action_spec, action)
        result = self._guarded("step()", lambda: self.environment.step(raw_action))
        if not isinstance(result, tuple) or len(result) != 5:
            old = " (the old API: 'done' must be split)" if isinstance(result, tuple) and len(result) == 4 else ""
            raise self._fault(f"step() returned {_outline(result)}{old}", f"{_STEP_CONTRACT}.")
        observation, reward, terminated, truncated, info = result
        for label, flag in (("terminated", terminated), ("truncated", truncated)):
            if not isinstance(flag, bool | np.bool_):
                raise self._fault(f"step() returned {label} = {flag!r}", f"{_STEP_CONTRACT}; {label} is a bool.")
        if not isinstance(info, dict):
            raise self._fault(f"step() returned info = {info!r}", f"{_STEP_CONTRACT}; info is a dict.")
        stored = self._store("step()", observation)
        return stored, self._reward(reward), bool(terminated), bool(truncated), info

    @property
    def saved_state(self) -> dict[str, Any] | None:
        """All that decides how the episode goes on, as plain values and arrays; None when the environment cannot
        give it (see ``worldstream.environments.state``). Setting it continues there. EnvironmentFault."""
        return self._guarded("state_dict()", lambda: state.save(self.environment))

    @saved_state.setter
    def saved_state(self, value: dict[str, Any]) -> None:
        self._guarded("load_state_dict()", lambda: state.load(self.environment, value))

    @property
    def protocol(self) -> dict[str, Any]:
        """How the environment is played, as its ``protocol`` attribute says, for the run folder; empty without one."""
        return dict(getattr(self.environment.unwrapped, "protocol", {}))

    def render(self) -> Any:
        """Whatever the environment renders; None when it was made without a render mode."""
        return self._guarded("render()", self.environment.render) if self.render_mode else None

    def close(self) -> None:
        self._guarded("close()", self.environment.close)

    def _guarded(self, call: str, function: Callable[[], Result]) -> Result:
        """Run the user's code; whatever it raises becomes an EnvironmentFault that names the call."""
        try:
            return function()
        except FOREIGN as error:
            let_person_through(error)
            hint = f" ({_RESET_CONTRACT})" if call == "reset()" and isinstance(error, TypeError) else ""
            raise self._fault(f"{call} raised {type(error).__name__}: {error}{hint}", "") from error

    def _store(self, call: str, observation: Any) -> Stored:
        try:
            return self.observation_adapter.store(observation)
        except EnvironmentFault as error:
            raise self._fault(f"{call} returned an invalid observation: {error}", "") from None

    def _reward(self, reward: Any) -> float:
        try:
            given = np.asarray(reward).ravel()
            is_number = given.dtype.kind in "biufO" and not any(isinstance(item, str | bytes) for item in given)
            with np.errstate(over="ignore"):
                array = given.astype(np.float64) if is_number else np.zeros(0)
                is_finite = bool(np.isfinite(array.astype(np.float32)).all())
        except (TypeError, ValueError, OverflowError):
            array, is_finite = np.zeros(0), False
        if array.size != 1 or not is_finite:
            remedy = "A reward is one finite number, at most 3.4e38 in size."
            raise self._fault(f"step() returned reward = {_shown(reward)}", remedy)
        return float(array[0])

    def _fault(self, problem: str, remedy: str) -> EnvironmentFault:
        return EnvironmentFault(f"environment '{self.name}': {problem.rstrip('.')}. {remedy}".rstrip())


def picture_size(screen: tuple[int, int], config: EnvironmentConfig, name: str) -> tuple[int, int]:
    """(height, width) at which a colour picture that is the whole observation is stored. Raises SpaceError.

    For environments that must resize their ``screen`` (height, width) themselves: the modality decides the size.
    """
    spec = _adapter(spaces.Box(0, 255, (*screen, 3), np.uint8), config, name).specs[ROOT_KEY]
    height, width = spec.shape[:2] if spec.modality == "image" else screen
    return height, width


def _adapter(space: gymnasium.Space[Any], config: EnvironmentConfig, name: str) -> ObservationAdapter:
    try:
        return ObservationAdapter.from_space(space, config.modality, config.sizes)
    except SpaceError as error:
        raise SpaceError(f"environment '{name}': {error}") from None


def _storage_space(spec: KeySpec) -> spaces.Box:
    """The Box of one stored item, so that Gymnasium's vector environments can batch it."""
    dtype: Any = np.dtype(spec.dtype).type
    if not spec.vocabulary:
        low, high = (0.0, 255.0) if spec.dtype == "uint8" else (-np.inf, np.inf)
        return spaces.Box(low, high, spec.shape, dtype)
    last = np.broadcast_to(np.asarray(spec.vocabulary) - 1, spec.shape).astype(dtype)
    return spaces.Box(np.zeros(spec.shape, dtype), last, dtype=dtype)


def check(environment: gymnasium.Env[Any, Any], steps: int = 100, seed: int = 0) -> None:
    """Play random actions and hold the environment, which is wrapped with default options if need be, to the protocol.

    Raises EnvironmentFault at the first violation, with what was found, what is expected and the remedy, and SpaceError
    for a space that is not supported.
    """
    if not isinstance(environment, FlatEnvironment):
        environment = FlatEnvironment(environment, EnvironmentConfig(), type(environment).__name__)
    rng = np.random.default_rng(seed)
    environment.reset(seed=seed)
    for _ in range(steps):
        _, _, terminated, truncated, _ = environment.step(rng.integers(environment.action_spec.sizes))
        if terminated or truncated:
            environment.reset()


def _shown(value: Any) -> str:
    """The beginning of what a value looks like; Python refuses to write integers of thousands of digits."""
    try:
        return repr(value)[:100]
    except Exception:
        return f"a {type(value).__name__}"


def _outline(result: Any) -> str:
    """What a call returned, in few words."""
    if isinstance(result, tuple):
        return f"a tuple of {len(result)} ({', '.join(type(part).__name__ for part in result)})"
    return f"a {type(result).__name__}"
