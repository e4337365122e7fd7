"""A clinic's own pages: text that can be edited, and the same as HTML that stands alone."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markdown_it import MarkdownIt
from markupsafe import Markup

_TEMPLATES = Path(__file__).parent / "templates"


def text_of(template: str, values: Mapping[str, Any]) -> str:
    """Fill a template in.

    Args:
        template: Name of a Markdown template of this room, without its ending.
        values: What it names.

    Returns:
        Markdown that a person can edit; an empty line stands in front of each heading, never two.
    """
    filled = _texts().get_template(f"{template}.md.j2").render(values)
    lines: list[str] = []
    for line in map(str.rstrip, filled.splitlines()):
        if line.startswith("#") and lines and lines[-1]:
            lines.append("")
        if line or (lines and lines[-1]):
            lines.append(line)
    return "\n".join(lines).strip() + "\n"


def page_of(text: str, *, title: str, footer: str) -> str:
    """Make a page of a text.

    Args:
        text: Markdown. HTML in it is shown as text, never obeyed.
        title: The page's title.
        footer: A line at its end.

    Returns:
        HTML without scripts and without anything from elsewhere.
    """
    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(text)
    # A table wider than a phone scrolls by itself, by keyboard too.
    body = body.replace(
        "<table>", '<div class="wide" tabindex="0" role="region" aria-label="table"><table>'
    ).replace("</table>", "</table></div>")
    return (
        _pages()
        .get_template("page.html.j2")
        .render(
            title=title,
            body=Markup(body),  # noqa: S704  markdown-it has escaped it
            footer=footer,
            style=Markup(_style()),  # noqa: S704  ours
        )
    )


def screen_of(template: str, values: Mapping[str, Any]) -> str:
    """Fill in a page that is shown by a program and not kept.

    Args:
        template: Name of an HTML template of this room, without its ending.
        values: What it names; all of it is escaped.

    Returns:
        HTML with its style inside.
    """
    style = Markup(screen_style())  # noqa: S704  ours
    return _pages().get_template(f"{template}.html.j2").render(values, style=style)


@cache
def screen_style() -> str:
    """Give the style of pages that are shown by a program.

    Returns:
        CSS, as it stands between the tags of each page.
    """
    return _style() + (_TEMPLATES / "review.css").read_text(encoding="utf-8")


def script_of(name: str) -> str:
    """Give a script of this room.

    Args:
        name: Its name, without its ending.

    Returns:
        JavaScript.
    """
    return (_TEMPLATES / f"{name}.js").read_text(encoding="utf-8")


@cache
def _texts() -> Environment:
    # Not HTML: words stand as they are; what could be read as markup of a table is escaped.
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        undefined=StrictUndefined,
        autoescape=False,  # noqa: S701  Markdown; page_of escapes
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["cell"] = lambda word: str(word).replace("|", "\\|").replace("\n", " ")
    return environment


@cache
def _pages() -> Environment:
    return Environment(
        loader=FileSystemLoader(_TEMPLATES),
        undefined=StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )


@cache
def _style() -> str:
    return (_TEMPLATES / "page.css").read_text(encoding="utf-8")
