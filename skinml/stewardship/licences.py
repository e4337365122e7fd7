"""Licences of research datasets under which images may be used without asking each patient again.

What forbids derived works (ND) is none of them. A list says of itself under which licence its rows
are, so that a clinic's policy has to name those that it trusts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal, get_args

Licence = Literal[
    "CC0",
    "CC-BY",
    "CC-BY-SA",
    "CC-BY-NC",
    "CC-BY-NC-SA",
    "ODC-BY",
    "public-domain",
    "research-only",
]
"""A licence in whatever version."""

LICENCES: tuple[Licence, ...] = get_args(Licence)

_VERSION = r"([ -][1-4]\.0)?"
# A cell is one of these as a whole: "CC BY and Mrs Smith's letter" is none.
_WRITTEN: Mapping[Licence, str] = {
    "CC0": r"cc0([ -]1\.0)?",
    "CC-BY": rf"cc[ -]by{_VERSION}",
    "CC-BY-SA": rf"cc[ -]by[ -]sa{_VERSION}",
    "CC-BY-NC": rf"cc[ -]by[ -]nc{_VERSION}",
    "CC-BY-NC-SA": rf"cc[ -]by[ -]nc[ -]sa{_VERSION}",
    "ODC-BY": r"odc-by([ -]1\.0)?",
    "public-domain": r"public domain",
    "research-only": r"research only( \(stanford university ddi agreement\))?",
}
_PATTERNS = {
    name: re.compile(pattern, re.IGNORECASE | re.ASCII) for name, pattern in _WRITTEN.items()
}


def licence_of(cell: str) -> Licence | None:
    """Tell which licence a list's cell names.

    Args:
        cell: The cell, without spaces at its ends.

    Returns:
        The licence; None where it is none of them.

    >>> licence_of("cc by-nc 4.0"), licence_of("CC BY-ND 4.0")
    ('CC-BY-NC', None)
    """
    found = (name for name, pattern in _PATTERNS.items() if pattern.fullmatch(cell))
    return next(found, None)
