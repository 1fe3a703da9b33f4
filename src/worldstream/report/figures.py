"""Figures as PNG bytes: line charts in panels, and film strips. Everything about Matplotlib is in this file."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
"""Okabe and Ito's colours, which people with colour-blind eyes can tell apart."""
BLACK = -1
"""Colour number of the one curve that sums up the others."""

STYLES: dict[str, dict[str, Any]] = {
    "line": {"linewidth": 1.8},
    "marked": {"linewidth": 1.8, "marker": "o", "markersize": 4},
    "thin": {"linewidth": 1.0, "alpha": 0.65},
    "dashed": {"linewidth": 1.6, "linestyle": (0, (4, 2))},
    "dots": {"linestyle": "", "marker": "o", "markersize": 3.5, "alpha": 0.55, "markeredgewidth": 0},
}
"""Names of styles of a series, as Matplotlib's arguments."""

_PANEL_INCHES = (4.4, 2.9)
_COLUMNS = 2
_FRAME_INCHES = 1.1
_DOTS_PER_INCH = 130
_GREY, _LIGHT = "#57606a", "#d8dee4"


@dataclass(frozen=True)
class Series:
    """One curve or cloud of points."""

    x: Sequence[float] | np.ndarray
    y: Sequence[float] | np.ndarray
    label: str = ""  # in the legend; empty: not there
    colour: int = 0  # index into COLOURS, counted round, or BLACK
    style: str = "line"  # name in STYLES
    band: tuple[np.ndarray, np.ndarray] | None = None  # lower and upper edge of what is shaded


@dataclass(frozen=True)
class Panel:
    """One chart."""

    title: str
    x_label: str
    y_label: str
    series: list[Series]
    from_zero: bool = False  # begin the vertical axis at 0, so that heights can be compared
    diagonal: bool = False  # draw y = x
    mark: tuple[float, str] | None = None  # a vertical line at x, and what it says


def draw(panels: list[Panel]) -> bytes:
    """Charts in two columns, row by row, as one PNG picture."""
    from matplotlib.figure import Figure

    columns = min(_COLUMNS, len(panels))
    rows = math.ceil(len(panels) / columns)
    width, height = _PANEL_INCHES
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained", dpi=_DOTS_PER_INCH)
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axis, panel in zip(axes[: len(panels)], panels, strict=True):
        _draw_panel(axis, panel)
    for axis in axes[len(panels) :]:
        axis.remove()
    return _png(figure)


def filmstrip(rows: dict[str, list[np.ndarray]], captions: list[str]) -> bytes:
    """Pictures (h, w, 3) uint8 in rows by name, one column per caption, as one PNG picture."""
    from matplotlib.figure import Figure

    height, width = next(iter(rows.values()))[0].shape[:2]
    aspect = min(max(height / width, 0.2), 2.0)
    inches = (_FRAME_INCHES * len(captions) + 0.4, (_FRAME_INCHES * aspect + 0.1) * len(rows) + 0.3)
    figure = Figure(figsize=inches, layout="constrained", dpi=_DOTS_PER_INCH)
    axes = figure.subplots(len(rows), len(captions), squeeze=False)
    for row, (name, pictures) in enumerate(rows.items()):
        for column, picture in enumerate(pictures):
            axis = axes[row, column]
            axis.imshow(picture, interpolation="nearest")
            axis.set_xticks([])
            axis.set_yticks([])
            axis.spines[:].set_color(_LIGHT)
            if not row:
                axis.set_title(_plain(captions[column]), fontsize=8, color=_GREY)
        axes[row, 0].set_ylabel(_plain(name), fontsize=9)
    return _png(figure)


def _draw_panel(axis: Axes, panel: Panel) -> None:
    for series in panel.series:
        colour = "#111111" if series.colour == BLACK else COLOURS[series.colour % len(COLOURS)]
        label = _plain(series.label) if series.label else None
        axis.plot(series.x, series.y, color=colour, label=label, **STYLES[series.style])
        if series.band is not None:
            axis.fill_between(series.x, *series.band, color=colour, alpha=0.18, linewidth=0)
    if panel.diagonal:
        axis.axline((0.0, 0.0), slope=1.0, color=_GREY, linewidth=1.0, linestyle=":", label="equal")
    if panel.mark is not None:
        axis.axvline(panel.mark[0], color=_GREY, linewidth=1.0, linestyle=":", label=_plain(panel.mark[1]))
    if panel.from_zero:
        axis.set_ylim(bottom=0.0)
    axis.set_title(_plain(panel.title), fontsize=10, fontweight="bold", loc="left")
    axis.set_xlabel(_plain(panel.x_label), fontsize=9, color=_GREY)
    axis.set_ylabel(_plain(panel.y_label), fontsize=9, color=_GREY)
    axis.tick_params(labelsize=8, color=_LIGHT, labelcolor=_GREY)
    axis.grid(color=_LIGHT, linewidth=0.6)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["left", "bottom"]].set_color(_LIGHT)
    if axis.get_legend_handles_labels()[1]:
        axis.legend(fontsize=8, framealpha=0.75, edgecolor="none")


def _plain(text: str) -> str:
    """Text that Matplotlib draws as it is: no formulas between dollar signs, not hidden by a leading underscore."""
    text = text.replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


def _png(figure: Figure) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a character that the font lacks is drawn as a box
        FigureCanvasAgg(figure).print_png(buffer)
    return buffer.getvalue()
