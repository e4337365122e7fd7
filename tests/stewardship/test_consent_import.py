"""Lists of consents: read whole, refused whole, and no cell of them is ever quoted."""

from __future__ import annotations

import datetime

import pytest

from skinml.errors import DataError
from skinml.stewardship.consent import Consent, ConsentRecord
from skinml.stewardship.consent_import import COLUMNS, read_consents

TODAY = datetime.date(2026, 3, 1)
HEADER = ",".join(COLUMNS)
GOOD = "Mustermann-1,care;research,,2026-01-15,,v2,paper,patient,"


def read(*rows: str, header: str = HEADER) -> tuple[ConsentRecord, ...]:
    return read_consents("\n".join((header, *rows)).encode(), "list.csv", today=TODAY)


def refused(*rows: str, header: str = HEADER) -> DataError:
    with pytest.raises(DataError) as refusal:
        read(*rows, header=header)
    told = "\n".join((str(refusal.value), *refusal.value.details))
    assert "Mustermann" not in told
    assert "nothing was imported" in told
    return refusal.value


def changed(**cells: str) -> str:
    row = dict(zip(COLUMNS, GOOD.split(","), strict=True)) | cells
    return ",".join(row.values())


def test_a_row_becomes_a_consent() -> None:
    row = "007,research;care,images;before_and_after_images,2026-01-15,2027-01-14,v2,spoken,parent,"
    (record,) = read(row + "2026-02-01")
    assert record == ConsentRecord(
        "007",
        Consent(
            purposes=("care", "research"),
            data=("images", "before_and_after_images"),
            valid_from=datetime.date(2026, 1, 15),
            valid_until=datetime.date(2027, 1, 14),
            form_version="v2",
            how="spoken",
            given_by="parent",
        ),
        datetime.date(2026, 2, 1),
    )


def test_empty_cells_take_their_defaults() -> None:
    (record,) = read(GOOD)
    assert record.consent.data == ("images", "records")
    assert record.consent.valid_until is None
    assert record.withdrawn is None


def test_columns_may_be_left_out_or_turned() -> None:
    header = "given_by,how,form_version,valid_from,purposes,patient_id"
    (record,) = read("patient,paper,v2,2026-01-15,care; research,Mustermann-1", header=header)
    assert record == read(GOOD)[0]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_what_spreadsheets_write_is_read(end: str) -> None:
    rows = [HEADER, GOOD, "", ",,,,,,,,", '"a, b",care,,2026-01-15,,v2,paper,patient,']
    content = ("\ufeff" + end.join(rows) + end).encode()
    found = read_consents(content, "list.csv", today=TODAY)
    assert [record.patient for record in found] == ["Mustermann-1", "a, b"]


@pytest.mark.parametrize(
    ("cells", "problem"),
    [
        ({"patient_id": ""}, "patient_id must be filled"),
        ({"patient_id": "Mustermann\x07"}, "patient_id must be filled with printable"),
        ({"purposes": ""}, "purposes must be of care, research"),
        ({"purposes": "research;Mustermann"}, "purposes must be of"),
        ({"data": "Mustermann"}, "data must be of images, records"),
        ({"valid_from": ""}, "valid_from must be a day"),
        ({"valid_from": "15.01.2026"}, "valid_from must be a day"),
        ({"valid_from": "20260115"}, "valid_from must be a day"),
        ({"valid_from": "2026-02-30"}, "valid_from must be a day"),
        ({"valid_until": "soon"}, "valid_until must be a day"),
        ({"valid_until": "2026-01-14"}, "valid_until must not lie before"),
        ({"form_version": ""}, "form_version must be"),
        ({"form_version": "told by Mustermann"}, "form_version must be"),
        ({"how": "Mustermann"}, "how must be one of paper"),
        ({"given_by": ""}, "given_by must be one of patient"),
        ({"withdrawn": "yes"}, "withdrawn must be a day"),
        ({"withdrawn": "2026-01-14"}, "withdrawn must not lie before"),
        ({"withdrawn": "2026-03-02"}, "withdrawn must not lie after today"),
    ],
)
def test_a_bad_cell_refuses_the_list_and_names_its_row(cells: dict[str, str], problem: str) -> None:
    error = refused(GOOD, changed(**cells))
    (line,) = error.details
    assert line.startswith(f"row 3: {problem}")


def test_all_problems_are_told_with_all_their_rows() -> None:
    bad_day, bad_how = changed(valid_from="?"), changed(how="?")
    both = changed(valid_from="?", how="?")
    error = refused(bad_day, bad_how, GOOD, bad_day, both, both, "too,few")
    told = {line.split(": ")[1].split(" ")[0]: line.split(": ")[0] for line in error.details}
    assert told == {"valid_from": "rows 2, 5-7", "how": "rows 3, 6-7", "has": "row 8"}
    assert "3 kinds of problems in 6 rows" in str(error)


def test_an_endless_list_of_rows_is_cut_short() -> None:
    rows = [changed(how="?") if number % 2 else GOOD for number in range(1000)]
    (line,) = refused(*rows).details
    assert line.startswith("rows 3, 5, 7,")
    assert "and 300 more: how must be" in line


@pytest.mark.parametrize(
    ("header", "problem"),
    [
        (HEADER.replace("how", "Mustermann"), "no column how; 1 columns of another name"),
        (HEADER + ",Mustermann", "1 columns of another name"),
        (HEADER.replace("withdrawn", "how"), "1 columns that stand there twice"),
        (HEADER.replace(",", ";"), "no column patient_id"),
        ("", "no column patient_id"),
    ],
)
def test_the_header_must_be_the_known_one(header: str, problem: str) -> None:
    assert problem in str(refused(GOOD, header=header))


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "no column patient_id"),
        (HEADER.encode(), "an empty list"),
        (HEADER.encode() + b"\n\xff\xfe", "other bytes"),
        (HEADER.encode() + b'\n"open', "broken quotes"),
        (HEADER.encode() + b"\n" + b"x" * 200_000, "broken quotes or cells"),
    ],
)
def test_files_of_another_kind_are_refused(content: bytes, problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        read_consents(content, "list.csv", today=TODAY)
