"""The model card: its metadata, its words and its page say what the record says, and no more."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard

from skinml.records import RunRecord
from skinml.reports.card import card_html, card_markdown, card_metadata, write_card
from skinml.reports.document import record_to_json
from skinml.reports.guarantee_page import guarantee_html
from skinml.reports.verification import unfounded_numbers, visible_text


def front_matter(markdown: str) -> dict[str, Any]:
    empty, head, _ = markdown.split("---\n", 2)
    assert empty == ""
    found = yaml.safe_load(head)
    assert isinstance(found, dict)
    return found


def results(record: RunRecord) -> list[dict[str, Any]]:
    (index,) = front_matter(card_markdown(record))["model-index"]
    assert index["name"] == record.run
    return list(index["results"])


def test_each_figure_of_the_metadata_is_the_records_own_with_its_interval(
    record: RunRecord,
) -> None:
    by_group = {f"{each.attribute}: {each.group}": each for each in record.groups}
    by_group["everybody"] = record.overall
    names = {"roc_auc": "auroc", "recall": "sensitivity", "expected_calibration_error": "ece"}
    found = results(record)
    assert found[0]["dataset"]["config"] == "everybody"
    for each in found:
        estimates = by_group[each["dataset"]["config"]].estimates
        for metric in each["metrics"]:
            estimate = estimates[names.get(metric["type"], metric["type"])]
            assert metric["value"] == estimate.value
            assert (metric["args"]["low"], metric["args"]["high"]) == (estimate.low, estimate.high)


def test_an_undefined_figure_is_left_out_and_never_0(record: RunRecord) -> None:
    (dark,) = (each for each in results(record) if "0 very dark" in each["dataset"]["config"])
    told = {metric["type"] for metric in dark["metrics"]}
    assert "specificity" in told
    assert told.isdisjoint({"roc_auc", "recall"})


def test_the_hubs_own_reader_takes_the_metadata_as_they_are(record: RunRecord) -> None:
    read = ModelCard(card_markdown(record)).data
    assert read.to_dict() == card_metadata(record)
    assert len(read.eval_results) == sum(len(each["metrics"]) for each in results(record))


@pytest.mark.parametrize("make", [card_html, guarantee_html])
def test_every_number_of_a_page_is_in_the_report(make: Any, record: RunRecord) -> None:
    told, strange = unfounded_numbers(visible_text(make(record)), record_to_json(record))
    assert told > 10
    # "1 wrong suspicion", "50 times in 100": what a coin does.
    assert set(strange) <= {"50"}


def test_a_run_without_a_promise_says_so(record: RunRecord) -> None:
    bare = replace(record.guarantee, private=False, trust="none", epsilon=None, advantage=None)
    not_private = replace(record, guarantee=bare)
    card = card_markdown(not_private)
    assert "not-private" in front_matter(card)["tags"]
    assert "differential-privacy" not in front_matter(card)["tags"]
    assert "NOT PRIVATE" in card
    assert "There is no guarantee." in guarantee_html(not_private)


def test_a_groups_name_is_never_read_as_markup(record: RunRecord) -> None:
    name = "<script>alert(1)</script> | [x](javascript:1)\n# head"
    groups = tuple(
        replace(each, group=name) if each.group == "female" else each for each in record.groups
    )
    groups = tuple(replace(g, attribute="skin_tone") if g.group == name else g for g in groups)
    hostile = replace(record, groups=groups)
    body = card_markdown(hostile).split("---\n", 2)[2]
    assert r"\<script\>" in body
    assert not re.search(r"(?<!\\)[<|]script", body)
    assert "\n# head" not in body
    assert "<script" not in card_html(hostile)
    assert front_matter(card_markdown(hostile))


def test_the_card_stands_beside_the_model_and_is_the_same_each_time(
    record: RunRecord, tmp_path: Any
) -> None:
    first = write_card(record, tmp_path / "model").read_bytes()
    assert write_card(record, tmp_path / "model").read_bytes() == first
    assert (tmp_path / "model" / "README.md").is_file()
