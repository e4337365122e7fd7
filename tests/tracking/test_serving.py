from __future__ import annotations

import base64
from types import SimpleNamespace

import pytest

from skinml.errors import DataError
from skinml.records import Labels
from skinml.tracking.quiet import quiet

with quiet():
    import pandas as pd

    from skinml.tracking.serving import BundleModel, image_bytes, signature


@pytest.fixture
def model(tmp_path):
    served = BundleModel(
        lambda folder: (
            lambda images, groups: [
                {"decision": str(len(i)), "group": g} for i, g in zip(images, groups, strict=True)
            ]
        )
    )
    served.load_context(SimpleNamespace(artifacts={"bundle": str(tmp_path)}))
    return served


def test_bytes_and_base64_mean_the_same():
    assert image_bytes(0, b"abc") == image_bytes(0, base64.b64encode(b"abc").decode()) == b"abc"


@pytest.mark.parametrize("value", [3, None, "not base64!", ["abc"]])
def test_anything_else_is_refused_with_its_row_and_without_its_value(value):
    with pytest.raises(DataError, match="row 4") as caught:
        image_bytes(4, value)
    assert "not base64!" not in str(caught.value)


def test_rows_keep_their_order_and_index(model):
    frame = pd.DataFrame({"image": [b"a", b"bbb"]}, index=[7, 5])
    scored = model.predict(None, frame)
    assert scored["decision"].tolist() == ["1", "3"]
    assert scored.index.tolist() == [7, 5]


def test_a_missing_column_is_named(model):
    with pytest.raises(DataError, match="columns=photo"):
        model.predict(None, pd.DataFrame({"photo": [b"a"]}))


def test_the_signature_names_every_class():
    described = signature(Labels(("a", "b", "c"), (False, True, False)))
    assert described.inputs.input_names() == ["image", "group"]
    assert described.outputs.input_names()[:4] == ["a", "b", "c", "decision"]
    assert {"label_set", "cannot_tell", "who_decides"} <= set(described.outputs.input_names())


def test_a_group_is_passed_on_where_somebody_knows_it(model):
    frame = pd.DataFrame({"image": [b"a", b"b"], "group": ["4-6", None]})
    passed = model.predict(None, frame)["group"]
    assert passed[0] == "4-6"
    assert pd.isna(passed[1])
