"""Notebooks are thin, stored without outputs, and run."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SHOWN = {
    "01_quickstart": {"text/html": 4},
    "02_privacy_utility_fairness": {"image/png": 1, "text/html": 2},
    "03_trust_models": {"image/png": 1, "text/html": 2},
    "04_bring_your_own_data": {"text/html": 5},
    "05_audit": {"text/html": 3},
}
"""How many tables, pages and pictures each shows at least."""


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.name)
def notebook(request: pytest.FixtureRequest) -> nbformat.NotebookNode:
    return nbformat.read(request.param, as_version=4)


def test_there_is_a_notebook_for_each_question() -> None:
    assert [path.stem for path in NOTEBOOKS] == [
        "01_quickstart",
        "02_privacy_utility_fairness",
        "03_trust_models",
        "04_bring_your_own_data",
        "05_audit",
    ]


def test_links_to_pages_lead_somewhere(notebook: nbformat.NotebookNode) -> None:
    text = " ".join(cell.source for cell in notebook.cells)
    assert all((ROOT / page).is_file() for page in re.findall(r"docs/[\w-]+\.md", text))


def test_outputs_are_stripped(notebook: nbformat.NotebookNode) -> None:
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None


def test_cells_are_thin(notebook: nbformat.NotebookNode) -> None:
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    assert max(len(source.splitlines()) for source in code) <= 15
    assert not any(line.startswith(("def ", "class ")) for s in code for line in s.splitlines())


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
# nbclient and the kernel's own client leave sockets to the garbage collector.
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning")
def test_a_notebook_runs_from_top_to_bottom(path: Path, tmp_path: Path) -> None:
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    place = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=1200, kernel_name="python3", resources=place).execute()
    outputs = [
        output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs
    ]
    shown = Counter(kind for output in outputs for kind in output.get("data", ()))
    assert Counter(SHOWN[path.stem]) <= shown
    assert not [output for output in outputs if output.output_type == "error"]
