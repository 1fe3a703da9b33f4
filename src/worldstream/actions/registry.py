"""The action kinds by name. One line here enrols a kind in every action space and in the contract tests."""

from __future__ import annotations

from functools import cache

from worldstream.actions.base import ActionKind
from worldstream.registry import Registry
from worldstream.specs import ActionComponent

ACTION_KINDS = Registry(
    "action kind",
    {
        "discrete": "worldstream.actions.discrete:Discrete",
        "multi_discrete": "worldstream.actions.multi_discrete:MultiDiscrete",
        "multi_binary": "worldstream.actions.multi_binary:MultiBinary",
        "continuous": "worldstream.actions.continuous:Continuous",
    },
)


@cache
def _instance(name: str) -> ActionKind:
    kind: ActionKind = ACTION_KINDS[name]()
    return kind


def kind_of(component: ActionComponent) -> ActionKind:
    """The conversions of a component. Raises ConfigError for an unknown kind."""
    return _instance(component.kind)
