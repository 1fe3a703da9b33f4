"""Grids of categories with sparse rewards on a CPU: MiniGrid and its like."""

from __future__ import annotations

from dataclasses import replace

from worldstream.config import Config
from worldstream.presets.demo import demo


def grid() -> Config:
    """A row of cells is one token, the intrinsic reward counts more, and the policy remembers longer."""
    base = demo()
    return replace(base, tokenizers=replace(base.tokenizers, cells_per_token=7))
