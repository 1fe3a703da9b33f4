"""Memory that runs out, said in terms of the settings that take it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from worldstream.errors import OutOfMemoryError

MODEL_SETTINGS = "world_model.sequence.width, num_layers, actor_critic.hidden, segment_length or imagination.horizon"
"""What decides how large the models are."""
_SIGNS = ("can't allocate memory", "Storage size calculation overflowed", "numel: integer multiplication overflow")
"""What the CPU's allocator says, and whoever computes how much it is to allocate."""


@contextmanager
def enough_memory(part: str, settings: str) -> Iterator[None]:
    """Turn exhausted memory, of the device or of the machine, into a message that names the settings to lower."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if type(error) is RuntimeError and not any(sign in str(error) for sign in _SIGNS):
            raise
        first_line = (str(error) or "out of memory").splitlines()[0]
        raise OutOfMemoryError(
            f"too little memory in part '{part}' of the run: {first_line} Lower {settings}. "
            "What was saved before is good."
        ) from error
