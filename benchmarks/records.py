"""What every result says about itself, and how results are written."""

from __future__ import annotations

import datetime
import json
import platform
import subprocess
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("worldstream", "torch", "gymnasium", "numpy")


def provenance() -> dict[str, Any]:
    """Machine, versions, revision and time, for the end of a record."""
    return {
        "machine": machine(),
        "versions": {"python": platform.python_version(), **{name: metadata.version(name) for name in PACKAGES}},
        "commit": commit(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def write(records: Sequence[dict[str, Any]], output: Path | None) -> None:
    """Write a JSON array, or print it when there is no file to write to."""
    text = json.dumps(records, indent=1)
    if output is None:
        print(text)
    else:
        output.write_text(text + "\n")


def merge(records: Sequence[dict[str, Any]], output: Path | None) -> None:
    """Put records into a JSON array beside those of other commands; print them when there is no file.

    What a command measured before is replaced; a command names everything that a measurement depends on.
    """
    if output is not None and output.is_file():
        new = {(record["command"], record["metric"]) for record in records}
        old = json.loads(output.read_text())
        records = [record for record in old if (record["command"], record["metric"]) not in new] + list(records)
    write(records, output)


def machine() -> str:
    """What the run ran on."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        names = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = f"{len(names)} x {names[0]}" if names else model
    return f"{model}, CPython {platform.python_version()}, {platform.system()}"


def commit() -> str:
    """Revision of the code, with a + when files differ from it."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], capture_output=True, text=True, cwd=Path(__file__).parent).stdout

    changed = git("status", "--porcelain", "--", "../src")
    return git("rev-parse", "--short", "HEAD").strip() + ("+" if changed.strip() else "")
