"""Learning curves from the result files: mean return of training episodes by environment steps, all seeds of a variant.

    python benchmarks/curves.py --variants default attention --names retention attention
    python benchmarks/curves.py --benchmarks boxing freeway --output benchmarks/results/curves_atari.png

One panel for each benchmark; thin lines are single seeds, the thick one is their mean. Reads the records of
``learning_*.json`` that hold a curve (metric ``training_return``).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from worldstream.report.figures import Panel, Series, draw

RESULTS = Path(__file__).parent / "results"
NUM_POINTS = 25
"""Steps at which curves are drawn; between them episodes are averaged."""


def smoothed(record: dict[str, Any], grid: np.ndarray) -> np.ndarray:
    """Mean of a curve over each interval that ends at a step of the grid; NaN where no episode ended."""
    steps, returns = np.array(record["curve"]).T
    places = np.searchsorted(grid, steps)
    means = [returns[places == i].mean() if (places == i).any() else np.nan for i in range(len(grid))]
    return np.array(means)


def panel(benchmark: str, variants: dict[str, str], results: Path) -> Panel:
    """The curves of one benchmark; variants by name, with what the legend calls them."""
    records = [r for r in json.loads((results / f"learning_{benchmark}.json").read_text()) if "curve" in r]
    series = []
    for colour, (variant, label) in enumerate(variants.items()):
        chosen = [record for record in records if record["variant"] == variant]
        if not chosen:
            continue
        grid = np.linspace(0, chosen[0]["steps"], NUM_POINTS + 1)[1:]
        curves = np.stack([smoothed(record, grid) for record in chosen])
        if len(curves) > 1:
            series += [Series(grid, curve, colour=colour, style="thin") for curve in curves]
        with np.errstate(invalid="ignore"):
            mean = np.nansum(curves, 0) / (~np.isnan(curves)).sum(0)
        series.append(Series(grid, mean, label=label, colour=colour))
    environment = records[0]["environment"] if records else benchmark
    return Panel(environment, "environment steps", "return of training episodes", series)


def main() -> None:
    """Draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--benchmarks", nargs="+", default=["cartpole", "doorkey"])
    parser.add_argument("--variants", nargs="+", default=["default"])
    parser.add_argument("--names", nargs="+", help="of the variants in the legend; default: the same")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--output", type=Path, default=RESULTS / "curves.png")
    options = parser.parse_args()
    names = options.names or options.variants
    if len(names) != len(options.variants):
        parser.error("--names needs one name for each of --variants")
    variants = dict(zip(options.variants, names, strict=True))
    options.output.write_bytes(draw([panel(name, variants, options.results) for name in options.benchmarks]))


if __name__ == "__main__":
    main()
