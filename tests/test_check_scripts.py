"""What scripts/check asks of secrets and dependencies: red when it should be, never silent."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
AUDIT = runpy.run_path(str(ROOT / "scripts/audit_dependencies.py"))
FAULT = {"id": "PYSEC-1", "aliases": ["CVE-1"], "fix_versions": ["3"]}


def find_secrets(*files: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, ROOT / "scripts/find_secrets.py", *files]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def test_a_new_secret_is_red_and_its_words_are_not_shown(tmp_path: Path) -> None:
    pytest.importorskip("detect_secrets")
    word = "AKIA" + "QX7PLM2ZV4TN8RWY"  # put together here, so that this file holds none
    leak = tmp_path / "settings.py"
    leak.write_text(f'fine = 1\nkey = "{word}"\n')
    said = find_secrets(leak)
    assert said.returncode == 1
    assert "settings.py:2: AWS Access Key" in said.stdout
    assert word not in said.stdout + said.stderr
    leak.write_text("fine = 1\n")
    assert find_secrets(leak).returncode == 0


def test_the_known_ones_stand_there_as_hashes_and_without_a_place_of_their_authors() -> None:
    text = (ROOT / ".secrets.baseline").read_text()
    assert "PRIVATE KEY" not in text
    assert '"filename": "/' not in text


def report(*faults: dict[str, Any], **others: Any) -> dict[str, Any]:
    return {"dependencies": [{"name": "a", "version": "1", "vulns": list(faults), **others}]}


def test_a_known_vulnerability_is_red_until_it_is_accepted_with_a_reason() -> None:
    assert AUDIT["judge"](report(FAULT), {}) == (["a 1: PYSEC-1, mended in 3"], [], [])
    for name in ("PYSEC-1", "CVE-1"):
        assert AUDIT["judge"](report(FAULT), {name: "not reached"}) == ([], [], [])
    with pytest.raises(SystemExit, match="PYSEC-1"):
        AUDIT["accepted"]("PYSEC-1\n")


def test_what_is_accepted_and_known_no_more_is_to_be_taken_out() -> None:
    _, _, stale = AUDIT["judge"](report(), {"PYSEC-1": "not reached"})
    assert len(stale) == 1
    assert "take it out" in stale[0]


def test_a_service_that_knows_nothing_of_a_vulnerable_release_is_none() -> None:
    skipped = {"dependencies": [{"name": "jinja2", "skip_reason": "not found"}]}
    assert not AUDIT["vulnerable"](skipped)
    assert not AUDIT["vulnerable"](report())
    assert not AUDIT["vulnerable"](None)
    assert AUDIT["vulnerable"](report(FAULT))
    assert AUDIT["judge"](skipped, {})[1] == ["jinja2"]
