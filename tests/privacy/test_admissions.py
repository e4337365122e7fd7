"""Noised counts of admissions: a part of the budget, composed with what is about every split."""

from __future__ import annotations

from dataclasses import replace

import pytest

from skinml.privacy.accounting import epsilon, gaussian_mu
from skinml.privacy.allowance import epsilon_left
from skinml.privacy.events import GaussianEvent
from skinml.privacy.headroom import Limit, room_under
from skinml.privacy.ledger import Binding, Entry, compositions, spent
from skinml.privacy.plan import (
    Release,
    admissions_release,
    by_split,
    gaussian_releases,
    sampled_releases,
)
from skinml.privacy.planner import readings, release_lines
from skinml.privacy.settings import PrivacySettings
from skinml.records import ADMISSION_CELLS, EVERY_SPLIT, SPLITS
from skinml.stewardship.consent_rules import REASONS

DELTA = 1e-5
COUNTS = Release("counts", "label counts", "train", 1.0, 0.0, (2,))
SCORES = Release("scores", "validation", "validation", 1.0, 0.0, (2, 4))
STEPS = Release("weights", "training", "train", 1.0, 0.0, (50,), sampling_prob=0.1, steps=5)


def settings(**more: object) -> PrivacySettings:
    return PrivacySettings.model_validate(
        {"trust": "central", "epsilon": 2.0, "delta": DELTA, "admissions_share": 0.1, **more}
    )


def planned(chosen: PrivacySettings) -> list[Release]:
    counts = gaussian_releases(chosen, [(COUNTS, 1.0)])
    scores = gaussian_releases(chosen, [(SCORES, 1.0)])
    own = admissions_release(chosen)
    assert own is not None
    return [*counts, own, *scores]


def entries(releases: list[Release], *, key: str = "k") -> list[Entry]:
    binding = Binding("r", 1, 1, ("a",), "central", "patient_within_clinic", key, True)
    return [
        Entry(at, "2026-01-01T00:00:00+00:00", binding, r.name, r.purpose, r.split, r.event, True)
        for at, r in enumerate(releases)
    ]


def test_the_cells_are_the_words_of_the_register() -> None:
    assert ("admitted", *(word for word in REASONS if word)) == ADMISSION_CELLS


def test_a_run_with_noised_admissions_costs_what_its_config_says() -> None:
    """Each split's own releases and the admissions, composed by hand."""
    releases = planned(settings())
    for split in ("train", "validation"):
        part = [r.event for r in releases if r.split in (split, "all")]
        assert len(part) == 2
        assert 1.99 < epsilon(part, DELTA) <= 2.0
    assert spent(entries(releases), DELTA) == pytest.approx(2.0, abs=0.01)
    alone = admissions_release(settings())
    assert alone is not None
    share = gaussian_mu([alone.event]) ** 2 / gaussian_mu([releases[0].event, alone.event]) ** 2
    assert share == pytest.approx(0.1)


def test_sampled_steps_leave_room_for_the_admissions() -> None:
    chosen = settings(trust="local")
    step, own = sampled_releases(chosen, STEPS, 10), admissions_release(chosen)
    assert own is not None
    together = epsilon([own.event, *[step.event] * 10], DELTA)
    assert 1.98 < together <= 2.0
    bare = sampled_releases(settings(trust="local", admissions_share=0.0), STEPS, 10)
    assert step.noise_multiplier > bare.noise_multiplier


@pytest.mark.parametrize("more", [{"trust": "none"}, {"admissions_share": 0.0}])
def test_where_nothing_is_promised_or_no_share_is_set_no_count_leaves(
    more: dict[str, object],
) -> None:
    assert admissions_release(settings(**more)) is None


def test_what_looked_at_everybody_composes_with_every_split() -> None:
    shared, other = GaussianEvent(9.0), GaussianEvent(3.0)
    release = Release("admissions", "admissions", EVERY_SPLIT, 1.0, 9.0, (7,))
    counts = replace(COUNTS, noise_multiplier=3.0)
    assert compositions(entries([release])) == {split: [shared] for split in SPLITS}
    both = compositions(entries([counts, release]))
    assert both == {"train": [other, shared], "validation": [shared], "test": [shared]}
    assert spent(entries([counts, release]), DELTA) == epsilon([other, shared], DELTA)
    mixed = [*entries([counts]), *entries([release], key="another")]
    assert compositions(mixed) == {"": [other, shared]}


def test_plans_and_what_a_ceiling_leaves_know_the_admissions() -> None:
    releases = planned(settings())
    shares = {line.name: line.share for line in release_lines(releases, settings(), 3)}
    assert shares == pytest.approx({"counts": 0.9, "admissions": 0.1, "scores": 0.9})
    assert readings(releases, settings(), 3)[0].epsilon == pytest.approx(2.0, abs=0.01)
    assert {name: len(part) for name, part in by_split(releases).items()} == {
        "train": 2,
        "all": 1,
        "validation": 2,
    }
    run = entries(releases)
    # Three runs of epsilon 2 are about 3.7, four are above 4: nothing of a run may be overlooked.
    room = room_under(Limit("life", 4.0, "a ceiling", tuple(run)), run, DELTA)
    times = room.runs
    assert times is not None
    assert spent(run * (1 + times), DELTA) <= 4.0 < spent(run * (2 + times), DELTA)
    only = [entry for entry in run if entry.split == EVERY_SPLIT]
    assert epsilon_left(only, 2.0, DELTA) < 2.0
