"""The review page as staff use it: the command, a real browser, the keyboard, and a killed server.

Needs Playwright, axe and a Chromium, as tests/reports/test_browser.py does.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from skinml.clinic.folder import ClinicFolder, open_folder
from skinml.data.foreign_pictures import open_picture
from skinml.data.settings import ImageLimits
from skinml.stewardship.pictures import PENDING, PICTURE
from tests.clinic.waiting import FACE, FILE, PATIENT, make_waiting
from tests.reports.test_browser import DESK, FLAGS, PATIENCE_MS, PHONE, SERIOUS, chromium

# What a shell starts in the background ignores Ctrl-C: these commands shall hear it even there.
_HEARING = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
_REVIEW = f"{_HEARING}; import sys; from skinml.cli.main import main; sys.exit(main())"


class Running:
    """A review that was started at the command line."""

    def __init__(self, folder: Path, *words: str) -> None:
        command = [sys.executable, "-c", _REVIEW, "clinic", "review", "--no-browser", *words]
        self.process = subprocess.Popen(
            [*command, "--folder", str(folder)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.address = ""
        for line in iter(self.process.stdout.readline, ""):
            if "http" in line:
                self.address = line.strip()
                break
        self.home = self.address.partition("/enter")[0]

    @property
    def port(self) -> int:
        return int(self.home.rpartition(":")[2])

    def end(self, number: int | None = None) -> int:
        """Wait for its end, after a signal where one is named."""
        if number is not None:
            self.process.send_signal(number)
        self.told = "".join(self.process.communicate(timeout=120))
        return self.process.returncode


@pytest.fixture
def start(tmp_path) -> Iterator[Callable[..., Running]]:
    started: list[Running] = []

    def starter(folder: ClinicFolder, *words: str) -> Running:
        started.append(Running(folder.path, *words))
        return started[-1]

    yield starter
    for each in started:
        each.process.kill()
        each.process.communicate()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = chromium()
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=path, args=list(FLAGS))
        yield opened
        opened.close()


def violations(page: Any) -> dict[str, str]:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is missing")
    found = axe.Axe().run(page).response["violations"]
    return {each["id"]: each["nodes"][0]["html"] for each in found if each["impact"] in SERIOUS}


def onward(page: Any, *keys: str) -> None:
    """Press keys, and wait for the page that the last of them leads to."""
    with page.expect_navigation():
        for key in keys:
            page.keyboard.press(key)


def is_closed(port: int) -> bool:
    with socket.socket() as asking:
        return asking.connect_ex(("127.0.0.1", port)) != 0


@pytest.mark.parametrize(
    ("width", "scheme"), [(PHONE, "light"), pytest.param(DESK, "dark", marks=pytest.mark.slow)]
)
def test_by_keyboard_alone_one_is_accepted_one_covered_and_one_rejected(
    browser, start, tmp_path, width: int, scheme: str
) -> None:
    folder = make_waiting(tmp_path, 4)
    before = {n: folder.vault.read(p.object) for n, p in folder.pictures.pictures().items()}
    running = start(folder)
    context = browser.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme)
    context.set_default_timeout(PATIENCE_MS)
    page, said, asked = context.new_page(), [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(running.address)
    page.wait_for_url(f"{running.home}/")
    assert page.url == f"{running.home}/"  # the token is in no address any more
    assert violations(page) == {}
    onward(page, "n")
    assert "There may be a face" in page.inner_text("main")
    onward(page, "a")
    page.keyboard.press("1")  # not what the machine proposes
    page.keyboard.press("d")
    for key in ("ArrowRight", "ArrowRight", "ArrowDown", "Shift+ArrowRight", "Shift+ArrowUp"):
        page.keyboard.press(key)
    words = page.get_attribute("g.box:focus", "aria-label")
    assert violations(page) == {}
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.screenshot(path=tmp_path / "page.png")
    onward(page, "m")
    onward(page, "r")
    assert "3 of 4 done" in page.inner_text("main")
    onward(page, "u")
    onward(page, "r")
    assert not any(each.format(n) in page.content() for each in (PATIENT, FILE) for n in range(4))
    page.click("text=Quit")
    page.wait_for_selector("text=has ended")
    assert running.end() == 0
    assert is_closed(running.port)
    context.close()
    assert said == []
    assert {each.split("/")[2] for each in asked} == {f"127.0.0.1:{running.port}"}

    after = open_folder(folder.path)
    found = list(after.pictures.pictures().values())
    assert [each.state for each in found] == ["accepted", "masked", "rejected", "to_review"]
    assert after.vault.read(found[0].object) == before[found[0].number]
    across, down, left, top = map(int, re.findall(r"\d+", words))
    (box,) = found[1].boxes
    assert (box.left, box.top, box.right, box.bottom) == (left, top, left + across, top + down)
    assert box.sort == "by hand"
    pixels = open_picture(after.vault.read(found[1].object), ImageLimits()).pixels
    old = open_picture(before[found[1].number], ImageLimits()).pixels
    rows, columns = slice(box.top, box.bottom), slice(box.left, box.right)
    assert old[rows, columns].reshape(-1, 3).std(axis=0).min() > 1.5
    assert pixels[rows, columns].reshape(-1, 3).std(axis=0).max() < 1
    assert pixels[FACE.top : FACE.bottom, FACE.left : FACE.right].std(axis=(0, 1)).min() > 1.5
    assert after.vault.listed([PICTURE, PENDING]) == after.pictures.objects()


@pytest.mark.slow
def test_a_box_is_drawn_with_the_mouse_and_without_scripts_forms_do_the_rest(
    browser, start, tmp_path
) -> None:
    folder = make_waiting(tmp_path, 2)
    running = start(folder)
    context = browser.new_context(viewport={"width": DESK, "height": 900})
    page = context.new_page()
    page.goto(running.address)
    page.wait_for_url(f"{running.home}/")
    page.click("text=Look at the next")
    stage = page.locator("#stage").bounding_box()
    middle = stage["x"] + stage["width"] / 2, stage["y"] + stage["height"] / 2
    page.mouse.move(*middle)
    page.mouse.down()
    page.mouse.move(middle[0] + 60, middle[1] + 80, steps=4)
    page.mouse.up()
    assert page.locator("#boxes input").count() == 2
    with page.expect_navigation():
        page.click("button[value=mask]")
    masked = next(iter(open_folder(folder.path).pictures.pictures().values()))
    assert [each.sort for each in masked.boxes] == ["face", "by hand"]
    drawn = masked.boxes[1]
    assert drawn.left == pytest.approx(masked.width / 2, abs=2)
    assert drawn.top == pytest.approx(masked.height / 2, abs=2)

    plain = browser.new_context(java_script_enabled=False)
    plain.add_cookies(context.cookies())
    page = plain.new_page()
    page.goto(running.home)
    page.click("text=Look at the next")
    assert page.locator("#draw").is_hidden()
    page.click("summary")
    for name, value in (("left", 3), ("top", 4), ("across", 50), ("down", 40)):
        page.fill(f"input[name={name}]", str(value))
    page.click("button[value=mask]")
    assert "2 of 2 done" in page.inner_text("main")
    page.click("text=Undo")
    page.click("button[value=reject]")
    context.close()
    plain.close()
    assert running.end(signal.SIGTERM) == 130
    states = [each.state for each in open_folder(folder.path).pictures.pictures().values()]
    assert states == ["masked", "rejected"]


def decide(client: httpx.Client, home: str, number: str, step: str) -> httpx.Response:
    text = client.get(f"{home}/look/{number}").text
    data = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', text))
    return client.post(
        f"{home}/decide/{number}", data=data | {"step": step}, headers={"origin": home}
    )


@pytest.mark.slow
def test_a_killed_server_has_kept_each_decision_that_it_answered(start, tmp_path) -> None:
    folder = make_waiting(tmp_path, 3)
    one, two, _ = folder.pictures.pictures()
    running = start(folder)
    with httpx.Client() as client:
        assert client.get(running.address).status_code == 200
        assert decide(client, running.home, one, "accept").status_code == 303
        assert decide(client, running.home, two, "reject").status_code == 303
        assert running.end(signal.SIGKILL) == -signal.SIGKILL
    assert is_closed(running.port)
    again = start(folder, "--idle", "0.05")
    with httpx.Client() as client:
        assert client.get(again.address).status_code == 200
        assert "0 of 1 done" in client.get(f"{again.home}/").text
    assert again.end() == 0  # nobody was there
    assert "has ended" in again.told
    after = open_folder(folder.path)
    states = [each.state for each in after.pictures.pictures().values()]
    assert states == ["accepted", "rejected", "to_review"]
    assert after.vault.listed([PICTURE, PENDING]) == after.pictures.objects()


@pytest.mark.slow
def test_another_user_of_the_computer_is_not_let_in_even_with_the_address(start, tmp_path) -> None:
    if os.getuid() != 0 or not Path("/proc/net/tcp").exists() or shutil.which("curl") is None:
        pytest.skip("needs root, to become another user, and curl")
    running = start(make_waiting(tmp_path, 1))
    command = ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", running.address]
    done = subprocess.run(command, user=65534, group=65534, extra_groups=[], capture_output=True)
    assert done.stdout == b"403"
    assert subprocess.run(command, capture_output=True).stdout == b"200"
    assert running.end(signal.SIGINT) == 130
    taken = start(make_waiting(tmp_path / "other", 1))
    refused = Running(tmp_path / "other" / "north", "--port", str(taken.port))
    assert refused.end() == 6
    assert "free port" in refused.told
