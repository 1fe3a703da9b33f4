"""The state of torch's random numbers: of the CPU, of the GPUs in use, and of a generator of our own."""

from __future__ import annotations

from typing import Any

import torch


def capture(generator: torch.Generator) -> dict[str, Any]:
    """State of everything that the networks of a run draw from; ``generator`` tells the device."""
    return {
        "device": generator.device.type,
        "generator": generator.get_state(),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if generator.device.type == "cuda" else [],
    }


def restore(state: dict[str, Any], generator: torch.Generator) -> None:
    """Inverse of ``capture``. A generator of another kind of device than the saved one keeps its own state."""
    torch.set_rng_state(state["torch"])
    if state["device"] == generator.device.type:
        generator.set_state(state["generator"])
        if state["cuda"]:
            torch.cuda.set_rng_state_all(state["cuda"])
