"""The sections of the report that need the trained models and recorded episodes of a run."""

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
from worldstream.models import Models
from worldstream.report import page
from worldstream.report.figures import Panel, Series, draw, filmstrip
from worldstream.runs.episodes import load_episodes
from worldstream.runs.folder import RunFolder
from worldstream.runs.weights import LoadedRun, load_run
from worldstream.specs import KeySpec
from worldstream.types import Observations

SAMPLES = 256
"""Most starting points of each measurement."""
HORIZONS = 2
"""Open-loop horizon, as a multiple of the horizon that the agent learns in."""
FRAMES = 8
"""Pictures in a film strip."""
MAX_FEATURES = 6
"""Most entries of a key that are drawn as curves."""

IMPORTED = "the run was imported, and its training is not recorded here."
"""Ends the sentence that says what is missing from the report of an imported run."""
_TOO_SHORT = "Every recorded episode ends within the steps that the world model reads first."

Curve = Callable[[str], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Subject:
    """What is measured."""

    run: LoadedRun
    episodes: list[RecordedEpisode]

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


def model_sections(
    folder: RunFolder, curve: Curve, *, name: str = "", imported: bool = False, device: str = "auto"
) -> list[str]:
    """Imagined against real returns, errors of the world model, and a real episode beside the same one dreamed.

    Args:
        folder: of the run.
        curve: metric name -> (steps, values) of the run's log.
        name: added to the titles, when the report is about several runs.
        imported: whether the run was trained elsewhere.
        device: where the models are run.
    """
    folder = RunFolder(folder.path.resolve())
    comparison: ReturnComparison | None = None
    try:
        subject = read_subject(folder, device)
    except WorldstreamError as error:
        reason = str(error).replace(str(folder.path), folder.path.name)  # a report travels: no paths
        errors, dreams = [page.missing(reason)], [page.missing(reason)]
    else:
        reason = "No recorded episode was followed far enough to know its discounted returns."
        comparison = compare_returns(
            subject.run.models, subject.episodes, subject.run.config, samples=SAMPLES, generator=subject.generator()
        )
        errors, dreams = _error_parts(subject), _dream_parts(subject)
    suffix = f" ({name})" if name else ""
    return [
        page.section(f"Imagined against real return{suffix}", *_return_parts(curve, comparison, reason, imported)),
        page.section(f"Open-loop error of the world model{suffix}", *errors),
        page.section(f"A real episode beside the same episode dreamed{suffix}", *dreams),
    ]


def read_subject(folder: RunFolder, device: str) -> Subject:
    """The models and episodes of a run. Raises WorldstreamError when there are none, or they do not fit."""
    run, episodes = load_run(folder.path, device), load_episodes(folder)
    shapes = {key: spec.shape for key, spec in run.models.key_specs.items()}
    if any({key: x.shape[1:] for key, x in episode.observations.items()} != shapes for episode in episodes):
        raise RunFolderError(f"{folder.episodes} holds other observations than the models of this run read.")
    if not episodes:
        raise RunFolderError(f"{folder.episodes} holds no episode.")
    return Subject(run, episodes)


def _return_parts(
    curve: Curve, comparison: ReturnComparison | None, reason: str, imported: bool
) -> list[str]:
    """Charts of the returns; ``reason`` says why there is no comparison, if so."""
    parts, panels = [], []
    learnt = {"imagined return": curve("actor_critic/imagined_return"), "critic's value": curve("actor_critic/value")}
    if any(len(steps) for steps, _ in learnt.values()):
        series = [Series(*points, label=label, colour=i) for i, (label, points) in enumerate(learnt.items())]
        panels.append(Panel("During training", "environment steps", "discounted return", series))
    else:
        ended = IMPORTED if imported else "the run ended before the agent learnt."
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
        parts.append(page.picture(draw(panels), alt, _RETURN_CAPTION))
    return parts


_RETURN_CAPTION = (
    "During training: what the agent learns from, in imagination. Recorded episodes: each point is a moment of one; on "
    "the dotted line the estimate equals what really followed. Estimates are those of the learning agent: they hold "
    "the intrinsic reward where there is one and follow the policy at temperature 1, while episodes are recorded at "
    "the temperature of evaluations, and without intrinsic reward."
)


def _in_words(comparison: ReturnComparison) -> str:
    correlation = f"have correlation {comparison.correlation:.2f}"
    if math.isnan(comparison.correlation):
        correlation = "cannot be correlated, as one of them is constant"
    return (
        f"From {len(comparison.real)} moments of recorded episodes: imagined and real discounted returns "
        f"{correlation}. On average {comparison.imagined.mean():.3g} is imagined and {comparison.real.mean():.3g} real."
    )


def _error_parts(subject: Subject) -> list[str]:
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
    panels = [
        Panel(
            title,
            "horizon (environment steps)",
            curve.unit,
            [
                Series(horizon, curve.model, label="world model"),
                Series(horizon, curve.copy, label="nothing changes", colour=1, style="dashed"),
            ],
            from_zero=True,
            mark=mark,
        )
        for title, curve in [*error.keys.items(), ("reward", error.reward)]
    ]
    alt = f"Error by horizon of the world model and of a copy forecast, for {', '.join(p.title for p in panels)}"
    caption = (
        f"The world model reads {subject.context} real steps, is then told the real actions, and samples its own "
        f"observations. Means over {error.counts[0]} starting points at the first horizon and {error.counts[-1]} at "
        "the last (an episode counts as long as it lasts). Dashed: the last real observation and reward, repeated. "
        "Features are what the agent reads; a fitted tokenizer standardises them by the replayed data. Sampling is "
        "part of the error, quantisation is not."
    )
    return [page.picture(draw(panels), alt, caption)]


def _dream_parts(subject: Subject) -> list[str]:
    """The longest episode and its dream: curves of keys that are lists of values, pictures of the others."""
    if subject.horizon < 1:
        return [page.missing(_TOO_SHORT)]
    models: Models = subject.run.models
    episode = max(subject.episodes, key=lambda episode: episode.length)
    start, horizon = subject.context, subject.horizon
    dreamed = dream(
        models, episode, start=start, context=subject.context, horizon=horizon, generator=subject.generator()
    )
    parts = [
        page.note(
            f"After {start} real steps the world model is told only the actions of the next {horizon}. "
            "Once it has strayed, what it sees is its own; the question is whether it stays plausible."
        )
    ]
    for key, spec in models.key_specs.items():
        if spec.grid is None and len(spec.shape) == 1:
            panels, left_out = _curves(spec, episode.observations, dreamed, start)
            png, kind = draw(panels), f"Values of '{key}', real and dreamed, over steps of the episode"
            kind += f"; {left_out} entries that vary less are left out" if left_out else ""
        else:
            png = _strip(models, key, episode.observations, dreamed, start)
            kind = f"'{key}': real pictures above, dreamed ones below"
        parts.append(page.picture(png, kind, kind + "."))
    return parts


def _curves(spec: KeySpec, real: Observations, dreamed: Observations, start: int) -> tuple[list[Panel], int]:
    """A chart for each of the entries that vary most, and the number of entries without one."""
    offset = np.asarray(spec.offset or 0, float)
    horizon = len(dreamed[spec.key])
    truth = real[spec.key][: start + horizon + 1].astype(float) + offset
    # The dream begins at the last real observation, so that its curve leaves the real one.
    dream_values = np.concatenate((truth[start : start + 1], dreamed[spec.key].astype(float) + offset))
    order = np.argsort(-truth.var(0), kind="stable")[:MAX_FEATURES]
    panels = [
        Panel(
            spec.key if spec.shape == (1,) else f"{spec.key}[{entry}]",
            "step of the episode",
            "value",
            [
                Series(np.arange(len(truth)), truth[:, entry], label="real"),
                Series(np.arange(start, start + horizon + 1), dream_values[:, entry], "dreamed", 1, "dashed"),
            ],
        )
        for entry in sorted(order.tolist())
    ]
    return panels, truth.shape[1] - len(order)


def _strip(models: Models, key: str, real: Observations, dreamed: Observations, start: int) -> bytes:
    """Pictures at evenly spaced steps: real above, dreamed below; the first is real in both."""
    modality = models.tokenizers.modalities[key]
    ahead = np.unique(np.linspace(0, len(dreamed[key]), FRAMES).round().astype(int)).tolist()
    above = [modality.render(real[key][start + h]) for h in ahead]
    below = [modality.render(dreamed[key][h - 1] if h else real[key][start]) for h in ahead]
    return filmstrip({"real": above, "dreamed": below}, [f"step {start + h}" for h in ahead])
