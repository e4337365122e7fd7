"""What a clinic says when it cannot answer: one of two fixed sentences, or a refusal in words.

Words that describe a clinic's own data or machine stay there, and out of its node's log: they can
quote its list or name its files. Both sides check.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from skinml.errors import ConfigError, IntegrityError, RefusedError, SkinmlError

Problem = Mapping[str, str | int]
"""Empty, or `code`, `rule`, `got` and `do` of what went wrong."""

_KEYS = {"code", "rule", "got", "do"}
_UNFIT = "the clinic's own data and machine to be fit for the round"
_UNFORESEEN = "the clinic's own code to finish the round"
_READ = (
    "node.log at the clinic tells of a defect; of its data this does: skinml clinic check "
    "--folder FOLDER"
)
_FIXED = {(_UNFIT, _READ), (_UNFORESEEN, _READ)}
_CODES = range(1, 7)
# Settings, refusals and broken integrity: what they are about is public.
_SPEAKING = {ConfigError.exit_code, RefusedError.exit_code, IntegrityError.exit_code}
_LONGEST = 500
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_PLACE = re.compile(r"[/\\]|\.(csv|tsv|xlsx?|parquet|jpe?g|png|tiff?|bmp|gif|webp|dcm)\b", re.I)
"""A path, or the name of a list or a picture: nobody else's business."""


def problem_of(error: BaseException) -> Problem:
    """Describe an error for the coordinator.

    Args:
        error: The error.

    Returns:
        Code, rule, got and do.

    Guarantees:
        Refusals, broken integrity and a wrong config speak for themselves, for they are about
        public things, in at most 500 letters a part and only as long as no part holds a path or a
        file's name. Of any other error only the class crosses: its words may quote a clinic's
        list or count its rows, and no count leaves without noise.
    """
    if isinstance(error, RefusedError | IntegrityError | ConfigError):
        words = {"rule": error.rule, "got": error.got, "do": error.do}
        words = {key: _short(text) for key, text in words.items()}
        if not _places(words):
            return {"code": error.exit_code} | words
    rule, code = _UNFORESEEN, 1
    if isinstance(error, SkinmlError):
        rule, code = _UNFIT, error.exit_code
    return {"code": code, "rule": rule, "got": type(error).__name__[:64], "do": _READ}


def require_problem(problem: Mapping[str, object]) -> Problem:
    """Check a problem, on both sides of the wire.

    Args:
        problem: What arrived, or is about to leave.

    Returns:
        The problem.

    Raises:
        IntegrityError: If it is not as `problem_of` writes it: another key, a code that no error
            has, longer words or other lines, or words where only a class may stand.
    """
    code, words = problem.get("code"), {k: v for k, v in problem.items() if k != "code"}
    told = {key: text for key, text in words.items() if isinstance(text, str)}
    if set(problem) != _KEYS or len(told) != len(words) or type(code) is not int:
        raise _foreign()
    if (told["rule"], told["do"]) in _FIXED:
        fits = bool(_NAME.fullmatch(told["got"]))
    else:
        short = all(_short(text) == text for text in told.values())
        fits = code in _SPEAKING and short and not _places(told)
    if code not in _CODES or not fits:
        raise _foreign()
    return {"code": code} | told


def told_of(problem: Problem) -> str:
    """Say a problem in one line, for a log.

    Args:
        problem: What `problem_of` gave.

    Returns:
        Its words.
    """
    return f"expected {problem['rule']}; got {problem['got']}. {problem['do']}"


def _places(words: Mapping[str, str]) -> bool:
    """Tell whether words name a place on a disk."""
    return any(_PLACE.search(text) for text in words.values())


def _short(text: str) -> str:
    """Keep words on one line and short."""
    line = "".join(letter if letter.isprintable() else " " for letter in text)
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST - 1]}…"


def _foreign() -> IntegrityError:
    return IntegrityError(
        rule="a problem as this release of skinml tells it",
        got="one of another form",
        do="Run the same release of skinml at the coordinator and at every clinic.",
    )
