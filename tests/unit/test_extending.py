"""The recipes of docs/extending.md, literally: one file and one line each, in a copy of the package."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
PAGE = (REPOSITORY / "docs" / "extending.md").read_text()


def blocks(title: str) -> list[str]:
    """Python code of the recipe under a heading."""
    section = PAGE.partition(f"### {title}\n")[2].partition("\n## ")[0].partition("\n### ")[0]
    return re.findall(r"```python\n(.*?)```", section, re.DOTALL)


def carry_out(title: str, source: Path) -> list[str]:
    """Copy the package to a folder, add the file and the line of a recipe; returns the code that is left to be run."""
    shutil.copytree(REPOSITORY / "src", source, ignore=shutil.ignore_patterns("__pycache__"))
    file, line, *rest = blocks(title)
    path, _, code = file.removeprefix("# src/").partition("\n")
    assert not (source / path).exists()
    (source / path).write_text(code)
    place = re.match(r"# src/(\S+), in (\w+)\n(.*\n)$", line)
    assert place, "the second block is one line in a registry"
    registry = source / place[1]
    before, name, after = registry.read_text().partition(f"{place[2]} = Registry(")
    opening = after.index("{") + 1
    registry.write_text(f"{before}{name}{after[:opening]}\n{place[3]}{after[opening:]}")
    return rest


LEARNS = """
from tiny import Recorded
from worldstream.training.experiment import Experiment
from worldstream.training.trainer import Trainer

once = {"start_steps": 30, "updates_per_step": 1.0, "batch_size": 8}
config = replace(
    config,
    world_model_learner=replace(config.world_model_learner, **once),
    actor_critic_learner=replace(config.actor_critic_learner, **once),
    log_every_steps=1,
)
trainer = Trainer(Experiment.of("clock", config, steps=32), events := Recorded())
trainer.run()
trainer.close()
last = events.records[-1]
assert last["world_model/distillation"] > 0 and last["actor_critic/distillation"] > 0, last
"""
"""Follows the configuration of a recipe: the reward is learned, and imagined."""


@pytest.mark.parametrize(
    ("title", "contracts", "name", "at_least"),
    [
        ("A sequence model", "test_sequence_models.py", "gru", 10),
        ("A suite of environments", "test_environments.py", "frozen-lake", 6),
        ("An intrinsic reward", "test_heads.py", "distillation", 6),
    ],
)
def test_a_recipe_passes_the_contracts_of_its_family(
    tmp_path: Path, title: str, contracts: str, name: str, at_least: int
) -> None:
    rest = carry_out(title, tmp_path / "src")
    paths = [str(path) for path in (tmp_path / "src", REPOSITORY / "tests", REPOSITORY / "benchmarks")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", f"pythonpath={' '.join(paths)}"]
    command += [str(REPOSITORY / "tests" / "contracts" / contracts), "-k", name]
    done = subprocess.run(command, env=environment, cwd=REPOSITORY, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout[-3000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed and int(passed[1]) >= at_least, done.stdout[-500:]
    for code in rest:
        done = subprocess.run(
            [sys.executable, "-c", code + LEARNS], env=environment, capture_output=True, text=True, timeout=100
        )
        assert done.returncode == 0, done.stderr[-2000:]
