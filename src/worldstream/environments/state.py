"""The state of an environment, so that an interrupted episode can go on exactly where it stopped.

An environment takes part by two methods, found on the unwrapped environment::

    def state_dict(self) -> dict[str, Any]           # numbers, strings, lists, dicts and NumPy arrays
    def load_state_dict(self, state) -> None         # of an environment made with the same arguments

Its random numbers (``np_random``) and the step counters of the wrappers that we know are saved beside them. Gymnasium's
classic-control environments need no methods: what they consist of is listed below. Any other environment cannot give
its state: then the interrupted episode is closed as truncated when the run is resumed, and that is recorded.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium.wrappers import OrderEnforcing, TimeLimit

from worldstream.environments.wrappers import ActionRepeat

_STATELESS = (ActionRepeat,)
"""Wrappers, beside ``OrderEnforcing`` and ``TimeLimit``, that a state can be taken through."""

_CLASSIC_CONTROL = ("state", "steps_beyond_terminated", "last_u")
"""All that changes in environments of gymnasium.envs.classic_control, where they have it."""


def save(environment: gymnasium.Env[Any, Any]) -> dict[str, Any] | None:
    """State of a wrapped environment as plain values and arrays; None when it cannot give it."""
    wrappers: list[int | bool | None] = []
    layer: Any = environment
    while isinstance(layer, gymnasium.Wrapper):
        if isinstance(layer, TimeLimit):
            wrappers.append(layer._elapsed_steps)
        elif isinstance(layer, OrderEnforcing):
            wrappers.append(layer.has_reset)
        elif isinstance(layer, _STATELESS):
            wrappers.append(None)
        else:
            return None
        layer = layer.env
    if _has_protocol(layer):
        own = layer.state_dict()
    elif _is_classic_control(layer):
        own = {name: _as_array(getattr(layer, name)) for name in _CLASSIC_CONTROL if hasattr(layer, name)}
    else:
        return None
    _require_plain(own, "state_dict()")
    return {"wrappers": wrappers, "random": layer.np_random.bit_generator.state, "own": own}


def load(environment: gymnasium.Env[Any, Any], state: dict[str, Any]) -> None:
    """Inverse of ``save``, for an environment that was made in the same way. Raises ValueError when it was not."""
    layer: Any = environment
    for value in state["wrappers"]:
        if not isinstance(layer, gymnasium.Wrapper):
            raise ValueError("the environment has fewer wrappers than the saved one")
        if isinstance(layer, TimeLimit):
            layer._elapsed_steps = value
        elif isinstance(layer, OrderEnforcing):
            layer._has_reset = bool(value)
        layer = layer.env
    if isinstance(layer, gymnasium.Wrapper):
        raise ValueError("the environment has more wrappers than the saved one")
    layer.np_random.bit_generator.state = state["random"]
    if _has_protocol(layer):
        layer.load_state_dict(state["own"])
        return
    for name, value in state["own"].items():
        setattr(layer, name, value)


def _require_plain(value: Any, place: str) -> None:
    """Raises TypeError for what a checkpoint cannot hold, with its place."""
    if isinstance(value, dict):
        if wrong := [key for key in value if not isinstance(key, str) or key.startswith("$")]:
            raise TypeError(f"{place} has the keys {wrong}; keys are strings that do not begin with $")
        for key, part in value.items():
            _require_plain(part, f"{place}[{key!r}]")
    elif isinstance(value, list | tuple):
        for i, part in enumerate(value):
            _require_plain(part, f"{place}[{i}]")
    elif isinstance(value, np.ndarray | np.generic):
        if value.dtype.kind not in "biuf":
            raise TypeError(f"{place} is an array of {value.dtype}; arrays hold numbers")
    elif value is not None and not isinstance(value, bool | int | float | str):
        raise TypeError(f"{place} is a {type(value).__qualname__}; give numbers, strings, lists, dicts and arrays")


def _has_protocol(environment: Any) -> bool:
    return callable(getattr(environment, "state_dict", None)) and callable(
        getattr(environment, "load_state_dict", None)
    )


def _is_classic_control(environment: Any) -> bool:
    return type(environment).__module__.startswith("gymnasium.envs.classic_control.")


def _as_array(value: Any) -> Any:
    """Tuples of floats and arrays as arrays, which these environments unpack alike."""
    return np.array(value) if isinstance(value, tuple | list | np.ndarray) else value
