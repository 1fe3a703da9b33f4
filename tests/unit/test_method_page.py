"""``docs/method.md`` names files, functions and tests that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "method.md").read_text()


def defined(path: Path) -> set[str]:
    """Functions and classes of a file, methods with their class in front."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{inner.name}" for inner in node.body if isinstance(inner, ast.FunctionDef)}
    return found


def code_references() -> list[tuple[str, str]]:
    """(file, names) of every `file.py: names` on the page."""
    return re.findall(r"`([\w/]+\.py): ([\w., ]+)`", PAGE)


def test_every_function_that_is_named_exists() -> None:
    references = code_references()
    assert len(references) > 30
    for file, names in references:
        known = defined(ROOT / "src" / "worldstream" / file)
        owner = names.split(".")[0] if "." in names else ""
        for name in names.split(", "):
            assert name in known or f"{owner}.{name}" in known, f"{file}: {name}"


def test_every_test_that_is_named_exists() -> None:
    tests = set(re.findall(r"`(tests/[\w/]+\.py)`", PAGE))
    assert len(tests) > 10
    assert [name for name in tests if not (ROOT / name).is_file()] == []


def test_every_equation_has_a_function() -> None:
    table = PAGE.split("## Where each equation is")[1].split("\n## ")[0]
    rows = [line for line in table.splitlines() if line.startswith("| ")][2:]
    assert [row for row in rows if not re.search(r"`[\w/]+\.py: \w+", row)] == []


def test_every_result_that_is_named_exists() -> None:
    results = set(re.findall(r"`(?:benchmarks/results/)?(\w+\.(?:json|png))`", PAGE))
    assert len(results) > 4
    assert [name for name in results if not (ROOT / "benchmarks" / "results" / name).is_file()] == []


@pytest.mark.parametrize("section", ["What we do differently, and why", "Further choices of ours"])
def test_every_deviation_names_a_test(section: str) -> None:
    table = PAGE.split(f"## {section}")[1].split("\n## ")[0]
    header, _, *rows = [line for line in table.splitlines() if line.startswith("| ")]
    columns = [name.strip() for name in header.strip("|").split(" | ")]
    assert {"published", "test", "effect"} < set(columns) and len(rows) > 20
    for row in rows:
        cells = dict(zip(columns, (cell.strip() for cell in row.strip("|").split(" | ")), strict=True))
        assert re.search(r"`tests/[\w/]+\.py`", cells["test"]), row
        assert all(cells.values()), row
