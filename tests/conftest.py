"""Settings for every test: one torch thread, fixed seeds, no display."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator

os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")

import hypothesis
import numpy as np
import pytest
import torch

torch.set_num_threads(1)

# Wall time says little on a shared machine: pytest's timeout is the limit, not hypothesis's deadline.
hypothesis.settings.register_profile("worldstream", deadline=None, derandomize=True, max_examples=25)
hypothesis.settings.load_profile("worldstream")


@pytest.fixture(autouse=True, scope="session")
def state_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What is remembered about runs never lands in a real home; processes that tests start inherit it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        patch.setenv("LOCALAPPDATA", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture(autouse=True)
def fixed_seeds() -> None:
    """Every test starts from the same global random state, whatever ran before it."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture
def generator() -> torch.Generator:
    """A seeded generator on the CPU."""
    return torch.Generator().manual_seed(0)
