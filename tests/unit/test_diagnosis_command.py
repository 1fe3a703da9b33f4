"""``worldstream diagnose`` from end to end: the table, the file in the run folder, the section of the report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import worldstream
from tiny import tiny_config
from worldstream.cli import main
from worldstream.environments import VectorEnvironment, resolve
from worldstream.errors import RunFolderError
from worldstream.evaluation import simulator
from worldstream.models import Models
from worldstream.report.report import write_report
from worldstream.runs.description import describe
from worldstream.runs.diagnosis import load_findings
from worldstream.runs.folder import RunFolder, checksummed
from worldstream.runs.weights import save_weights
from worldstream.training.experiment import Experiment

TITLE = "Diagnosis of the world model"


def begin_run(path: Path, environment: str = "clock") -> RunFolder:
    """A run folder of a model that has learned nothing."""
    experiment = Experiment.of("clock", tiny_config(), steps=100)
    with VectorEnvironment(resolve("clock")) as vector:
        models = Models(experiment.config, *vector.specs)
    folder = RunFolder(path)
    description = describe(experiment, models.specs, preset="custom", origin="trained")
    folder.create({**description, "environment": environment})
    save_weights(folder.weights, models, folder.run_id)
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    torch.manual_seed(0)
    folder = begin_run(tmp_path_factory.mktemp("runs") / "untrained")
    main(["diagnose", str(folder.path), "--episodes", "2", "--steps", "3", "--device", "cpu"])
    return folder


def test_the_file_holds_findings_and_numbers(run: RunFolder) -> None:
    data = json.loads(run.diagnosis.read_text())
    assert data["run"] == run.run_id
    assert data["diagnosis"]["plays"]["agent"]["nats"] > data["diagnosis"]["plays"]["agent"]["copy_nats"]
    assert data["diagnosis"]["simulator"] is None and "NaN" not in run.diagnosis.read_text()
    found = load_findings(run)
    assert found[0].verdict == "bad" and set(found[0].values) == {"agent", "random"}


def test_the_table_fits_a_terminal(run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    before = run.diagnosis.read_bytes()
    main(["diagnose", str(run.path), "--episodes", "2", "--steps", "3", "--device", "cpu"])
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) == 80
    for text in ("nats a frame / best baseline", "wrong tokens, step 3 / copy", "random", "updates_per_step"):
        assert text in shown
    assert run.diagnosis.read_bytes() == before, "the same seed says the same"


def test_the_report_shows_it(run: RunFolder, tmp_path: Path) -> None:
    text = write_report(run.path, output=tmp_path / "with.html", device="cpu").read_text()
    assert TITLE in text and "nats a frame / best baseline" in text
    other = begin_run(tmp_path / "other")
    assert TITLE not in write_report(other.path, output=tmp_path / "without.html", device="cpu").read_text()


def test_a_damaged_or_foreign_file_is_refused_and_said(run: RunFolder, tmp_path: Path) -> None:
    folder = begin_run(tmp_path / "run")
    foreign = run.diagnosis.read_bytes()
    unknown = checksummed({"run": folder.run_id, "findings": [{"name": "<script>", "values": []}]}).encode()
    for content in (foreign, foreign[:100], foreign.replace(b"agent", b"anent"), unknown, b"[1]", b"\xff"):
        folder.diagnosis.write_bytes(content)
        with pytest.raises(RunFolderError, match="diagnosis.json"):
            load_findings(folder)
        text = write_report(folder.path, output=tmp_path / "r.html", device="cpu").read_text()
        assert TITLE in text and "diagnosis.json" in text and "<script>" not in text


def test_mistakes_are_one_message(run: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    strange = begin_run(tmp_path / "strange", environment="somewhere:Else")
    for arguments, status, text in (
        ([str(run.path), "--episodes", "1"], 2, "episodes"),
        ([str(run.path), "--true-simulator", "-1"], 2, "simulator_updates"),
        ([str(tmp_path / "none")], 4, "not a folder"),
        ([str(strange.path)], 3, "--env module:factory"),
    ):
        with pytest.raises(SystemExit) as error:
            main(["diagnose", *arguments])
        assert error.value.code == status
        message = capsys.readouterr().err
        assert text in message and "Traceback" not in message


def test_from_python(run: RunFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(simulator, "NUM_MOMENTS", 5)
    options = {"episodes": 2, "steps": 1, "seed": 3, "device": "cpu", "true_simulator": 1, "quiet": True}
    diagnosis = worldstream.diagnose(run.path, environment="clock", **options)
    assert diagnosis.environment == "clock" and len(diagnosis.plays["agent"].valid) == 1
    assert diagnosis.simulator is not None and diagnosis.simulator.before >= 45
    line = load_findings(run)[-1]
    assert line.name == "return, 1 updates in the truth" and "->" in line.values["agent"]
    assert not capsys.readouterr().out
