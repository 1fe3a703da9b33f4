"""No process of an environment outlives its run, however the run ended and whatever the environment does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

RUN = """
import os, sys, time
from pathlib import Path
from worldstream.environments import EnvironmentConfig, VectorEnvironment, WorkerConfig, resolve
from worldstream.environments.toy.clock import Clock

class Deaf(Clock):
    def step(self, action):
        Path(sys.argv[1]).write_text(str(os.getpid()))
        while True:
            HANG

if __name__ == "__main__":
    argument = sys.argv[1]
    def make():
        sys.argv[1:] = [argument]
        return Deaf()
    with VectorEnvironment(resolve(make), workers=WorkerConfig(backend="process", timeout=1000.0)) as environments:
        environments.reset()
        environments.step(environments.action_spec.num_tokens * [[0]])
"""


def is_there(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("hang", ["pass", "time.sleep(1000)"])
def test_a_worker_that_hangs_goes_with_a_run_that_is_killed(hang: str, tmp_path: Path) -> None:
    (tmp_path / "run.py").write_text(RUN.replace("HANG", hang))
    noted = tmp_path / "process"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    run = subprocess.Popen([sys.executable, str(tmp_path / "run.py"), str(noted)], env=environment)
    deadline = time.monotonic() + 100
    while not (noted.exists() and noted.read_text()) and time.monotonic() < deadline:
        assert run.poll() is None
        time.sleep(0.1)
    worker = int(noted.read_text())
    try:
        os.kill(worker, signal.SIGTERM)  # it is deaf to that
        time.sleep(0.2)
        assert is_there(worker)
        run.kill()
        run.wait()
        deadline = time.monotonic() + 15
        while is_there(worker) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not is_there(worker)
    finally:
        run.kill()
        if is_there(worker):
            os.kill(worker, signal.SIGKILL)
