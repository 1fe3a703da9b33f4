"""Every command and program of README.md runs, shrunk in steps only; its table is that of the result files."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from worldstream.errors import Interrupted

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    """Fenced blocks of one language, in order."""
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def commands() -> list[str]:
    """Lines of bash blocks without comments, and commands named in the text."""
    fenced = [line.split("#")[0].strip() for block in blocks("bash") for line in block.splitlines()]
    inline = re.findall(r"`(python benchmarks/[^`]+|worldstream [^`]+)`", README)
    return [line for line in (*fenced, *inline) if line]


def shrunk(command: str) -> list[str]:
    """The command with few steps, as an argument list."""
    words = re.sub(r"--time-limit \d+", "--time-limit 0", re.sub(r"--steps \d+", "--steps 120", command)).split()
    if words[:2] == ["worldstream", "train"] and "--steps" in words:
        words += ["--evaluation.final-episodes", "2", "--evaluation.max-episode-steps", "60", "--device", "cpu"]
    replacement = {"worldstream": [sys.executable, "-m", "worldstream"], "python": [sys.executable]}
    return [*replacement[words[0]], *words[1:]]


def run(arguments: list[str], folder: Path, status: int = 0) -> str:
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{folder}"}
    done = subprocess.run(arguments, cwd=folder, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == status, f"{arguments}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_worldstream_commands_run_in_order(tmp_path: Path) -> None:
    (tmp_path / "my_env.py").write_text(blocks("python")[0])
    ran = [shrunk(command) for command in commands() if command.startswith("worldstream")]
    assert len(ran) >= 6
    for arguments in ran:
        run(arguments, tmp_path, status=Interrupted.exit_code if "--time-limit" in arguments else 0)
    assert (tmp_path / "runs" / "target" / "report.html").is_file()


def test_the_python_example_runs_and_the_environment_is_short(tmp_path: Path) -> None:
    environment, program = blocks("python")
    assert len([line for line in environment.splitlines() if line.strip()]) < 20
    (tmp_path / "my_env.py").write_text(environment)
    shortened = program.replace("steps=10_000", "steps=120")
    assert shortened != program
    run([sys.executable, "-c", f"{shortened}\nassert env.action_space.contains(action)"], tmp_path)


def test_every_make_target_exists_and_ci_uses_it() -> None:
    targets = {command.split()[1] for command in commands() if command.startswith("make ")}
    assert targets == {"demo", "test"}
    makefile = (ROOT / "Makefile").read_text()
    assert all(re.search(rf"^{target}:", makefile, flags=re.MULTILINE) for target in targets)
    assert "make test" in (ROOT / ".ci" / "run").read_text()


@pytest.mark.parametrize("script", ["learning.py", "speed.py", "table.py"])
def test_benchmark_scripts_of_the_text_exist_and_parse_their_arguments(script: str, tmp_path: Path) -> None:
    assert any(f"benchmarks/{script}" in command for command in commands())
    assert "usage" in run([sys.executable, str(ROOT / "benchmarks" / script), "--help"], tmp_path)


def test_the_speed_benchmark_runs(tmp_path: Path) -> None:
    script = str(ROOT / "benchmarks" / "speed.py")
    shown = run([sys.executable, script, "--config", "demo", "--repetitions", "1", "--device", "cpu"], tmp_path)
    assert '"metric": "world_model_update_seconds"' in shown


def test_the_results_table_is_that_of_the_files(tmp_path: Path) -> None:
    run([sys.executable, str(ROOT / "benchmarks" / "table.py"), "--check"], tmp_path)


def test_links_lead_to_files() -> None:
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if "://" not in link]
    assert links
    assert all((ROOT / link).exists() for link in links), links
