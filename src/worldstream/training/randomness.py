"""The state of random numbers: torch's, of the CPU and the GPU in use, and those that belong to the whole process."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch


def capture(generator: torch.Generator) -> dict[str, Any]:
    """State of everything that the networks of a run draw from; ``generator`` tells the device."""
    return {
        "device": generator.device.type,
        "generator": generator.get_state(),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(generator.device) if generator.device.type == "cuda" else None,
    }


def restore(state: dict[str, Any], generator: torch.Generator) -> None:
    """Inverse of ``capture``. A generator of another kind of device than the saved one keeps its own state."""
    torch.set_rng_state(state["torch"])
    if state["device"] == generator.device.type:
        generator.set_state(state["generator"])
        if state["cuda"] is not None:
            torch.cuda.set_rng_state(state["cuda"], generator.device)


def capture_process() -> dict[str, Any]:
    """State of Python's and NumPy's global generators. We draw from neither, but an environment may."""
    version, numbers, gauss = random.getstate()
    return {"python": [version, list(numbers), gauss], "numpy": np.random.get_state(legacy=False)}


def restore_process(state: dict[str, Any]) -> None:
    """Inverse of ``capture_process``."""
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    np.random.set_state(state["numpy"])
