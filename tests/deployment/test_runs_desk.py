"""The page's part on runs: what it tells, whom it lets answer, and that an answer is a real one."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from skinml.clinic.folder import ClinicFolder
from skinml.clinic.review import Review
from skinml.clinic.review_app import Desk, make_app
from skinml.clinic.review_guard import Door
from skinml.deployment import proposals
from skinml.deployment.runs_desk import ClinicRuns
from skinml.privacy.accounting import epsilon
from skinml.privacy.events import GaussianEvent
from skinml.privacy.ledger import Binding
from skinml.stewardship.roles import os_user
from tests.clinic.test_review_browser import Running, browser, start, violations
from tests.clinic.test_review_page import HOST, Inside, hidden, inside
from tests.deployment.clinic_place import FEDERATION, RUN, make_folder, proposal
from tests.reports.test_browser import DESK, PATIENCE_MS, PHONE

__all__ = ["browser", "start"]  # fixtures

SOON = datetime.now(UTC) + timedelta(days=7)


class Page:
    """The desk's page of one clinic, with its runs."""

    def __init__(self, folder: ClinicFolder) -> None:
        self.folder, self.door = folder, Door(int(HOST.rpartition(":")[2]))
        desk = Desk(Review(folder), self.door, 600, lambda: None, ClinicRuns(folder))
        self.app = make_app(desk)


@pytest.fixture(scope="module")
def asked() -> Any:
    return proposal("privacy.epsilon=2", expires=SOON)


@pytest.fixture
def page(tmp_path: Path, asked: Any) -> Page:
    folder = make_folder(tmp_path)
    proposals.receive(folder, asked)
    return Page(folder)


@pytest.fixture
def client(page: Page) -> Iterator[Any]:
    with inside(page) as opened:
        yield opened


def test_the_board_tells_budget_consents_and_what_waits(client: Any) -> None:
    told = client.get("/runs").text
    for words in (
        "Runs and budget (1 waits)",
        RUN,
        f"asked by {FEDERATION}",
        "Look at it and answer",
        "waits for your yes or no",
        "One more run may have",
        "Nothing has left this clinic.",
        "federated training",
    ):
        assert words in told, words
    assert "Runs and budget (1 waits)" in client.get("/").text


def test_the_board_lists_a_run_in_which_something_was_released(page: Page, client: Any) -> None:
    binding = Binding(RUN, 1, 1, ("north", "south"), "distributed", "patient", "k", True)
    page.folder.ledger.reserve(binding, [("gradient", "training", "train", GaussianEvent(4.0))])
    told = client.get("/runs").text
    cells = f'<th scope="row">{RUN}</th><td>{datetime.now(UTC):%Y-%m-%d}</td><td>1</td>'
    assert cells + f"<td>{epsilon([GaussianEvent(4.0)], 1e-5):.3g}</td>" in told
    assert "Nothing has left this clinic." not in told
    assert "charged for it already: " in client.get(f"/runs/{RUN}").text


def test_the_card_on_the_page_says_what_the_terminal_says(page: Page, client: Any) -> None:
    told = client.get(f"/runs/{RUN}").text
    for words in (
        "of 2 clinics: north, south",
        "privacy.epsilon: 2 (here: 3)",
        "gradient, 100 times",
        "this run: 2 of at most 3",
        "It waits for an answer.",
        "Held against your policy",
        "training.head.momentum",
    ):
        assert words in told, words


@pytest.mark.parametrize(("said", "state"), [("yes", "approved"), ("no", "refused")])
def test_an_answer_on_the_page_holds_and_is_logged(
    page: Page, client: Any, said: str, state: str
) -> None:
    fields = hidden(client.get(f"/runs/{RUN}").text.partition('class="answer"')[2])
    answer = client.post(f"/runs/{RUN}", data={**fields, "answer": said})
    assert (answer.status_code, answer.headers["location"]) == (303, f"/runs/{RUN}")
    assert proposals.state(page.folder, RUN) == state
    last = page.folder.audit.entries()[-1]
    assert (last.event, last.fields["answer"], last.actor) == ("run answered", said, os_user())
    assert f"{state} by {os_user()}" in client.get("/runs").text


def test_a_yes_is_taken_back_with_a_no(page: Page, client: Any) -> None:
    proposals.answer(page.folder, RUN, True)
    told = client.get(f"/runs/{RUN}").text
    assert "take the yes back" in told
    assert 'value="yes"' not in told
    fields = hidden(told.partition('class="answer"')[2])
    client.post(f"/runs/{RUN}", data={**fields, "answer": "no"})
    assert proposals.state(page.folder, RUN) == "refused"


def test_what_the_policy_refuses_has_no_yes_and_a_forged_one_changes_nothing(
    tmp_path: Path,
) -> None:
    folder = make_folder(tmp_path)
    proposals.receive(folder, proposal("privacy.epsilon=9", expires=SOON))
    with inside(Page(folder)) as client:
        told = client.get(f"/runs/{RUN}").text
        assert "The policy refuses" in told
        assert 'value="yes"' not in told
        fields = hidden(told.partition('class="answer"')[2])
        answer = client.post(f"/runs/{RUN}", data={**fields, "answer": "yes"})
    assert answer.status_code == 403
    assert proposals.state(folder, RUN) == "pending"


def test_an_answer_to_another_proposal_is_refused(page: Page, client: Any) -> None:
    fields = hidden(client.get(f"/runs/{RUN}").text.partition('class="answer"')[2])
    proposals.receive(page.folder, proposal("privacy.epsilon=2.5", expires=SOON))
    answer = client.post(f"/runs/{RUN}", data={**fields, "answer": "yes"})
    assert answer.status_code == 409
    assert "came in the meantime" in answer.text
    assert proposals.state(page.folder, RUN) == "pending"


@pytest.mark.parametrize(
    "change", [{"form": "x"}, {"answer": "perhaps"}, {"answer": ""}, {"seen": "0" * 64}]
)
def test_a_form_that_is_not_the_pages_own_changes_nothing(
    page: Page, client: Any, change: dict[str, str]
) -> None:
    fields = hidden(client.get(f"/runs/{RUN}").text.partition('class="answer"')[2])
    answer = client.post(f"/runs/{RUN}", data={**fields, "answer": "yes"} | change)
    assert answer.status_code in (403, 409)
    assert proposals.state(page.folder, RUN) == "pending"


def test_nobody_without_the_cookie_sees_or_answers_runs(page: Page) -> None:
    import httpx

    with httpx.Client(transport=Inside(page.app), base_url=f"http://{HOST}") as stranger:
        for place in ("/runs", f"/runs/{RUN}"):
            assert stranger.get(place).status_code == 403
            data = {"form": page.door.form, "answer": "yes"}
            head = {"origin": f"http://{HOST}"}
            assert stranger.post(place, data=data, headers=head).status_code == 403
    assert proposals.state(page.folder, RUN) == "pending"


def test_an_unknown_run_is_told_in_words(page: Page, client: Any) -> None:
    answer = client.get("/runs/nobody-asked")
    assert answer.status_code == 409
    assert f"skinml clinic approve --folder {page.folder.path}" in answer.text
    assert "a run that somebody asked this clinic for" in answer.text


def test_an_operator_reads_and_stewards_answer(tmp_path: Path, asked: Any) -> None:
    roles = f"{{steward: [another], clinician: [], operator: [{os_user()}], auditor: []}}"
    folder = make_folder(tmp_path, roles=roles)
    proposals.receive(folder, asked)
    with inside(Page(folder)) as client:
        told = client.get("/runs").text
        assert "waits for a steward's yes or no" in told
        assert "For stewards and auditors." in told
        assert client.get(f"/runs/{RUN}").status_code == 403
    assert proposals.state(folder, RUN) == "pending"


@pytest.mark.parametrize("width", [PHONE, DESK])
def test_in_a_browser_the_run_is_read_and_answered_by_keyboard(
    browser: Any, start: Any, tmp_path: Path, asked: Any, width: int
) -> None:
    folder = make_folder(tmp_path)
    proposals.receive(folder, asked)
    running: Running = start(folder)
    context = browser.new_context(viewport={"width": width, "height": 844})
    context.set_default_timeout(PATIENCE_MS)
    page, said = context.new_page(), []
    page.on("console", lambda message: said.append(message.text))
    page.goto(running.address)
    page.wait_for_url(f"{running.home}/")
    page.get_by_role("link", name="Runs and budget").click()
    assert violations(page) == {}
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.screenshot(path=tmp_path / "board.png", full_page=True)
    page.get_by_role("link", name="Look at it and answer").focus()
    with page.expect_navigation():
        page.keyboard.press("Enter")
    assert violations(page) == {}
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.screenshot(path=tmp_path / "card.png", full_page=True)
    page.get_by_role("button", name="Yes").focus()
    with page.expect_navigation():
        page.keyboard.press("Enter")
    assert "approved by" in page.inner_text("main")
    assert proposals.state(folder, RUN) == "approved"
    assert said == []
    context.close()
