"""The desk's page: what a person at this computer sees, and the forms that they send."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.types import ASGIApp

from skinml.clinic.hints import placed
from skinml.clinic.pages import screen_of, script_of
from skinml.clinic.review import Review, next_waiting, version_of, waiting
from skinml.clinic.review_form import MOST_BYTES, Fields, fields_of, first, text_of_box, verdict_of
from skinml.clinic.review_guard import Door, Guard, same
from skinml.clinic.review_runs import RunsDesk, add_runs
from skinml.clinic.review_words import STATE_WORDS, STEP_WORDS, reasons_of, words_of
from skinml.data.foreign_pictures import Refused
from skinml.data.settings import ImageLimits
from skinml.data.thumbnails import media_type, small_copy
from skinml.errors import ConfigError, DataError, RefusedError, SkinmlError
from skinml.stewardship.pictures import Picture

_PER_PAGE = 24
_THUMBNAIL = 320  # pixels of the longer side
_WATCH_S = 1.0
_SEE_OTHER = 303
_ENDED = "The review has ended. Nothing of it is open any more; close this window."


@dataclass(frozen=True)
class Desk:
    """What the page works with.

    Attributes:
        review: The session.
        door: Its secrets.
        idle_s: Seconds without anybody after which it ends.
        stop: Ends the server.
        runs: Knows the runs that the clinic is asked for; None leaves them out.
    """

    review: Review
    door: Door
    idle_s: float
    stop: Callable[[], None]
    runs: RunsDesk | None = None


def make_app(desk: Desk) -> ASGIApp:
    """Make the page's application.

    Args:
        desk: What it works with.

    Returns:
        The application, behind its guard.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        del app
        watch = asyncio.create_task(_end_when_idle(desk))
        yield
        watch.cancel()
        with suppress(asyncio.CancelledError):
            await watch
        desk.review.close()

    app = FastAPI(
        title="skinml clinic review",
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        redirect_slashes=False,
    )
    _add_readings(app, desk)
    _add_forms(app, desk)
    if desk.runs is not None:
        add_runs(app, desk.runs, partial(_shared_now, desk), partial(_form, desk=desk))
    app.add_exception_handler(SkinmlError, partial(_told, desk))
    app.add_exception_handler(HTTPException, _not_there)
    app.add_exception_handler(RequestValidationError, _not_there)
    return Guard(app, desk.door)


def _add_readings(app: FastAPI, desk: Desk) -> None:
    review = desk.review

    @app.get("/enter")
    def enter(request: Request) -> Response:
        door = desk.door
        if not door.knows(request) and not door.enter(request.query_params.get("token", "")):
            words = (
                "This address was used before, or is not the one that was printed. End the review "
                "with Ctrl-C and start it again."
            )
            return HTMLResponse(screen_of("review_words", _words("Not let in", words)), 403)
        # A page, not a redirect: behind another program's link the cookie would not come along.
        answer = HTMLResponse(screen_of("review_enter", {"title": "Review"}))
        answer.set_cookie(door.cookie_name, door.cookie, httponly=True, samesite="strict")
        return answer

    @app.get("/")
    def overview(show: str = "to_review", page: int = 1) -> Response:
        return HTMLResponse(screen_of("review_list", _overview(desk, show, page)))

    @app.get("/look/{number}")
    def look(number: str) -> Response:
        return HTMLResponse(_picture_page(desk, number))

    @app.get("/pixels/{number}")
    def pixels(number: str) -> Response:
        content = review.pixels(number)
        return Response(content, media_type=media_type(content))

    @app.get("/thumbnail/{number}")
    def thumbnail(number: str) -> Response:
        try:
            content = small_copy(review.pixels(number), _THUMBNAIL, ImageLimits())
        except Refused:
            return Response(status_code=404)
        return Response(content, media_type="image/jpeg")

    @app.get("/favicon.ico")
    def icon() -> Response:
        return Response(status_code=204)

    @app.get("/review.js")
    def script() -> Response:
        return Response(script_of("review"), media_type="text/javascript")


def _add_forms(app: FastAPI, desk: Desk) -> None:
    review = desk.review

    @app.post("/decide/{number}")
    async def decide(number: str, request: Request) -> Response:
        verdict = verdict_of(await _form(request, desk))
        try:
            await run_in_threadpool(review.decide, number, verdict, now=datetime.now(UTC))
        except DataError as error:
            page = await run_in_threadpool(_page_or_words, desk, number, error)
            return HTMLResponse(page, 409)
        following = next_waiting(await run_in_threadpool(review.pictures), number)
        return _to(f"/look/{following}" if following else "/")

    @app.post("/undo")
    async def undo(request: Request) -> Response:
        await _form(request, desk)
        picture = await run_in_threadpool(review.undo, now=datetime.now(UTC))
        return _to(f"/look/{picture.number}")

    @app.post("/whose/{number}")
    async def whose(number: str, request: Request) -> Response:
        await _form(request, desk)
        owner = await run_in_threadpool(review.whose, number, now=datetime.now(UTC))
        return HTMLResponse(await run_in_threadpool(_picture_page, desk, number, owner=owner))

    @app.post("/quit")
    async def leave(request: Request) -> Response:
        await _form(request, desk)
        asyncio.get_running_loop().call_later(0.2, desk.stop)  # once this answer is sent
        return HTMLResponse(screen_of("review_words", _words("Ended", _ENDED)))


async def _form(request: Request, desk: Desk) -> Fields:
    """Read a form, and refuse one that does not come from a page of this session."""
    content = b""
    async for piece in request.stream():
        content += piece
        if len(content) > MOST_BYTES:
            break
    fields = fields_of(content)
    if not same(first(fields, "form"), desk.door.form):
        raise HTTPException(403)
    return fields


def _overview(desk: Desk, show: str, page: int) -> dict[str, Any]:
    pictures = desk.review.pictures()
    numbers = [n for n, each in pictures.items() if show in ("all", each.state)]
    pages = max(1, -(-len(numbers) // _PER_PAGE))
    page = min(max(page, 1), pages)
    part = numbers[(page - 1) * _PER_PAGE : page * _PER_PAGE]
    desk.review.note_access(part, now=datetime.now(UTC))
    place = {number: at for at, number in enumerate(pictures, 1)}
    shown = {str(state): words for state, words in STATE_WORDS.items()} | {"all": "all"}
    return _shared(desk, pictures) | {
        "title": "Pictures",
        "filters": [
            {
                "name": name,
                "words": words,
                "count": sum(name in ("all", each.state) for each in pictures.values()),
            }
            for name, words in shown.items()
        ],
        "show": show if show in shown else "to_review",
        "page": page,
        "pages": pages,
        "first": next(iter(waiting(pictures)), None),
        "part": [
            {
                "number": number,
                "place": place[number],
                "state": STATE_WORDS[pictures[number].state],
                "kept": pictures[number].object is not None,
            }
            for number in part
        ],
    }


def _picture_page(
    desk: Desk, number: str, *, owner: str | None = None, problem: SkinmlError | None = None
) -> str:
    picture, pictures = desk.review.find(number), desk.review.pictures()
    desk.review.note_access([number], now=datetime.now(UTC))
    place = list(pictures).index(number) + 1
    values = _shared(desk, pictures) | {
        "title": f"Picture {place}",
        "place": place,
        "picture": picture,
        "state": STATE_WORDS[picture.state],
        "reasons": reasons_of(picture),
        "seen": version_of(picture),
        "boxes": [
            {"value": text_of_box(box), "words": words_of(box), "at": box} for box in picture.boxes
        ],
        "following": next_waiting(pictures, number),
        "owner": owner,
        "problem": problem,
    }
    return screen_of("review_picture", values)


def _page_or_words(desk: Desk, number: str, error: DataError) -> str:
    """Show the picture again with what was wrong, where it is still there."""
    if number in desk.review.pictures():
        return _picture_page(desk, number, problem=error)
    words = placed(str(error), desk.review.place)
    return screen_of("review_words", _words("Not done", words))


def _shared(desk: Desk, pictures: Mapping[str, Picture]) -> dict[str, Any]:
    """What stands on every page."""
    review, left = desk.review, len(waiting(pictures))
    last = review.last
    asked = 0 if desk.runs is None else desk.runs.waiting(datetime.now(UTC))
    return {
        "page_of": "pictures",
        "runs": None if desk.runs is None else asked,
        "clinic": review.clinic,
        "form": desk.door.form,
        "left": left,
        "decided": review.decided,
        "total": review.decided + left,
        "last": None if last is None else STEP_WORDS[last.after.state],
        "idle_ms": int(desk.idle_s * 1000),
    }


def _shared_now(desk: Desk) -> dict[str, Any]:
    return _shared(desk, desk.review.pictures()) | {"last": None, "total": 0}


def _words(title: str, words: str) -> dict[str, Any]:
    return {"title": title, "words": words}


async def _told(desk: Desk, request: Request, error: Exception) -> Response:
    del request
    words = _words("Not done", placed(str(error), desk.review.place))
    status = 409 if isinstance(error, DataError | ConfigError) else 500
    if isinstance(error, RefusedError):
        status = 403
    return HTMLResponse(screen_of("review_words", words), status)


async def _not_there(request: Request, error: Exception) -> Response:
    del request
    status = error.status_code if isinstance(error, HTTPException) else 404
    words = "There is no such page. Go back to the list."
    if status == 403:
        words = "This form was not made by this page. Nothing was done. Go back to the list."
    return HTMLResponse(screen_of("review_words", _words("Not done", words)), status)


def _to(place: str) -> Response:
    return RedirectResponse(place, _SEE_OTHER)


async def _end_when_idle(desk: Desk) -> None:
    """End the server when nobody has asked for anything for too long."""
    while time.monotonic() - desk.door.seen < desk.idle_s:
        await asyncio.sleep(min(_WATCH_S, desk.idle_s))
    desk.stop()
