from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from skinml.errors import ConfigError, DataError
from skinml.reports.document import record_from_json, record_to_json


def test_a_record_survives_the_way_through_a_file(record):
    text = json.dumps(record_to_json(record), allow_nan=False)
    assert record_from_json(json.loads(text)) == record


def test_an_undefined_figure_is_null_and_keeps_its_reason(record):
    groups = record_to_json(record)["record"]["groups"]
    auroc = groups[0]["estimates"]["auroc"]
    assert auroc["value"] is None
    assert auroc["reason"] == "no malignant images"


@pytest.mark.parametrize("number", [float("nan"), float("inf"), np.float32("nan")])
def test_numbers_that_json_lacks_become_null(make_record, number):
    document = record_to_json(make_record(history=({"update_norm": number},)))
    assert document["record"]["history"] == [{"update_norm": None}]
    assert record_from_json(document).history == ({},)


def test_numpy_values_and_paths_become_plain(make_record):
    config = {"lr": np.float64(0.5), "rounds": np.int64(3), "folder": Path("a") / "b"}
    assert record_to_json(make_record(config=config))["record"]["config"] == {
        "lr": 0.5,
        "rounds": 3,
        "folder": "a/b",
    }


def test_a_value_that_is_not_plain_is_refused_by_type_and_not_shown(make_record):
    with pytest.raises(ConfigError, match="type=object") as caught:
        record_to_json(make_record(config={"x": object()}))
    assert " at 0x" not in str(caught.value)


@pytest.mark.parametrize("damage", ["format", "field", "type"])
def test_a_document_of_another_kind_is_refused(record, damage):
    document = record_to_json(record)
    if damage == "format":
        document["format"] = "other-1"
    elif damage == "field":
        del document["record"]["guarantee"]
    else:
        document["record"]["seed"] = "many"
    with pytest.raises(DataError):
        record_from_json(document)
