"""Fills the tables of docs/performance.md in from the rows of a benchmark.

    python scripts/bench_page.py [FILE.json]

Without a file, from docs/performance.json. A part that the file measured anew replaces the one that
was there; the others stay, each with the machine that it was measured on. Words between the tables
are kept as they are. A table stands between two lines, `<!-- rows: PART PART ... -->` and
`<!-- end -->`, and has the rows of the parts that the first one names; `<!-- machine -->` takes
what it was measured on, and `<!-- profile: NAME -->` what `bench_profile.py` wrote of that run.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench_rows import shown

ROOT = Path(__file__).resolve().parents[1]
PAGE, ROWS = ROOT / "docs" / "performance.md", ROOT / "docs" / "performance.json"
PROFILES = ROOT / "docs" / "profiles"
_BLOCK = re.compile(
    r"(<!-- ((?:rows|notes|profile):[^\n]*|machine) -->\n).*?(<!-- end -->)", re.DOTALL
)


def main(arguments: Sequence[str]) -> int:
    """Fill the page in, and keep the file beside it.

    Args:
        arguments: The command line's words: at most one file.

    Returns:
        The exit code.
    """
    if arguments:
        kept = json.loads(ROWS.read_text(encoding="utf-8")) if ROWS.exists() else None
        found = merged(kept, json.loads(Path(arguments[0]).read_text(encoding="utf-8")))
        ROWS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    found = json.loads(ROWS.read_text(encoding="utf-8"))
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), found), encoding="utf-8")
    return 0


def merged(kept: Mapping[str, Any] | None, fresh: Mapping[str, Any]) -> dict[str, Any]:
    """Put what was measured anew in the place of what is kept.

    Args:
        kept: What is in docs/performance.json; none where there is no file yet.
        fresh: What `scripts/bench --json` wrote.

    Returns:
        Rows of both, and under "measured" when, on what and at which size each part was.
    """
    replaced = {each["part"] for each in fresh["rows"]}
    rows, measured = list(fresh["rows"]), [_measured(fresh, sorted(replaced))]
    if kept is not None:
        rows += [each for each in kept["rows"] if each["part"] not in replaced]
        older = kept.get("measured") or [
            _measured(kept, sorted({each["part"] for each in kept["rows"]}))
        ]
        for each in older:
            left = [part for part in each["parts"] if part not in replaced]
            measured += [_measured(each, left)] if left else []
    return {"measured": measured, "rows": rows}


def _measured(found: Mapping[str, Any], parts: Sequence[str]) -> dict[str, Any]:
    return {"parts": parts, **{key: found[key] for key in ("time", "size", "machine")}}


def filled(page: str, found: Mapping[str, Any]) -> str:
    """Put tables into a page.

    Args:
        page: The page's Markdown, with marks.
        found: What `scripts/bench --json` wrote.

    Returns:
        The page with the tables of these rows.
    """

    def block(match: re.Match[str]) -> str:
        kind, _, names = match[2].partition(":")
        rows = [each for each in found["rows"] if each["part"] in names.split()]
        if kind == "machine":
            made = machine_words(found)
        elif kind == "notes":
            made = "".join(f"- {each['name']}: {each['note']}.\n" for each in rows if each["note"])
        elif kind == "profile":
            seen = (PROFILES / f"{names.strip()}.txt").read_text(encoding="utf-8")
            made = f"```text\n{seen}```\n"
        else:
            made = table(rows)
        return f"{match[1]}\n{made}\n{match[3]}"

    return _BLOCK.sub(block, page)


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Write rows as a table.

    Args:
        rows: Rows of the JSON.

    Returns:
        Markdown.
    """
    if not rows:
        return "Not measured yet.\n"
    lines = [
        "| work | skinml | beside it | ratio | in the turns | goal |",
        "|---|---|---|---|---|---|",
    ]
    for each in rows:
        turns = "" if each["ratio"] is None else f"{shown(each['low'])} to {shown(each['high'])}"
        goal = each["goal"] or ""
        if each["met"] is not None:
            goal += ": met" if each["met"] else ": **not met**"
        peer = "" if each["peer"] is None else f"{shown(each['peer'])} {each['unit']}"
        ratio = "" if each["ratio"] is None else shown(each["ratio"])
        ours = f"{shown(each['ours'])} {each['unit']}"
        lines.append(f"| {each['name']} | {ours} | {peer} | {ratio} | {turns} | {goal} |")
    return "\n".join(lines) + "\n"


def machine_words(found: Mapping[str, Any]) -> str:
    """Say what it was measured on.

    Args:
        found: What `scripts/bench --json` wrote.

    Returns:
        A paragraph; one for each machine or hour where there were several.
    """
    if "measured" in found:
        told = [
            f"*{', '.join(each['parts'])}*: {machine_words({**each, 'rows': []})}"
            for each in found["measured"]
        ]
        return "\n".join(told)
    where = found["machine"]
    releases = ", ".join(f"{name} {each}" for name, each in where["packages"].items())
    return (
        f"Measured {found['time'][:10]}, {found['size']} size: {where['processor']}; "
        f"{where['cores']} cores, {where['memory_gib']} GiB; {where['system']}, Python "
        f"{where['python']}, OMP_NUM_THREADS={where['threads']}; {releases}.\n"
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
