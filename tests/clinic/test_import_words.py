"""What may stand beside a picture: words of lists; a name of two words passes in no column."""

from __future__ import annotations

from pathlib import Path

import pytest

from skinml.clinic.correction import correct_record
from skinml.clinic.folder import ClinicFolder
from skinml.clinic.importing_terms import (
    COLUMNS,
    DATES,
    ImportTerms,
    read_terms,
    require_plain_words,
)
from skinml.clinic.vocabulary import COLUMNS as LISTED
from skinml.clinic.vocabulary import SHIPPED, allowed_words, coarsened, is_allowed
from skinml.data.taxonomy import normalise
from skinml.errors import ConfigError, DataError
from skinml.stewardship.policy import parse_policy
from tests.clinic.rights import NOW, make
from tests.clinic.test_import import bring, rows_of, small, write_list
from tests.policy_text import policy_text

assert small  # the fixture
NAME = "Ann Lee"
SPECIAL = "{genetic: [care], financial: [care]}"
# Patients and files are named by what the clinic calls them, sealed under the patient's key.
OWN = ("patient_id", "image", "skin_tone_scale", *LISTED)
REFUSED = [column for column in COLUMNS if column not in OWN]


def held(folder: ClinicFolder) -> str:
    """Everything that is kept beside pictures, in the clear."""
    return repr([dict(each.fields) for each in folder.pictures.pictures().values()])


@pytest.mark.parametrize("column", LISTED)
def test_a_name_in_a_column_of_listed_words_is_counted_and_not_kept(
    small, tmp_path: Path, column: str
) -> None:
    source, records = small
    rows = [row | {column: NAME} for row in rows_of(records)]
    folder = make(tmp_path, special_fields=SPECIAL)
    report = bring(folder, source, write_list(records, rows))
    assert report.others == {column: 3}
    assert [each.fields[column] for each in folder.pictures.pictures().values()] == ["other"] * 3
    assert NAME not in held(folder)


def test_the_scale_of_no_tone_is_not_kept(small, tmp_path: Path) -> None:
    source, records = small
    rows = [row | {"skin_tone_scale": NAME} for row in rows_of(records)]
    folder = make(tmp_path)
    bring(folder, source, write_list(records, rows))
    assert len(folder.pictures.pictures()) == 3
    assert NAME not in held(folder)


@pytest.mark.parametrize("column", REFUSED)
def test_a_name_in_any_other_column_refuses_the_import(small, tmp_path: Path, column: str) -> None:
    source, records = small
    rows = [row | {column: NAME} for row in rows_of(records)]
    folder = make(tmp_path)
    with pytest.raises(DataError) as refusal:
        bring(folder, source, write_list(records, rows))
    # In three rows a word may be shown, for a person's stands in fewer.
    assert column in ("diagnosis", "anatomical_site") or NAME not in str(refusal.value)
    assert not folder.pictures.pictures()


@pytest.mark.parametrize("column", ["diagnosis", "anatomical_site", "skin_tone", *DATES])
def test_a_name_that_stands_once_is_not_repeated(small, tmp_path: Path, column: str) -> None:
    source, records = small
    first, *others = rows_of(records)
    scale = {"skin_tone_scale": "fitzpatrick"} if column == "skin_tone" else {}
    usual = {"diagnosis": "nevus"}
    rows = [usual | first | {column: NAME} | scale]
    rows += [
        {column: usual.get(column, "")} | usual | row | dict.fromkeys(scale, "") for row in others
    ]
    rows = [{name: row.get(name, "") for name in rows[0]} for row in rows]
    folder = make(tmp_path)
    with pytest.raises(DataError) as refusal:
        bring(folder, source, write_list(records, rows))
    assert NAME not in str(refusal.value) + repr(refusal.value.details)
    assert not folder.pictures.pictures()


def test_words_that_the_clinic_declares_are_kept_and_others_counted(small, tmp_path: Path) -> None:
    source, records = small
    cells = ["Salicylic acid", "Excision", NAME]
    rows = [row | {"treatment": cell} for row, cell in zip(rows_of(records), cells, strict=True)]
    folder = make(tmp_path)
    terms = ImportTerms(words={"treatment": ["salicylic acid"]})
    report = bring(folder, source, write_list(records, rows), terms=terms)
    kept = [each.fields["treatment"] for each in folder.pictures.pictures().values()]
    assert kept == ["Salicylic acid", "Excision", "other"]
    assert report.others == {"treatment": 1}
    patient = next(iter(folder.pictures.pictures().values())).patient
    with pytest.raises(DataError, match="a word for treatment that skinml knows") as refusal:
        correct_record(folder, patient, {"treatment": "Ann Lea"}, now=NOW)
    assert "Ann Lea" not in str(refusal.value)
    with pytest.raises(DataError) as refusal:
        correct_record(folder, patient, {"diagnosis": "Ann Lea"}, now=NOW)
    assert "Ann Lea" not in str(refusal.value) + repr(refusal.value.details)
    assert correct_record(folder, patient, {"treatment": "salicylic acid"}, now=NOW).pictures > 0


def test_a_tone_without_a_scale_is_told_where_to_write_it(small, tmp_path: Path) -> None:
    source, records = small
    rows = [row | {"skin_tone": "4"} for row in rows_of(records)]
    with pytest.raises(DataError, match="under 'whole' in the file of --terms"):
        bring(make(tmp_path), source, write_list(records, rows))


def test_only_listed_columns_take_words() -> None:
    with pytest.raises(ValueError, match="words takes"):
        ImportTerms(words={"diagnosis": ["x"]})


@pytest.mark.parametrize(
    ("column", "cell", "kept"),
    [
        ("genetic", "BRAF V600E", True),
        ("genetic", "rs1042522", True),
        ("genetic", "MC1R", True),
        ("genetic", "c.1799T>A", True),
        ("genetic", "BRAF p.V600E, NRAS Q61", True),
        ("genetic", "ANN LEE", False),
        ("genetic", "BRAF Ann Lee", False),
        ("financial", "EUR 120.50", True),
        ("financial", "120", True),
        ("financial", "Ann Lee 120", False),
        ("financial", "ANN", False),
        ("genetic", "p.Val600Glu", True),
        ("genetic", "c.35_36del; KRAS", True),
        ("genetic", "LEE 5", False),
        ("genetic", "LEE5", False),
        ("genetic", "L1985", False),
        ("genetic", "SMITH1985", False),
        ("genetic", "ANN1 SMITH2", False),
        ("genetic", "rs01715551234", False),
        ("genetic", "p.Ann1_Lee_born_12_March_1985_Kiel", False),
        ("genetic", "g.ab1漢字_name", False),
        ("genetic", "p.V\N{ARABIC-INDIC DIGIT SIX}00E", False),
        ("financial", "999999,99 USD", True),
        ("financial", "€ 9.50", True),
        ("financial", "LEE 5", False),
        ("financial", "DE 89370400440532013000", False),
        ("financial", "4111 1111 1111 1111", False),
        ("financial", "0171 5551234", False),
        ("financial", "01715", False),
        ("financial", "12.03.1985", False),
        ("financial", "12\N{ARABIC-INDIC DIGIT SIX}", False),
        ("outcome", "Partial_Response", True),
        ("outcome", "", True),
        ("outcome", "Ann", False),
    ],
)
def test_codes_and_amounts_are_kept_and_names_beside_them_are_not(
    column: str, cell: str, kept: bool
) -> None:
    assert is_allowed(column, cell, allowed_words(column)) is kept
    assert coarsened(column, [cell])[0] == ([cell] if kept else ["other"])


@pytest.mark.parametrize(
    ("column", "cell"),
    [
        ("financial", "DE 89370400440532013000"),
        ("financial", "12.03.1985"),
        ("financial", "1234567"),
        ("genetic", "rs01715551234"),
        ("genetic", "Dr Lee"),
    ],
)
def test_dates_and_long_numbers_refuse_genetic_and_financial_cells_too(
    column: str, cell: str
) -> None:
    policy = parse_policy(policy_text(special_fields=SPECIAL).encode())
    codes = {"financial": ["100000 EUR", "1234,50"], "genetic": ["rs1042522", "c.1799T>A"]}
    require_plain_words(column, codes[column] * 20, policy)
    with pytest.raises(DataError, match="1 with numbers, dates or addresses") as refusal:
        require_plain_words(column, [*codes[column], cell], policy)
    assert cell not in str(refusal.value)


@pytest.mark.parametrize(
    "word", ["Ann Lee", "LEE, ANN", "O'Neil Ann-Marie", "12.03.1985", "0171 555", "mrn 12345"]
)
def test_declared_words_that_look_like_a_person_are_refused_unsaid(word: str) -> None:
    with pytest.raises(ConfigError, match="no person's name or number") as refusal:
        read_terms(f'words: {{treatment: ["{word}"]}}'.encode())
    assert word not in str(refusal.value)


def test_declared_words_of_a_clinic_pass() -> None:
    words = ["zinc paste", "Salicylic acid", "EGFR T790M", "p.E746_A750del", "PDL1"]
    terms = ImportTerms(words={"genetic": words})
    assert coarsened("genetic", words, terms.words["genetic"]) == (words, 0)


def test_lists_are_written_as_words_are_compared() -> None:
    for words in SHIPPED.values():
        assert {normalise(word) for word in words} == words
    # What the shipped readers and drawn patients write passes.
    for word in ("dermoscopic", "clinical_closeup", "clinical"):
        assert is_allowed("modality", word, allowed_words("modality"))
    for word in ("histopathology", "consensus", "clinical", "follow_up"):
        assert is_allowed("confirmation", word, allowed_words("confirmation"))
