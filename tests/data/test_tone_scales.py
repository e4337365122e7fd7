"""Tables of cuts: they disagree, are named, and are never joined."""

from __future__ import annotations

import numpy as np
import pytest

from skinml.data.taxonomy import load_taxonomy
from skinml.data.tone_scales import TABLES, one_scale, scale_by_name, tone_scale
from skinml.errors import ConfigError, DataError


@pytest.mark.parametrize("table", TABLES)
def test_classes_and_cuts_fit_and_a_cut_belongs_to_the_darker_class(table: str) -> None:
    scale = tone_scale(table)
    assert len(scale.bins) == len(scale.cuts) + 1
    assert list(scale.cuts) == sorted(set(scale.cuts))
    assert scale.bins_of(np.asarray(scale.cuts)).tolist() == list(scale.bins[:-1])
    assert scale.bins_of(np.asarray(scale.cuts) + 0.01).tolist() == list(scale.bins[1:])


def test_tables_disagree_about_one_angle() -> None:
    angle = np.array([-22.0])
    assert [tone_scale(table).bins_of(angle)[0] for table in TABLES] == ["brown", "dark", "groh_5"]


@pytest.mark.parametrize("table", TABLES)
def test_manifests_may_carry_every_scale_and_no_two_share_a_name(table: str) -> None:
    scale = tone_scale(table)
    words = load_taxonomy().tone_words[scale.name]
    assert set(words.values()) == set(scale.bins)
    assert scale_by_name(scale.name) is scale


def test_shares_are_those_of_the_angles() -> None:
    shares = tone_scale("del_bino_2013").shares(np.array([-50.0, 20, 20, 60]))
    assert shares == {
        "dark": 0.25,
        "brown": 0,
        "tan": 0.5,
        "intermediate": 0,
        "light": 0,
        "very_light": 0.25,
    }


def test_two_scales_are_not_joined() -> None:
    names = [tone_scale(table).name for table in TABLES]
    assert one_scale([names[0]] * 3) == names[0]
    with pytest.raises(DataError, match="no scale converts into another"):
        one_scale(names)


def test_an_unknown_table_is_refused() -> None:
    with pytest.raises(ConfigError, match="fitzpatrick"):
        tone_scale("fitzpatrick")
