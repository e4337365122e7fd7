"""The parts of the page that a reviewer decides by: gaps, curves, clinics, criteria, clauses."""

from __future__ import annotations

import json
from dataclasses import replace
from math import log

import pytest

from skinml.fairness.curves import curves_by_group
from skinml.records import Estimate, RunRecord
from skinml.reports.clauses import ADDRESSED, CONDITIONAL, USER, clauses
from skinml.reports.document import record_from_json
from skinml.reports.heterogeneity import heterogeneity
from skinml.reports.report import render_html, write_report
from skinml.reports.verification import unfounded_numbers, visible_text
from tests.reports.compared import SETTINGS, predictions


@pytest.fixture(scope="module")
def page(reviewed, read_page):
    return read_page(render_html(reviewed))


def test_every_number_of_the_new_parts_is_in_the_json(reviewed, tmp_path):
    files = write_report(reviewed, tmp_path)
    document = json.loads(files.json.read_text())
    text = visible_text(files.html.read_text())
    shown, strange = unfounded_numbers(text, document)
    assert strange == []
    assert shown > 300
    assert unfounded_numbers(f"{text} 0.7777", document)[1] == ["0.7777"]
    assert record_from_json(document) == reviewed


def test_the_first_page_tells_what_is_shown_and_what_is_open(page):
    short = page.text.split("Contents")[0]
    assert "the comparison named in advance" in short
    assert "skin tone V-VI lies" in short
    assert "A gap is shown. If both had the same mix by diagnosis, it would be" in short
    told, left = short.split("What cannot be told")
    assert "A gap is shown" not in left
    assert "These data could have shown a gap of about" in left
    assert "Acceptance criteria fixed in advance: not all are met" in told
    assert "does not test differences" not in short


def test_each_gap_stands_beside_chance_what_could_be_seen_and_p(page, reviewed):
    (name,) = [each for each in page.tables if each.startswith("Gaps: skin tone against")]
    head, *rows = page.tables[name]
    assert head[1] == "Answer"
    assert head[4:] == ["Size by chance alone", "Could have shown", "p, corrected"]
    (darkest,) = [row for row in rows if row[0] == "AUROC: V-VI"]
    gap = next(
        each
        for each in reviewed.gaps["gaps"]
        if (each["group"], each["metric"]) == ("V-VI", "auroc")
    )
    difference = gap["difference"]
    assert darkest[2] == (
        f"{difference['value']:.2f} {difference['low']:.2f} to {difference['high']:.2f}"
    )
    assert darkest[4].startswith(f"{gap['null']['mean']:.2f} up to {gap['null']['high']:.2f}")
    assert darkest[5] == f"{gap['detectable']:.2f}"
    assert darkest[6] == f"{gap['p_adjusted']:.2g}"
    assert darkest[1] == "gap shown"
    assert "Gaps if both groups had the same mix of cases" in page.tables
    assert "Gaps if part of the assumed error of labels is taken off" in page.tables
    assert "correction by assumption" in page.text


def test_a_report_without_comparisons_says_so_and_where_counts_are_the_reason(
    record, make_record, read_page
):
    plain = read_page(render_html(make_record(groups=(), history=())))
    assert "the run that it is from kept no comparisons" in plain.text
    assert "the run that this report is from kept no curves" in plain.text
    counted = read_page(
        render_html(make_record(groups=(), history=(), evaluation_source="dp_counts"))
    )
    assert "no prediction left a clinic. The tables above have what" in counted.text


def test_what_noise_did_to_counts_is_told(record, make_record, read_page):
    noised = replace(record.overall, num_images=None, count_std=12.4, num_positives=311)
    none_left = replace(record.groups[0], count_std=12.4, num_positives=-3)
    page = read_page(
        render_html(
            make_record(
                overall=noised, groups=(none_left,), history=(), evaluation_source="dp_counts"
            )
        )
    )
    table = page.tables["The noise beside the counts"]
    assert table[1][:3] == ["Everybody", "12.4", f"{100 * 12.4 / 311:.1f}"]
    assert table[2][2] == "no patients to be seen"


def test_criteria_and_what_became_of_them(page):
    table = page.tables["Criteria and what was found"]
    assert [row[1].split()[0] for row in table[1:]] == ["met", "not", "cannot"]
    assert "V-VI against I-II" in table[2][2]
    assert table[3][1] == "cannot tell accepted"


def test_a_report_from_a_file_promises_nothing_and_hides_nothing(reviewed, read_page):
    promise = replace(reviewed.guarantee, private=False, trust="not known")
    changed = replace(reviewed, kind="predictions", participation=(), guarantee=promise)
    page = read_page(render_html(changed))
    assert "FROM A FILE" in page.text
    assert "Privacy: not known." in page.text
    assert "There is no guarantee" not in page.text
    assert "NOT PRIVATE" not in page.text
    assert "Training and participation" not in page.text
    ids = [tag["id"] for _, tag in page.tags if "id" in tag]
    pointers = {tag["href"][1:] for _, tag in page.tags if "href" in tag}
    assert pointers <= set(ids)
    assert len(ids) == len(set(ids))


def test_no_clause_is_addressed_that_the_record_cannot_answer(reviewed, make_record):
    full = {(each.guideline, each.content): each.status for each in clauses(reviewed)}
    bare = make_record(
        groups=(), cohort_flow=(), cohort_table=(), threshold=None, versions={}, config={}, data={}
    )
    empty = {(each.guideline, each.content): each for each in clauses(bare)}
    assert set(full) == set(empty)
    by_status = {name: sum(each == name for each in full.values()) for name in set(full.values())}
    assert set(by_status) == {ADDRESSED, USER}
    assert {each.status for each in empty.values()} == {ADDRESSED, CONDITIONAL, USER}
    for key, status in full.items():
        assert (status == USER) == (empty[key].status == USER)
    for each in empty.values():
        assert bool(each.note) == (each.status == CONDITIONAL)


def clinics(make_record, *limits: tuple[float, float, float]) -> RunRecord:
    base = make_record()
    like = next(each for each in base.groups if each.attribute == "clinic")
    return replace(
        base,
        groups=tuple(
            replace(like, group=f"c{at}", estimates={"auroc": Estimate(value, low, high)})
            for at, (low, value, high) in enumerate(limits)
        ),
    )


def logit(value):
    return log(value / (1 - value))


def test_clinics_that_agree_leave_nothing_to_explain(make_record):
    (found,) = heterogeneity(clinics(make_record, *[(0.8, 0.85, 0.89)] * 4))
    assert (found.least, found.greatest, found.i_squared_percent) == (0.85, 0.85, 0.0)
    assert found.low < 0.85 < found.high


def test_i_squared_and_the_next_clinic_follow_the_textbook(make_record):
    """Held against the formulas written out for two groups of three clinics by hand."""
    limits = [(0.60, 0.70, 0.7850), (0.80, 0.85, 0.8900), (0.90, 0.94, 0.9650)]
    (found,) = heterogeneity(clinics(make_record, *limits))
    z = 1.959963984540054
    y = [logit(value) for _, value, _ in limits]
    v = [((logit(high) - logit(low)) / (2 * z)) ** 2 for low, _, high in limits]
    w = [1 / each for each in v]
    mean = sum(a * b for a, b in zip(w, y, strict=True)) / sum(w)
    q = sum(a * (b - mean) ** 2 for a, b in zip(w, y, strict=True))
    tau2 = (q - 2) / (sum(w) - sum(a * a for a in w) / sum(w))
    wide = [1 / (each + tau2) for each in v]
    centre = sum(a * b for a, b in zip(wide, y, strict=True)) / sum(wide)
    reach = 12.706204736432095 * (tau2 + 1 / sum(wide)) ** 0.5  # t of one degree of freedom
    assert found.i_squared_percent == pytest.approx(100 * (q - 2) / q)
    assert logit(found.high) == pytest.approx(centre + reach, rel=1e-6)
    assert logit(found.low) == pytest.approx(centre - reach, rel=1e-6)


def test_two_clinics_say_nothing_of_a_third(make_record):
    (found,) = heterogeneity(clinics(make_record, (0.6, 0.7, 0.8), (0.8, 0.85, 0.9)))
    assert (found.low, found.high) == (None, None)
    assert heterogeneity(clinics(make_record, (0.6, 0.7, 0.8))) == ()


def test_curves_are_those_of_the_definition():
    found = curves_by_group(predictions(), SETTINGS)
    everybody, truth = found[0], predictions().malignant
    scores = predictions().malignancy_scores
    assert sum(each.num_items for each in everybody.calibration) == 1600
    for point in everybody.net_benefit[::7]:
        alarms = scores >= point.risk
        odds = point.risk / (1 - point.risk)
        direct = ((alarms & truth).sum() - odds * (alarms & ~truth).sum()) / 1600
        assert point.model == pytest.approx(direct)
        assert point.everybody == pytest.approx(truth.mean() - odds * (1 - truth.mean()))
    assert {each.group for each in found if each.attribute == "skin_tone"} == {
        "I-II",
        "III-IV",
        "V-VI",
    }


def test_without_a_threshold_the_first_page_shows_how_well_scores_rank(reviewed, read_page):
    ranked = {"auroc": reviewed.overall.estimates["auroc"]}
    changed = replace(
        reviewed,
        threshold=None,
        overall=replace(reviewed.overall, estimates=ranked),
        groups=tuple(replace(each, estimates=ranked) for each in reviewed.groups),
        kind="predictions",
    )
    page = read_page(render_html(changed))
    short = page.text.split("Contents")[0]
    assert "nothing says from which score on an image raises an alarm" in short
    assert "Of 100 malignant, found" not in short
    table = page.tables["Telling malignant from other images, with the 95% interval"]
    assert [row[0].split()[0] for row in table[1:]] == ["Everybody", "I-II", "III-IV", "V-VI"]
    assert table[1][1].startswith(f"{ranked['auroc'].value:.3f}")
