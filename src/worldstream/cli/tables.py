"""What commands print in columns."""

from __future__ import annotations

import textwrap
from typing import Any

from rich.table import Table

from worldstream.evaluation.diagnosis import Diagnosis
from worldstream.evaluation.verdicts import findings, remedies
from worldstream.runs.estimate import Estimate
from worldstream.runs.progress import console
from worldstream.training.survey import Survey

WIDTH = 80
"""Columns of a table that must fit a terminal."""


def print_mapping(title: str, values: dict[str, Any]) -> None:
    """A table of two columns."""
    table = Table(title=title, show_header=False)
    for name, value in values.items():
        table.add_row(name, f"{value:.4g}" if isinstance(value, float) else str(value))
    console(quiet=False).print(table)


def print_findings(diagnosis: Diagnosis) -> None:
    """Table of ``worldstream diagnose``, and what each of its lines that is not good means, 80 columns wide."""
    out, lines, players = console(quiet=False), findings(diagnosis), list(diagnosis.plays)
    table = Table(title=f"world model on {diagnosis.environment}, held-out play", width=WIDTH, padding=(0, 0))
    for column in ("", *players, "verdict"):
        table.add_column(column, overflow="fold")
    for line in lines:
        table.add_row(line.name, *(line.values.get(player, "") for player in players), line.verdict)
    out.print(table)
    for meaning, names in remedies(lines).items():
        out.print("", *textwrap.wrap(f"{'; '.join(names)}:", WIDTH), sep="\n")
        out.print(*textwrap.wrap(meaning, WIDTH, initial_indent="  ", subsequent_indent="  "), sep="\n")


def print_survey(result: Survey) -> None:
    """What ``worldstream tokens`` found: a table for each key."""
    out = console(quiet=False)
    for key in dict.fromkeys(growth.key for growth in result.growths):
        table = Table(title=f"exact tokens of {result.label}, key {key}, after {result.steps} random steps")
        for column in ("tokenizer", "patch", "tokens", "codes after each quarter", "inexact", "suits"):
            table.add_column(column)
        for growth in (growth for growth in result.growths if growth.key == key):
            patch, codes = (" x ".join(map(str, growth.options.patch_size)), " ".join(map(str, growth.codes)))
            suits = "yes" if growth.closes else "no"
            table.add_row(growth.name, patch, str(growth.num_tokens), codes, f"{growth.inexact:.2%}", suits)
        out.print(table)
    for line in result.advice:
        out.print(line, soft_wrap=True)


def print_estimate(result: Estimate, preset: str) -> None:
    """Tables of ``worldstream info``."""
    out, experiment = console(quiet=False), result.experiment
    table = Table(title=f"observation of {experiment.environment.label}")
    for column in ("key", "modality", "shape", "tokens/step", "vocabulary", "bytes/step in replay"):
        table.add_column(column)
    for name, key in result.observation.items():
        sizes = key.tokens.vocabulary
        shown = ",".join(map(str, sizes[:6])) + (f",... ({len(sizes)} channels)" if sizes[6:] else "")
        stored = f"{key.stored_bytes} + {key.cached_bytes} cached"
        table.add_row(name, key.modality, str(key.shape), str(key.tokens.num_tokens), shown, stored)
    out.print(table)
    table = Table(title="action")
    for column in ("component", "kind", "tokens", "values of each"):
        table.add_column(column)
    for component in result.action.components:
        sizes = component.sizes
        table.add_row(component.path, component.kind, str(len(sizes)), ",".join(map(str, sizes[:8])))
    out.print(table)
    megabyte, replay = 1e6, result.replay
    print_mapping(
        f"cost with preset {preset}, {experiment.steps} steps on {experiment.device}",
        {
            **{f"parameters, {part}": count for part, count in result.parameters.items()},
            "weights and optimisers": f"{result.model_bytes / megabyte:.1f} MB",
            "replay, when full": f"{replay.num_bytes / megabyte:.1f} MB ({replay.bytes_per_row} bytes/step)",
            "peak memory of an update, with the libraries": f"{result.peak_bytes / megabyte:.0f} MB",
            **{f"{part}, per 1000 steps": f"{seconds:.2f} s" for part, seconds in result.seconds.items()},
            "all, per 1000 steps": f"{sum(result.seconds.values()):.1f} s",
            f"all of training, {experiment.steps} steps, without evaluations": f"{result.total_seconds / 60:.0f} min",
        },
    )
    if result.missing:
        out.print(f"note: training would not begin: {result.missing}")
    if result.extrapolated:
        out.print("Long updates were measured on smaller batches; the peak memory is that of these.")
