"""Memory that runs out, said in terms of the settings that take it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from worldstream.errors import OutOfMemoryError


@contextmanager
def enough_memory(part: str, settings: str) -> Iterator[None]:
    """Turn exhausted memory, of the device or of the machine, into a message that names the settings to lower."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if type(error) is RuntimeError and "can't allocate memory" not in str(error):  # the CPU's allocator
            raise
        first_line = (str(error) or "out of memory").splitlines()[0]
        raise OutOfMemoryError(
            f"too little memory in part '{part}' of the run: {first_line} Lower {settings}. "
            "What was saved before is good."
        ) from error
