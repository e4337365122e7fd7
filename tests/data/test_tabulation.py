"""One row a patient, chosen by that patient's rows alone."""

from __future__ import annotations

import pandas as pd
import pytest

from skinml.clinic.vocabulary import SHIPPED
from skinml.config import load_config
from skinml.data.tabulation import one_row_each, with_groups
from skinml.data.taxonomy import load_taxonomy

SETTINGS = load_config("statistics").data
BY = ("diagnosis", "skin_tone", "treatment")


def _rows(*rows: tuple[str, str, str, str | None]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=["patient_id", "image", "diagnosis", "treatment"])
    taxonomy = load_taxonomy()
    return frame.assign(
        clinic="north",
        malignant=[taxonomy.malignant[name] for name in frame["diagnosis"]],
        skin_tone="3",
        skin_tone_scale="fitzpatrick",
        age=50.0,
    )


def _chosen(frame: pd.DataFrame) -> dict[str, str]:
    grouped = with_groups(frame, BY, SETTINGS, load_taxonomy())
    found = one_row_each(grouped, BY, "key")
    return dict(zip(found["patient_id"], found["image"], strict=True))


def test_the_row_that_knows_most_counts_then_a_malignant_one() -> None:
    frame = _rows(
        ("a", "1", "melanoma", None),
        ("a", "2", "nevus", "excision"),
        ("b", "3", "nevus", "excision"),
        ("b", "4", "melanoma", "excision"),
        ("c", "5", "nevus", None),
        ("c", "6", "nevus", None),
    )
    found = _chosen(frame)
    assert (found["a"], found["b"]) == ("2", "4")
    # Neither the order of rows nor anybody else has a part in it.
    assert _chosen(frame.iloc[::-1].reset_index(drop=True)) == found
    alone = frame[frame["patient_id"] == "c"].reset_index(drop=True)
    assert _chosen(alone)["c"] == found["c"]


def test_a_tone_of_another_scale_or_in_no_bin_is_not_known() -> None:
    frame = _rows(("a", "1", "nevus", "laser"), ("b", "2", "nevus", "laser")).assign(
        skin_tone=["3", "2"], skin_tone_scale=["monk", "fitzpatrick"]
    )
    grouped = with_groups(frame, BY, SETTINGS, load_taxonomy())
    assert grouped["group.skin_tone"].tolist() == ["unknown", "1-2"]
    assert grouped["group.treatment"].tolist() == ["physical", "physical"]


@pytest.mark.parametrize("column", ["treatment", "outcome"])
def test_each_word_that_an_import_keeps_has_a_group(column: str) -> None:
    """But for the general ones, of which nobody knows what they were."""
    words = sorted(SHIPPED[column] - {"other", "unknown"})
    groups = dict(zip(words, load_taxonomy().courses(column, words), strict=True))
    known = {"transplantation", "platelet rich plasma", "lost to follow up", "alive"}
    assert {word for word, group in groups.items() if group == "other"} == known & set(words)
