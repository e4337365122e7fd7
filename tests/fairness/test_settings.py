"""The shipped settings and what they refuse."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from skinml.config import load_config
from skinml.errors import ConfigError
from skinml.fairness.settings import FairnessSettings

SHIPPED = Path(__file__).parents[2] / "configs" / "fairness" / "default.yaml"


def test_the_shipped_file_names_every_field_and_holds_the_defaults():
    values = yaml.safe_load(SHIPPED.read_text())
    assert values.keys() == FairnessSettings.model_fields.keys()
    assert FairnessSettings(**values) == FairnessSettings()


def test_every_field_says_what_it_means():
    assert all(field.description for field in FairnessSettings.model_fields.values())


@pytest.mark.parametrize(
    "bad", [{"replicates": 10}, {"level": 1.0}, {"margin": 0}, {"replicats": 2000}]
)
def test_impossible_settings_are_refused(bad):
    with pytest.raises(ValidationError):
        FairnessSettings(**bad)


def test_crossings_of_what_the_data_do_not_carry_are_refused_before_training():
    with pytest.raises(ConfigError, match="hair"):
        load_config("quickstart", ["fairness.crossings=[[sex,hair]]"])
    crossed = load_config("quickstart", ["fairness.crossings=[[sex,skin_tone]]"])
    assert crossed.fairness.crossings == (("sex", "skin_tone"),)
    assert load_config("quickstart", ["fairness.primary=null"]).fairness.primary is None


@pytest.mark.parametrize(
    ("bad", "rule"),
    [
        ({"net_benefit_at": (0.0,)}, "between 0 and 1"),
        ({"top": (0,)}, "from 1"),
        ({"crossings": (("sex",),)}, "two different attributes"),
        ({"crossings": (("sex", "sex"),)}, "two different attributes"),
        ({"label_error": {"skin_tone": ((0.9, 0.2), (0.1, 0.9))}}, "sum to 1"),
        ({"label_error": {"skin_tone": ((0.9, 0.1),)}}, "square"),
        ({"metrics": ()}, "at least 1"),
        ({"margins": {"brier": 0.0}}, "above 0"),
    ],
)
def test_settings_that_make_no_sense_say_why(bad, rule):
    with pytest.raises(ValidationError, match=rule):
        FairnessSettings(**bad)


def test_the_general_margin_is_for_figures_of_finding_alone():
    options = FairnessSettings(margin=0.04, margins={"brier": 0.02, "sensitivity": 0.1})
    of_finding = ("auroc", "auroc_of_melanoma", "malignancy_auroc", "specificity", "top_3_accuracy")
    assert {options.margin_of(name) for name in of_finding} == {0.04}
    assert (options.margin_of("brier"), options.margin_of("sensitivity")) == (0.02, 0.1)
    others = (
        "ppv",
        "npv",
        "net_benefit_at_0.1",
        "observed_to_expected",
        "calibration_slope",
        "ece",
    )
    assert {options.margin_of(name) for name in others} == {None}


def test_expected_groups_are_those_named_or_those_in_order():
    options = FairnessSettings(order={"a": ("1", "2")}, expected={"b": ("x",)})
    assert [options.expected_groups(name) for name in "abc"] == [("1", "2"), ("x",), ()]
