"""Speed of two checkouts of this repository, in pairs: ratios hold where a machine's own speed drifts.

    git worktree add ../before REVISION
    python benchmarks/compare.py ../before . --config demo --pairs 9 --output benchmarks/results/compare_demo.json

Each pair runs ``benchmarks/speed.py`` of both checkouts, in turns the one and the other first. A value is the median
over pairs of the time of the second checkout by that of the first.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

from records import merge, provenance


def seconds(checkout: Path, config: str) -> dict[str, float]:
    """What ``speed.py`` of a checkout measures, by metric."""
    variables = {**os.environ, "PYTHONPATH": str(checkout / "src")}
    command = [sys.executable, str(checkout / "benchmarks" / "speed.py"), "--config", config]
    printed = subprocess.run(command, env=variables, capture_output=True, text=True, check=True).stdout
    records = json.loads(printed[printed.index("[") :])
    return {record["metric"]: record["value"] for record in records if record["value"]}


def revision(checkout: Path) -> str:
    """Commit of a checkout."""
    command = ["git", "-C", str(checkout), "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def main() -> None:
    """Measure pairs and write their ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--config", default="demo")
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--output", type=Path, help="file to write; without it the result is printed")
    options = parser.parse_args()
    before, after = options.before.resolve(), options.after.resolve()
    ratios: dict[str, list[float]] = {}
    for pair in range(options.pairs):
        first, second = (before, after) if pair % 2 == 0 else (after, before)
        found = {first: seconds(first, options.config), second: seconds(second, options.config)}
        for metric in found[before].keys() & found[after].keys():
            ratios.setdefault(metric, []).append(found[after][metric] / found[before][metric])
    records = [
        {
            "benchmark": "compare",
            "config": options.config,
            "variant": f"{revision(after)} by {revision(before)}",
            "metric": f"ratio/{metric.removesuffix('_seconds')}",
            "value": round(statistics.median(values), 4),
            "range": [round(min(values), 4), round(max(values), 4)],
            "pairs": len(values),
            "command": f"python benchmarks/compare.py BEFORE AFTER --config {options.config} --pairs {options.pairs}",
            **provenance(),
        }
        for metric, values in sorted(ratios.items())
    ]
    merge(records, options.output)


if __name__ == "__main__":
    main()
