"""Sections of the report from what runs logged: how they were made, their returns and their losses."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from worldstream.evaluation.evaluate import incidents_in_words
from worldstream.report import page
from worldstream.report.figures import BLACK, COLOURS, Panel, Series, draw
from worldstream.runs.description import is_imported
from worldstream.runs.folder import RunFolder
from worldstream.runs.log import read_lines

STEPS = "environment steps"
IMPORTED = "the run was imported, and its training is not recorded here."
"""Ends the sentence that says what is missing from the report of an imported run."""
_UNKNOWN = "not recorded"

_OF_AGENT: dict[str, tuple[str, ...]] = {
    "environment": (),
    "tokenizers": ("loss_weights",),
    "world_model": ("loss_weights", "priority_weights"),
    "actor_critic": (),
    "losses": ("entropy_weight",),
    "imagination": (),
    "evaluation": ("every_steps", "episodes", "final_episodes"),
}
"""Parts of a configuration that describe an agent, and the fields in them that describe its training all the same."""

_HIGHLIGHTS = {
    "world-model updates per step": ("world_model_learner", "updates_per_step"),
    "actor-critic updates per step": ("actor_critic_learner", "updates_per_step"),
    "imagination horizon (steps)": ("imagination", "horizon"),
    "discount per step": ("losses", "discount"),
    "weights of rewards": ("losses", "reward_weights"),
    "frames per step": ("environment", "action_repeat"),
}
"""The few numbers of a configuration that say most about a run: part and field."""

_EVALUATION = {
    "mean return": "return_mean",
    "deviation": "return_std",
    "lower quartile": "return_quartile_low",
    "median": "return_median",
    "upper quartile": "return_quartile_high",
}
"""Columns of the table of evaluations, and their names in the log."""

Curve = tuple[np.ndarray, np.ndarray]
"""Steps and values of a metric, where it was logged."""


@dataclass(frozen=True)
class RunLog:
    """What a run folder says without its models."""

    folder: RunFolder
    description: dict[str, Any]
    metrics: list[dict[str, Any]]
    evaluations: list[dict[str, Any]]

    @staticmethod
    def read(path: Path) -> RunLog:
        """Raises RunFolderError when ``path`` is not a run folder."""
        folder = RunFolder(path)
        description = folder.read_description()
        logs = (folder.metrics, folder.evaluations)
        return RunLog(folder, description, *(read_lines(log, folder.run_id) for log in logs))

    @property
    def imported(self) -> bool:
        """Whether the agent was trained elsewhere."""
        return is_imported(self.folder, self.description)

    @property
    def name(self) -> str:
        """Name of the folder, without where it is: a report travels."""
        return self.folder.path.resolve().name

    @property
    def environment(self) -> str:
        """Name of the environment that it was trained on."""
        return str(self.description.get("environment") or "unnamed")

    def curve(self, metric: str) -> Curve:
        """Steps and values of a metric of the training."""
        return _curve(self.metrics, metric)

    def evaluation_curve(self, metric: str) -> Curve:
        """Steps and values of a metric of the evaluations."""
        return _curve(self.evaluations, metric)

    @property
    def steps(self) -> str:
        """Steps taken, and those asked for where they are more."""
        done, asked = max((r.get("steps", 0) for r in self.metrics), default=0), self.description.get("steps")
        return f"{done}" if asked in (None, done) else f"{done} of {asked}"

    @property
    def wall_time(self) -> str:
        """Wall time of training, evaluations included."""
        seconds = next((r["wall_seconds"] for r in reversed(self.metrics) if "wall_seconds" in r), None)
        if seconds is None:
            return _UNKNOWN
        if seconds < 120:
            return f"{seconds:.0f} s"
        return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"

    @property
    def result(self) -> str:
        """Return of the latest evaluation."""
        if not self.evaluations:
            return "not evaluated"
        last = self.evaluations[-1]
        mean, deviation = last.get("return_mean", math.nan), last.get("return_std", math.nan)
        text = f"{mean:.4g} ± {deviation:.3g} over {last.get('episodes', '?')} episodes"
        return f"{text}, incidents: {last['incidents']}" if last.get("incidents") else text

    @property
    def reservations(self) -> list[str]:
        """A paragraph that says in how many evaluations environments failed, where any did."""
        counts = [count for record in self.evaluations if (count := record.get("incidents", 0))]
        if not counts:
            return []
        share = f"{len(counts)} of {len(self.evaluations)} evaluations"
        return [page.paragraph(f"{self.name}, {share}: {incidents_in_words(sum(counts))}.", "note")]


def protocol(runs: list[RunLog]) -> str:
    """How the runs were made, and what came out."""
    first, imported = runs[0].description, runs[0].imported
    config, preset = first.get("config", {}), str(first.get("preset") or _UNKNOWN)
    caption = "The whole configuration"
    if imported:
        config, caption = _of_agent(config), "The configuration of the agent"
    versions = {"worldstream": first.get("worldstream"), **first.get("versions", {})}
    device = ", ".join(str(first[name]) for name in ("device", "machine") if first.get(name))
    numbers = {label: config.get(part, {}).get(name) for label, (part, name) in _HIGHLIGHTS.items()}
    rows = [
        ("environment", runs[0].environment),
        ("weights", f"imported ({preset}); their training is not recorded here") if imported else ("preset", preset),
        *((label, _in_words(number)) for label, number in numbers.items() if number is not None),
        *([] if imported else [("device", device or _UNKNOWN)]),
        ("versions", ", ".join(f"{name} {value}" for name, value in versions.items() if value) or _UNKNOWN),
    ]
    caption += f" of {runs[0].name}" if len(runs) > 1 else ""
    folded = page.folded(caption, json.dumps(config, indent=1))
    return page.section("Protocol", page.table(rows), _results(runs), folded)


def _in_words(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {item}" for name, item in value.items())
    return str(value)


def _of_agent(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration without what only a training reads."""
    return {
        part: {name: value for name, value in config[part].items() if name not in left_out}
        for part, left_out in _OF_AGENT.items()
        if part in config
    }


def _results(runs: list[RunLog]) -> str:
    """What came out; and how it was trained, where any of the runs was."""
    if all(run.imported for run in runs):
        return page.columns(("run", "return"), [(run.name, run.result) for run in runs])
    rows = [
        (run.name, "", "imported", "", run.result)
        if run.imported
        else (run.name, str(run.description.get("seed", "")), run.steps, run.wall_time, run.result)
        for run in runs
    ]
    return page.columns(("run", "seed", "steps", "wall time", "return at the end"), rows)


def learning(runs: list[RunLog]) -> str:
    """Returns of training and of evaluations over steps."""
    if all(run.imported for run in runs):
        return _evaluations(runs)
    parts, panels = [], []
    training = _series(runs, [run.curve("episode/return") for run in runs], "line")
    if training:
        panels.append(Panel("Training episodes (with exploration)", STEPS, "return per episode", training))
    else:
        parts.append(page.missing("No episode ended during training, so there is no learning curve."))
    evaluated = _series(runs, [run.evaluation_curve("return_mean") for run in runs], "marked")
    if evaluated:
        evaluated = [_banded(runs[0])] if len(runs) == 1 else evaluated
        panels.append(Panel("Evaluations (no exploration)", STEPS, "return per episode", evaluated))
    else:
        parts.append(page.missing("No evaluation was recorded."))
    if panels:
        alt = "Return per episode over environment steps: " + " and ".join(panel.title for panel in panels)
        caption = (
            "Undiscounted returns. Training: mean of the episodes that ended between two lines of the log. "
            "Evaluations: whole episodes in environments of their own, with seeds of their own."
        )
        parts.append(page.picture(draw(panels), alt, caption))
    parts += [paragraph for run in runs for paragraph in run.reservations]
    return page.section("Learning curve", *parts)


def _banded(run: RunLog) -> Series:
    """Mean return of the evaluations of one run, with the middle half of its episodes where there is more than one."""
    steps, mean = run.evaluation_curve("return_mean")
    low, high = (run.evaluation_curve(f"return_quartile_{side}")[1] for side in ("low", "high"))
    if len(low) == len(high) == len(steps) > 1:
        return Series(steps, mean, "mean; shaded: middle half", style="marked", band=(low, high))
    return Series(steps, mean, "mean", style="marked")


def _evaluations(runs: list[RunLog]) -> str:
    """Returns of agents that were trained elsewhere: there is nothing over steps."""
    parts = [page.missing(f"There is no learning curve: {IMPORTED}")]
    rows = [
        (run.name, str(record.get("episodes", "?")), *(f"{record.get(x, math.nan):.4g}" for x in _EVALUATION.values()))
        for run in runs
        for record in run.evaluations
    ]
    if rows:
        parts.append(page.columns(("run", "episodes", *_EVALUATION), rows))
    else:
        parts.append(page.missing("No evaluation was recorded yet: worldstream evaluate does."))
    parts += [paragraph for run in runs for paragraph in run.reservations]
    return page.section("Evaluations", *parts)


def losses(runs: list[RunLog]) -> str:
    """Losses of the world model over steps, on replay and on held-out episodes."""
    logged = {name for run in runs for record in run.metrics for name in record}
    panels = []
    for prefix, unit in (("world_model/", "loss on replay"), ("held_out/", "loss on held-out play")):
        names = {name for name in logged if name.startswith(prefix)} - {"world_model/gradient_norm", "held_out/pace"}
        for name in sorted(names):
            series = _series(runs, [run.curve(name) for run in runs], "line")
            panels.append(Panel(name.removeprefix(prefix), STEPS, unit, series))
    if not panels:
        reason = IMPORTED if all(run.imported for run in runs) else "the run ended before it learnt."
        return page.section("World model", page.missing(f"No loss of the world model was logged: {reason}"))
    alt = f"Losses of the world model over environment steps: {', '.join(panel.title for panel in panels)}"
    caption = (
        "Mean negative log-likelihoods of what follows, on the segments trained on: each token of the next "
        "observation, the reward, the end of the episode, and the observation once more for the ensemble whose "
        "disagreement is the intrinsic reward. Each has a floor: the randomness and quantisation of its target."
    )
    return page.section("World model", page.picture(draw(panels), alt, caption))


def _series(runs: list[RunLog], curves: list[Curve], style: str) -> list[Series]:
    """A curve for each run that has one; several are thin, with their mean where the environment is the same."""
    present = [(run.name, x, y) for run, (x, y) in zip(runs, curves, strict=True) if len(x)]
    if len(runs) == 1:
        return [Series(x, y, style=style) for _, x, y in present]
    named = len(present) <= len(COLOURS)  # a legend of more would hide the curves
    series = [Series(x, y, name if named else "", i, "thin") for i, (name, x, y) in enumerate(present)]
    if len(present) < 2 or len({run.environment for run in runs}) > 1:
        return series
    begin, end = max(x[0] for _, x, _ in present), min(x[-1] for _, x, _ in present)
    steps = np.unique(np.concatenate([x for _, x, _ in present]))
    steps = steps[(steps >= begin) & (steps <= end)]
    if len(steps):
        mean = np.mean([np.interp(steps, x, y) for _, x, y in present], axis=0)
        series.append(Series(steps, mean, label=f"mean of {len(present)}", colour=BLACK, style=style))
    return series


def _curve(records: list[dict[str, Any]], name: str) -> Curve:
    """Steps and values of the records that hold a number under ``name``."""
    present = [record for record in records if "steps" in record and isinstance(record.get(name), int | float)]
    return np.array([r["steps"] for r in present], float), np.array([r[name] for r in present], float)
