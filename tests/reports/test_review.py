"""The parts of the page that a reviewer decides by: gaps, curves, clinics, criteria, clauses."""

from __future__ import annotations

import json
from dataclasses import replace
from math import log

import pytest

from skinml.fairness.curves import NetBenefitPoint, curves_by_group
from skinml.fairness.gaps import gaps_from
from skinml.fairness.settings import FairnessSettings
from skinml.records import Estimate, RunRecord
from skinml.reports.clauses import ADDRESSED, CONDITIONAL, USER, clauses
from skinml.reports.curve_figures import net_benefit_alt
from skinml.reports.document import record_from_json
from skinml.reports.gap_tables import findings
from skinml.reports.heterogeneity import heterogeneity
from skinml.reports.report import render_html, write_report
from skinml.reports.verification import unfounded_numbers, visible_text
from skinml.reports.wording import GIVEN_THRESHOLD
from tests.reports.compared import SETTINGS, compared_of, partly_known, predictions


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
    assert "Of 100 malignant images, found" not in short
    table = page.tables["Telling malignant from other images, with the 95% interval"]
    assert [row[0].split()[0] for row in table[1:]] == ["Everybody", "I-II", "III-IV", "V-VI"]
    assert table[1][1].startswith(f"{ranked['auroc'].value:.3f}")


def test_a_gap_that_is_shown_stands_on_the_first_page_whichever_it_is(reviewed, make_record):
    """All groups together, another attribute, a crossing: shown is shown."""
    gaps = gaps_from(reviewed.gaps)
    (other,) = [each for each in gaps.spreads if not each.primary]
    shown = replace(other, attribute="skin_tone x sex", verdict="gap shown", reason="")
    said = findings(replace(gaps, gaps=(), spreads=(shown,)), "skin_tone").found
    assert len(said) == 1
    assert "by skin tone x sex: groups" in said[0]
    assert "by chance alone it would be about" in said[0]
    assert "named in advance" not in said[0]
    open_ones = replace(shown, verdict="cannot tell")
    silent = findings(replace(gaps, gaps=(), spreads=(open_ones,)), "skin_tone")
    assert (silent.found, silent.open) == ((), ())


def test_where_another_pair_is_the_clearest_the_first_page_names_it(reviewed):
    gaps = gaps_from(reviewed.gaps)
    first = next(each for each in gaps.spreads if each.primary)
    turned = replace(first, best="I-II", worst="V-VI", clearest=("I-II", "III-IV"))
    said = findings(replace(gaps, gaps=(), spreads=(turned,)), "skin_tone").found[0]
    assert "It is clearest between I-II and III-IV." in said


def test_what_could_not_be_shown_at_all_is_no_gap_of_zero(reviewed, read_page):
    plain = {**reviewed.gaps}
    blind = [{**each, "detectable": None, "verdict": "cannot tell"} for each in plain["gaps"]]
    page = read_page(render_html(replace(reviewed, gaps={**plain, "gaps": blind})))
    (name,) = [each for each in page.tables if each.startswith("Gaps: skin tone against")]
    assert {row[5] for row in page.tables[name][1:]} == {"none at all"}
    assert "no gap would have been shown, however great" in page.text


def test_the_level_and_the_margins_of_each_figure_are_told(reviewed, read_page):
    named = compared_of(
        reviewed, predictions(), metrics=("auroc", "brier", "ppv"), margins={"brier": 0.03}
    )
    text = read_page(render_html(named)).text
    assert "Margins: AUROC 0.05, Brier score 0.03, Positive predictive value none." in text
    family = gaps_from(named.gaps).family
    assert f"0.05 for the primary comparison, {0.05 / family:.4f} for each other one" in text
    assert "move with how common malignancy is" in text


def test_of_a_file_the_page_says_who_fixed_what_and_not_when(reviewed, read_page):
    changed = replace(
        reviewed, kind="predictions", participation=(), threshold_source="given by the maker"
    )
    text = read_page(render_html(changed)).text
    for claim in ("before the data were seen", "fixed in advance", "named in advance"):
        assert claim not in text.replace("Acceptance criteria fixed in advance conditional", "")
    assert "fixed before this report was made, by whoever ran it" in text
    assert "the comparison named by whoever ran this report" in text
    found = {each.content: each for each in clauses(changed)}
    assert found["A comparison named before looking"].status == CONDITIONAL
    assert found["Acceptance criteria fixed in advance"].status == CONDITIONAL


def test_settings_that_nobody_touched_address_nothing(reviewed, make_record):
    """The defaults name a primary comparison, references and a margin; no comparison was made."""
    bare = make_record(config={"fairness": FairnessSettings().model_dump(mode="json")})
    found = {(each.guideline, each.content): each.status for each in clauses(bare)}
    assert found["STANDING Together", "A comparison named before looking"] == CONDITIONAL
    assert found["TRIPOD+AI (2024)", "Sample size: what each comparison could have shown"] == (
        CONDITIONAL
    )
    assert found["STANDING Together", "Groups that are absent"] == CONDITIONAL
    lesions = replace(reviewed, data={**reviewed.data, "unit": "lesion"})
    said = {each.content: each.status for each in clauses(lesions)}
    assert said["Patients, not images, are resampled"] == CONDITIONAL
    given = replace(reviewed, threshold_source=GIVEN_THRESHOLD)
    said = {each.content: each.status for each in clauses(given)}
    assert said["The threshold and where it comes from"] == CONDITIONAL


def test_groups_that_should_be_there_and_are_not_are_on_the_first_page(reviewed, read_page):
    named = {"skin_tone": ("I-II", "III-IV", "V-VI", "none of these")}
    changed = compared_of(reviewed, predictions(), expected=named, order={})
    short = read_page(render_html(changed)).text.split("Contents")[0]
    assert "skin tone none of these: no test patient was of this group" in short
    assert "no test patient was of" not in read_page(render_html(reviewed)).text


def test_where_the_tone_is_not_known_is_told_by_clinic_and_group(reviewed, read_page):
    changed = compared_of(reviewed, partly_known())
    table = read_page(render_html(changed)).tables["Where skin tone is not known"]
    rows = {row[0]: row[1:] for row in table[1:]}
    assert rows["Clinic: north"][1].startswith("0.00 0.00 to 0.01")
    south = next(each for each in gaps_from(changed.gaps).unknown if each.group == "south")
    place = [at for at in range(800) if at % 2]
    assert south.num_patients == len(place)
    assert south.share.value == sum(at % 3 == 0 for at in place) / len(place)
    assert south.share.low < south.share.value < south.share.high
    assert "Where skin tone is not known" not in read_page(render_html(reviewed)).tables


def test_the_words_on_wrong_labels_hold_for_errors_by_chance_alone(reviewed, read_page):
    text = read_page(render_html(reviewed)).text
    assert "errors that go with hard images may do either" in text
    assert "If images that are hard to label are hard for the model too" in text
    assert "make differences between groups look smaller than they are." not in text


def test_a_gap_at_the_same_mix_says_what_was_left_out(reviewed):
    gaps = gaps_from(reviewed.gaps)
    partial = tuple(
        replace(each, covered=0.83, left_out={"squamous_cell": "2 of V-VI"})
        for each in gaps.standardised
    )
    said = " ".join(findings(replace(gaps, standardised=partial), "skin_tone").found)
    assert "over a share of 0.83 of their images" in said
    assert "left out for want of patients: squamous cell" in said
    assert "over a share" not in " ".join(findings(gaps, "skin_tone").found)


def test_a_decision_curve_is_described_by_what_was_drawn():
    drawn = [(0.1, 0.2), (0.2, -0.1), (0.3, 0.05), (0.4, 0.04), (0.5, -0.2)]
    points = [NetBenefitPoint(risk, model, -0.3) for risk, model in drawn]
    said = net_benefit_alt(points)
    assert "at 0.10, 0.30 to 0.40, without a test" in said
    assert said.startswith("Of the risks from 0.10 to 0.50")
    worse = [replace(each, model=-1.0) for each in points]
    assert "at none" in net_benefit_alt(worse)


def test_a_clinic_that_is_all_right_counts_too(make_record):
    """Twenty of twenty right, by Clopper and Pearson from .832: a half added to either side."""
    whole = (0.025 ** (1 / 20), 1.0, 1.0)
    rest = [(0.75, 0.85, 0.92), (0.70, 0.82, 0.90)]
    (found,) = heterogeneity(clinics(make_record, whole, *rest))
    assert (found.num_clinics, found.left_out, found.greatest) == (3, (), 1.0)
    z = 1.959963984540054
    y = [log(20.5 / 0.5), *(logit(value) for _, value, _ in rest)]
    v = [1 / 20.5 + 1 / 0.5]
    v += [((logit(high) - logit(low)) / (2 * z)) ** 2 for low, _, high in rest]
    w = [1 / each for each in v]
    mean = sum(a * b for a, b in zip(w, y, strict=True)) / sum(w)
    q = sum(a * (b - mean) ** 2 for a, b in zip(w, y, strict=True))
    assert found.i_squared_percent == pytest.approx(max(0, 100 * (q - 2) / q))


def test_a_limit_at_the_edge_leaves_the_other_to_tell_the_spread(make_record):
    (found,) = heterogeneity(clinics(make_record, *[(0.7, 0.9, 1.0)] * 3))
    error = (logit(0.9) - logit(0.7)) / 1.959963984540054
    reach = 12.706204736432095 * error / 3**0.5
    assert logit(found.high) == pytest.approx(logit(0.9) + reach)
