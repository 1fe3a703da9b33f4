"""Whether an agent can be run in an environment: what it reads and chooses there must be what it was trained on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from worldstream.errors import ConfigError
from worldstream.specs import Specs

# Not compared: the shape before an observation is stored (pictures are resized there), and the shape, type and nesting
# of the leaves of an action, which each environment decodes for itself.
_OF_KEYS = {
    "modality": "modality",
    "shape": "shape",
    "dtype": "type",
    "grid": "grid",
    "vocabulary": "numbers of values",
    "offset": "first values",
}
_OF_ACTIONS = {"kind": "kind", "sizes": "numbers of values", "low": "lowest values", "high": "highest values"}
_SHOWN = 8
"""Most numbers of a field that a message shows."""


def require_specs(environment: str, found: Specs, expected: Specs, *, in_order: bool = False) -> None:
    """Raises ConfigError with the first difference unless the specs of an environment are those that an agent expects.

    ``in_order``: its keys must come in the same order as well.
    """
    difference = next(_differences(found, expected, in_order), None)
    if difference is not None:
        raise ConfigError(
            f"the agent was not trained on such an environment as '{environment}': {difference}. "
            "Name one with the observations and actions of the training (--env)."
        )


def _differences(found: Specs, expected: Specs, in_order: bool) -> Iterator[str]:
    """Clauses about the environment. Where names differ, nothing behind them is compared."""
    (keys, action), (agent_keys, agent_action) = found, expected
    if set(keys) != set(agent_keys) or (in_order and list(keys) != list(agent_keys)):
        yield f"its observation keys are {_listed(keys)}, the agent's {_listed(agent_keys)}"
        return
    for key, spec in agent_keys.items():
        yield from _fields(f"observation key '{key}'", keys[key], spec, _OF_KEYS)
    parts, agent_parts = ({part.path: part for part in each.components} for each in (action, agent_action))
    if list(parts) != list(agent_parts):
        yield f"its actions are {_listed(parts)}, the agent's {_listed(agent_parts)}"
        return
    for path, part in agent_parts.items():
        yield from _fields(f"action '{path}'", parts[path], part, _OF_ACTIONS)


def _fields(what: str, found: Any, expected: Any, labels: Mapping[str, str]) -> Iterator[str]:
    for field, words in labels.items():
        ours, theirs = getattr(found, field), getattr(expected, field)
        if ours != theirs:
            yield f"its {what} has {words} {_shown(ours)}, the agent's {_shown(theirs)}"


def _listed(names: Mapping[str, Any]) -> str:
    return ", ".join(f"'{name}'" for name in names)


def _shown(value: Any) -> str:
    if isinstance(value, tuple) and len(value) > _SHOWN:
        return f"({', '.join(map(str, value[:_SHOWN]))}, ... {len(value)} in all)"
    return f"'{value}'" if isinstance(value, str) else str(value)
