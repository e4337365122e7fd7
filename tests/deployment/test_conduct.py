"""The coordinator's conduct of a run with real clinics' folders, inside one process."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from skinml.config import load_config
from skinml.data.synthetic.cohort import write_cohort
from skinml.data.synthetic.settings import SyntheticSettings
from skinml.deployment import proposals
from skinml.deployment.submission import read_standing, submit
from skinml.errors import IncompleteRunError
from skinml.models.bundle import load_bundle
from tests.deployment.local_federation import (
    UNBOUNDED,
    LocalFederation,
    open_with_fixed_noise,
    slices,
)
from tests.deployment.reference import simulated

CLINICS = ("alderbrook", "birchmoor", "coldwell")
LATE, WHOLE = CLINICS[2], "whole"
SHORT = (
    "training.head.rounds=2",
    "privacy.trust=local",
    "data.groups=[skin_tone]",
    "tracking.enabled=false",
)
DISTRIBUTED = (*SHORT[:1], "privacy.trust=distributed", *SHORT[2:])
MAY_LACK_ONE = ("federation.allowed_missing=1", "federation.round_deadline_s=1")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("cohort")
    drawn = SyntheticSettings(num_patients=45, num_clinics=3, image_size=32)
    write_cohort(place / "whole", drawn, seed=1)
    return slices(place / "whole", CLINICS, place) | {WHOLE: place / "whole"}


@pytest.fixture
def by_rule(tmp_path: Path, images: dict[str, Path]) -> LocalFederation:
    """Its clinics' policies let the quickstart run without asking."""
    return LocalFederation(tmp_path, {name: images[name] for name in CLINICS})


@pytest.fixture
def by_hand(tmp_path: Path, images: dict[str, Path]) -> LocalFederation:
    """Somebody has to say yes."""
    return LocalFederation(tmp_path, {name: images[name] for name in CLINICS}, rule="")


def result_of(here: LocalFederation, run: str) -> dict[str, Any]:
    found = json.loads((here.folder.runs / run / "result.json").read_text())
    assert isinstance(found, dict)
    return found


def say_yes(here: LocalFederation, run: str, *names: str) -> None:
    for name in names:
        proposals.decide(here.clinics[name], run, True, "ada")


def at_message(number: int, kind: str, do: Callable[[], object]) -> Callable[[str, str], None]:
    """Do something before the first clinic gets its n-th message of a kind."""
    seen: list[str] = []

    def before(clinic: str, got: str) -> None:
        if (clinic, got) == (CLINICS[0], kind):
            seen.append(got)
            if len(seen) == number:
                do()

    return before


def test_all_clinics_take_part_from_the_first_round(by_rule: LocalFederation) -> None:
    run = submit(by_rule.folder, "quickstart", SHORT)
    by_rule.conduct(run)
    result = result_of(by_rule, run)
    assert result["complete"]
    assert [each["missing"] for each in result["participation"]] == [{}] * 4
    assert read_standing(by_rule.folder.runs / run).stage == "finished"


def test_who_says_yes_during_the_run_takes_part_from_the_next_round(
    by_hand: LocalFederation,
) -> None:
    run = submit(by_hand.folder, "quickstart", (*SHORT, *MAY_LACK_ONE))
    propose = at_message(2, "query.propose", lambda: say_yes(by_hand, run, *CLINICS[:2]))
    train = at_message(2, "train", lambda: say_yes(by_hand, run, LATE))

    def before(clinic: str, kind: str) -> None:
        propose(clinic, kind)
        train(clinic, kind)

    by_hand.before = before
    by_hand.conduct(run)
    rounds = result_of(by_hand, run)["participation"]
    assert [each["missing"] for each in rounds] == [
        {LATE: "nobody there has said yes yet"},
        {LATE: "still making its data ready"},
        {},
        {},
    ]
    ledgers = [len(by_hand.clinics[name].ledger.entries()) for name in CLINICS]
    assert ledgers[0] == ledgers[1] > ledgers[2] >= 1


def test_a_clinic_that_cannot_make_ready_comes_in_when_it_can(
    by_rule: LocalFederation, images: dict[str, Path]
) -> None:
    late = by_rule.clinics[LATE]
    manifest = images[LATE] / "manifest.csv"
    run = submit(by_rule.folder, "quickstart", (*SHORT, *MAY_LACK_ONE))
    away = manifest.rename(manifest.with_suffix(".away"))
    by_rule.before = at_message(2, "train", lambda: away.rename(manifest))
    by_rule.conduct(run)
    rounds = result_of(by_rule, run)["participation"]
    assert "fit for the round; got DataError" in rounds[0]["missing"][LATE]
    assert [each["missing"] for each in rounds[2:]] == [{}, {}]
    assert late.ledger.entries()


def test_a_run_that_may_lack_nobody_waits_for_nobody_else(
    by_rule: LocalFederation, images: dict[str, Path]
) -> None:
    manifest = images[LATE] / "manifest.csv"
    run = submit(by_rule.folder, "quickstart", SHORT)
    away = manifest.rename(manifest.with_suffix(".away"))
    with pytest.raises(IncompleteRunError, match=f"not so at {LATE}.*federation resume"):
        by_rule.conduct(run)
    assert read_standing(by_rule.folder.runs / f".{run}.draft").stage == "failed"
    assert not any(folder.ledger.entries() for folder in by_rule.clinics.values())
    away.rename(manifest)
    by_rule.conduct(run)
    assert result_of(by_rule, run)["complete"]


def test_a_run_that_is_taken_up_again_has_the_clinics_that_it_began_with(
    by_hand: LocalFederation,
) -> None:
    run = submit(by_hand.folder, "quickstart", (*SHORT, *MAY_LACK_ONE))
    yes = at_message(2, "query.propose", lambda: say_yes(by_hand, run, *CLINICS[:2]))

    def die() -> None:
        raise KeyboardInterrupt

    killed = at_message(2, "train", die)

    def before(clinic: str, kind: str) -> None:
        yes(clinic, kind)
        killed(clinic, kind)

    by_hand.before = before
    with pytest.raises(KeyboardInterrupt):
        by_hand.conduct(run)
    proposals.decide(by_hand.clinics[LATE], run, False, "ada")
    by_hand.conduct(run)
    result = result_of(by_hand, run)
    assert (result["resumes"], result["complete"]) == (1, False)
    expected = {tuple(each["expected"]) for each in result["participation"]}
    assert expected == {CLINICS}
    assert result["participation"][-1]["missing"] == {LATE: "it refused the run"}


def test_a_clinic_that_is_revoked_in_a_run_is_asked_no_more(by_rule: LocalFederation) -> None:
    run = submit(by_rule.folder, "quickstart", (*SHORT, *MAY_LACK_ONE))

    def revoke() -> None:
        with by_rule.folder.changing() as book:
            book[LATE] = book[LATE].model_copy(update={"state": "revoked"})

    by_rule.before = at_message(2, "train", revoke)
    by_rule.conduct(run)
    rounds = result_of(by_rule, run)["participation"]
    assert rounds[-1]["missing"] == {LATE: "its enrolment was revoked"}
    assert (LATE, "query.finish") not in by_rule.heard


def test_a_yes_that_is_taken_back_ends_a_clinics_part_at_once(by_hand: LocalFederation) -> None:
    run = submit(by_hand.folder, "quickstart", (*SHORT, *MAY_LACK_ONE))
    yes = at_message(2, "query.propose", lambda: say_yes(by_hand, run, *CLINICS))
    no = at_message(2, "train", lambda: proposals.decide(by_hand.clinics[LATE], run, False, "ada"))

    def before(clinic: str, kind: str) -> None:
        yes(clinic, kind)
        no(clinic, kind)

    by_hand.before = before
    by_hand.conduct(run)
    rounds = result_of(by_hand, run)["participation"]
    assert "somebody at the clinic approved" in rounds[-1]["missing"][LATE]
    ledgers = [len(by_hand.clinics[name].ledger.entries()) for name in CLINICS]
    assert ledgers[0] > ledgers[2] >= 1


@pytest.mark.parametrize("dropouts", [0, 1])
def test_under_secure_sums_with_the_same_noise_the_weights_are_the_simulations_bit_for_bit(
    tmp_path: Path, images: dict[str, Path], dropouts: int
) -> None:
    words = (*DISTRIBUTED, f"privacy.tolerated_dropouts={dropouts}")
    here = LocalFederation(
        tmp_path,
        {name: images[name] for name in CLINICS},
        open_run=open_with_fixed_noise,
        **UNBOUNDED,
    )
    run = submit(here.folder, "quickstart", words)
    here.conduct(run)
    model = load_bundle(here.folder.runs / run / "model")
    config = load_config(
        "quickstart",
        [
            *words,
            "data.source=manifest",
            f"data.root={images[WHOLE]}",
            "fairness.evaluation=dp_counts",
        ],
    )
    expected = simulated(config, tmp_path / "simulation")
    assert model.arrays.keys() == expected.fitted.arrays.keys()
    for name, array in model.arrays.items():
        np.testing.assert_array_equal(array, expected.fitted.arrays[name])
    assert np.any(model.arrays["weight"] != 0)
    rounds = len(result_of(here, run)["participation"])
    assert here.heard.count((CLINICS[0], "train")) == 1 + rounds * (4 if dropouts else 1)


def test_a_clinic_that_has_seen_one_class_only_takes_part(
    tmp_path: Path, images: dict[str, Path]
) -> None:
    seen = Path(shutil.copytree(images[LATE], tmp_path / "one-class"))
    lines = (seen / "manifest.csv").read_text().splitlines()
    benign = [line for line in lines if not re.search(r",(mel|bcc|akiec),1,", line)]
    assert 5 < len(benign) < len(lines)
    (seen / "manifest.csv").write_text("\n".join(benign) + "\n")
    data = {LATE: seen, CLINICS[0]: images[CLINICS[0]]}
    here = LocalFederation(tmp_path, data, least_patients="2")
    run = submit(here.folder, "quickstart", SHORT)
    here.conduct(run)
    assert result_of(here, run)["complete"]
