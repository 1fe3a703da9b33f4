"""Memory that runs out, said in terms of the settings that take it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from worldstream.errors import OutOfMemoryError

MEMORY_SETTINGS = {
    "models": "world_model.sequence.width, num_layers or actor_critic.hidden",
    "collect": "collection.num_environments, replay.max_steps or replay.max_bytes",
    "fit": "replay.max_steps",
    "tokenizers": "tokenizer_learner.batch_size",
    "world_model": "world_model_learner.batch_size or segment_length",
    "actor_critic": "actor_critic_learner.batch_size or imagination.horizon",
    "evaluation": "evaluation.num_environments",
}
"""What to lower when a part of a run does not fit into memory."""


@contextmanager
def enough_memory(part: str) -> Iterator[None]:
    """Turn exhausted memory, of the device or of the machine, into a message that names what to lower."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if type(error) is RuntimeError and "can't allocate memory" not in str(error):  # the CPU's allocator
            raise
        first_line = (str(error) or "out of memory").splitlines()[0]
        raise OutOfMemoryError(
            f"too little memory in part '{part}' of the run: {first_line} Lower {MEMORY_SETTINGS[part]}. "
            "What was saved before is good."
        ) from error
