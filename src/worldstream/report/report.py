"""The report: one HTML file that shows what a run, or several of one environment, did.

What the logs tell (protocol, returns, losses) is here, for every run; what must be measured with the trained models is
in ``report_models``, for the first run. Whatever is missing in a run folder is said in its place.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from worldstream.report import page
from worldstream.report.figures import BLACK, COLOURS, Panel, Series, draw
from worldstream.report.sections import IMPORTED, model_sections
from worldstream.runs.description import is_imported
from worldstream.runs.files import replace_file
from worldstream.runs.folder import RunFolder
from worldstream.runs.log import read_lines

STEPS = "environment steps"
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
        return RunLog(folder, description, read_lines(folder.metrics), read_lines(folder.evaluations))

    @property
    def imported(self) -> bool:
        """Whether the agent was trained elsewhere."""
        return is_imported(self.folder, self.description)

    @property
    def name(self) -> str:
        """Name of the folder, without where it is."""
        return self.folder.path.resolve().name

    def curve(self, metric: str) -> tuple[np.ndarray, np.ndarray]:
        """(steps, values) of a metric, where it was logged."""
        return _curve(self.metrics, metric)

    def evaluation_curve(self, metric: str) -> tuple[np.ndarray, np.ndarray]:
        """(steps, values) of a quantity of the evaluations."""
        return _curve(self.evaluations, metric)


def write_report(paths: Sequence[Path], output: Path | None = None, *, device: str = "auto") -> Path:
    """Write the report of one or more runs.

    Args:
        paths: run folders, at least one. Models are only looked at in the first.
        output: file to write. None: report.html in the first run folder.
        device: where the models are run.

    Returns:
        the file.

    Raises RunFolderError: a path is not a run folder, or the file cannot be written.
    """
    runs = [RunLog.read(Path(path)) for path in paths]
    first = runs[0]
    environments = list(dict.fromkeys(str(run.description.get("environment") or "unnamed") for run in runs))
    sections = [
        protocol_section(runs),
        learning_section(runs),
        loss_section(runs),
        *model_sections(
            first.folder,
            first.curve,
            name=first.name if len(runs) > 1 else "",
            imported=first.imported,
            device=device,
        ),
    ]
    many = f"{len(runs)} runs: " if len(runs) > 1 else "run "
    text = page.page(f"worldstream on {', '.join(environments)}", many + ", ".join(run.name for run in runs), sections)
    target = first.folder.report if output is None else Path(output)
    replace_file(target, lambda file: file.write(text.encode()))
    return target


def protocol_section(runs: list[RunLog]) -> str:
    """How the runs were made, and what came out."""
    first, imported = runs[0].description, runs[0].imported
    config, preset = first.get("config", {}), str(first.get("preset") or _UNKNOWN)
    config = _of_agent(config) if imported else config
    versions = {"worldstream": first.get("worldstream"), **first.get("versions", {})}
    device = ", ".join(str(first[name]) for name in ("device", "machine") if first.get(name))
    rows = [
        ("environment", str(first.get("environment") or "unnamed")),
        ("weights", f"imported ({preset}); their training is not recorded here") if imported else ("preset", preset),
        *_config_highlights(config),
        *([] if imported else [("device", device or _UNKNOWN)]),
        ("versions", ", ".join(f"{name} {value}" for name, value in versions.items() if value) or _UNKNOWN),
    ]
    caption = "The configuration of the agent" if imported else "The whole configuration"
    caption += f" of {runs[0].name}" if len(runs) > 1 else ""
    shown = page.folded(caption, json.dumps(config, indent=1))
    return page.section("Protocol", page.table(rows), _results(runs), shown)


def _results(runs: list[RunLog]) -> str:
    """What came out; and how it was trained, where any of the runs was."""
    if all(run.imported for run in runs):
        return page.columns(("run", "return"), [(run.name, _result(run)) for run in runs])
    head = ("run", "seed", "steps", "wall time", "return at the end")
    rows = [
        (run.name, "", "imported", "", _result(run))
        if run.imported
        else (run.name, str(run.description.get("seed", "")), _steps(run), _wall(run), _result(run))
        for run in runs
    ]
    return page.columns(head, rows)


def learning_section(runs: list[RunLog]) -> str:
    """Returns of training and of evaluations over steps."""
    if all(run.imported for run in runs):
        return _evaluation_section(runs)
    parts, panels = [], []
    training = [run.curve("episode/return") for run in runs]
    if any(len(x) for x, _ in training):
        series = _curves(runs, training, "line")
        panels.append(Panel("Training episodes (with exploration)", STEPS, "return per episode", series))
    else:
        parts.append(page.missing("No episode ended during training, so there is no learning curve."))
    evaluated = [run.evaluation_curve("return_mean") for run in runs]
    if any(len(x) for x, _ in evaluated):
        series = _curves(runs, evaluated, "marked")
        if len(runs) == 1:
            low, high = (runs[0].evaluation_curve(f"return_quartile_{side}")[1] for side in ("low", "high"))
            shaded = len(low) == len(high) == len(evaluated[0][0]) > 1  # one evaluation alone has no area
            label, band = ("mean; shaded: middle half", (low, high)) if shaded else ("mean", None)
            series = [Series(*evaluated[0], label=label, style="marked", band=band)]
        panels.append(Panel("Evaluations (no exploration)", STEPS, "return per episode", series))
    else:
        parts.append(page.missing("No evaluation was recorded."))
    if panels:
        alt = "Return per episode over environment steps: " + " and ".join(panel.title for panel in panels)
        caption = (
            "Undiscounted returns. Training: mean of the episodes that ended between two lines of the log. "
            "Evaluations: whole episodes in environments of their own, with seeds of their own."
        )
        parts.append(page.picture(draw(panels), alt, caption))
    return page.section("Learning curve", *parts)


def _evaluation_section(runs: list[RunLog]) -> str:
    """Returns of agents that were trained elsewhere: there is nothing over steps."""
    parts = [page.missing(f"There is no learning curve: {IMPORTED}")]
    evaluations = [(run.name, record) for run in runs for record in run.evaluations]
    if evaluations:
        head = ("run", "episodes", "mean return", "deviation", "lower quartile", "median", "upper quartile")
        names = ("mean", "std", "quartile_low", "median", "quartile_high")
        rows = [
            (
                name,
                str(record.get("episodes", "?")),
                *(f"{record.get(f'return_{part}', float('nan')):.4g}" for part in names),
            )
            for name, record in evaluations
        ]
        parts.append(page.columns(head, rows))
    else:
        parts.append(page.missing("No evaluation was recorded yet: worldstream evaluate does."))
    return page.section("Evaluations", *parts)


def loss_section(runs: list[RunLog]) -> str:
    """Losses of the world model over steps."""
    names = {name for run in runs for record in run.metrics for name in record if name.startswith("world_model/")}
    panels = []
    for name in sorted(names - {"world_model/gradient_norm"}):
        series = _curves(runs, [run.curve(name) for run in runs], "line")
        panels.append(Panel(name.removeprefix("world_model/"), STEPS, "loss on replay", series))
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


def _curves(runs: list[RunLog], curves: list[tuple[np.ndarray, np.ndarray]], style: str) -> list[Series]:
    """One curve per run; several are thin, with their mean where all have values if the environment is the same."""
    if len(runs) == 1:
        return [Series(*curves[0], style=style)]
    present = [(run.name, x, y) for run, (x, y) in zip(runs, curves, strict=True) if len(x)]
    named = len(present) <= len(COLOURS)  # a legend of more would hide the curves
    series = [Series(x, y, name if named else "", i, "thin") for i, (name, x, y) in enumerate(present)]
    if len(present) < 2 or len({str(run.description.get("environment")) for run in runs}) > 1:
        return series
    begin, end = max(x[0] for _, x, _ in present), min(x[-1] for _, x, _ in present)
    steps = np.unique(np.concatenate([x for _, x, _ in present]))
    steps = steps[(steps >= begin) & (steps <= end)]
    if len(steps):
        mean = np.mean([np.interp(steps, x, y) for _, x, y in present], axis=0)
        series.append(Series(steps, mean, label=f"mean of {len(present)}", colour=BLACK, style=style))
    return series


def _curve(records: list[dict[str, Any]], name: str) -> tuple[np.ndarray, np.ndarray]:
    """(steps, values) of the records that hold a number under ``name``."""
    present = [record for record in records if "steps" in record and isinstance(record.get(name), int | float)]
    return np.array([r["steps"] for r in present], float), np.array([r[name] for r in present], float)


def _of_agent(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration without what only a training reads."""
    return {
        part: {name: value for name, value in config[part].items() if name not in left_out}
        for part, left_out in _OF_AGENT.items()
        if part in config
    }


def _config_highlights(config: dict[str, Any]) -> list[tuple[str, str]]:
    """The few numbers of a configuration that say most about a run."""
    paths = {
        "world-model updates per step": ("world_model_learner", "updates_per_step"),
        "actor-critic updates per step": ("actor_critic_learner", "updates_per_step"),
        "imagination horizon (steps)": ("imagination", "horizon"),
        "discount per step": ("losses", "discount"),
        "weights of rewards": ("losses", "reward_weights"),
        "frames per step": ("environment", "action_repeat"),
    }
    return [(label, str(config[part][name])) for label, (part, name) in paths.items() if name in config.get(part, {})]


def _steps(run: RunLog) -> str:
    done = max((record.get("steps", 0) for record in run.metrics), default=0)
    asked = run.description.get("steps")
    return f"{done}" if asked in (None, done) else f"{done} of {asked}"


def _wall(run: RunLog) -> str:
    seconds = next((r["wall_seconds"] for r in reversed(run.metrics) if "wall_seconds" in r), None)
    if seconds is None:
        return _UNKNOWN
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _result(run: RunLog) -> str:
    if not run.evaluations:
        return "not evaluated"
    last = run.evaluations[-1]
    mean, deviation = last.get("return_mean", float("nan")), last.get("return_std", float("nan"))
    return f"{mean:.4g} ± {deviation:.3g} over {last.get('episodes', '?')} episodes"
