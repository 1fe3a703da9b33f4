"""The report: complete, self-contained, escaped, and honest about what is missing."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from worldstream.config import Config, ImaginationConfig
from worldstream.environments import VectorEnvironment, resolve
from worldstream.errors import RunFolderError
from worldstream.evaluation.episodes import record_episodes
from worldstream.models import Models
from worldstream.report import page
from worldstream.report.figures import BLACK, Panel, Series, draw, filmstrip
from worldstream.report.report import write_report
from worldstream.runs.description import specs_to_json
from worldstream.runs.episodes import save_episodes
from worldstream.runs.folder import RunFolder
from worldstream.runs.log import LineLog
from worldstream.runs.weights import save_weights
from worldstream.training.experiment import Experiment

SECTIONS = (
    "Protocol",
    "Learning curve",
    "World model",
    "Imagined against real return",
    "Open-loop error of the world model",
    "A real episode beside the same episode dreamed",
)
HOSTILE = "<script>alert('x')</script> $\\frac{$ \"quoted\" & _"
CONFIG = Config(imagination=ImaginationConfig(horizon=3, context_length=2, burn_in=3))
EXPERIMENT = Experiment.of("clock", CONFIG)


@pytest.fixture(scope="module")
def models() -> Models:
    with VectorEnvironment(resolve("clock")) as vector:
        return Models(CONFIG, vector.observation_specs, vector.action_spec).eval()


def begin_run(
    path: Path, models: Models, environment: str = "clock", seed: int = 0, origin: str = "trained"
) -> RunFolder:
    """A run folder with run.json alone."""
    folder = RunFolder(path)
    specs = specs_to_json(models.key_specs, models.action_spec)
    config = json.loads(json.dumps(CONFIG.to_json()))
    run = {"environment": environment, "seed": seed, "steps": 300, "device": "cpu", "origin": origin}
    if origin == "imported":
        run = {**run, "seed": None, "steps": None, "device": None}
    folder.create({**run, "config": config, "specs": specs})
    return folder


def finish_run(folder: RunFolder, models: Models) -> None:
    """Logs, weights and episodes, as at the end of training."""
    losses = {f"world_model/{name}": 1.0 for name in ("observation", "reward", "termination", "disagreement")}
    returns = {"actor_critic/imagined_return": 2.0, "actor_critic/value": 1.5, "episode/return": 46.0}
    for steps in (100, 200, 300):
        LineLog(folder.metrics, folder.run_id).append({"steps": steps, "wall_seconds": steps / 2, **losses, **returns})
        record = {"return_mean": 46.0, "return_std": 0.1, "return_quartile_low": 45.9, "return_quartile_high": 46.1}
        LineLog(folder.evaluations, folder.run_id).append({"steps": steps, "episodes": 4, **record})
    save_weights(folder.weights, models, folder.run_id)
    save_episodes(folder, record_episodes(models, EXPERIMENT, 4))


class Checked(HTMLParser):
    """Collects the text of a page, its pictures and what it would load; refuses tags that do not match."""

    VOID = frozenset({"meta", "img"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.alts: list[str] = []
        self.tags: set[str] = set()
        self.texts: list[str] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "action")]
        self.alts += [value or "" for name, value in attrs if name == "alt"]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        return "".join(self.texts)


def test_a_finished_run_is_shown_completely(tmp_path: Path, models: Models) -> None:
    folder = begin_run(tmp_path / "run", models)
    finish_run(folder, models)
    path = write_report([folder.path])
    assert path == folder.report
    raw = path.read_text()
    found = Checked(raw)
    assert all(title in found.text for title in SECTIONS)
    assert "missing" not in re.findall(r'class="(\w+)"', raw)
    assert found.links and all(link.startswith("data:image/png;base64,") for link in found.links)
    markup = re.sub(r"base64,[^\"]+", "", raw)
    assert "http" not in markup and "@import" not in markup and "script" not in found.tags
    assert len(found.links) == len(found.alts) and all(found.alts)
    assert "46 ± 0.1 over 4 episodes" in found.text and "2.5 min" in found.text
    assert str(tmp_path) not in raw, "a report travels"


@pytest.mark.parametrize("origin", ["trained", "imported"])
def test_incidents_of_evaluations_are_shown(origin: str, tmp_path: Path, models: Models) -> None:
    folder = begin_run(tmp_path / "run", models, origin=origin)
    finish_run(folder, models)
    assert "incidents" not in Checked(write_report([folder.path]).read_text()).text
    record = {"steps": 300, "episodes": 4, "return_mean": 1.0, "return_std": 0.1, "incidents": 3}
    LineLog(folder.evaluations, run=folder.run_id).append(record)
    text = Checked(write_report([folder.path]).read_text()).text
    assert "1 ± 0.1 over 4 episodes, incidents: 3" in text
    assert "run, 1 of 4 evaluations: incidents: 3 (environments that failed; their episodes count as truncated" in text


def test_a_run_that_just_began_says_what_is_missing(tmp_path: Path, models: Models) -> None:
    folder = begin_run(tmp_path / "run", models)
    raw = write_report([folder.path]).read_text()
    found = Checked(raw)
    assert all(title in found.text for title in SECTIONS)
    gaps = ("No episode ended", "No evaluation", "No loss", "No return was imagined", "has no weights.safetensors")
    assert all(gap in found.text for gap in gaps)
    assert not found.links and str(tmp_path) not in raw


def test_missing_or_foreign_episodes_are_told(tmp_path: Path, models: Models) -> None:
    folder = begin_run(tmp_path / "run", models)
    finish_run(folder, models)
    folder.episodes.unlink()
    assert "has no episodes.safetensors" in Checked(write_report([folder.path]).read_text()).text
    recorded = record_episodes(models, EXPERIMENT, 1)
    save_episodes(folder, [replace(recorded[0], observations={"other": recorded[0].observations["step"]})])
    assert "holds other observations" in Checked(write_report([folder.path]).read_text()).text
    save_episodes(folder, record_episodes(models, EXPERIMENT, 2, max_steps=2))
    text = Checked(write_report([folder.path]).read_text()).text
    assert "ends within the steps that the world model reads first" in text
    assert "No recorded episode was followed far enough" in text


def test_hostile_names_stay_text(tmp_path: Path, models: Models) -> None:
    folder = begin_run(tmp_path / "<b>run", models, environment=HOSTILE)
    found = Checked(write_report([folder.path]).read_text())
    assert HOSTILE in found.text and "<b>run" in found.text
    assert not found.tags & {"script", "b"}


def test_several_runs_share_the_charts(tmp_path: Path, models: Models) -> None:
    folders = [begin_run(tmp_path / name, models, seed=seed) for seed, name in enumerate(("one", "two", "three"))]
    for folder in folders[:2]:
        finish_run(folder, models)
    path = write_report([folder.path for folder in folders], output=tmp_path / "all.html")
    assert path == tmp_path / "all.html" and not folders[0].report.exists()
    text = Checked(path.read_text()).text
    assert "3 runs: one, two, three" in text and "Open-loop error of the world model (one)" in text


def test_only_the_trained_of_several_runs_have_a_seed(tmp_path: Path, models: Models) -> None:
    trained = begin_run(tmp_path / "ours", models, seed=41)
    imported = begin_run(tmp_path / "theirs", models, origin="imported")
    finish_run(trained, models)
    for order in ([trained, imported], [imported, trained]):
        raw = write_report([folder.path for folder in order], output=tmp_path / "both.html").read_text()
        assert "<td>ours</td><td>41</td><td>300</td>" in raw.replace("\n", "")
        assert "<td>theirs</td><td></td><td>imported</td><td></td><td>not evaluated</td>" in raw.replace("\n", "")
        assert ("updates per step" in raw) == ("learning_rate" in raw) == (order[0] is trained)


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="not a run folder"):
        write_report([tmp_path])
    assert not list(tmp_path.iterdir())


def test_hostile_labels_can_be_drawn() -> None:
    x = np.arange(3.0)
    panels = [
        Panel(HOSTILE, "$x$", "_y", [Series(x, x, "_hidden"), Series(x, x * np.nan, "\u6f22$", BLACK, "dots")]),
        Panel("", "", "", [], from_zero=True, diagonal=True, mark=(1.0, HOSTILE)),
        Panel("", "", "", [Series([], []), Series(x, x, band=(x - 1, x + 1))]),
    ]
    assert draw(panels).startswith(b"\x89PNG")
    pictures = [np.zeros((4, 9, 3), np.uint8)] * 2
    assert filmstrip({HOSTILE: pictures, "b": pictures}, ["$1", "2"]).startswith(b"\x89PNG")


def test_every_part_of_a_page_escapes() -> None:
    bad = '<i>"&'
    parts = [
        page.paragraph(bad), page.paragraph(bad, "note"), page.missing(bad), page.picture(b"", bad, bad),
        page.folded(bad, bad), page.table([(bad, bad)]), page.columns([bad], [[bad]]),
    ]  # fmt: skip
    text = page.page(bad, bad, [page.section(bad, *parts)])
    assert "<i>" not in text and Checked(text).alts == [bad]
