"""Lets the site show docstrings' examples as code; mkdocs.yml names this file.

A docstring's doctest stands where it explains something, often outside of a section of its own.
Markdown would take its `>>>` for a quotation and a list in its outcome for a link.
"""

from __future__ import annotations

from typing import Any

from griffe import Extension, Object


def fenced(text: str) -> str:
    r"""Put each doctest of a docstring into a block of code.

    Args:
        text: The docstring.

    Returns:
        The same with fences around what stands from a prompt to the next empty line.

    >>> print(fenced("Adds.\n\n    >>> 1 + 1\n    2"))
    Adds.
    <BLANKLINE>
        ```pycon
        >>> 1 + 1
        2
        ```
    """
    lines: list[str] = []
    margin: str | None = None
    for line in [*text.splitlines(), ""]:
        prompt = line.lstrip().startswith(">>>")
        if margin is None and prompt:
            margin = line[: len(line) - len(line.lstrip())]
            lines.append(f"{margin}```pycon")
        elif margin is not None and not line.strip():
            lines.append(f"{margin}```")
            margin = None
        lines.append(line)
    return "\n".join(lines).rstrip()


class Doctests(Extension):
    """Fences the doctests of whatever has a docstring."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Change one object's docstring.

        Args:
            obj: A module, class, function or attribute.
        """
        if obj.docstring is not None:
            obj.docstring.value = fenced(obj.docstring.value)
