"""A researcher who runs the quickstart again and again is stopped by the ledgers.

The same loop on a few patients at one clinic is in tests/cli/test_refusals.py, in the fast suite.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from math import exp, sqrt
from pathlib import Path

import pytest
from scipy.optimize import brentq
from scipy.stats import norm

from skinml.clinic.folder import open_folder
from skinml.privacy.ledger import spent

DELTA, BUDGET = 1e-5, 3.0
COMMAND = (sys.executable, "-c", "import sys; from skinml.cli.main import main; sys.exit(main())")


def epsilon_of(runs: int) -> float:
    """So many runs of 1.4, composed by the closed form of Gaussian differential privacy."""

    def excess(eps: float, mu: float) -> float:
        tail = norm.logcdf(-eps / mu - mu / 2)
        return float(norm.cdf(-eps / mu + mu / 2) - exp(eps + tail) - DELTA)

    mu = brentq(lambda m: excess(1.4, m), 1e-2, 5)
    return float(brentq(lambda eps: excess(eps, mu * sqrt(runs)), 0, 20))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_quickstart_in_a_loop_ends_with_exit_code_3(tmp_path: Path) -> None:
    """As a user types it: six clinics, shared noise, a fresh process a run."""
    asked = ("privacy.epsilon=1.4", "privacy.budget.epsilon=3", f"work_dir={tmp_path}")
    totals = []
    for seed in range(1, 9):
        done = subprocess.run(
            (*COMMAND, "run", "quickstart", *asked, f"seed={seed}", "--json"),
            env=os.environ,
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
        )
        told = json.loads(done.stdout.splitlines()[-1])
        if done.returncode:
            break
        totals.append(told["privacy"]["total_epsilon"])
    assert done.returncode == told["error"]["code"] == 3
    assert totals == pytest.approx([epsilon_of(runs) for runs in (1, 2, 3)], abs=5e-3)
    assert epsilon_of(4) > BUDGET
    clinics = [path.parent for path in sorted(tmp_path.glob("clinics/*/ledger.jsonl"))]
    assert len(clinics) == 6
    for clinic in clinics:
        entries = open_folder(clinic).ledger.entries()
        assert BUDGET > spent(entries, DELTA) == pytest.approx(totals[-1])
        assert len({entry.binding.run for entry in entries}) == 3  # the refused one left nothing
