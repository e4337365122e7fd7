from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from skinml.data.taxonomy import load_taxonomy, normalise
from skinml.errors import ConfigError

SHIPPED = Path(__file__).parents[2] / "skinml" / "data" / "taxonomy.yaml"


def diagnosis(word: str, dataset: str = "") -> str:
    return load_taxonomy().diagnoses([word], [dataset]).names[0]


@pytest.mark.parametrize(
    ("dataset", "word", "malignant"),
    [
        *(("HAM10000", word, True) for word in ("mel", "bcc", "akiec")),
        *(("HAM10000", word, False) for word in ("nv", "bkl", "df", "vasc")),
        *(("MILK10k", word, True) for word in ("AKIEC", "BCC", "MAL_OTH", "MEL", "SCCKA")),
        *(("MILK10k", word, False) for word in ("BEN_OTH", "BKL", "DF", "INF", "NV", "VASC")),
        *(("PAD-UFES-20", word, True) for word in ("BCC", "MEL", "SCC")),
        *(("PAD-UFES-20", word, False) for word in ("ACK", "NEV", "SEK")),
        *(("ISIC2019", word, True) for word in ("MEL", "BCC", "SCC")),
        *(("ISIC2019", word, False) for word in ("NV", "AK", "BKL", "DF", "VASC")),
        ("DDI", "nodular-melanoma-(nm)", True),
        ("DDI", "melanocytic-nevi", False),
        ("Fitzpatrick17k", "superficial spreading melanoma ssm", True),
        ("Fitzpatrick17k", "pityriasis rubra pilaris", False),
    ],
)
def test_published_word_has_its_malignancy(dataset: str, word: str, malignant: bool) -> None:
    assert load_taxonomy().malignant[diagnosis(word, dataset)] is malignant


def test_no_word_has_two_meanings() -> None:
    shipped = yaml.safe_load(SHIPPED.read_text())
    for section in (
        {name: each["words"] for name, each in shipped["diagnoses"].items()},
        shipped["anatomical_sites"],
    ):
        words = [normalise(word) for name, more in section.items() for word in (name, *more)]
        assert sorted(words) == sorted(set(words))


@pytest.mark.parametrize("word", ["lower_extremity", "Lower extremity", "lower-extremity "])
def test_spelling_does_not_matter(word: str) -> None:
    assert load_taxonomy().sites([word], [""]).names == ("lower_extremity",)


@pytest.mark.parametrize(
    ("scale", "word", "tone"),
    [
        ("fitzpatrick", "3.0", "3"),
        ("fitzpatrick", "IV", "4"),
        ("fitzpatrick", "56", "5-6"),
        ("fitzpatrick", "5-6", "5-6"),
        ("monk", "10", "10"),
        ("milk", "0", "0"),
    ],
)
def test_tones_are_spelled_as_their_scale_does(scale: str, word: str, tone: str) -> None:
    assert load_taxonomy().tones([word], [scale]).names == (tone,)


@pytest.mark.parametrize(
    ("scale", "word"), [("fitzpatrick", "0"), ("fitzpatrick", "-1"), ("milk", "6"), ("monk", "IV")]
)
def test_a_tone_of_another_scale_is_unmapped(scale: str, word: str) -> None:
    assert load_taxonomy().tones([word], [scale]).unmapped == {word: 1}


def test_unmapped_words_are_counted_and_empty_ones_are_not() -> None:
    mapped = load_taxonomy().diagnoses(["foo", "", "mel", "foo"], [""] * 4)
    assert mapped.names == ("", "", "melanoma", "")
    assert mapped.unmapped == {"foo": 2}


def test_a_clinic_extends_the_words(tmp_path: Path) -> None:
    extra = tmp_path / "mine.yaml"
    extra.write_text(
        "diagnoses:\n"
        "  melanoma: {malignant: true, words: [schwarzer Hautkrebs]}\n"
        "  merkel: {malignant: true, words: [mcc]}\n"
        "datasets:\n"
        "  ours: {tone_scale: monk, diagnosis: {nv: melanoma}}\n"
    )
    taxonomy = load_taxonomy(extra)
    words = ["Schwarzer Hautkrebs", "mcc", "nv", "nv", "bcc"]
    datasets = ["", "", "ours", "HAM10000", "ours"]
    assert taxonomy.diagnoses(words, datasets).names == (
        "melanoma",
        "merkel",
        "melanoma",
        "nevus",
        "basal_cell_carcinoma",
    )
    assert taxonomy.dataset_scales["ours"] == "monk"
    assert taxonomy.version.startswith(load_taxonomy().version + "+")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("diagnoses: {melanoma: {malignant: false}}", "malignant: false"),
        ("diagnosis: {}", "diagnosis"),
        ("datasets: {ours: {diagnosis: {x: nonsense}}}", "nonsense"),
        ("datasets: {ours: {tone_scale: pantone}}", "pantone"),
        ("diagnoses: [", "broken YAML in line"),
        ("- 1", "valid dictionary"),
    ],
)
def test_broken_extension_is_one_clear_error(tmp_path: Path, text: str, says: str) -> None:
    extra = tmp_path / "mine.yaml"
    extra.write_text(text)
    with pytest.raises(ConfigError, match=says) as caught:
        load_taxonomy(extra)
    assert "\n" not in str(caught.value)


def test_missing_extension_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gone\.yaml"):
        load_taxonomy(tmp_path / "gone.yaml")
