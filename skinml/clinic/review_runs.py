"""The page's part on runs: budget left, consents, what waits for an answer, and the answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from math import isfinite
from typing import Any, Protocol

from fastapi import FastAPI, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import HTMLResponse, RedirectResponse, Response

from skinml.clinic.pages import screen_of
from skinml.clinic.review_form import Fields, first
from skinml.clinic.status import Status
from skinml.errors import DataError
from skinml.stewardship.policy_terms import Term

_SEE_OTHER = 303
_RUNS: dict[str, Any] = {"page_of": "runs"}


@dataclass(frozen=True)
class AskedRun:
    """A run that a coordinator asked for.

    Attributes:
        run: Its id.
        who: Who asked.
        until: When it ends, in words.
        stands: Where it stands, in words.
        waits: Whether it waits for an answer.
    """

    run: str
    who: str
    until: str
    stands: str
    waits: bool


@dataclass(frozen=True)
class DoneRun:
    """A run that something was released in.

    Attributes:
        run: Its id.
        day: The day of its last release, YYYY-MM-DD.
        releases: How many there were.
        epsilon: What it cost here; infinite where something was released without noise.
    """

    run: str
    day: str
    releases: int
    epsilon: float


@dataclass(frozen=True)
class Allowance:
    """What is spent under one ceiling of the policy.

    Attributes:
        span: In words: the latest run, this year, ever.
        spent: Epsilon; infinite where something was released without noise.
        ceiling: The greatest; None where the policy has none.
        left: Epsilon of one more run that there is room for; None without a ceiling.
    """

    span: str
    spent: float
    ceiling: float | None
    left: float | None


@dataclass(frozen=True)
class RunsBoard:
    """All of the page on runs. Exact counts: they stay at the clinic.

    Attributes:
        status: How the clinic stands.
        federation: Its federation's name; "" where it has joined none.
        served: Whether a process takes part now.
        allowances: What is spent; None where the user may not read the ledger.
        asked: Runs that were asked for, those that wait in front.
        done: The last runs; None where the user may not read the ledger.
        may_answer: Whether the user may answer.
    """

    status: Status
    federation: str
    served: bool
    allowances: tuple[Allowance, ...] | None
    asked: tuple[AskedRun, ...]
    done: tuple[DoneRun, ...] | None
    may_answer: bool


@dataclass(frozen=True)
class RunCard:
    """What somebody is asked to answer.

    Attributes:
        run: The run's id.
        digest: Digest of the proposal that is shown.
        sections: Topics and their lines.
        terms: Terms on which the run and the policy differ.
        within: Names of the others.
        config: The config, a line a value.
        standing: Where it stands, in words.
        stands: The same as one word: pending, approved or refused.
        may_yes: Whether a yes is an answer that the policy allows, and a new one.
        may_no: Whether a no is a new answer.
    """

    run: str
    digest: str
    sections: Sequence[tuple[str, Sequence[str]]]
    terms: Sequence[Term]
    within: Sequence[str]
    config: Sequence[tuple[str, str]]
    standing: str
    stands: str
    may_yes: bool
    may_no: bool


class RunsDesk(Protocol):
    """Knows the runs that a clinic is asked for; the room `deployment` has one."""

    def board(self, now: datetime) -> RunsBoard:
        """Tell how the clinic stands."""

    def card(self, run: str, now: datetime) -> RunCard:
        """Draw up the card of a run."""

    def answer(self, run: str, yes: bool, seen: str) -> None:
        """Answer the proposal with the digest `seen`."""

    def waiting(self, now: datetime) -> int:
        """Count the runs that wait for an answer."""


def add_runs(
    app: FastAPI,
    runs: RunsDesk,
    shared: Callable[[], dict[str, Any]],
    form: Callable[[Request], Awaitable[Fields]],
) -> None:
    """Add the pages on runs, and the form that answers one.

    Args:
        app: The page's application.
        runs: Knows the runs.
        shared: What stands on every page.
        form: Reads a form, and refuses one that does not come from a page of this session.
    """

    @app.get("/runs")
    def board() -> Response:
        found = runs.board(datetime.now(UTC))
        values = {
            "title": "Runs and budget",
            "page_of": "runs",
            "board": found,
            "meters": _meters(found),
            "done": [(each, _epsilon(each.epsilon)) for each in found.done or ()],
        }
        return HTMLResponse(screen_of("review_runs", shared() | values))

    @app.get("/runs/{run}")
    def card(run: str) -> Response:
        found = runs.card(run, datetime.now(UTC))
        values = _RUNS | {"title": f"Run {found.run}", "card": found}
        return HTMLResponse(screen_of("review_run", shared() | values))

    @app.post("/runs/{run}")
    async def answer(run: str, request: Request) -> Response:
        fields = await form(request)
        said = first(fields, "answer")
        if said not in ("yes", "no"):
            raise DataError(
                rule="yes or no", got="another word", do="Go back and press one of the buttons."
            )
        await run_in_threadpool(runs.answer, run, said == "yes", first(fields, "seen"))
        return RedirectResponse(f"/runs/{run}", _SEE_OTHER)


def _meters(board: RunsBoard) -> list[dict[str, Any]]:
    """Say what is spent under each ceiling, with how full it is for a bar."""
    return [
        {
            "span": each.span,
            "spent": _epsilon(each.spent),
            "ceiling": None if each.ceiling is None else f"{each.ceiling:g}",
            "left": None if each.left is None else f"{each.left:.2f}",
            "share": None
            if each.ceiling is None
            else round(min(each.spent / each.ceiling, 1.0), 3),
        }
        for each in board.allowances or ()
    ]


def _epsilon(value: float) -> str:
    return f"{value:.3g}" if isfinite(value) else "unbounded"
