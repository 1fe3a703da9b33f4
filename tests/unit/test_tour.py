"""docs/tour.md leads through files and names that exist, in few stops."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
PAGE = (REPOSITORY / "docs" / "tour.md").read_text()
STOPS = re.findall(r"^\d+\. (.*?)(?=^\d+\. |^$)", PAGE, re.MULTILINE | re.DOTALL)


def test_the_tour_is_short() -> None:
    assert 10 <= len(STOPS) <= 20


@pytest.mark.parametrize("stop", STOPS)
def test_a_stop_names_what_is_there(stop: str) -> None:
    words = re.findall(r"`([^`]+)`", stop)
    files = [word for word in words if "/" in word or word.endswith(".py")]
    assert files
    for file in files:
        assert (REPOSITORY / "src" / "worldstream" / file).exists(), file
    for file, name in zip(words, words[1:], strict=False):
        if not file.endswith(".py") or name.endswith(".py") or "/" in name:
            continue
        body: list[ast.stmt] = ast.parse((REPOSITORY / "src" / "worldstream" / file).read_text()).body
        for part in name.split("."):
            found = [node for node in body if getattr(node, "name", None) == part]
            assert found, f"{file} has no {name}"
            body = getattr(found[0], "body", [])
