"""Actions: every action space becomes a vector of M integer ids (``ActionSpec``), and back."""

from worldstream.actions.base import ActionKind
from worldstream.actions.composite import decode, encode, spec_from_space
from worldstream.actions.registry import ACTION_KINDS, kind_of

__all__ = ["ACTION_KINDS", "ActionKind", "decode", "encode", "kind_of", "spec_from_space"]
