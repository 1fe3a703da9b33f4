"""Sections of the report that are measured with the trained models and recorded episodes of a run."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from worldstream.errors import RunFolderError, WorldstreamError
from worldstream.evaluation.episodes import RecordedEpisode
from worldstream.evaluation.openloop import dream, open_loop_error
from worldstream.evaluation.returns import ReturnComparison, compare_returns
from worldstream.report import page
from worldstream.report.figures import Panel, Series, draw, filmstrip
from worldstream.report.sections import IMPORTED, STEPS, RunLog
from worldstream.runs.episodes import load_episodes
from worldstream.runs.folder import RunFolder
from worldstream.runs.weights import LoadedRun, load_run
from worldstream.specs import KeySpec

SAMPLES = 256
"""Most starting points of each measurement."""
HORIZONS = 2
"""Open-loop horizon, as a multiple of the horizon that the agent learns in."""
FRAMES = 8
"""Pictures in a film strip."""
MAX_FEATURES = 6
"""Most entries of a key that are drawn as curves."""

_TOO_SHORT = "Every recorded episode ends within the steps that the world model reads first."


@dataclass(frozen=True)
class Subject:
    """What is measured: the models and recorded episodes of a run."""

    run: LoadedRun
    episodes: list[RecordedEpisode]

    @staticmethod
    def read(folder: RunFolder, device: str) -> Subject:
        """Raises WorldstreamError when there are no models or episodes, or they do not fit each other."""
        run, episodes = load_run(folder.path, device), load_episodes(folder)
        shapes = {key: spec.shape for key, spec in run.models.key_specs.items()}
        if any({key: x.shape[1:] for key, x in episode.observations.items()} != shapes for episode in episodes):
            raise RunFolderError(f"{folder.episodes} holds other observations than the models of this run read.")
        if not episodes:
            raise RunFolderError(f"{folder.episodes} holds no episode.")
        return Subject(run, episodes)

    @property
    def context(self) -> int:
        """Real blocks before a starting point: as in training, but at least one."""
        return max(self.run.config.imagination.context_length, 1)

    @property
    def horizon(self) -> int:
        """Steps that the world model is followed for: at most those of the longest episode, and what it remembers."""
        longest = max(episode.length for episode in self.episodes)
        longest = min(longest, self.run.models.world_model.sequence.max_blocks or longest)
        return min(HORIZONS * self.run.config.imagination.horizon, longest - self.context)

    def generator(self) -> torch.Generator:
        """Fresh for each section, so that sections do not change each other."""
        return torch.Generator(self.run.models.device).manual_seed(0)


def sections(log: RunLog, device: str, suffix: str) -> list[str]:
    """Imagined against real returns, errors of the world model, and a real episode beside the same one dreamed."""
    comparison, folder = None, RunFolder(log.folder.path.resolve())
    try:
        subject = Subject.read(folder, device)
    except WorldstreamError as error:
        reason = str(error).replace(str(folder.path), log.name)  # a report travels: no paths
        errors = dreams = [page.missing(reason)]
    else:
        reason = "No recorded episode was followed far enough to know its discounted returns."
        comparison = compare_returns(
            subject.run.models, subject.episodes, subject.run.config, samples=SAMPLES, generator=subject.generator()
        )
        errors, dreams = _errors(subject), _dream(subject)
    return [
        page.section(f"Imagined against real return{suffix}", *_returns(log, comparison, reason)),
        page.section(f"Open-loop error of the world model{suffix}", *errors),
        page.section(f"A real episode beside the same episode dreamed{suffix}", *dreams),
    ]


def _returns(log: RunLog, comparison: ReturnComparison | None, reason: str) -> list[str]:
    """Charts of the returns; ``reason`` says why there is no comparison, if so."""
    parts, panels = [], []
    names = {"imagined return": "actor_critic/imagined_return", "critic's value": "actor_critic/value"}
    learnt = {label: log.curve(name) for label, name in names.items()}
    if any(len(steps) for steps, _ in learnt.values()):
        series = [Series(*points, label=label, colour=i) for i, (label, points) in enumerate(learnt.items())]
        panels.append(Panel("During training", STEPS, "discounted return", series))
    else:
        ended = IMPORTED if log.imported else "the run ended before the agent learnt."
        parts.append(page.missing(f"No return was imagined during training: {ended}"))
    if comparison is not None:
        clouds = [
            Series(comparison.real, comparison.imagined, label="imagined", style="dots"),
            Series(comparison.real, comparison.value, label="critic's value", colour=1, style="dots"),
        ]
        title, x_label, y_label = "Recorded episodes", "real discounted return", "estimated discounted return"
        panels.append(Panel(title, x_label, y_label, clouds, diagonal=True))
        parts.append(page.paragraph(_in_words(comparison)))
    else:
        parts.append(page.missing(reason))
    if panels:
        alt = "Imagined returns and the critic's values: " + " and ".join(panel.title.lower() for panel in panels)
        caption = (
            "During training: what the agent learns from, in imagination. Recorded episodes: each point is a moment of "
            "one; on the dotted line the estimate equals what really followed. Estimates are those of the learning "
            "agent: they hold the intrinsic reward where there is one and follow the policy at temperature 1, while "
            "episodes are recorded at the temperature of evaluations, and without intrinsic reward."
        )
        parts.append(page.picture(draw(panels), alt, caption))
    return parts


def _in_words(comparison: ReturnComparison) -> str:
    correlation = f"have correlation {comparison.correlation:.2f}"
    if math.isnan(comparison.correlation):
        correlation = "cannot be correlated, as one of them is constant"
    return (
        f"From {len(comparison.real)} moments of recorded episodes: imagined and real discounted returns "
        f"{correlation}. On average {comparison.imagined.mean():.3g} is imagined and {comparison.real.mean():.3g} real."
    )


def _errors(subject: Subject) -> list[str]:
    """Errors by horizon, a chart for each key and one for the reward."""
    if subject.horizon < 1:
        return [page.missing(_TOO_SHORT)]
    error = open_loop_error(
        subject.run.models,
        subject.episodes,
        context=subject.context,
        horizon=subject.horizon,
        samples=SAMPLES,
        generator=subject.generator(),
    )
    assert error is not None, "a positive horizon means that there are starting points"
    horizon = np.arange(1, len(error.counts) + 1)
    trained = subject.run.config.imagination.horizon
    mark = (trained, "the agent's horizon") if trained <= subject.horizon else None
    panels = []
    for title, curve in [*error.keys.items(), ("reward", error.reward)]:
        model = Series(horizon, curve.model, label="world model")
        copy = Series(horizon, curve.copy, label="nothing changes", colour=1, style="dashed")
        x_label = "horizon (environment steps)"
        panels.append(Panel(title, x_label, curve.unit, [model, copy], from_zero=True, mark=mark))
    alt = f"Error by horizon of the world model and of a copy forecast, for {', '.join(p.title for p in panels)}"
    caption = (
        f"The world model reads {subject.context} real steps, is then told the real actions, and samples its own "
        f"observations. Means over {error.counts[0]} starting points at the first horizon and {error.counts[-1]} at "
        "the last (an episode counts as long as it lasts). Dashed: the last real observation and reward, repeated. "
        "Features are what the agent reads; a fitted tokenizer standardises them by the replayed data. Sampling is "
        "part of the error, quantisation is not."
    )
    return [page.picture(draw(panels), alt, caption)]


def _dream(subject: Subject) -> list[str]:
    """The longest episode and its dream: curves of keys that are lists of values, pictures of the others."""
    if subject.horizon < 1:
        return [page.missing(_TOO_SHORT)]
    models, start, horizon = subject.run.models, subject.context, subject.horizon
    episode = max(subject.episodes, key=lambda episode: episode.length)
    dreamed = dream(models, episode, start=start, context=start, horizon=horizon, generator=subject.generator())
    note = (
        f"After {start} real steps the world model is told only the actions of the next {horizon}. "
        "Once it has strayed, what it sees is its own; the question is whether it stays plausible."
    )
    parts = [page.paragraph(note, "note")]
    for key, spec in models.key_specs.items():
        # The dream begins at the last real observation, so that its curve leaves the real one.
        real = episode.observations[key][: start + horizon + 1]
        dreamt = np.concatenate((real[start : start + 1], dreamed[key]))
        if spec.grid is None and len(spec.shape) == 1:
            panels = _curves(spec, real, dreamt)
            png, caption = draw(panels), f"Values of '{key}', real and dreamed, over steps of the episode"
            if len(panels) < spec.shape[0]:
                caption += f"; {spec.shape[0] - len(panels)} entries that vary less are left out"
        else:
            png = _strip(models.tokenizers.modalities[key].render, real, dreamt)
            caption = f"'{key}': real pictures above, dreamed ones below"
        parts.append(page.picture(png, caption, caption + "."))
    return parts


def _curves(spec: KeySpec, real: np.ndarray, dreamed: np.ndarray) -> list[Panel]:
    """A chart for each of the entries (T, F) that vary most."""
    offset = np.asarray(spec.offset or 0, float)
    real, dreamed, steps = real.astype(float) + offset, dreamed.astype(float) + offset, np.arange(len(real))
    varying = np.argsort(-real.var(0), kind="stable")[:MAX_FEATURES]
    panels = []
    for entry in sorted(varying.tolist()):
        title = spec.key if spec.shape == (1,) else f"{spec.key}[{entry}]"
        curve = Series(steps, real[:, entry], "real")
        followed = Series(steps[-len(dreamed) :], dreamed[:, entry], "dreamed", 1, "dashed")
        panels.append(Panel(title, "step of the episode", "value", [curve, followed]))
    return panels


def _strip(render: Callable[[np.ndarray], np.ndarray], real: np.ndarray, dreamed: np.ndarray) -> bytes:
    """Pictures at evenly spaced steps: real above, dreamed below."""
    start = len(real) - len(dreamed)
    ahead = np.unique(np.linspace(0, len(dreamed) - 1, FRAMES).round().astype(int)).tolist()
    rows = {"real": [render(real[start + h]) for h in ahead], "dreamed": [render(dreamed[h]) for h in ahead]}
    return filmstrip(rows, [f"step {start + h}" for h in ahead])
