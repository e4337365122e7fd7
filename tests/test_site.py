"""The documentation's site: made from the code, whole, and nothing in it comes from elsewhere."""

from __future__ import annotations

import functools
import http.server
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import typer
import yaml

from skinml.cli.main import app
from skinml.config import RunConfig

ROOT = Path(__file__).parents[1]
ELSEWHERE = re.compile(
    r"""<(?:script|img|iframe|source|video)[^>]+src=["']?(?:https?:)?//|"""
    r"""<link[^>]+rel=["']?(?:stylesheet|preload|icon|preconnect)[^>]+href=["']?(?:https?:)?//|"""
    r"""url\(["']?(?:https?:)?//|@import ["'](?:https?:)?//"""
)


@pytest.fixture(scope="module")
def made() -> ModuleType:
    spec = importlib.util.spec_from_file_location("site_pages", ROOT / "scripts/site_pages.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [ROOT / "scripts/docs", folder],
        env={**os.environ, "SKINML_ENVIRONMENT": sys.prefix},
        capture_output=True,
        text=True,
        check=False,
        timeout=1500,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == f"{folder}/index.html"
    return folder


def listed(entries: list[object] | dict[str, object] | str) -> Iterator[str]:
    """Every page that the site lists."""
    if isinstance(entries, str):
        yield entries
    else:
        for each in entries.values() if isinstance(entries, dict) else entries:
            yield from listed(each)  # type: ignore[arg-type]  # YAML of our own


def test_every_page_is_listed_once() -> None:
    text = (ROOT / "mkdocs.yml").read_text()
    pages = [page for page in listed(yaml.safe_load(text)["nav"]) if "/" not in page]
    of_docs = {path.name for path in ROOT.glob("docs/*.md")}
    assert sorted(pages) == sorted({*of_docs, "index.md", "contributing.md", "changelog.md"})


def test_each_persons_tutorial_is_listed_before_all_else() -> None:
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]
    tutorials = list(listed(nav[1]))
    assert tutorials == [
        "tutorial-researcher.md",
        "tutorial-federation.md",
        "tutorial-reviewer.md",
    ]


def test_the_page_of_commands_has_each_with_its_options(made: ModuleType) -> None:
    page = made.commands_page()
    walked = list(made.walk(typer.main.get_command(app), ("skinml",)))
    assert len(walked) > 30
    for path, command in walked:
        part = page.split(f"## `{' '.join(path)}`")[1].split("\n## ")[0]
        for parameter in command.params:
            name = (
                parameter.opts[0] if parameter.opts[0].startswith("-") else parameter.name.upper()
            )
            assert name in ("--help",) or name in part, f"{path} {name}"


def test_the_page_of_settings_has_every_key(made: ModuleType) -> None:
    page = made.settings_page()
    keys = re.findall(r"^\| `([\w.]+)`", page, re.MULTILINE)
    assert len(keys) == len(set(keys)) > 100
    assert {key.split(".")[0] for key in keys} == set(RunConfig.model_fields)
    assert {"privacy.epsilon", "training.head.rounds", "clinic.policy.least_patients"} <= set(keys)
    # Each has words that say what it is for.
    assert not re.findall(r"^\| `([\w.]+)` \|  \|", page, re.MULTILINE)


def test_every_module_has_its_place(made: ModuleType) -> None:
    listed_modules = {name for room in made.ROOMS for name in made.modules(room)}
    shown = {name.removeprefix("skinml.").split(".")[0] for name in listed_modules}
    rooms = {path.stem for path in (ROOT / "skinml").glob("*") if not path.name.startswith("__")}
    assert rooms - shown == {"cli", "durable", "journal", "attempts"}  # not called from outside


def test_formulas_become_mathml_and_code_stays(made: ModuleType) -> None:
    page = r'<p><span class="arithmatex">\(\mu &lt; 1\)</span> and <code>$x$</code></p>'
    shown = made.on_page_content(page)
    assert "<math" in shown
    assert "arithmatex" not in shown
    assert "<code>$x$</code>" in shown


def test_the_glossary_is_in_order_and_says_a_word_once() -> None:
    words = re.findall(
        r"^\| \*\*([^*]+)\*\*", (ROOT / "docs/glossary.md").read_text(), re.MULTILINE
    )
    assert len(words) > 40
    assert words == sorted(set(words), key=str.lower)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_site_builds_without_a_link_that_leads_nowhere_and_loads_nothing(site: Path) -> None:
    pages = [*site.rglob("*.html"), *site.rglob("*.css")]
    assert len(pages) > 40
    for page in pages:
        assert not ELSEWHERE.findall(page.read_text(encoding="utf-8")), page.name
    text = (site / "guarantee.html").read_text()
    assert "<math" in text
    assert "arithmatex" not in text
    assert "skinml.privacy.ledger" in (site / "reference/python-privacy.html").read_text()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_browser_asks_nobody_else_and_finds_a_word(site: Path) -> None:
    sync_api = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no Chromium on this machine")
    handler = functools.partial(Quiet, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        here = f"http://127.0.0.1:{server.server_port}/"
        with sync_api.sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            page = browser.new_page()
            asked: list[str] = []
            page.on("request", lambda request: asked.append(request.url))
            for name in ("index.html", "guarantee.html", "reference/commands.html"):
                page.goto(here + name)
            page.fill("input.md-search__input", "canary")
            page.wait_for_selector("li.md-search-result__item", timeout=60_000)
            browser.close()
        server.shutdown()
    assert asked
    assert not [url for url in asked if not url.startswith((here, "data:", "blob:"))]


class Quiet(http.server.SimpleHTTPRequestHandler):
    """A server that writes no log."""

    def log_message(self, *_: object) -> None:
        return
