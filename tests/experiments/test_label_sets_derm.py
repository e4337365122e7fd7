"""Coverage of label sets by skin tone on real images: minutes."""

from __future__ import annotations

from pathlib import Path

import pytest

from skinml.experiments.run import run
from skinml.experiments.set_coverage import BY_GROUP, ONE_LIMIT, sets_coverage
from skinml.fairness.set_coverage import mean_coverage_interval

TONES = {"0-2", "3", "4-5"}
LEVEL = 1 - 0.05 / 3
WORDS = ("federation=centralised", "tracking.enabled=false", "fairness.label_sets.share=0.5")


@pytest.mark.slow
@pytest.mark.derm
@pytest.mark.timeout(3600)
def test_no_tone_group_of_derm_tone_is_covered_less_than_promised(
    derm_root: Path, tmp_path: Path
) -> None:
    """Fails if an interval by tone lies below 90% as a whole; above it is what noise costs.

    The intervals of the three tones hold together in 95 of 100 draws, by Bonferroni: the data are
    always the same draw, in which tone 3 is at the edge of an interval of 95% by itself.
    """
    place = (f"data.root={derm_root}", f"work_dir={tmp_path}")
    for trust in ("distributed", "none"):
        policy = () if trust == "distributed" else ("clinic.policy.trust=[none]",)
        done = run("derm_tone", (*place, *WORDS, f"privacy.trust={trust}", *policy))
        found = sets_coverage(done.record, done.folder, [tmp_path / "clinics"], LEVEL)
        told = [f"{way}: {each}" for way, groups in found.items() for each in groups]
        assert {each.group for each in found[BY_GROUP]} >= TONES
        assert {each.group for each in found[ONE_LIMIT]} >= TONES
        short = [each for each in found[BY_GROUP] if each.high < 0.9]
        assert not short, told
        one = found[ONE_LIMIT]
        tested = sum(each.test for each in one)
        covered = sum(each.share * each.test for each in one)
        low, high = mean_coverage_interval(covered, tested, one[0].validation)
        assert low <= 0.9 <= high, told  # exact and for everybody: neither below nor above
