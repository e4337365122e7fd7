"""What a report tells of mitigation, and what it says where it tells nothing."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from skinml.fairness.after_training import COUNTED, AfterTraining, after_training
from skinml.fairness.settings import FairnessSettings
from skinml.records import Predictions
from skinml.reports.document import record_from_json, record_to_json
from skinml.reports.report import render_html
from skinml.reports.verification import unfounded_numbers
from tests.reports.compared import predictions

OPEN = FairnessSettings(replicates=200)


def with_method(record, method="none", values=None):
    settings = {"method": method, "group": "skin_tone", "greatest_ratio": 4.0}
    return replace(record, config={**record.config, "mitigation": settings}, mitigation=values)


@pytest.fixture(scope="module")
def values():
    everybody = predictions()
    halves = [np.arange(1600) // 2 % 2 == side for side in (0, 1)]

    def taken(rows):
        return Predictions(
            everybody.classes,
            everybody.labels[rows],
            everybody.probabilities[rows],
            everybody.decisions[rows],
            everybody.patients[rows],
            {name: group[rows] for name, group in everybody.groups.items()},
        )

    return after_training(
        *(taken(rows) for rows in halves),
        "skin_tone",
        0.5,
        settings=OPEN,
        rng=lambda: np.random.default_rng(3),
    ).values()


@pytest.fixture(scope="module")
def page(record, values, read_page):
    return read_page(render_html(with_method(record, "reweigh", values)))


def test_each_group_has_its_line_in_both_tables(page, values):
    text = page.text
    for each in values["thresholds"][1:]:
        assert f"{each['threshold']:.3f}" in text
    for each in values["recalibrations"]:
        assert f"{each['line']['intercept']:.2f} and {each['line']['slope']:.2f}" in text


def test_it_is_said_that_epsilon_does_not_cover_it_and_the_model_does_not_have_it(page):
    for words in (
        "An analysis, not the model",
        "epsilon does not cover them",
        "the group of every new patient would have to be known",
        "patients counted by weights of their groups",
    ):
        assert words in page.text


def test_changes_are_those_whose_interval_leaves_out_nothing(page, values):
    """The darkest group is missed, so a threshold of its own costs it specificity."""
    (dark,) = (each for each in values["thresholds"] if each["group"] == "V-VI")
    change = dark["figures"]["specificity"]["difference"]
    assert change["high"] < 0
    assert f"V-VI at its own threshold: Specificity changes by {change['value']:.2f}" in page.text
    held = [
        (each["group"], name)
        for each in values["thresholds"]
        for name, made in each["figures"].items()
        if made["difference"]["low"] <= 0 <= made["difference"]["high"]
    ]
    assert held
    for group, name in held:
        assert f"{group} at its own threshold: {name.capitalize()} changes" not in page.text


def test_every_number_is_in_the_json_and_the_record_comes_back(record, values, page):
    made = with_method(record, "reweigh", values)
    document = json.loads(json.dumps(record_to_json(made)))
    assert unfounded_numbers(page.text, document)[1] == []
    assert record_from_json(document).mitigation == values


def test_of_noised_counts_it_is_said_why_there_is_nothing(record, read_page):
    left_out = AfterTraining("skin_tone", COUNTED).values()
    text = read_page(render_html(with_method(record, "group_dro", left_out))).text
    assert COUNTED in text
    assert "groups on which it was worse counted more" in text
    assert "A threshold for each group" not in text


def test_where_no_group_has_enough_patients_it_is_said_and_no_change_is_denied(
    record, values, read_page
):
    emptied = json.loads(json.dumps(values))
    for part in ("thresholds", "recalibrations"):
        for each in emptied[part]:
            each |= {"figures": {}, "reason": "fewer than 15 malignant validation patients"}
    text = read_page(render_html(with_method(record, "none", emptied))).text
    assert "no group by skin tone has enough malignant and other validation patients" in text
    assert "No change is larger than chance" not in text


def test_a_record_that_knows_nothing_of_mitigation_has_no_section(record, read_page):
    assert "What could be done about gaps" not in read_page(render_html(record)).text
    plain = read_page(render_html(with_method(record))).text
    assert "Nothing was done against gaps" in plain
