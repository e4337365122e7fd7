"""Who is let in to the review page, and what its forms do: asked as browsers ask, and as others."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import socket
from collections.abc import Iterator
from dataclasses import replace
from html import unescape
from pathlib import Path

import httpx
import pytest
from starlette.types import ASGIApp

from skinml.clinic.folder import ClinicFolder, open_folder
from skinml.clinic.review import Review
from skinml.clinic.review_app import Desk, make_app
from skinml.clinic.review_guard import Door, owner_of
from skinml.stewardship.pictures import Picture
from tests.clinic.rights import NOW
from tests.clinic.waiting import FILE, PATIENT, make_waiting

HOST = "127.0.0.1:8123"
ORIGIN = f"http://{HOST}"
PAGES = (
    "/",
    "/look/{}",
    "/pixels/{}",
    "/thumbnail/{}",
    "/review.js",
    "/?show=all",
    "/no-such-page",
)
FORMS = ("/decide/{}", "/undo", "/whose/{}", "/quit")


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("waiting")
    make_waiting(place, 3)
    return place


class Inside(httpx.BaseTransport):
    """Asks an application of this process, without a network."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(self._app, client=("127.0.0.1", 1))
            answer = await transport.handle_async_request(request)
            return httpx.Response(
                answer.status_code, headers=answer.headers, content=await answer.aread()
            )

        return asyncio.run(ask())


class Page:
    """The page of a copy of the clinic, and what it needs."""

    def __init__(self, place: Path) -> None:
        self.folder: ClinicFolder = open_folder(place / "north")
        self.ended = 0
        self.door = Door(8123)
        self.app = make_app(Desk(Review(self.folder), self.door, 600, self._end))
        self.numbers = list(self.folder.pictures.pictures())

    def _end(self) -> None:
        self.ended += 1

    def picture(self, at: int = 0) -> Picture:
        return self.folder.pictures.find(self.numbers[at])


@pytest.fixture(scope="module")
def page(template, tmp_path_factory) -> Page:
    """A page for tests that change nothing."""
    return copied(template, tmp_path_factory.mktemp("page"))


@pytest.fixture
def fresh(template, tmp_path) -> Page:
    """A page of its own for a test that changes something."""
    return copied(template, tmp_path)


def copied(template: Path, place: Path) -> Page:
    shutil.copytree(template / "north", place / "north")
    shutil.copytree(template / "anchors", place / "anchors")
    return Page(place)


def outside(page: Page) -> httpx.Client:
    return httpx.Client(transport=Inside(page.app), base_url=ORIGIN)


def inside(page: Page) -> httpx.Client:
    """A browser that was let in."""
    client = outside(page)
    client.cookies.set(page.door.cookie_name, page.door.cookie)
    client.headers["origin"] = ORIGIN
    return client


@pytest.fixture
def stranger(page) -> Iterator[httpx.Client]:
    with outside(page) as client:
        yield client


@pytest.fixture
def client(page) -> Iterator[httpx.Client]:
    with inside(page) as client:
        yield client


def hidden(text: str) -> dict[str, str]:
    found = re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', text)
    return {name: unescape(value) for name, value in found}


def boxes(text: str) -> list[str]:
    return re.findall(r'name="box" value="([^"]*)"', text)


def press(client: httpx.Client, number: str, step: str, **more: object) -> httpx.Response:
    text = client.get(f"/look/{number}").text
    return client.post(f"/decide/{number}", data={**hidden(text), "step": step, **more})


@pytest.mark.parametrize("place", PAGES)
def test_without_the_cookie_no_page_is_shown(page, stranger, place: str) -> None:
    answer = stranger.get(place.format(page.numbers[0]))
    assert answer.status_code == 403
    assert page.numbers[0] not in answer.text
    stranger.cookies.set(page.door.cookie_name, page.door.form)
    assert stranger.get(place.format(page.numbers[0])).status_code == 403


@pytest.mark.parametrize("place", FORMS)
def test_without_the_cookie_no_form_is_taken(page, stranger, place: str) -> None:
    data = {"form": page.door.form, "step": "reject", "seen": ""}
    answer = stranger.post(place.format(page.numbers[0]), data=data, headers={"origin": ORIGIN})
    assert answer.status_code == 403
    assert page.ended == 0


def test_the_first_address_is_good_once_and_gives_a_cookie_that_scripts_cannot_read(fresh) -> None:
    page, stranger = fresh, outside(fresh)
    assert stranger.get("/enter?token=").status_code == 403
    assert stranger.get(f"/enter?token={page.door.entry[:-1]}").status_code == 403
    assert stranger.get(f"/enter?token={page.door.cookie}").status_code == 403
    first = stranger.get(f"/enter?token={page.door.entry}")
    cookie = first.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert page.door.entry not in first.text
    again = stranger.get(f"/enter?token={page.door.entry}")
    assert again.status_code == 200  # the same browser
    stranger.cookies.clear()
    answer = stranger.get(f"/enter?token={page.door.entry}")
    assert (answer.status_code, "set-cookie" in answer.headers) == (403, False)


@pytest.mark.parametrize(
    "host", ["evil.example:8123", "localhost:8123", "127.0.0.1", "", HOST + "."]
)
def test_another_name_for_this_computer_is_not_answered(page, client, host: str) -> None:
    assert client.get("/", headers={"host": host}).status_code == 403


def test_two_names_are_not_answered_either(page, client) -> None:
    request = client.build_request("GET", "/")
    request.headers = httpx.Headers([("host", HOST), ("host", "evil.example")])
    request.headers["cookie"] = f"{page.door.cookie_name}={page.door.cookie}"
    assert client.send(request).status_code == 403


@pytest.mark.parametrize("place", FORMS)
@pytest.mark.parametrize(
    "origin", [None, "null", "http://evil.example", "http://127.0.0.1:9999", f"https://{HOST}"]
)
def test_a_form_from_elsewhere_does_nothing(page, client, place: str, origin) -> None:
    before = page.picture()
    del client.headers["origin"]
    data = hidden(client.get(f"/look/{page.numbers[0]}").text) | {"step": "reject"}
    headers = {} if origin is None else {"origin": origin}
    assert client.post(place.format(page.numbers[0]), data=data, headers=headers).status_code == 403
    assert page.picture() == before
    assert page.ended == 0


@pytest.mark.parametrize("place", FORMS)
@pytest.mark.parametrize("form", [None, "", "x" * 43])
def test_a_form_without_the_sessions_token_does_nothing(page, client, place: str, form) -> None:
    before = page.picture()
    data = hidden(client.get(f"/look/{page.numbers[0]}").text) | {"step": "reject", "form": form}
    data = {name: value for name, value in data.items() if value is not None}
    assert client.post(place.format(page.numbers[0]), data=data).status_code == 403
    assert page.picture() == before
    assert page.ended == 0


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_another_sites_picture_tag_gets_nothing(page, client, site: str) -> None:
    place = f"/pixels/{page.numbers[0]}"
    assert client.get(place, headers={"sec-fetch-site": site}).status_code == 403
    assert client.get(place, headers={"sec-fetch-site": "same-origin"}).status_code == 200


@pytest.mark.parametrize("method", ["HEAD", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "X"])
def test_other_methods_are_refused(client, method: str) -> None:
    assert client.request(method, "/").status_code == 405


@pytest.mark.parametrize(
    "number",
    [
        "0" * 32,
        "%2e%2e",
        "..%2F..%2Fpolicy.yaml",
        "%2e%2e/keys/key",
        "A" * 32,
        "-1",
        "x" * 4000,
        "%00",
    ],
)
@pytest.mark.parametrize("place", ["/look/{}", "/pixels/{}", "/thumbnail/{}"])
def test_no_number_leads_anywhere_but_to_a_picture(client, place: str, number: str) -> None:
    answer = client.get(place.format(number))
    assert answer.status_code in (404, 409)
    assert answer.headers["content-type"].startswith("text/html")
    assert "clinic: north" not in answer.text


def test_every_answer_forbids_keeping_framing_and_loading_from_elsewhere(page, client) -> None:
    places = [each.format(page.numbers[0]) for each in PAGES]
    answers = [*map(client.get, places), client.get("/", headers={"host": "evil.example"})]
    answers += [client.post("/undo"), press(client, page.numbers[0], "mask")]
    assert {each.status_code for each in answers} == {200, 403, 404, 409}
    for answer in answers:
        rules = dict(
            each.strip().split(" ", 1)
            for each in answer.headers["content-security-policy"].split(";")
        )
        assert rules["default-src"] == rules["frame-ancestors"] == rules["base-uri"] == "'none'"
        assert rules["script-src"] == rules["img-src"] == rules["form-action"] == "'self'"
        assert "unsafe" not in answer.headers["content-security-policy"]
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
        assert "access-control-allow-origin" not in answer.headers
        assert not re.search(r'(?:src|href|action)="(?!/)', answer.text)


def test_no_page_tells_a_patient_or_a_file_unless_somebody_asks(fresh) -> None:
    page, client = fresh, inside(fresh)
    texts = [client.get(place.format(page.numbers[0])).text for place in ("/", "/look/{}")]
    press(client, page.numbers[0], "reject")
    texts += [client.get("/?show=all").text, client.get(f"/look/{page.numbers[0]}").text]
    names = [each.format(number) for each in (PATIENT, FILE) for number in range(3)]
    assert not any(name in text for name in names for text in texts)
    data = hidden(texts[-1])
    told = client.post(f"/whose/{page.numbers[0]}", data=data).text
    assert PATIENT.format(0) in told
    assert not any(FILE.format(number) in told for number in range(3))


def test_a_number_that_looks_like_html_is_shown_as_it_is(fresh) -> None:
    page, client = fresh, inside(fresh)
    picture = replace(page.picture(), patient="<script>1</script>&")
    page.folder.patient_keys.issue([picture.patient])
    page.folder.pictures.write([picture], now=NOW, actor="op")
    text = client.get(f"/look/{picture.number}").text
    told = client.post(f"/whose/{picture.number}", data=hidden(text)).text
    assert "&lt;script&gt;1&lt;/script&gt;&amp;" in told
    assert "<script>1" not in told


def test_pixels_come_as_the_vault_has_them_and_thumbnails_without_metadata(page, client) -> None:
    answer = client.get(f"/pixels/{page.numbers[0]}")
    assert answer.content == page.folder.vault.read(page.picture().object)
    assert answer.headers["content-type"] == "image/jpeg"
    small = client.get(f"/thumbnail/{page.numbers[0]}")
    assert small.content.startswith(b"\xff\xd8")
    assert b"Exif" not in small.content


def test_plain_forms_accept_mask_reject_undo_and_end(fresh) -> None:
    page, client = fresh, inside(fresh)
    one, two, three = page.numbers
    answer = press(client, one, "accept", box="6,4,40,30,face")
    assert (answer.status_code, answer.headers["location"]) == (303, f"/look/{two}")
    assert page.picture(0).state == "accepted"
    text = client.get(f"/look/{two}").text
    assert "1 of 3 done" in text
    data = {"left": "90", "top": "60", "across": "30", "down": "20", "box": boxes(text)}
    assert press(client, two, "mask", **data).headers["location"] == f"/look/{three}"
    assert [(each.left, each.right, each.sort) for each in page.picture(1).boxes] == [
        (6, 40, "face"),
        (90, 120, "by hand"),
    ]
    assert press(client, three, "reject").headers["location"] == "/"
    text = client.get("/").text
    assert "3 of 3 done" in text
    assert "No picture waits" in text
    answer = client.post("/undo", data=hidden(text))
    assert answer.headers["location"] == f"/look/{three}"
    assert page.picture(2).state == "to_review"
    assert "2 of 3 done" in client.get("/").text
    assert "has ended" in client.post("/quit", data=hidden(text)).text


@pytest.mark.parametrize(
    "more",
    [
        {"step": "mask"},
        {"step": "mask", "box": "1,2,3,face"},
        {"step": "mask", "box": "1,2,3,4,nose"},
        {"step": "mask", "box": "-1,2,30,40,face"},
        {"step": "mask", "box": "1e3,2,30,40,face"},
        {"step": "mask", "box": "٣,2,30,40,face"},
        {"step": "mask", "left": "5"},
        {"step": "mask", "box": ["1,2,30,40,face"] * 119},
        {"step": "erase"},
        {"step": "accept", "seen": "0" * 16},
        {"step": "accept", "box": "x" * 40_000},
    ],
    ids=lambda more: str(more)[:40],
)
def test_what_no_page_would_send_does_nothing_and_is_told(page, client, more) -> None:
    before = page.picture()
    data = hidden(client.get(f"/look/{page.numbers[0]}").text) | more
    answer = client.post(f"/decide/{page.numbers[0]}", data=data)
    assert answer.status_code == 409
    assert "Expected" in answer.text
    assert page.picture() == before


def test_the_owner_of_a_connection_on_this_machine_is_found() -> None:
    if not Path("/proc/net/tcp").exists():
        pytest.skip("this system does not tell whose a connection is")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as one:
            mine = one.getsockname()[1]
            assert owner_of(mine, port) == os.getuid()
            assert owner_of(port, mine + 1 if mine < 65535 else mine - 1) is None
