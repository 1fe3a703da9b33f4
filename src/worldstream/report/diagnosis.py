"""The section of the report that shows what ``worldstream diagnose`` found."""

from __future__ import annotations

from worldstream.errors import RunFolderError
from worldstream.evaluation.verdicts import remedies
from worldstream.report import page
from worldstream.report.sections import RunLog
from worldstream.runs.diagnosis import load_findings
from worldstream.runs.folder import RunFolder


def sections(log: RunLog, suffix: str) -> list[str]:
    """One section where the run was diagnosed; else none, for nothing is missing."""
    folder = RunFolder(log.folder.path.resolve())
    title = f"Diagnosis of the world model{suffix}"
    try:
        found = load_findings(folder)
    except RunFolderError as error:
        return [page.section(title, page.missing(str(error).replace(str(folder.path), log.name)))]  # no paths
    if not found:
        return []
    players = list(dict.fromkeys(player for finding in found for player in finding.values))
    rows = [
        (finding.name, *(finding.values.get(player, "") for player in players), finding.verdict) for finding in found
    ]
    note = "Measured on fresh episodes, by who played. The verdict is that of the first play that can tell."
    meanings = [page.paragraph(f"{'; '.join(names)}: {meaning}") for meaning, names in remedies(found).items()]
    table = page.columns(("", *players, "verdict"), rows)
    return [page.section(title, page.paragraph(note, "note"), table, *meanings)]
