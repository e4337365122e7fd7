"""What README.md and docs/ tell a reader to type is typed here, and their numbers are recomputed.

A page is read from top to bottom in one working folder, its commands and its Python. What a test
cannot do as written is named here: scripts/ run in a copy of the checkout with this environment
instead of a fresh one (.ci/run makes the fresh one); scripts/test collects the tests instead of
passing them; a server is asked for its page and stopped. Tutorials have tests of their own
(test_tutorials.py, deployment/test_tutorial.py).
"""

from __future__ import annotations

import math
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.error import URLError

import pytest
from scipy.stats import norm

from skinml.cli.main import main
from skinml.config import config_folder, experiments, load_config
from skinml.experiments.learners import build_learner, validation_release
from skinml.privacy.plan import epsilon_across_clinics
from skinml.records import Labels

ROOT = Path(__file__).parents[1]
PAGES = (
    "README.md",
    "docs/privacy.md",
    "docs/privacy-benchmark.md",
    "docs/guarantee.md",
    "docs/privacy-audit.md",
    "docs/clinic.md",
    "docs/import.md",
    "docs/secure-aggregation.md",
    "docs/strategies.md",
    "docs/fairness.md",
    "docs/mitigation.md",
    "docs/skin-tone.md",
    "docs/privacy-and-fairness.md",
    "docs/report.md",
    "docs/predict.md",
    "docs/performance.md",
    "docs/bundle.md",
    "docs/datasets.md",
    "docs/deployment.md",
    "docs/statistics.md",
    "docs/tutorial-federation.md",
    "docs/tutorial-researcher.md",
    "docs/tutorial-reviewer.md",
    "docs/concept-unit.md",
    "docs/concept-trust.md",
    "docs/concept-gaps.md",
    "docs/glossary.md",
    "docs/design.md",
    "CONTRIBUTING.md",
)
SCRIPTS = ("scripts/", ".ci/")
GROUPS = {
    "data": (),
    "privacy": (),
    "clinic": ("policy", "consent", "log", "keys", "requests"),
    "federation": (),
    "bundle": (),
}
BLOCK = re.compile(r"^```(bash|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
ENVIRONMENT = Path(sys.prefix)


def blocks(page: str) -> list[tuple[str, str]]:
    return BLOCK.findall((ROOT / page).read_text(encoding="utf-8"))


def steps(page: str) -> Iterator[tuple[str, str]]:
    """Every command and every Python example of a page, in order."""
    for language, text in blocks(page):
        if language == "python":
            yield "python", text
        else:
            lines = text.replace("\\\n", " ").splitlines()
            yield from (("bash", line) for line in lines if line and not line.startswith("#"))


COMMANDS = [(page, line) for page in PAGES for kind, line in steps(page) if kind == "bash"]


@pytest.mark.parametrize(("page", "line"), COMMANDS)
def test_every_command_exists_and_its_settings_compose(
    page: str, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = shlex.split(line)
    if words[0].startswith(SCRIPTS):
        assert os.access(ROOT / words[0], os.X_OK)
        subprocess.run(["bash", "-n", ROOT / words[0]], check=True)
    elif words[:2] == ["skinml", "run"]:
        load_config(words[2], [word for word in words[3:] if not word.startswith("--")])
    else:
        assert words[0] == "skinml", f"{page}: nobody taught this test about {line}"
        assert main([*command_of(words), "--help"]) == 0
        shown = capsys.readouterr().out
        assert all(word in shown for word in words if word.startswith("--"))


def command_of(words: list[str]) -> list[str]:
    """The command of a line, without its arguments: `clinic log show` has a group in a group."""
    within = words[2:3] if words[1] in GROUPS else []
    return [words[1], *within, *(words[3:4] if within and within[0] in GROUPS[words[1]] else [])]


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    "page", [page for page in PAGES if blocks(page) and "tutorial" not in page]
)
def test_a_page_can_be_followed_from_top_to_bottom(page: str, tmp_path: Path) -> None:
    checkout, work = tmp_path / "checkout", tmp_path / "work"
    work.mkdir()
    for kind, text in steps(page):
        if kind == "python":
            call([sys.executable, "-c", text], work)
        elif text.startswith("skinml mlflow"):
            look_at_server(f"{text} --no-browser --port", work)
        elif text.startswith(".ci/run"):
            assert (ROOT / ".ci/run").is_file()  # it is what calls this test
        elif text.startswith(SCRIPTS):
            if not checkout.exists():
                copy_checkout(checkout)
            call(["bash", "-c", text], checkout)
        else:
            call(["bash", "-c", text], work)


def environment() -> dict[str, str]:
    return {
        **os.environ,
        "PATH": f"{ENVIRONMENT / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "SKINML_ENVIRONMENT": str(ENVIRONMENT),
        "PYTEST_ADDOPTS": "--collect-only -q",  # scripts/test would pass this very test again
    }


def call(command: list[str], folder: Path) -> None:
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"


def copy_checkout(target: Path) -> None:
    """Copy what a newcomer would have: the project's files without what runs have left there."""
    made = shutil.ignore_patterns(
        ".git", ".venv", ".*_cache", ".hypothesis", "__pycache__", "runs", "clinics", "cohorts"
    )
    shutil.copytree(ROOT, target, ignore=made)


def look_at_server(command: str, folder: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with subprocess.Popen(
        ["bash", "-c", f"exec {command} {port}"],
        cwd=folder,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as server:
        try:
            until = time.monotonic() + 120
            while True:
                try:
                    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5) as page:
                        assert page.status == 200
                        return
                except (URLError, ConnectionError, TimeoutError):
                    assert server.poll() is None, "the server ended by itself"
                    assert time.monotonic() < until, "the server did not answer"
                    time.sleep(1)
        finally:
            server.terminate()


@pytest.mark.parametrize(
    "page", [path.relative_to(ROOT) for path in sorted(ROOT.glob("docs/*.md"))]
)
def test_every_page_is_followed(page: Path) -> None:
    assert page.as_posix() in PAGES


@pytest.mark.parametrize("page", [*PAGES, "CHANGELOG.md"])
def test_links_inside_the_project_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
    missing = [link for link in links if not ((ROOT / page).parent / link).exists()]
    assert not missing


def test_readme_is_short_and_its_example_shorter() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) < 150
    examples = [text for language, text in blocks("README.md") if language == "python"]
    assert examples
    assert all(len(text.splitlines()) <= 15 for text in examples)


def test_readme_tours_files_that_exist() -> None:
    toured = re.findall(r"^\d\. `([^`]+)`", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert len(toured) == 6
    assert all((ROOT / path).is_file() for path in toured)


def test_readme_lists_exactly_the_shipped_experiments() -> None:
    listed = re.findall(r"^\| `(\w+)` \|", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert sorted(listed) == [
        path.stem for path in sorted(config_folder().glob("experiment/*.yaml"))
    ]
    assert set(listed) <= set(experiments())


def test_readme_help_and_design_name_the_same_exit_codes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    readme = (ROOT / "README.md").read_text().split("## Exit codes")[1].split("##")[0]
    design = (ROOT / "docs/design.md").read_text().split("| exit code |")[1].split("\n\n")[0]
    main(["--help"])
    shown = capsys.readouterr().out.split("Exit codes")[1]
    for text in (readme, shown, design.replace("|", " ")):
        found = [int(code) for code in re.findall(r"(?<!\w)(\d+)[\s│]+[a-z]", text)]
        assert sorted(found) == [0, 1, 2, 3, 4, 5, 6, 130]


def test_the_privacy_page_states_the_plan_that_is_run() -> None:
    config = load_config("quickstart")
    learner = build_learner(config, Labels(("benign", "malignant"), (False, True)), 1280, 6)
    training = [release for round_ in learner.rounds for release in round_.releases]
    told = [line.split("|")[2:-1] for line in privacy_table()]
    counts, features, gradient = training[0], training[1], training[2]
    held_out = validation_release(config)
    assert len(training[2:]) == int(told[2][1])
    for row, release in zip(told, (counts, features, gradient, held_out), strict=True):
        times = float(row[1])
        assert float(row[2]) == release.sensitivity
        assert float(row[3]) == pytest.approx(release.noise_multiplier, abs=5e-4)
        assert float(row[4]) == pytest.approx(times / release.noise_multiplier**2, abs=5e-4)
    page = (ROOT / "docs/privacy.md").read_text()
    mu = sum(1 / release.noise_multiplier**2 for release in training) ** 0.5
    assert f"\\mu = {mu:.3f}" in page
    other = (ROOT / "docs/guarantee.md").read_text()
    for alpha in (0.01, 0.10):
        assert f"{norm.cdf(norm.ppf(alpha) + mu):.1%}" in page
    for each in (page, other):
        # The validation release spends the whole budget, so that its limit is the run's.
        assert f"{math.ceil(1000 * norm.cdf(0.5 / held_out.noise_multiplier)) / 10}%" in each
    for clinics, digits in ((2, 2), (6, 1)):
        across = epsilon_across_clinics(training, config.privacy, clinics)
        assert f"{across:.{digits}f}" in page
        assert f"{across:.{digits}f}" in other
    assert f"{(math.exp(3) + 1e-5) / (1 + math.exp(3)):.1%}" in other


def privacy_table() -> list[str]:
    text = (ROOT / "docs/privacy.md").read_text().split("| what leaves |")[1].split("\n\n")[0]
    return text.splitlines()[2:]


def test_no_page_names_a_place_that_only_its_author_has() -> None:
    for page in [*PAGES, "CHANGELOG.md", "constraints.txt", "mkdocs.yml"]:
        text = (ROOT / page).read_text()
        assert not re.search(r"file://|/home/|/tmp/|@ http", text), page
