"""The one way that a page of this room is filled in."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

_TEMPLATES = Path(__file__).parent / "templates"


def filled_in(template: str, values: Mapping[str, Any]) -> str:
    """Fill in a template.

    Args:
        template: Its file's name in `templates/`.
        values: What it names; a name that is missing is an error, and words are escaped.

    Returns:
        HTML that needs no network and no script.
    """
    return _environment().get_template(template).render(values)


@cache
def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        lstrip_blocks=True,
    )
