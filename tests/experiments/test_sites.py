"""What a clinic's node opens: its own sealed samples, unchanged, and nothing else."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from skinml.clinic.folder import ClinicFolder, open_folder
from skinml.clinic.policies import put_in_force
from skinml.clinic.virtual import virtual_folder
from skinml.config import load_config
from skinml.errors import BudgetExceededError, ConfigError, IntegrityError, PolicyError
from skinml.experiments.samples import (
    admitted,
    drop_samples,
    grounds_by_split,
    open_samples,
    still_admitted,
    store_samples,
)
from skinml.experiments.sites import Terms, clinic_setup, open_clinic
from skinml.federated.messages import Reply, Request, pack_reply
from skinml.records import SPLITS, Labels, Samples
from skinml.stewardship.consent_rules import Consent
from skinml.stewardship.policy import Roles

RUN = "quickstart-20260101-000000-abcd"
NORTH, SOUTH = "north", "south"
NOW = datetime.now(UTC)
TODAY = NOW.date()


def _samples(size: int) -> dict[str, Samples]:
    random = np.random.default_rng(0)
    return {
        split: Samples(
            inputs=random.normal(size=(size, 8)).astype(np.float32),
            labels=np.arange(size) % 2,
            patients=np.array([f"P{number}" for number in range(size)]),
            groups={"sex": np.full(size, "female")},
        )
        for split in SPLITS
    }


def _clinic(root: Path, name: str) -> ClinicFolder:
    policy = load_config("quickstart").clinic.policy
    return virtual_folder(root / "clinics", root / "anchors", name, policy)


@pytest.fixture
def terms(tmp_path: Path) -> Terms:
    """A run of two clinics whose samples are stored: half of them licensed, half of a pair."""
    for name in (NORTH, SOUTH):
        folder, samples = _clinic(tmp_path, name), _samples(6)
        folder.patient_keys.issue(samples["train"].patients.tolist())
        grounds = {
            "licence": np.array(["CC0", ""] * 3),
            "series": np.array(["", "", "pair"] * 2),
            "kept_until": np.array([""] * 6),
        }
        store_samples(folder, RUN, samples, dict.fromkeys(SPLITS, grounds))
    classes = Labels(("benign", "malignant"), (False, True))
    config = load_config("quickstart", ("privacy.trust=central",)).model_dump_json()
    return Terms(RUN, config, (NORTH, SOUTH), str(tmp_path / "clinics"), classes, 8)


@pytest.mark.parametrize("node", [{"partition-id": 1}, {"clinic": SOUTH}])
def test_a_node_opens_the_clinic_that_it_stands_for(terms: Terms, node: dict[str, object]) -> None:
    assert open_clinic(terms, node).name == SOUTH


@pytest.mark.parametrize("known", [(), (NORTH, SOUTH, "stranger")])
def test_a_clinic_with_a_share_of_the_noise_opens_only_where_sums_are_masked(
    terms: Terms, known: tuple[str, ...]
) -> None:
    """Terms without keys would make it send its sum as it is."""
    config = load_config("quickstart", ("privacy.trust=distributed",)).model_dump_json()
    keys = tuple((name, "00" * 32) for name in known)
    shared = replace(terms, config=config, clinics=(NORTH, SOUTH, "west"), registered=keys)
    with pytest.raises(IntegrityError, match="signing key of each clinic"):
        open_clinic(shared, {"clinic": NORTH})


@pytest.mark.parametrize("node", [{}, {"partition-id": 2}, {"partition-id": -1}, {"clinic": "x"}])
def test_a_node_of_no_clinic_is_refused(terms: Terms, node: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="one of the run's clinics"):
        open_clinic(terms, node)


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("place", [0, 40, -1])
def test_changed_samples_are_never_opened(terms: Terms, split: str, place: int) -> None:
    path = Path(terms.clinics_root) / NORTH / "runs" / RUN / f"samples-{split}.sealed"
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(IntegrityError) as caught:
        open_clinic(terms, {"clinic": NORTH})
    assert caught.value.exit_code == 5
    assert open_clinic(terms, {"clinic": SOUTH}).name == SOUTH


def test_one_clinics_samples_do_not_open_at_another(terms: Terms) -> None:
    north, south = (Path(terms.clinics_root) / name / "runs" / RUN for name in (NORTH, SOUTH))
    (south / "samples-train.sealed").replace(north / "samples-train.sealed")
    with pytest.raises(IntegrityError):
        open_clinic(terms, {"clinic": NORTH})


def test_dropping_samples_leaves_none_and_can_be_repeated(terms: Terms) -> None:
    folder = open_folder(Path(terms.clinics_root) / NORTH)
    for _ in range(2):
        drop_samples(folder, RUN)
        assert not folder.run(RUN).exists()


def test_samples_need_a_licence_or_a_consent_that_stands_when_they_are_asked_for(
    terms: Terms,
) -> None:
    folder = open_folder(Path(terms.clinics_root) / NORTH)
    samples, grounds = open_samples(folder, RUN, "train")
    ask = partial(admitted, folder, samples, grounds, "federated_training")
    licensed = samples.patients[ask(TODAY)].tolist()
    assert licensed == ["P0", "P2", "P4"]
    consent = Consent(
        purposes=("federated_training",),
        valid_from=TODAY,
        valid_until=TODAY,
        form_version="v1",
        how="paper",
        given_by="patient",
    )
    for patient in ("P1", "P5"):  # P5's photograph is of a pair, which this form does not cover
        folder.consents.grant(patient, consent, now=NOW, actor="tester")
    assert samples.patients[ask(TODAY)].tolist() == ["P0", "P1", "P2", "P4"]
    assert samples.patients[ask(TODAY + timedelta(days=1))].tolist() == licensed
    # A register opened before sees what another process writes into it.
    other = open_folder(folder.path)
    other.consents.withdraw("P1", now=NOW, actor="tester")
    other.consents.withdraw("P2", now=NOW, actor="tester")  # a no goes before a licence
    assert samples.patients[ask(TODAY)].tolist() == ["P0", "P4"]


def test_a_licence_that_the_policy_does_not_name_any_more_closes_the_next_round(
    terms: Terms, tmp_path: Path
) -> None:
    folder = open_folder(Path(terms.clinics_root) / NORTH)
    samples, grounds = open_samples(folder, RUN, "train")
    for licences, kept in (((), []), (("CC-BY",), []), (("CC0",), ["P0", "P2", "P4"])):
        policy = load_config("quickstart").clinic.policy.model_copy(update={"licences": licences})
        now_in_force = virtual_folder(tmp_path / "clinics", tmp_path / "anchors", NORTH, policy)
        allowed = admitted(now_in_force, samples, grounds, "federated_training", TODAY)
        assert samples.patients[allowed].tolist() == kept


@pytest.mark.parametrize(
    ("licences", "kept"),
    [
        (("CC0", "CC-BY-NC"), ["P0", "P1", "P3"]),
        (("CC0",), ["P0", "P3"]),
        (("CC-BY-NC",), ["P3"]),
        ((), ["P3"]),
    ],
)
def test_each_licence_of_an_item_of_several_images_must_still_be_named(
    tmp_path: Path, licences: tuple[str, ...], kept: list[str]
) -> None:
    """P0's views are both CC0, P1's are mixed, one of P2's has none, and P3 agreed."""
    folder, samples = _clinic(tmp_path, NORTH), _samples(4)
    folder.patient_keys.issue(samples["train"].patients.tolist())
    grounds = {
        "licence": np.array([["CC0", "CC0"], ["CC0", "CC BY-NC 4.0"], ["CC0", ""], ["", ""]]),
        "series": np.full(4, ""),
        "kept_until": np.full(4, ""),
    }
    store_samples(folder, RUN, samples, dict.fromkeys(SPLITS, grounds))
    given = Consent(
        purposes=("federated_training",),
        valid_from=TODAY,
        form_version="v1",
        how="paper",
        given_by="patient",
    )
    folder.consents.grant("P3", given, now=NOW, actor="tester")
    policy = folder.policy.model_copy(update={"licences": licences})
    put_in_force(folder, policy, "tester", now=NOW)
    now_in_force = open_folder(folder.path)
    left = still_admitted(now_in_force, RUN, "federated_training")
    assert [left[split].patients.tolist() for split in SPLITS] == [kept] * 3


def test_grounds_keep_the_licence_of_each_of_an_items_images() -> None:
    images = pd.DataFrame(
        {
            "patient_id": ["p", "p", "q", "q"],
            "licence": ["CC0", "CC-BY-NC", "CC0", "CC-BY"],
            "licensed_for": ["", "", "teaching", ""],
            "series": ["", "pair", "", ""],
            "kept_until": ["", "2026-05-01", "2026-04-01", "2026-03-01"],
        }
    )
    cohort = SimpleNamespace(
        images=images,
        items=pd.DataFrame({"split": ["train", "train"]}),
        views=np.array([[0, 1], [2, 3]]),
    )
    mine = np.array([True, True])
    found = grounds_by_split(cohort, mine, "research", ["CC0", "CC-BY-NC"])["train"]  # type: ignore[arg-type]  # what is asked of a cohort
    assert found["licence"].tolist() == [["CC0", "CC-BY-NC"], ["", ""]]
    assert found["series"].tolist() == ["pair", ""]
    assert found["kept_until"].tolist() == ["2026-05-01", "2026-03-01"]


def test_samples_of_an_erased_patient_are_gone_and_the_others_stay(terms: Terms) -> None:
    folder = open_folder(Path(terms.clinics_root) / NORTH)
    folder.patient_keys.erase(["P0"])
    kept = still_admitted(folder, RUN, "federated_training")
    assert [kept[split].patients.tolist() for split in SPLITS] == [["P2", "P4"]] * 3


@pytest.mark.parametrize(
    "change",
    [
        {"purposes": ("care",)},
        {"coordinators": ()},
        {"trust": ("local",)},
        {"roles": Roles(steward=("*",), clinician=(), operator=(), auditor=())},
    ],
)
def test_a_policy_that_becomes_stricter_stops_a_run_before_its_next_round(
    terms: Terms, change: dict[str, object]
) -> None:
    clinic = open_clinic(terms, {"clinic": NORTH})
    folder = open_folder(Path(terms.clinics_root) / NORTH)
    put_in_force(folder, folder.policy.model_copy(update=change), "tester", now=NOW)
    with pytest.raises(PolicyError):
        clinic.answer(Request(RUN, 1, 1, (NORTH, SOUTH), {}))
    assert folder.ledger.entries() == ()


def test_a_policy_that_is_changed_by_hand_stops_a_run_before_its_next_round(terms: Terms) -> None:
    clinic = open_clinic(terms, {"clinic": NORTH})
    path = Path(terms.clinics_root) / NORTH / "policy.yaml"
    path.write_bytes(path.read_bytes() + b"#")
    with pytest.raises(IntegrityError, match="policy"):
        clinic.answer(Request(RUN, 1, 1, (NORTH, SOUTH), {}))
    assert not (path.parent / "ledger.jsonl").exists()


def test_a_ceiling_that_is_lowered_holds_from_the_next_round(terms: Terms) -> None:
    clinic = open_clinic(terms, {"clinic": NORTH})
    folder = open_folder(Path(terms.clinics_root) / NORTH)
    limits = folder.policy.privacy.model_copy(update={"max_epsilon_per_run": 0.1})
    new = folder.policy.model_copy(update={"privacy": limits})
    put_in_force(folder, new, "tester", now=NOW)
    with pytest.raises(BudgetExceededError, match="policy of clinic north"):
        clinic.answer(Request(RUN, 1, 1, (NORTH, SOUTH), {}))


def _three_rounds(root: Path, broken: float | None) -> tuple[ClinicFolder, list[object]]:
    """Three rounds without noise at a clinic whose P2 has a broken image, or no licence."""
    folder, samples = _clinic(root, NORTH), _samples(6)
    folder.patient_keys.issue(samples["train"].patients.tolist())
    licences = ["CC0"] * 6
    if broken is None:
        licences[2] = ""
    else:
        samples["train"].inputs[2, 5] = broken
    grounds = {
        "licence": np.array(licences),
        "series": np.full(6, ""),
        "kept_until": np.full(6, ""),
    }
    store_samples(folder, RUN, samples, dict.fromkeys(SPLITS, grounds))
    config = load_config("quickstart", ("privacy.trust=none",))
    classes = Labels(("benign", "malignant"), (False, True))
    names = (NORTH, SOUTH)
    terms = Terms(RUN, config.model_dump_json(), names, str(root / "clinics"), classes, 8)
    setup = clinic_setup(terms, {"clinic": NORTH})
    clinic, learner, sent = open_clinic(terms, {"clinic": NORTH}), setup.learner, []
    for round_ in learner.rounds[:3]:
        query = learner.query(round_, learner.start())
        sums = clinic.answer(Request(RUN, round_.number, 1, names, query))
        packed = pack_reply(Reply(NORTH, round_.number, sums, {}))
        sent.append({name: each.data for name, each in packed.array_records["sums"].items()})
        sent.append([dict(packed.config_records[name]) for name in ("reply", "problem")])
    return open_folder(folder.path), sent


@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_images_without_finite_numbers_are_zeros_and_are_in_the_clinics_own_log_alone(
    tmp_path: Path, value: float
) -> None:
    folder, sent = _three_rounds(tmp_path / "broken", value)
    without, expected = _three_rounds(tmp_path / "without", None)
    assert sent == expected  # byte for byte: the count is in none of them
    told = [each for each in folder.audit.entries() if each.event == "not finite"]
    assert [dict(each.fields) for each in told] == [
        {"patients": 1, "round": number, "run": RUN} for number in (1, 2, 3)
    ]
    assert not [each for each in without.audit.entries() if each.event == "not finite"]
    assert not re.search(r"\bP\d\b", repr([each.fields for each in folder.audit.entries()]))
    for path in folder.path.rglob("*"):
        if path.is_file() and path != folder.audit.path:
            assert b"not finite" not in path.read_bytes(), path
