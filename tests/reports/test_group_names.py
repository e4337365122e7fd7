"""Groups on a page: places in words a reader knows, and the one that nobody knows last."""

from __future__ import annotations

from dataclasses import replace

from skinml.data.taxonomy import load_taxonomy
from skinml.records import RunRecord
from skinml.reports.view import group_results, group_title
from tests.reports.conftest import group


def test_each_place_of_the_taxonomy_is_named_in_words() -> None:
    taxonomy = load_taxonomy()
    places = set(taxonomy.sites(["hand", "neck", "leg", "arm", "mouth"], [""] * 5).names)
    assert len(places) == 5
    assert not [place for place in places if "_" in group_title(place)]
    assert group_title("clinic_2") == "clinic_2"  # a clinic's own name stays


def test_whom_nobody_knows_comes_last_and_the_others_keep_their_order(record: RunRecord) -> None:
    named = ("trunk", "unknown", "hand_foot", "back")
    groups = tuple(group("site", name, 50, 20, 30) for name in named)
    ((_, found),) = group_results(replace(record, groups=groups))
    assert [each.group for each in found] == ["trunk", "hand_foot", "back", "unknown"]
