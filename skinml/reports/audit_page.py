"""Writing an audit: one HTML page that stands alone, and the JSON under it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from skinml.durable import make_folder, write_whole
from skinml.privacy.audit.findings import NotAudited
from skinml.privacy.audit.record import TIERS, AuditRecord, Finding, flagged, tier_of
from skinml.reports import audit_tables, numbers
from skinml.reports.templating import filled_in
from skinml.reports.view import settings_table
from skinml.reports.wording import unit_noun, unit_words

FORMAT = "skinml-audit-1"


@dataclass(frozen=True)
class AuditFiles:
    """Where an audit was written.

    Attributes:
        html: The page.
        json: Every figure of the page, without pictures.
    """

    html: Path
    json: Path


def write_audit(record: AuditRecord, folder: Path) -> AuditFiles:
    """Write audit.html and audit.json.

    Args:
        record: What was found.
        folder: Where the files go; made where it is missing. Files of these names are replaced.

    Returns:
        The paths of both files.

    Raises:
        EnvironmentProblem: If the files cannot be written.

    Guarantees:
        Each file is complete or absent.
    """
    files = AuditFiles(html=folder / "audit.html", json=folder / "audit.json")
    document = json.dumps(audit_to_json(record), indent=1, ensure_ascii=False, allow_nan=False)
    page = audit_html(record)
    make_folder(folder, "folder of the audit")
    write_whole(files.json, f"{document}\n".encode(), "audit's figures")
    write_whole(files.html, page.encode(), "audit's page")
    return files


def audit_to_json(record: AuditRecord) -> dict[str, Any]:
    """Turn an audit into plain JSON values.

    Args:
        record: What was found.

    Returns:
        A mapping of plain values without pictures. An undefined or infinite number is None.
    """
    promise = ("private", "trust", "unit", "unit_stands_for", "epsilon", "delta")
    plain = {
        "format": FORMAT,
        "audit": record.audit,
        "experiment": record.experiment,
        "started": record.started,
        "wall_s": record.wall_s,
        "tiers": record.tiers,
        "flagged": record.flagged,
        "privacy": {name: getattr(record, name) for name in promise},
        "findings": {
            tier: [_finding(each) for each in record.of_tier(tier)] for tier in record.tiers
        },
        "not_audited": [asdict(each) for each in record.not_audited],
        "notes": record.notes,
        "pictures": len(record.pictures),
        "data": record.data,
        "config": record.config,
        "versions": record.versions,
    }
    return {name: _plain(value) for name, value in plain.items()}


def _finding(finding: Finding) -> dict[str, Any]:
    values = asdict(finding)
    if tier_of(finding) != "inversion":
        values["flagged"] = flagged(finding)
    return values


def _plain(value: object) -> Any:
    match value:
        case float():
            return value if isfinite(value) else None
        case Mapping():
            return {str(name): _plain(each) for name, each in value.items()}
        case list() | tuple():
            return [_plain(each) for each in value]
    return value


def audit_html(record: AuditRecord) -> str:
    """Make the page.

    Args:
        record: What was found.

    Returns:
        HTML that needs no network and no script.
    """
    return filled_in("audit.html.j2", _context(record))


def _context(record: AuditRecord) -> dict[str, Any]:
    return {
        "record": record,
        "people": unit_noun(record.unit_stands_for),
        "unit": unit_words(record.unit),
        "titles": audit_tables.TITLES,
        "summary": audit_tables.summary_table(record),
        "shown": [tier for tier in TIERS if record.of_tier(tier)],
        "direct": record.of_tier("T0") and record.of_tier("T1"),
        "tables": {tier: audit_tables.tier_tables(record, tier) for tier in TIERS},
        "roc": audit_tables.roc_plots(record),
        "rows": audit_tables.picture_rows(record),
        "missing": audit_tables.missing_table(_once(record.not_audited)),
        "config": settings_table("Settings of the audited experiment", record.config),
        "versions": settings_table("Versions", record.versions),
        "fmt": numbers,
    }


def _once(missing: tuple[NotAudited, ...]) -> tuple[NotAudited, ...]:
    return tuple(dict.fromkeys(missing))
