"""Small discrete-action tasks with short observations on one or two CPU cores: CartPole in minutes."""

from __future__ import annotations

from worldstream.config import Config


def demo() -> Config:
    """Two narrow retention layers, 250 world-model and 150 actor-critic updates for 1000 steps."""
    return Config()
