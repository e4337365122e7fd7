"""The audit's page: stands alone, says what passing means, shows no figure that is not there."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from math import inf, nan
from pathlib import Path

import numpy as np
import pytest

from skinml.privacy.audit.findings import CanaryFinding, NotAudited, ReplayFinding
from skinml.privacy.audit.inversion import InversionFinding, Picture
from skinml.privacy.audit.membership import CaughtAt, MembershipFinding
from skinml.privacy.audit.record import TIERS, AuditRecord, Finding
from skinml.records import Estimate
from skinml.reports.audit_page import audit_html, audit_to_json, write_audit
from skinml.reports.audit_tables import verdicts

REPLAY = ReplayFinding("centred", "distributed", "removed", "gradient", 40, 0.4999, 0.5)
CANARIES = CanaryFinding(
    "T1", "centred", "local", "every sum", 500, 3.0, 1e-5, 0.7, 1.1, 1.9, 2.7, 2.4
)
BLIND = replace(CANARIES, tier="T2", seen="the model", estimate=nan, lower_limit=0.0)
MEMBERS = MembershipFinding(
    attack="LiRA",
    trust="distributed",
    attribute="overall",
    group="all",
    num_patients=405,
    num_targets=16,
    num_references=64,
    epsilon=3.0,
    delta=1e-5,
    auc=Estimate(0.556, 0.544, 0.570),
    most_auc=0.694,
    caught=(
        CaughtAt(0.001, Estimate(None, reason="405 patients; a rate of 0.1% needs 1,000"), 0.009),
        CaughtAt(0.01, Estimate(0.018, 0.008, 0.022), 0.054),
    ),
    roc=((0.001, 0.002), (0.1, 0.15), (1.0, 1.0)),
    lower_limit=0.2,
)
BARE = replace(MEMBERS, trust="none", epsilon=inf, most_auc=1.0, auc=Estimate(0.766, 0.747, 0.79))
DARK = replace(MEMBERS, attribute="skin_tone", group="7-10", num_patients=138, roc=())
INVERTED = InversionFinding(
    "picture",
    "the raw update",
    ("none: everybody", "central: the coordinator"),
    0.0,
    18,
    1,
    405,
    11.5,
    {"psnr": 23.9, "ssim": 0.35},
    {"psnr": 21.2, "ssim": 0.23},
)
ALL = (REPLAY, CANARIES, BLIND, MEMBERS, DARK, BARE, INVERTED)


def record(*findings: Finding, **changes: object) -> AuditRecord:
    made = AuditRecord(
        audit="quickstart-1",
        experiment="quickstart",
        started="2026-01-01T12:00:00+00:00",
        wall_s=90.0,
        tiers=TIERS,
        private=True,
        trust="distributed",
        unit="patient_within_clinic",
        unit_stands_for="patient",
        epsilon=3.0,
        delta=1e-5,
        data={"name": "synthetic"},
        findings=findings,
        not_audited=(NotAudited("T2", "recipe x", "It <needs> a model."),),
        notes={"inversion": "A note."},
        pictures=(Picture("the patient's picture", 0, np.zeros((8, 8, 3), np.uint8)),),
        config={"seed": 0},
        versions={"skinml": "0"},
    )
    return replace(made, **changes)  # type: ignore[arg-type]  # a test names its own changes


def text(page: str) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", page.split("</style>")[1]).split())


def test_the_page_stands_alone_and_holds_every_tier() -> None:
    page = audit_html(record(*ALL))
    assert not re.search(r"<script|<link|https?://|src=\"(?!data:)", page)
    assert "default-src 'none'" in page
    assert page.count("data:image/png;base64,") == 1
    for tier in TIERS:
        assert f'<section id="{tier}"' in page
    said = text(page)
    assert "405 patients; a rate of 0.1% needs 1,000" in said
    assert "At most possible at epsilon 3: AUC 0.694; 0.9%; 5.4%" in said
    assert "skin tone 7-10" in said
    assert "It &lt;needs&gt; a model." in page
    assert not re.search(r"\b(nan|inf|None)\b", said)


def test_an_unflagged_page_says_that_nothing_is_proved() -> None:
    said = text(audit_html(record(*ALL)))
    assert "NOTHING FLAGGED" in said
    assert "It proves no guarantee." in said
    assert "half of the noise, a patient counted twice" in said
    partly = text(audit_html(record(MEMBERS)))
    assert "were not both run here" in partly
    assert "would very likely have shown" not in partly


@pytest.mark.parametrize(
    "broken",
    [
        replace(REPLAY, distance=0.9),
        replace(REPLAY, release="schedule", problem="other rounds"),
        replace(REPLAY, distance=nan),
        replace(CANARIES, lower_limit=3.1),
        replace(MEMBERS, lower_limit=3.1),
    ],
)
def test_whatever_contradicts_the_promise_flags_the_page(broken: Finding) -> None:
    made = record(*ALL, broken)
    assert made.flagged
    said = text(audit_html(made))
    assert "contradicts the promise. Release no model" in said
    assert "NOTHING FLAGGED" not in said
    assert audit_to_json(made)["flagged"] is True
    assert any(each.flagged for each in verdicts(made))


def test_without_a_promise_nothing_is_flagged_and_the_page_says_why() -> None:
    bare = record(BARE, private=False, trust="none", epsilon=inf)
    assert not bare.flagged
    said = text(audit_html(bare))
    assert "NOT PRIVATE" in said
    assert "This audit shows what that gives away." in said
    assert audit_to_json(bare)["privacy"]["epsilon"] is None


def test_the_json_is_strict_and_has_no_pictures(tmp_path: Path) -> None:
    files = write_audit(record(*ALL), tmp_path / "made" / "here")
    told = json.loads(files.json.read_text(), parse_constant=pytest.fail)
    assert told["pictures"] == 1
    assert "base64" not in files.json.read_text()
    assert [len(told["findings"][tier]) for tier in TIERS] == [1, 1, 1, 3, 1]
    assert told["findings"]["T2"][0]["estimate"] is None
    assert told["findings"]["T3"][0]["caught"][0]["found"]["value"] is None
    assert "flagged" not in told["findings"]["inversion"][0]
    assert files.html.read_text() == audit_html(record(*ALL))


def test_a_replay_says_where_its_public_images_came_from() -> None:
    drawn = replace(REPLAY, recipe="projected", note="public images drawn")
    made = record(drawn, REPLAY)
    assert [each.what for each in verdicts(made)] == [
        "projected, trust distributed, public images drawn",
        "centred, trust distributed",
    ]
    assert text(audit_html(made)).count("one patient left out; public images drawn") == 1
    assert audit_to_json(made)["findings"]["T0"][0]["note"] == "public images drawn"


def test_the_summary_has_the_worst_release_and_no_groups() -> None:
    worse = replace(REPLAY, release="label counts", distance=0.9995, sensitivity=1.0)
    lines = verdicts(record(worse, REPLAY, DARK, MEMBERS))
    assert [(each.tier, each.found) for each in lines] == [
        ("T0", "1.000 of the sensitivity"),
        ("T3", "AUC 0.556; epsilon at least 0.20"),
    ]
