"""Small discrete-action tasks with short observations on one or two CPU cores: CartPole in minutes."""

from __future__ import annotations

from worldstream.config import Config


def demo() -> Config:
    """Two narrow retention layers, a world-model update every four steps, an actor-critic update every eight."""
    return Config()
