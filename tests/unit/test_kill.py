"""A run that was killed at any moment, inside of a save too, goes on as if nothing had happened."""

from __future__ import annotations

from pathlib import Path

import pytest
import soak


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("variant", "kills", "seed"), [("default", 8, 0), ("default", 8, 1), ("images", 4, 0), ("processes", 2, 0)]
)
def test_killed_runs_are_bit_identical_to_the_one_that_was_not(
    variant: str, kills: int, seed: int, tmp_path: Path
) -> None:
    """No process outlives them, and nothing beside them is touched. The halves can run at once."""
    tally = soak.soak(tmp_path, kills=kills, kills_per_run=1, seed=seed, variant=variant)
    assert tally.kills == kills and tally.identical == tally.runs >= kills
    assert (tally.lost, tally.orphans, tally.touched) == (0, 0, 0)
