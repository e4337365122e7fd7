"""The shipped settings and what they refuse."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

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
