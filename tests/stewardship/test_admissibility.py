"""The one door: a row comes through on a licence or on its patient's consent, and not otherwise."""

from __future__ import annotations

import datetime
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from skinml.errors import PolicyError
from skinml.journal import Journal, KeyedSeal
from skinml.stewardship.admissibility import (
    AlsoWithdrawals,
    OnlyWithdrawals,
    admissible,
    assess,
    row_reasons,
)
from skinml.stewardship.consent import Consent, ConsentRegister
from skinml.stewardship.licences import LICENCES
from skinml.stewardship.purposes import DATA_KINDS, PURPOSES, DataKind, Purpose

KEY = bytes(range(32))
DAY = datetime.date(2026, 3, 1)
NOW = datetime.datetime(2026, 3, 1, 9, 30, tzinfo=datetime.UTC)
LICENSED = ("research", "teaching", "federated_training", "statistics")


def frame(*rows: tuple[str, str | None] | tuple[str, str | None, str | None]) -> pd.DataFrame:
    """A manifest's rows: patient, licence, place in a series."""
    full = [(*row, None)[:3] for row in rows]
    return pd.DataFrame(full, columns=["patient_id", "licence", "series"]).assign(
        row=range(2, 2 + len(rows))
    )


@pytest.fixture
def register(tmp_path: Path) -> ConsentRegister:
    return ConsentRegister(Journal(tmp_path / "c", "consent register", KeyedSeal(KEY)), KEY)


def grant(
    register: ConsentRegister,
    patient: str,
    *purposes: Purpose,
    data: tuple[DataKind, ...] = ("images", "records"),
    since: datetime.date = datetime.date(2026, 1, 1),
    until: datetime.date | None = None,
) -> None:
    given = Consent(
        purposes=purposes or ("research",),
        data=data,
        valid_from=since,
        valid_until=until,
        form_version="v2",
        how="paper",
        given_by="patient",
    )
    register.grant(patient, given, now=NOW, actor="ada")


@pytest.mark.parametrize("purpose", [*PURPOSES, "another"])
@pytest.mark.parametrize(
    "licence", ["CC0", "CC BY 4.0", "cc by-nc 4.0", "research only", " CC-BY "]
)
def test_a_research_licence_covers_research_teaching_training_and_statistics_alone(
    purpose: str, licence: str
) -> None:
    rows = frame(("p", licence))
    found = assess(rows, purpose, DAY)
    assert len(found.frame) == (purpose in LICENSED)
    if purpose in LICENSED:
        what_for = purpose.replace("_", " ")
        assert found.basis == f"research dataset under {licence.strip()}, for {what_for}"
        assert (found.admitted, found.refused) == ({"licence": 1}, {})
    else:
        assert found.refused == {"purpose not covered": 1}


@pytest.mark.parametrize(
    "licence",
    [
        None,
        "",
        "  ",
        "all rights reserved",
        np.nan,
        "CC BY my lawyer",
        "CC BY-NC-ND 4.0",
        "cc0?",
        "CC0 1.0, Erika Mustermann has not answered yet",
        "CC BY 4.0 (Erika Mustermann)",
        "public domain after 2040",
        "research only if she agrees",
        "CC BY 4.0\nErika Mustermann",
    ],
)
def test_without_licence_and_register_no_row_comes_through(licence: str | None) -> None:
    found = assess(frame(("p", licence)), "research", DAY)
    assert (len(found.frame), found.refused, found.basis) == (0, {"no licence": 1}, "")


@pytest.mark.parametrize(
    ("cell", "name"),
    [
        ("CC0", "CC0"),
        ("CC0-1.0", "CC0"),
        ("CC BY 4.0", "CC-BY"),
        ("cc-by-sa-3.0", "CC-BY-SA"),
        ("cc by-nc 4.0", "CC-BY-NC"),
        ("CC BY-NC-SA", "CC-BY-NC-SA"),
        ("ODC-By 1.0", "ODC-BY"),
        ("Public Domain", "public-domain"),
        ("Research only (Stanford University DDI agreement)", "research-only"),
    ],
)
def test_a_licence_opens_rows_only_where_it_is_named(
    register: ConsentRegister, cell: str, name: str
) -> None:
    rows = frame(("p", cell), ("q", cell), ("r", ""))
    grant(register, "q")
    assert admissible(rows, "research", DAY, register, [name]).admitted == {"licence": 2}
    others = [each for each in LICENCES if each != name]
    for named in ([], others):
        found = assess(rows, "research", DAY, register, named)
        assert found.frame["patient_id"].tolist() == ["q"]
        assert found.admitted == {"consent": 1}
        assert found.basis == "patients' recorded consent, for research"
        assert found.refused == {"licence not allowed": 1, "no consent": 1}
        assert found.standings == {"p": "licence not allowed", "q": "", "r": "no consent"}


def test_what_is_on_record_of_a_patient_is_said_before_the_licence(
    register: ConsentRegister,
) -> None:
    grant(register, "p", until=datetime.date(2026, 2, 1))
    register.withdraw("q", now=NOW, actor="ada")
    found = assess(frame(("p", "CC0"), ("q", "CC0")), "research", DAY, register, [])
    assert found.refused == {"expired": 1, "withdrawn": 1}


def test_columns_that_are_not_there_are_no_licence(register: ConsentRegister) -> None:
    bare = pd.DataFrame({"patient_id": ["p", "q"]})
    assert assess(bare, "research", DAY).num_refused == 2
    grant(register, "q")
    assert admissible(bare, "research", DAY, register).frame["patient_id"].tolist() == ["q"]


def test_a_consent_opens_the_door_for_its_patient_alone(register: ConsentRegister) -> None:
    grant(register, "p")
    rows = frame(("q", None), ("p", None), ("q", None), ("p", None))
    found = admissible(rows, purpose="research", day=DAY, consents=register)
    assert found.frame["row"].tolist() == [3, 5]
    assert found.num_refused == 2
    assert (found.admitted, found.refused) == ({"consent": 1}, {"no consent": 1})
    assert found.basis == "patients' recorded consent, for research"


def test_a_withdrawal_closes_it_again(register: ConsentRegister) -> None:
    for patient in ("p", "q"):
        grant(register, patient, "care", "research")
    rows = frame(("p", None), ("q", None))
    assert len(admissible(rows, "research", DAY, register).frame) == 2
    register.withdraw("p", now=NOW, actor="ada")
    found = admissible(rows, "research", DAY, register)
    assert found.frame["patient_id"].tolist() == ["q"]
    assert found.refused == {"withdrawn": 1}
    assert len(admissible(rows, "care", DAY, register).frame) == 2


def test_a_recorded_no_goes_before_a_licence(register: ConsentRegister) -> None:
    rows = frame(("p", "CC0"), ("q", "CC0"))
    assert len(admissible(rows, "federated_training", DAY, register).frame) == 2
    register.withdraw("p", now=NOW, actor="ada")
    found = admissible(rows, "federated_training", DAY, register)
    assert found.frame["patient_id"].tolist() == ["q"]
    assert (found.admitted, found.refused) == ({"licence": 1}, {"withdrawn": 1})
    grant(register, "p")
    assert assess(rows, "federated_training", DAY, register).refused == {"withdrawn": 1}


def test_a_narrow_ended_or_later_consent_goes_before_a_licence(register: ConsentRegister) -> None:
    grant(register, "care alone", "care")
    grant(register, "ended", "research", until=DAY - datetime.timedelta(days=1))
    grant(register, "later", "research", since=DAY + datetime.timedelta(days=1))
    grant(register, "records alone", "research", data=("records",))
    rows = frame(*[(name, "CC0") for name in ("care alone", "ended", "later", "records alone")])
    found = assess(pd.concat([rows, frame(("unasked", "CC0"))]), "research", DAY, register)
    assert found.admitted == {"licence": 1}
    assert found.standings["unasked"] == ""
    assert dict(found.refused) == {
        "purpose not covered": 1,
        "expired": 1,
        "not yet valid": 1,
        "data not covered": 1,
    }
    grant(register, "care alone")
    assert admissible(rows, "research", DAY, register).frame["patient_id"].tolist() == [
        "care alone"
    ]


def test_another_registers_narrower_answer_holds_where_the_first_knows_none(
    register: ConsentRegister, tmp_path: Path
) -> None:
    other = ConsentRegister(Journal(tmp_path / "o", "consent register", KeyedSeal(KEY)), KEY)
    grant(register, "p")
    grant(other, "p", "care")
    grant(other, "q", "care")
    grant(other, "r")
    rows = frame(*[(name, "CC0") for name in "pqrs"])
    found = assess(rows, "research", DAY, AlsoWithdrawals(register, other))
    assert found.standings == {"p": "", "q": "purpose not covered", "r": "", "s": ""}


def test_pairs_before_and_after_need_their_own_consent(register: ConsentRegister) -> None:
    grant(register, "p")
    grant(register, "q", data=DATA_KINDS)
    grant(register, "r", data=("before_and_after_images",))
    rows = frame(
        ("p", None),
        ("p", None, "before"),
        ("q", None, "after"),
        ("q", None, ""),
        ("r", None, "after"),
    )
    found = admissible(rows, "research", DAY, register)
    assert found.frame["row"].tolist() == [2, 4, 5]
    assert found.refused == {"data not covered": 2}


def test_pairs_of_a_research_dataset_need_its_licence_alone() -> None:
    assert len(admissible(frame(("p", "CC0", "before")), "research", DAY).frame) == 1


def test_both_grounds_are_named_and_counted_by_patient(register: ConsentRegister) -> None:
    grant(register, "p")
    register.withdraw("s", now=NOW, actor="ada")
    rows = frame(("p", None), ("p", None), ("q", "CC0"), ("r", None), ("r", None), ("s", None))
    found = assess(rows, "research", DAY, register)
    assert found.admitted == {"licence": 1, "consent": 1}
    assert found.refused == {"no consent": 1, "withdrawn": 1}
    assert found.num_refused == 3
    assert found.basis == (
        "research dataset under CC0, for research; patients' recorded consent, for research"
    )
    assert row_reasons(rows, "research", DAY, register).tolist() == [
        "",
        "",
        "",
        "no consent",
        "no consent",
        "withdrawn",
    ]


def test_a_closed_door_says_neither_why_nor_how_many(register: ConsentRegister) -> None:
    register.withdraw("Mustermann", now=NOW, actor="ada")
    rows = frame(*[("Mustermann", None)] * 37)
    with pytest.raises(PolicyError) as refusal:
        admissible(rows, purpose="research", day=DAY, consents=register)
    told = str(refusal.value).replace(DAY.isoformat(), "")
    assert not re.search(r"\d|Mustermann|withdrawn", told)
    assert not refusal.value.details
    assert assess(rows, "research", DAY, register).refused == {"withdrawn": 1}


def test_a_registers_noes_hold_for_rows_that_its_yeses_do_not_open(
    register: ConsentRegister,
) -> None:
    grant(register, "p")
    register.withdraw("q", now=NOW, actor="ada")
    rows = frame(("p", None), ("p", "CC0"), ("q", None), ("q", "CC0"))
    noes = OnlyWithdrawals(register)
    assert admissible(rows, "research", DAY, noes).frame["row"].tolist() == [3]


def test_no_rows_are_no_use(register: ConsentRegister) -> None:
    none = frame(("p", "CC0")).iloc[:0]
    with pytest.raises(PolicyError):
        admissible(none, "research", DAY, register)
    assert assess(none, "research", DAY).refused == {}


def test_how_it_stood_earlier_can_be_asked(register: ConsentRegister) -> None:
    grant(register, "p")
    used = register.mark().count
    register.withdraw("p", now=NOW, actor="ada")
    rows = frame(("p", None))
    assert len(admissible(rows, "research", DAY, register.book(used)).frame) == 1
    with pytest.raises(PolicyError):
        admissible(rows, "research", DAY, register)


def test_the_manifests_rows_stay_as_they_are(register: ConsentRegister) -> None:
    grant(register, "b")
    rows = frame(("c", None), ("b", None), ("a", "CC0")).set_index(pd.Index([30, 10, 20]))
    before = rows.copy()
    found = admissible(rows, "research", DAY, register).frame
    pd.testing.assert_frame_equal(found, before.loc[[10, 20]])
    pd.testing.assert_frame_equal(rows, before)


def test_a_dataset_declared_for_some_purposes_is_used_for_no_other():
    frame = pd.DataFrame(
        {
            "patient_id": ["a", "b", "c"],
            "licence": ["CC0"] * 3,
            "licensed_for": ["research teaching", "research federated_training", None],
        }
    )
    day = datetime.date(2026, 3, 1)
    for purpose, expected in (
        ("federated_training", "bc"),
        ("teaching", "ac"),
        ("research", "abc"),
    ):
        kept = admissible(frame, purpose=purpose, day=day).frame["patient_id"]
        assert "".join(kept) == expected


@pytest.mark.parametrize(("day", "kept"), [("2026-03-01", 2), ("2026-03-02", 1)])
def test_a_row_is_used_up_to_its_last_day_on_whatever_ground(day: str, kept: int) -> None:
    frame = pd.DataFrame(
        {"patient_id": ["p", "q"], "licence": "CC0", "kept_until": ["2026-03-01", ""]}
    )
    found = assess(frame, "research", datetime.date.fromisoformat(day))
    assert len(found.frame) == kept
    assert dict(found.refused) == ({} if kept == 2 else {"kept too long": 1})


def test_a_no_is_told_before_an_end() -> None:
    frame = pd.DataFrame({"patient_id": ["p"], "licence": [""], "kept_until": ["2020-01-01"]})
    found = assess(frame, "research", datetime.date(2026, 3, 1))
    assert dict(found.refused) == {"no licence": 1}
