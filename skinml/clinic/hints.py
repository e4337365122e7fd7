"""Commands in sentences: rooms write `--folder FOLDER`, and who knows the folder puts it in."""

from __future__ import annotations

import shlex
from pathlib import Path

_FOLDER = " --folder FOLDER"


def placed(text: str, folder: Path) -> str:
    """Put the clinic's folder into the commands that a text names.

    Args:
        text: Words with commands such as "skinml clinic status --folder FOLDER".
        folder: The folder as the reader typed it; "." is where commands look anyway.

    Returns:
        The same text, its commands ready to be copied.

    >>> placed("See what waits: skinml clinic approve --folder FOLDER", Path("my clinic"))
    "See what waits: skinml clinic approve --folder 'my clinic'"
    >>> placed("See what waits: skinml clinic approve --folder FOLDER", Path())
    'See what waits: skinml clinic approve'
    """
    return text.replace(
        _FOLDER, "" if folder == Path() else f" --folder {shlex.quote(str(folder))}"
    )
