"""A hint that names a clinic's command names the folder too, so that it can be copied."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from skinml.cli.clinic import PANELS
from skinml.cli.main import main
from skinml.clinic.folder import create_folder
from skinml.stewardship.policy import parse_policy
from tests.policy_text import policy_text

ROOT = Path(__file__).parents[2]
COMMAND = re.compile(
    rf"skinml clinic ({'|'.join(each for them in PANELS.values() for each in them)})\b"
)
# What is named there is a command, and not what the reader should type now.
NAMED_ONLY = {
    "skinml/clinic/articles.py",
    "skinml/clinic/evidence_words.py",
    "skinml/clinic/review_app.py",
    "skinml/clinic/review_guard.py",
    "skinml/cli/privacy_spent.py",
    "skinml/experiments/doctor.py",
    "skinml/stewardship/policy.py",
}


def texts(tree: ast.AST) -> Iterator[str]:
    """Every text of a module but its docstrings; what is put into it reads {}."""
    docs = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr):
                docs.add(first.value)
    inside = {
        each for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for each in node.values
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(
                str(each.value) if isinstance(each, ast.Constant) else "{}" for each in node.values
            )
        elif isinstance(node, ast.Constant) and node not in docs | inside:
            yield str(node.value)


def test_every_hint_of_the_code_names_the_folder() -> None:
    found, without = 0, []
    for path in sorted(ROOT.glob("skinml/**/*.py")):
        name, source = path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")
        if name in NAMED_ONLY or "skinml clinic" not in source:
            continue
        for text in texts(ast.parse(source)):
            for hint in COMMAND.finditer(text):
                found += 1
                sentence = re.split(r"(?<=\S)\. |\n", text[hint.start() :])[0]
                if "--folder FOLDER" not in sentence and "--folder CLINIC" not in sentence:
                    without.append(f"{name}: {sentence}")
    assert without == []
    assert found > 30


@pytest.mark.parametrize("as_json", [False, True])
def test_an_error_names_the_folder_as_it_was_typed(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    as_json: bool,
) -> None:
    policy = parse_policy(policy_text().encode())
    place, anchors = tmp_path / "my clinic", tmp_path / "anchors"
    create_folder(place, name="north", policy=policy, anchors=anchors, virtual=True)
    monkeypatch.chdir(tmp_path)
    words = ["clinic", "approve", "nothing", *["--json"] * as_json]
    for given in (["--folder", "my clinic"], ["--folder=my clinic"]):
        assert main([*words, *given]) == 2
        said = capsys.readouterr()
        do = json.loads(said.out)["error"]["do"] if as_json else said.err
        assert "skinml clinic approve --folder 'my clinic'" in do
    monkeypatch.chdir(place)
    assert main(words) == 2
    assert "FOLDER" not in capsys.readouterr().err
