"""A run that was killed at any moment, inside of a save too, goes on as if nothing had happened."""

from __future__ import annotations

from pathlib import Path

import pytest
import soak


@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", [0, 1])
def test_killed_runs_are_bit_identical_to_the_one_that_was_not(seed: int, tmp_path: Path) -> None:
    """Twenty kills in all; the two halves can run at once."""
    tally = soak.soak(tmp_path, kills=10, kills_per_run=1, seed=seed)
    assert tally.kills == 10 and tally.lost == 0
    assert tally.identical == tally.runs >= 10
