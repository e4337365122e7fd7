"""Ask whether a release in constraints.txt has a known vulnerability; red if one has.

    python scripts/audit_dependencies.py

pip-audit calls a package that its service does not know "skipped" and ends well, so a mirror
without the service would pass everything. A release that is known to be vulnerable is asked about
first: where nothing is known against it, the service is not there, and a line says that nothing
was audited. What is accepted all the same stands in accepted_vulnerabilities.txt, with the reason.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
ACCEPTED = ROOT / "scripts/accepted_vulnerabilities.txt"
SERVICES = ("pypi", "osv")
KNOWN = "jinja2==3.1.2\n"  # CVE-2024-22195 and others
_PATIENCE_S = 240.0


def main() -> int:
    """Audit, and say what came of it.

    Returns:
        0 if nothing is known, or nobody could be asked; 1 if something is.
    """
    with tempfile.TemporaryDirectory() as place:
        control = Path(place) / "known.txt"
        control.write_text(KNOWN)
        service = next((each for each in SERVICES if vulnerable(ask(control, each))), None)
    report = None if service is None else ask(ROOT / "constraints.txt", service)
    if report is None:
        print(f"pip-audit: left out, for no service that it asks ({', '.join(SERVICES)}) answers.")
        return 0
    found, unknown, stale = judge(report, accepted(ACCEPTED.read_text()))
    for line in (*found, *stale):
        print(f"pip-audit: {line}")
    if unknown:
        print(f"pip-audit: {service} does not know {', '.join(unknown)}: not audited.")
    if not found and not stale:
        asked = len(report["dependencies"]) - len(unknown)
        print(f"pip-audit: nothing is known against {asked} locked dependencies.")
    return 1 if found or stale else 0


def ask(requirements: Path, service: str) -> dict[str, Any] | None:
    """Have pip-audit ask a service.

    Args:
        requirements: Pinned releases.
        service: One of pip-audit's.

    Returns:
        Its report; None where the service did not answer.
    """
    command = [sys.executable, "-m", "pip_audit", "--requirement", str(requirements)]
    command += ["--no-deps", "--disable-pip", "--format", "json", "--desc", "off"]
    command += ["--progress-spinner", "off", "--timeout", "10", "--vulnerability-service", service]
    try:
        done = subprocess.run(  # noqa: S603 no word of it comes from outside
            command, capture_output=True, text=True, timeout=_PATIENCE_S, check=False
        )
        report = json.loads(done.stdout)
    except (subprocess.TimeoutExpired, ValueError):
        return None
    return report if isinstance(report, dict) else None


def vulnerable(report: Mapping[str, Any] | None) -> bool:
    """Tell whether a report knows of anything."""
    return report is not None and any(each.get("vulns") for each in report["dependencies"])


def accepted(text: str) -> dict[str, str]:
    r"""Read the vulnerabilities that are accepted, each with its reason.

    >>> accepted("# why a line is here\nPYSEC-1  only reached by way of X, which we never call\n")
    {'PYSEC-1': 'only reached by way of X, which we never call'}
    """
    lines = [line.split(maxsplit=1) for line in text.splitlines() if line[:1] not in ("", "#")]
    bare = [line[0] for line in lines if len(line) < 2]
    if bare:
        raise SystemExit(f"error: expected a reason behind each ID; got {', '.join(bare)} bare.")
    return {line[0]: line[1] for line in lines}


def judge(
    report: Mapping[str, Any], allowed: Mapping[str, str]
) -> tuple[list[str], list[str], list[str]]:
    """Sort what a report says.

    Args:
        report: pip-audit's.
        allowed: What is accepted, by ID.

    Returns:
        What is red; the packages that nobody could tell about; the accepted that are no more.
    """
    red, unknown, met = [], [], set()
    for each in report["dependencies"]:
        if "skip_reason" in each:
            unknown.append(each["name"])
        for fault in each.get("vulns", ()):
            ids = {fault["id"], *fault.get("aliases", ())}
            if ids & set(allowed):
                met |= ids & set(allowed)
                continue
            mended = ", ".join(fault["fix_versions"]) or "no release yet"
            red.append(f"{each['name']} {each['version']}: {fault['id']}, mended in {mended}")
    gone = [f"{each} is accepted, but known no more: take it out" for each in sorted(allowed)]
    return red, unknown, [line for line in gone if line.split()[0] not in met]


if __name__ == "__main__":
    sys.exit(main())
