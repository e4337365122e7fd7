"""Looking for numbers in what a run wrote."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from pathlib import Path


def numbers_in(text: str) -> set[int]:
    """Find all numbers that stand by themselves; drawings are only coordinates."""
    plain = re.sub(r"<svg.*?</svg>|<style.*?</style>", " ", text, flags=re.DOTALL)
    found = re.findall(
        r"(?<![\w.,#-])\d{1,3}(?:,\d{3})+\b|(?<![\w.#-])\d+(?:\.0)?(?![\w.%-])", plain
    )
    return {int(float(each.replace(",", ""))) for each in found}


def dump(path: Path) -> str:
    """Write down every cell of a database."""
    with closing(sqlite3.connect(path)) as store:
        tables = store.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        queries = (f'SELECT * FROM "{name}"' for (name,) in tables)  # noqa: S608  # its own tables
        rows = (row for query in queries for row in store.execute(query))
        return "\n".join(" ".join(map(str, row)) for row in rows)
