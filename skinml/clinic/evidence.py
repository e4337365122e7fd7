"""Evidence for a data-protection officer, a patient and the worst day, from the clinic's own files.

Drafts, each as text to edit and as a page to print: an impact assessment, a record of processing, a
map of laws' articles, a notice for patients and a runbook for a breach. They say what this clinic's
policy, register, ledger and log hold today; what only people can know is left open and marked.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from math import isfinite
from pathlib import Path
from typing import Any

from skinml import __version__
from skinml.clinic.articles import Line, article_lines
from skinml.clinic.evidence_words import OPEN, values_of
from skinml.clinic.facts import Facts, facts_of
from skinml.clinic.folder import ClinicFolder
from skinml.clinic.gate import require_role
from skinml.clinic.pages import page_of, text_of
from skinml.durable import make_folder, write_whole
from skinml.errors import ConfigError

DOCUMENTS: Mapping[str, str] = {
    "notice": "Notice for patients",
    "impact": "Data protection impact assessment (draft)",
    "processing": "Record of processing activities (draft)",
    "articles": "Who does what for which article",
    "breach": "Runbook for a breach",
}
_WHAT = "evidence"


@dataclass(frozen=True)
class Evidence:
    """What was written.

    Attributes:
        folder: Where.
        documents: Names of the documents; each is there as NAME.md and NAME.html.
        lines: Lines of the map of articles by status.
        to_fill: Places that people still have to fill in, over all documents.
    """

    folder: Path
    documents: tuple[str, ...]
    lines: Mapping[str, int]
    to_fill: int


def write_evidence(
    folder: ClinicFolder, into: Path, *, now: datetime, contact: str = ""
) -> Evidence:
    """Write all documents and `evidence.json` into a new folder.

    Args:
        folder: The clinic's folder.
        into: A folder that does not exist yet, or is empty.
        now: The time, with its zone.
        contact: How patients reach the clinic, as it shall stand in the notice; "" leaves it open.

    Returns:
        What was written.

    Raises:
        ConfigError: If the folder is not empty, or the contact is longer than 200 characters or
            more than a line.
        EnvironmentProblem: If something cannot be written.
        IntegrityError: If something in the clinic's folder was changed.
        PolicyError: If the user may not read the log.

    Guarantees:
        No document names a patient, a pseudonym or a count of patients. The audit log says that
        evidence was taken out before the first file is there.
    """
    actor = require_role(folder, "log.export")
    if len(contact) > 200 or not (contact.isprintable() or not contact):
        raise ConfigError(
            rule="a contact of one line and at most 200 characters",
            got=f"{len(contact)} characters",
            do="Give a telephone number or an address, or leave --contact out.",
        )
    if into.exists() and (not into.is_dir() or any(into.iterdir())):
        raise ConfigError(
            rule="a folder for the evidence that is not there yet, or is empty",
            got=f"folder={into}",
            do="Choose another one: what somebody has filled in is not written over.",
        )
    facts = facts_of(folder, now)
    lines = article_lines(facts)
    values = _values(facts, lines, contact)
    folder.audit.write("export", actor, now=now, kind="evidence", count=len(DOCUMENTS))
    make_folder(into, _WHAT)
    to_fill = 0
    for name, title in DOCUMENTS.items():
        text = text_of(name, values)
        to_fill += text.count(OPEN)
        page = page_of(text, title=f"{title}: {facts.clinic}", footer=values["made_by"])
        write_whole(into / f"{name}.md", text.encode(), _WHAT)
        write_whole(into / f"{name}.html", page.encode(), _WHAT)
    document = {"facts": _plain(asdict(facts)), "articles": [asdict(line) for line in lines]}
    write_whole(into / "evidence.json", json.dumps(document, indent=1).encode(), _WHAT)
    return Evidence(into, tuple(DOCUMENTS), Counter(line.status for line in lines), to_fill)


def _values(facts: Facts, lines: tuple[Line, ...], contact: str) -> dict[str, Any]:
    return values_of(facts) | {
        "lines": lines,
        "contact": contact,
        "made_by": f"Written by skinml {__version__} on {facts.day} from this clinic's own files. "
        "A draft to be read, corrected and signed by people; not legal advice.",
    }


def _plain(value: Any) -> Any:
    """Make JSON values: JSON has no infinity."""
    if isinstance(value, dict):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if hasattr(value, "model_dump"):
        return _plain(value.model_dump(mode="json"))
    if isinstance(value, float) and not isfinite(value):
        return "unbounded"
    return value
