"""The report: one HTML file that shows what a run, or several of one environment, did.

A report is a list of sections. Those from the logs are about all runs, those that are measured with the trained models
about the first. Whatever is missing in a run folder is said in its place.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from worldstream.report import measured, sections
from worldstream.report.page import page
from worldstream.report.sections import RunLog
from worldstream.runs.files import replace_file


def write_report(paths: Sequence[Path], output: Path | None = None, *, device: str = "auto") -> Path:
    """Write the report of one or more run folders to a file, None: report.html in the first; returns it.

    Raises RunFolderError when a path is not a run folder, or the file cannot be written.
    """
    runs = [RunLog.read(Path(path)) for path in paths]
    shown = [
        sections.protocol(runs),
        sections.learning(runs),
        sections.losses(runs),
        *measured.sections(runs[0], device, f" ({runs[0].name})" if len(runs) > 1 else ""),
    ]
    environments = dict.fromkeys(run.environment for run in runs)
    many = f"{len(runs)} runs: " if len(runs) > 1 else "run "
    text = page(f"worldstream on {', '.join(environments)}", many + ", ".join(run.name for run in runs), shown)
    target = runs[0].folder.report if output is None else Path(output)
    replace_file(target, lambda file: file.write(text.encode()))
    return target
