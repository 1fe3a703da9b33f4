"""The results table of README.md, made from benchmarks/results/learning_*.json.

python benchmarks/table.py           # rewrite the table between the markers in README.md
python benchmarks/table.py --check   # exit with 1 when README.md does not hold the table of the files
"""

from __future__ import annotations

import argparse
import json
import sys
from itertools import groupby
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
BEGIN, END = "<!-- results -->", "<!-- /results -->"
HEADER = [
    "| environment | preset | variant | steps | metric | mean over seeds (range) | seeds | revision | training time "
    "| memory |",
    "| --- | --- | --- | ---: | --- | --- | ---: | --- | ---: | ---: |",
]


def row_key(record: dict[str, Any]) -> tuple[Any, ...]:
    """What records of one row share."""
    return tuple(record[name] for name in ("environment", "preset", "variant", "steps", "metric"))


def table(results: Path) -> str:
    """Markdown of all learning results below a folder."""
    lines = list(HEADER)
    for path in sorted(results.glob("learning_*.json")):
        for key, group in groupby(json.loads(path.read_text()), key=row_key):
            records = list(group)
            values = [record["value"] for record in records]
            digits = 3 if max(map(abs, values)) <= 1 else 1
            mean = f"{sum(values) / len(values):.{digits}f}"
            spread = f" ({min(values):.{digits}f} to {max(values):.{digits}f})" if len(values) > 1 else ""
            revisions = " ".join(dict.fromkeys(record["commit"].rstrip("+") for record in records))
            minutes = max(record["training_seconds"] for record in records) / 60
            memory = max(record["peak_memory_bytes"] for record in records) / 1e6
            environment, preset, variant, steps, metric = key
            lines.append(
                f"| {environment} | {preset} | {variant} | {steps:,} | {metric} | {mean}{spread} | {len(records)} "
                f"| {revisions} | at most {minutes:.1f} min | {memory:.0f} MB |"
            )
    return "\n".join(lines)


def with_table(readme: str, text: str) -> str:
    """README with the table between its markers. Raises ValueError when the markers are missing."""
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"README.md lacks the markers {BEGIN} and {END}")
    return f"{before}{BEGIN}\n{text}\n{END}{after}"


def main() -> None:
    """Rewrite or check."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    readme = ROOT / "README.md"
    wanted = with_table(readme.read_text(), table(ROOT / "benchmarks" / "results"))
    if not options.check:
        readme.write_text(wanted)
    elif readme.read_text() != wanted:
        sys.exit("README.md is not what the result files say: run python benchmarks/table.py")


if __name__ == "__main__":
    main()
