"""What docstrings and comments cite exists in this repository."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted(path for name in ("src", "tests", "benchmarks") for path in (ROOT / name).rglob("*.py"))
PAGE = re.compile(r"[\w./-]*\w\.md\b")
CITATION = re.compile(r'([\w./-]*\w\.md)`*,\s+((?:(?: and |, )?"[^"\n]+")+)')
"""A page and names on it: docs/method.md, "VQ" and "FSQ"."""
NUMBERED = re.compile(r"\w\.md`*,? (?:section |sections )?\d")


def found_page(name: str) -> Path | None:
    """A page that is cited by its path, or by its name where it is one of ``docs/``."""
    return next((path for path in (ROOT / name, ROOT / "docs" / name) if path.is_file()), None)


def names_on(page: Path) -> set[str]:
    """Headings of a page, and the first cells of the rows of its tables."""
    text = page.read_text()
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {*headings, *re.findall(r"^\| ([^|]+?) \|", text, re.MULTILINE)}


def faults(text: str) -> list[str]:
    """Citations of a Python file that lead nowhere."""
    found = [f"{name}: no such page" for name in PAGE.findall(text) if found_page(name) is None]
    found += [f"{match[0]}: pages have no numbers" for match in NUMBERED.finditer(text)]
    for name, quoted in CITATION.findall(text):
        page = found_page(name)
        known = names_on(page) if page else set()
        found += [f'{name}: no "{cited}"' for cited in re.findall(r'"([^"]+)"', quoted) if cited not in known]
    return found


@pytest.mark.parametrize("path", [path for path in FILES if path != Path(__file__)], ids=lambda path: path.stem)
def test_citations_lead_somewhere(path: Path) -> None:
    assert faults(path.read_text()) == []


def test_numbered_defects_are_those_of_the_method_page() -> None:
    known = set(re.findall(r"\b[CP]\d+\b", (ROOT / "docs" / "method.md").read_text()))
    for path in FILES:
        cited = set(re.findall(r"\b[CP]\d{1,2}\b", path.read_text()))
        assert cited <= known, f"{path}: {sorted(cited - known)}"


def test_faults_are_found() -> None:
    assert faults('docs/method.md, "VQ" and "FSQ"; ``docs/method.md`` ("retention")') == []
    assert len(faults('docs/method.md, "VQ" and "no such row"')) == 1
    assert len(faults("(method.md 4.4)")) == len(faults("method.md section 13")) == len(faults("docs/none.md")) == 1
