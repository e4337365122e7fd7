"""What a report tells of label sets: their coverage by group, or why it is missing."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from skinml.fairness.set_coverage import GroupCoverage, SetsCoverage
from skinml.reports.document import record_from_json, record_to_json
from skinml.reports.report import render_html
from skinml.reports.verification import unfounded_numbers

OWN = (
    GroupCoverage("0-2", 0.9713, 0.6917, 0.9987, 43, 89, 0.8842),
    GroupCoverage("3", 0.8419, 0.7712, 0.8998, 190, 400, 0.2116),
)
ONE = (GroupCoverage("0-2", 0.8261, 0.7313, 0.9139, 318, 89, 0.0),)
MEASURED = SetsCoverage("skin_tone", 0.9, 0.95, by_group=OWN, one_limit=ONE)


def told(record, made, **data):
    return replace(record, label_sets=made.values(), data={**record.data, **data})


def test_coverage_stands_by_group_beside_one_limit_and_each_number_is_in_the_json(
    record, read_page
):
    ran = told(record, MEASURED)
    page = read_page(render_html(ran)).text
    for words in ("0.97 0.69 to 1.00", "0.83 0.73 to 0.91", "43 and 89", "0.88", "not measured"):
        assert words in " ".join(page.split())
    assert "as far as the interval tells: 3." in " ".join(page.split())
    document = json.loads(json.dumps(record_to_json(ran)))
    assert unfounded_numbers(page, document)[1] == []
    assert record_from_json(document) == ran


def test_other_patients_than_the_runs_own_were_promised_nothing(record, read_page):
    ran = told(record, replace(MEASURED, one_limit=()), evaluated_on="other data")
    page = read_page(render_html(ran)).text
    assert "Nothing was promised about them" in page
    assert "one limit for all" not in page


@pytest.mark.parametrize("made", [replace(MEASURED, left_out="it stays inside"), None])
def test_where_nothing_was_measured_the_page_says_why_and_without_sets_nothing(
    record, read_page, made
):
    page = read_page(render_html(told(record, made) if made else record)).text
    assert ("How often that held is not told here: it stays inside." in page) == (made is not None)
    assert ("Label sets for single images" in page) == (made is not None)
