"""The report: one HTML file that shows what a run, or several of one environment, did.

A report is a list of sections. Those from the logs are about all runs, those that are measured with the trained models
about the first. Whatever is missing in a run folder is said in its place.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from worldstream.errors import ConfigError
from worldstream.report import diagnosis, measured, sections
from worldstream.report.page import page
from worldstream.report.sections import RunLog
from worldstream.runs.files import replace_file


def write_report(
    runs: str | Path | Sequence[str | Path], *, output: str | Path | None = None, device: str = "auto"
) -> Path:
    """Write one HTML file with pictures about one or several runs.

    Args:
        runs: folders that `worldstream train` wrote.
        output: file to write. None: report.html in the first folder.
        device: where the agent of the first folder is measured.

    Returns:
        the file.

    Raises:
        RunFolderError: a path is not a run folder, or the file cannot be written.
        ConfigError: there is no run, or no such device.
    """
    paths = [runs] if isinstance(runs, str | Path) else runs
    if not paths:
        raise ConfigError("a report needs at least one run folder.")
    logs = [RunLog.read(Path(path)) for path in paths]
    suffix = f" ({logs[0].name})" if len(logs) > 1 else ""
    shown = [
        sections.protocol(logs),
        sections.learning(logs),
        sections.losses(logs),
        *diagnosis.sections(logs[0], suffix),
        *measured.sections(logs[0], device, suffix),
    ]
    environments = dict.fromkeys(run.environment for run in logs)
    many = f"{len(logs)} runs: " if len(logs) > 1 else "run "
    text = page(f"worldstream on {', '.join(environments)}", many + ", ".join(run.name for run in logs), shown)
    target = logs[0].folder.report if output is None else Path(output)
    replace_file(target, lambda file: file.write(text.encode()))
    return target
