"""A report of figures from noised counts: nothing reads as exact, nothing negative is shown."""

from __future__ import annotations

import re
from dataclasses import replace

from skinml.records import Estimate, GroupResult
from skinml.reports.derived import derive
from skinml.reports.document import record_from_json, record_to_json
from skinml.reports.report import render_html


def group(name, positives, negatives, attribute="skin_tone"):
    return GroupResult(
        attribute=attribute,
        group=name,
        num_images=None,
        num_patients=positives + negatives,
        num_positives=positives,
        num_negatives=negatives,
        estimates={
            "sensitivity": Estimate(0.8, 0.7, 0.9),
            "specificity": Estimate(None, reason="too few patients beside the noise"),
            "ece": Estimate(None, reason="not among the released counts"),
            "balanced_accuracy": Estimate(0.75, 0.7, 0.8),
        },
        count_std=5.25,
    )


def counted(make_record):
    return replace(
        make_record(evaluation_source="dp_counts"),
        overall=group("overall", 40, 60, "overall"),
        groups=(group("light", 43, 67), group("dark", -3, -7)),
        yardsticks=(),
        cohort_flow=(),
        cohort_table=(),
    )


def test_the_page_says_what_its_figures_are_made_of(make_record):
    page = render_html(counted(make_record))
    text = " ".join(re.sub(r"<[^>]+>", " ", page).split())
    assert "EXACT METRICS" not in text
    assert "No prediction left a clinic" in text
    assert "exact counts stay at the clinics" in text
    assert "About 40 count as malignant, about 60 do not" in text
    assert "standard deviation of up to 5.2" in text or "standard deviation of up to 5.3" in text
    assert "too few patients beside the noise" in text
    assert "both at the threshold for alarms" in text
    assert "From files to test images" not in text
    assert "about 0 malignant" in text
    assert "-3" not in text


def test_an_exact_report_says_nothing_of_it(make_record):
    """The control of the test above."""
    page = render_html(make_record())
    assert "No prediction left a clinic" not in page
    assert "not by the threshold for alarms" in page.replace("\n", " ")


def test_raw_noisy_numbers_are_in_the_document_and_come_back(make_record):
    record = counted(make_record)
    document = record_to_json(record)
    assert document["record"]["groups"][1]["num_positives"] == -3
    assert document["record"]["overall"]["num_images"] is None
    assert record_from_json(document) == record
    assert derive(record).alarms[0].count_std == 5.25
