"""A record as a run on three clinics leaves it, with the hard cases of a report in it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from math import sqrt
from typing import Any

import pytest

from skinml.records import (
    ClinicSpend,
    CohortCell,
    CohortStage,
    Estimate,
    GroupResult,
    Guarantee,
    Labels,
    Participation,
    PlannedSum,
    RunRecord,
    Yardstick,
)
from tests.reports.compared import compared

CLINICS = ("harbour", "hillside", "riverside")


def estimate(value: float, events: int) -> Estimate:
    half = 1.96 * sqrt(max(value * (1 - value), 0.02) / max(events, 1))
    low, high = max(0.0, value - half), min(1.0, value + half)
    return Estimate(value, low, high, method="patient bootstrap")


def group(attribute: str, name: str, patients: int, sick: int, healthy: int) -> GroupResult:
    events = min(sick, healthy)
    wobble = (patients % 7) / 100
    figures = {
        "auroc": estimate(0.91 - wobble, 3 * events),
        "balanced_accuracy": estimate(0.83 - wobble, events),
        "sensitivity": estimate(0.86 - wobble, sick),
        "specificity": estimate(0.79 + wobble, healthy),
        "brier": Estimate(0.087 + wobble, 0.07, 0.12),
        "calibration_intercept": Estimate(-0.14 + wobble, -0.41, 0.19),
        "calibration_slope": Estimate(0.93 - wobble, 0.71, 1.18),
        "ece": Estimate(0.021 + wobble, 0.004, 0.06),
    }
    if not sick:
        nothing = Estimate(None, reason="no malignant images")
        for each in ("auroc", "balanced_accuracy", "sensitivity", "calibration_slope"):
            figures[each] = nothing
    return GroupResult(attribute, name, sick + healthy, patients, sick, healthy, figures)


def groups() -> tuple[GroupResult, ...]:
    rows = (
        ("skin_tone", "0 very dark", 3, 0, 4),
        ("skin_tone", "1", 41, 9, 51),
        ("skin_tone", "2", 301, 83, 342),
        ("skin_tone", "3", 604, 171, 702),
        ("skin_tone", "unknown", 212, 48, 240),
        ("sex", "female", 577, 140, 655),
        ("sex", "male", 584, 171, 684),
        ("clinic", "harbour", 390, 120, 433),
        ("clinic", "hillside", 402, 101, 462),
        ("clinic", "riverside", 369, 90, 444),
    )
    return tuple(group(*row) for row in rows)


def guarantee() -> Guarantee:
    return Guarantee(
        private=True,
        trust="distributed",
        unit="patient_within_clinic",
        epsilon=2.98714,
        total_epsilon=4.10352,
        epsilon_across_clinics=9.4127,
        max_clinics=3,
        delta=1e-5,
        simulated=True,
        clinics={
            name: ClinicSpend(2.98714 - 0.01 * i, 4.10352, 62) for i, name in enumerate(CLINICS)
        },
        covered=("the weights after every round", "the threshold for alarms"),
        not_covered=("the features' backbone, which was trained on other images",),
        advantage=0.2796,
        total_advantage=0.3781,
        recognised=0.0537,
        replace_one_epsilon=6.6714,
        num_clinics=3,
        tolerated_dropouts=1,
        colluding_clinics=0,
        sums=(
            PlannedSum("label_counts", 1, 1, 1.0, 6.31),
            PlannedSum("gradient", 2, 30, 0.5, 3.7),
        ),
    )


def participation() -> tuple[Participation, ...]:
    """Of 30 rounds one goes on without a clinic; another is made at the second attempt."""

    def entry(number: int, missing: dict[str, str], attempt: int, noise: bool) -> Participation:
        present = tuple(name for name in CLINICS if name not in missing)
        # Two of three shares are all of the noise.
        std = sqrt(len(present) / 2) if noise else None
        return Participation(number, CLINICS, present, missing, attempt, std)

    silent = "did not answer within 120 s"
    failed = entry(9, {"harbour": silent, "hillside": silent}, 1, noise=False)
    missing = {17: {"riverside": silent}}
    return tuple(
        each
        for number in range(1, 31)
        for each in (
            *([failed] if number == 9 else []),
            entry(number, missing.get(number, {}), 2 if number == 9 else 1, noise=True),
        )
    )


def build_record(**changes: Any) -> RunRecord:
    overall = group("overall", "overall", 1161, 311, 1339)
    record = RunRecord(
        run="20261121-101502-derm_malignancy-7",
        experiment="derm_malignancy",
        seed=7,
        started="2026-11-21T10:15:02Z",
        wall_s=274.3,
        evaluation_source="exact",
        classes=Labels(("benign", "malignant"), (False, True)),
        threshold=0.3125,
        threshold_source="noisy validation histogram, charged to the ledger",
        overall=overall,
        groups=groups(),
        yardsticks=(
            Yardstick("Same model without privacy", False, overall.estimates),
            Yardstick("Logistic regression on pooled features", False, overall.estimates),
            Yardstick("harbour alone", False, {"auroc": Estimate(0.861, 0.84, 0.88)}),
        ),
        guarantee=guarantee(),
        participation=participation(),
        cohort_flow=(
            CohortStage("read from the manifest", 8714, 5720),
            CohortStage("consent for research", 8460, 5571, "149 patients without consent"),
            CohortStage("test", 1650, 1161),
        ),
        cohort_table=tuple(
            CohortCell(
                attribute,
                name,
                {"train": 700 + i, "validation": 230 + i, "test": 240 + i},
                {"train": 180 + i, "validation": 52 + i, "test": 61 + i},
            )
            for i, (attribute, name) in enumerate(
                [("clinic", name) for name in CLINICS]
                + [("skin_tone", name) for name in ("0 very dark", "1", "2", "3", "unknown")]
            )
        ),
        data={
            "name": "dermoscopic images of three clinics",
            "unit": "patient",
            "digest": "sha256:5c1f0f6d9b",
            "licence": "CC BY-NC 4.0",
            "tone_scale": "MILK10k's classes, 0 very dark to 5 very light",
        },
        config={
            "seed": 7,
            "federation": {"allowed_missing": 1, "attempts": 2},
            "fairness": {"min_events": 10, "replicates": 2000},
            "privacy": {"trust": "distributed", "epsilon": 3.0, "clip": 1.0},
            "data": {"attributes": ["skin_tone", "sex"], "split_key": "skinml-2026"},
        },
        versions={"skinml": "0.1.0", "python": "3.11.9", "torch": "2.14.1"},
        history=tuple(
            {"round": float(i), "update_norm": 4.0 / i, "weight_norm": 2.5 - 2.0 / i}
            for i in range(1, 31)
        ),
        complete=False,
    )
    return replace(record, **changes)


@pytest.fixture(scope="session")
def make_record() -> Callable[..., RunRecord]:
    """Builds the record; keywords replace its fields."""
    return build_record


@pytest.fixture(scope="session")
def record() -> RunRecord:
    return build_record()


@pytest.fixture(scope="session")
def reviewed(record: RunRecord) -> RunRecord:
    """A run whose groups were compared, with curves and criteria."""
    return compared(record)


class Page(HTMLParser):
    """What a reader gets of a page: tags, visible text outside drawings, tables by caption."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.tables: dict[str, list[list[str]]] = {}
        self._open: list[str] = []
        self._table: list[list[str]] = []
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in {"meta", "link", "br", "hr", "img", "path", "use", "rect"}:
            self._open.append(tag)
        if tag == "table":
            self._table = []
        elif tag == "tr":
            self._table.append([])
        elif tag in {"th", "td"}:
            self._table[-1].append("")
        elif tag == "caption":
            self._caption = ""

    def handle_endtag(self, tag: str) -> None:
        if tag in self._open:
            while self._open.pop() != tag:
                pass
        if tag == "table":
            self.tables[self._caption] = self._table

    def handle_data(self, data: str) -> None:
        if {"style", "svg"}.isdisjoint(self._open):
            self.texts.append(data)
            if "caption" in self._open:
                self._caption += data
            elif {"th", "td"} & set(self._open):
                self._table[-1][-1] += data

    @property
    def text(self) -> str:
        """All visible words, single-spaced."""
        return " ".join(" ".join(self.texts).split())


@pytest.fixture(scope="session")
def read_page() -> Callable[[str], Page]:
    """Parses a page."""
    return Page
