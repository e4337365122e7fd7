"""The benchmark of encryption runs and prints its ratios; how large they are is not asserted."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_the_benchmark_of_encryption_prints_a_ratio_for_each_part():
    pytest.importorskip("efficientnet_lite_pytorch", reason="the extra pretrained is missing")
    ran = subprocess.run(
        [sys.executable, "scripts/bench_encryption.py", "--images", "4", "--repeats", "1"],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    ratios = re.findall(r"^(\w+) .*\(\d+\) +[\d.]+ +[\d.]+ +([\d.]+)", ran.stdout, re.MULTILINE)
    assert [part for part, _ in ratios] == ["extraction", "writing", "opening"]
    assert all(float(ratio) > 0 for _, ratio in ratios)
    assert re.search(r"add to an image's extraction: -?[\d.]+%", ran.stdout)
