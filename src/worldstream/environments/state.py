"""The state of an environment, so that an interrupted episode can go on exactly where it stopped.

An environment takes part by two methods, found on the unwrapped environment::

    def state_dict(self) -> dict[str, Any]           # numbers, strings, lists, dicts and NumPy arrays
    def load_state_dict(self, state) -> None         # of an environment made with the same arguments

Its random numbers (``np_random``) and the step counters of the wrappers that we know are saved beside them. Gymnasium's
classic-control environments need no methods: what they consist of is listed below. Any other environment cannot give
its state: then the interrupted episode is closed as truncated when the run is resumed, and that is recorded.
"""

from __future__ import annotations

import copy
from typing import Any

import gymnasium
import numpy as np
from gymnasium.wrappers import OrderEnforcing, TimeLimit

from worldstream.environments.wrappers import ActionRepeat, QuietReset

_WRAPPERS: dict[type[gymnasium.Wrapper[Any, Any, Any, Any]], str | None] = {
    TimeLimit: "_elapsed_steps",
    OrderEnforcing: "_has_reset",
    ActionRepeat: None,
    QuietReset: None,
}
"""Wrappers that a state can be taken through -> the attribute that changes in them."""

_CLASSIC_CONTROL = ("state", "steps_beyond_terminated", "last_u")
"""All that changes in environments of gymnasium.envs.classic_control, where they have it."""


def save(environment: gymnasium.Env[Any, Any]) -> dict[str, Any] | None:
    """State of a wrapped environment as plain values and arrays; None when it cannot give it."""
    layers, core = _layers(environment)
    if any(type(layer) not in _WRAPPERS for layer in layers):
        return None
    if _has_protocol(core):
        own = copy.deepcopy(core.state_dict())  # what is kept must not change with the environment
    elif type(core).__module__.startswith("gymnasium.envs.classic_control."):
        values = {name: getattr(core, name) for name in _CLASSIC_CONTROL if hasattr(core, name)}
        # Tuples of floats and arrays as (new) arrays, which these environments unpack alike.
        own = {name: np.array(x) if isinstance(x, tuple | list | np.ndarray) else x for name, x in values.items()}
    else:
        return None
    _require_plain(own, "state_dict()")
    attributes = [_WRAPPERS[type(layer)] for layer in layers]
    wrappers = [getattr(layer, name) if name else None for layer, name in zip(layers, attributes, strict=True)]
    return {"wrappers": wrappers, "random": core.np_random.bit_generator.state, "own": own}


def load(environment: gymnasium.Env[Any, Any], state: dict[str, Any]) -> None:
    """Inverse of ``save``, for an environment that was made in the same way. Raises ValueError when it was not."""
    layers, core = _layers(environment)
    if len(layers) != len(state["wrappers"]):
        raise ValueError(f"the environment has {len(layers)} wrappers, the saved one {len(state['wrappers'])}")
    for layer, value in zip(layers, state["wrappers"], strict=True):
        if name := _WRAPPERS.get(type(layer)):
            setattr(layer, name, value)
    core.np_random.bit_generator.state = state["random"]
    if _has_protocol(core):
        core.load_state_dict(copy.deepcopy(state["own"]))
        return
    for name, value in state["own"].items():
        setattr(core, name, value)


def _layers(environment: Any) -> tuple[list[Any], Any]:
    """The wrappers around an environment, outermost first, and what they wrap."""
    layers = []
    while isinstance(environment, gymnasium.Wrapper):
        layers.append(environment)
        environment = environment.env
    return layers, environment


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
