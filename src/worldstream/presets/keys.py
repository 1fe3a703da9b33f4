"""Mixed observations and actions on a CPU: our own test environment with vectors, a category and a grid."""

from __future__ import annotations

from dataclasses import replace

from worldstream.config import Config
from worldstream.presets.demo import demo


def keys() -> Config:
    """The demo preset with a row of cells as one token."""
    base = demo()
    return replace(base, tokenizers=replace(base.tokenizers, cells_per_token=3))
