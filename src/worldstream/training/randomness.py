"""The state of random numbers: torch's, of the CPU and the GPU in use, and those that belong to the whole process."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def random_stream(seed: int, number: int) -> np.random.Generator:
    """One of the independent streams of a run: 0 and 1 draw the segments of the world model and of the actor-critic, 2
    random actions, 3 observations, 4 held-out segments; a further one takes the next number."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(number,)))


class RandomState:
    """Everything that a run draws from and that no part of it owns; ``generator`` samples from the policies."""

    def __init__(self, generator: torch.Generator) -> None:
        self._generator = generator

    def networks(self) -> dict[str, Any]:
        """State of everything that the networks of a run draw from."""
        device = self._generator.device
        return {
            "device": device.type,
            "generator": self._generator.get_state(),
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        }

    def load_networks(self, state: dict[str, Any]) -> None:
        """Inverse of ``networks``. A generator of another kind of device than the saved one keeps its own state."""
        torch.set_rng_state(state["torch"])
        if state["device"] == self._generator.device.type:
            self._generator.set_state(state["generator"])
            if state["cuda"] is not None:
                torch.cuda.set_rng_state(state["cuda"], self._generator.device)

    def state_dict(self) -> dict[str, Any]:
        """The state, with Python's and NumPy's global generators: we draw from neither, but an environment may."""
        version, numbers, gauss = random.getstate()
        process = {"python": [version, list(numbers), gauss], "numpy": np.random.get_state(legacy=False)}
        return {"networks": self.networks(), **process}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state_dict``."""
        self.load_networks(state["networks"])
        version, numbers, gauss = state["python"]
        random.setstate((version, tuple(numbers), gauss))
        np.random.set_state(state["numpy"])

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        """Put everything back in the end, however that comes: what is drawn meanwhile leaves no trace in the run."""
        before = self.state_dict()
        try:
            yield
        finally:
            self.load_state_dict(before)
