"""Continuous control from state vectors on a CPU."""

from __future__ import annotations

from dataclasses import replace

from worldstream.config import Config
from worldstream.presets.demo import demo


def control() -> Config:
    """The demo preset with a separate critic, as the published agent has it on control tasks."""
    base = demo()
    return replace(base, actor_critic=replace(base.actor_critic, separate_networks=True))
