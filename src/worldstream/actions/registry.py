"""The action kinds by name. One line here enrols a kind in every action space and in the contract tests."""

from __future__ import annotations

from functools import cache

from worldstream.actions.base import ActionKind
from worldstream.registry import Registry
from worldstream.specs import ActionComponent

ACTION_KINDS = Registry(
    "action kind",
    {
        "discrete": "worldstream.actions.integers:Discrete",
        "multi_discrete": "worldstream.actions.integers:MultiDiscrete",
        "multi_binary": "worldstream.actions.integers:MultiBinary",
        "continuous": "worldstream.actions.continuous:Continuous",
    },
)


@cache
def kind_of(component: ActionComponent) -> ActionKind:
    """The conversions of a component. Raises ConfigError for an unknown kind."""
    kind: ActionKind = ACTION_KINDS[component.kind]()
    return kind
