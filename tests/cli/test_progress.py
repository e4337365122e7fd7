"""Progress where standard error is no terminal: a plain line every so often, and else nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from skinml.cli.progress import Bars

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("quiet", "every_s", "lines"),
    [
        (False, 0.0, ["looking: 1 of 1,000", "looking: 700 of 1,000"]),
        (False, 3600.0, []),
        (True, 0.0, []),
    ],
)
def test_a_log_gets_a_line_every_so_often(
    capsys: pytest.CaptureFixture[str], quiet: bool, every_s: float, lines: list[str]
) -> None:
    with Bars(quiet=quiet, every_s=every_s) as bars:
        bars.begin("looking", 1000)
        for done in (1, 700):
            bars.reached(done)
    told = capsys.readouterr()
    assert told.err.splitlines() == lines
    assert told.out == ""


def test_that_the_extra_is_there_is_asked_without_loading_what_is_slow() -> None:
    code = (
        "import sys\n"
        "from skinml.clinic.import_models import require_import_models\n"
        "require_import_models()\n"
        "print(sorted({'torch', 'torchvision', 'onnxruntime', 'pandas'} & set(sys.modules)))"
    )
    told = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert told.stdout.strip() == "[]"
