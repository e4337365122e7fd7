from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import replace
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from itertools import pairwise
from math import sqrt

import pytest

from skinml.errors import EnvironmentProblem
from skinml.records import Estimate, GroupResult, Labels
from skinml.reports.document import record_from_json
from skinml.reports.participation import ATTENDANCE, SUMS
from skinml.reports.report import render_html, write_report

NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?(?:e-?\d+)?")
# Numbers that are part of a sentence: "in 100", "0.5 is no better than a coin", "from 0 to 1".
WORDED = {"0", "0.5", "1", "100"}
# Nine tenths of a page's time go into its drawings.
NO_DRAWINGS = {"groups": (), "history": ()}


@pytest.fixture(scope="session")
def source(record):
    return render_html(record)


@pytest.fixture(scope="session")
def page(source, read_page):
    return read_page(source)


def leaves(value):
    if isinstance(value, dict):
        for name, entry in value.items():
            yield name
            yield from leaves(entry)
    elif isinstance(value, list):
        for entry in value:
            yield from leaves(entry)
    else:
        yield value


def unfounded_numbers(text, document):
    """The numbers of a text that no number or word of the document accounts for."""
    words = {n for leaf in leaves(document) if isinstance(leaf, str) for n in NUMBER.findall(leaf)}
    numbers = [
        Decimal(repr(abs(leaf)))
        for leaf in leaves(document)
        if isinstance(leaf, int | float) and not isinstance(leaf, bool)
    ]
    shown = {n.replace(",", "") for n in NUMBER.findall(text)} - words - WORDED
    return {each for each in shown if not any(is_rounded(number, each) for number in numbers)}


def is_rounded(number, shown):
    if "e" in shown:
        return f"{number:.2g}" == shown or f"{float(number):.2g}" == shown
    step = Decimal(1).scaleb(-len(shown.partition(".")[2]))
    up = number.quantize(step, rounding=ROUND_CEILING)
    down = number.quantize(step, rounding=ROUND_FLOOR)
    # The optimiser's figures have four significant digits.
    four = f"{float(number):.4g}"
    return shown in {f"{float(number):.{-step.as_tuple().exponent}f}", str(up), str(down), four}


def test_every_number_of_the_page_is_in_the_json(record, tmp_path, read_page):
    files = write_report(record, tmp_path)
    document = json.loads(files.json.read_text(encoding="utf-8"))
    text = read_page(files.html.read_text(encoding="utf-8")).text
    assert unfounded_numbers(text, document) == set()
    assert unfounded_numbers(f"{text} 0.7777", document) == {"0.7777"}


def test_the_page_is_made_from_what_the_json_says(record, source, tmp_path):
    files = write_report(record, tmp_path)
    again = record_from_json(json.loads(files.json.read_text(encoding="utf-8")))
    assert again == record
    assert files.html.read_text(encoding="utf-8") == source


def test_tables_show_each_group_with_value_and_interval(record, page):
    rows = {row[0].split()[0]: row for row in page.tables["Performance: sex"][1:]}
    for group in (each for each in record.groups if each.attribute == "sex"):
        auroc = group.estimates["auroc"]
        assert rows[group.group][1] == f"{auroc.value:.3f} {auroc.low:.3f} to {auroc.high:.3f}"


def test_undefined_and_few_are_words(page):
    darkest = page.tables["Performance: skin tone"][1]
    assert darkest[1] == "undefined no malignant images"
    assert "Too few for a finding" in darkest[0]
    assert "How the model does on skin tone 0 very dark" in page.text


def test_unknown_tone_is_a_line_of_its_own(page):
    assert page.tables["Performance: skin tone"][-1][0].startswith("not known")


def test_the_page_needs_no_network_and_no_script(source, page):
    assert "http" not in source.replace("http-equiv", "")
    assert not re.search(r"@import|url\((?!#)|javascript:", source)
    names = {name for name, _ in page.tags}
    assert names.isdisjoint({"script", "link", "img", "iframe", "object", "embed", "base"})
    links = {tag["href"] for _, tag in page.tags if "href" in tag}
    assert all(link.startswith("#") for link in links)


def test_ids_are_unique_and_links_lead_somewhere(page):
    ids = Counter(tag["id"] for _, tag in page.tags if "id" in tag)
    assert [name for name, times in ids.items() if times > 1] == []
    pointers = {tag["href"][1:] for _, tag in page.tags if "href" in tag}
    pointers |= {tag["aria-labelledby"] for _, tag in page.tags if "aria-labelledby" in tag}
    assert pointers <= ids.keys()


def test_a_screen_reader_finds_its_way(page):
    names = [name for name, _ in page.tags]
    levels = [int(name[1]) for name in names if re.fullmatch(r"h[1-6]", name)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert {"header", "main", "nav", "footer"} <= set(names)
    assert all(tag.get("scope") in {"col", "row"} for name, tag in page.tags if name == "th")
    drawings = [tag for name, tag in page.tags if name == "svg"]
    assert len(drawings) == 11
    assert all(tag["role"] == "img" and tag["aria-labelledby"] for tag in drawings)
    assert ("html", {"lang": "en"}) in page.tags


@pytest.mark.parametrize(
    "hostile",
    [
        "<script>alert(1)</script>",
        '"><img src=x onerror=alert(1)>',
        "{{ 7 * 191 }}",
        "$\\frac{a$ & </svg><b>",
        "皮膚 \u202e \x07 🙂",
    ],
)
def test_hostile_names_are_shown_and_never_obeyed(make_record, record, page, read_page, hostile):
    groups = tuple(
        replace(group, group=hostile, attribute=hostile if n else "sex")
        for n, group in enumerate(record.groups[2:4])
    )
    changed = make_record(
        groups=groups,
        experiment=hostile,
        threshold_source=hostile,
        config={hostile: hostile},
        data={"name": hostile},
        versions={hostile: hostile},
        history=({hostile: 1.0}, {hostile: 2.0}),
        guarantee=replace(record.guarantee, covered=(hostile,), unit=hostile, trust=hostile),
        yardsticks=(replace(record.yardsticks[0], name=hostile),),
    )
    before = {name for name, _ in page.tags}
    page = read_page(render_html(changed))
    assert {name for name, _ in page.tags} <= before
    assert not any(name.startswith("on") for _, tag in page.tags for name in tag)
    assert " ".join(hostile.split()) in page.text
    assert "1337" not in page.text


def test_equal_records_give_equal_bytes(make_record, record, tmp_path):
    few = {"groups": record.groups[:2], "history": record.history[:3]}
    first = write_report(make_record(**few), tmp_path / "a")
    second = write_report(make_record(**few), tmp_path / "b")
    assert first.html.read_bytes() == second.html.read_bytes()
    assert first.json.read_bytes() == second.json.read_bytes()


def test_a_folder_that_cannot_be_made_is_the_machines_fault(record, tmp_path):
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(EnvironmentProblem, match="taken"):
        write_report(record, tmp_path / "taken")


def test_nothing_else_is_left_in_the_folder(make_record, tmp_path):
    for _ in range(2):
        write_report(make_record(**NO_DRAWINGS), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "report.json"]


def test_a_run_without_privacy_says_so_first(make_record, record, read_page):
    guarantee = replace(
        record.guarantee,
        private=False,
        trust="none",
        epsilon=None,
        total_epsilon=None,
        epsilon_across_clinics=None,
        replace_one_epsilon=None,
        advantage=None,
        total_advantage=None,
        recognised=None,
        covered=(),
        not_covered=("everything: nothing was protected",),
        clinics={},
    )
    text = read_page(render_html(make_record(guarantee=guarantee, **NO_DRAWINGS))).text
    assert text.index("NOT PRIVATE") < text.index("In short")
    assert "There is no guarantee" in text
    assert "No finite ε holds" in text
    assert "everything: nothing was protected" in text
    for promise in ("The best guess", "is protected", "are protected", "What is covered", "P[M(D)"):
        assert promise not in text


def test_the_guarantee_says_for_whom_how_much_and_whom_to_trust(record, page):
    text = page.text
    assert "All your images at one clinic are protected as a whole." in text
    assert "The best guess there can be is right at most 64.0 times in 100." in text
    assert "With all earlier runs of the clinics it is 69.0." in text
    assert "Of 100 people who did, at most 5.4 are then found." in text
    assert "It takes the noise of 2 of the 3 clinics. A sum needs 2 of them." in text
    assert "None may tell others what noise it added" in text
    for each in (*record.guarantee.covered, *record.guarantee.not_covered):
        assert each in text
    table = {row[0]: row[1:] for row in page.tables["The promise in its readings"][1:]}
    assert table["One patient at one clinic: this run"] == ["2.99", "64.0"]
    assert table["One patient at one clinic: all runs in the ledgers"] == ["4.11", "69.0"]
    assert table["One patient at all 3 clinics: this run"] == ["9.42", "92.0"]
    (swapped,) = [row for name, row in table.items() if "replaced by another" in name]
    assert swapped == ["6.68", "78.0"]


@pytest.mark.parametrize(
    ("trust", "colluding", "words"),
    [
        ("local", 0, "the clinic's own noise is enough"),
        ("central", 0, "but not with the coordinator"),
        ("distributed", 1, "Up to 1 may tell others the noise that they added"),
        ("none", 0, "Everybody who sees an update or the model must be trusted"),
    ],
)
def test_who_may_collude_is_said_for_each_trust_model(
    make_record, record, read_page, trust, colluding, words
):
    promise = replace(record.guarantee, trust=trust, colluding_clinics=colluding)
    assert words in read_page(render_html(make_record(guarantee=promise, **NO_DRAWINGS))).text


def test_what_is_said_to_a_patient_is_easy_to_read(page):
    """Flesch reading ease of at least 60: plain English, as for thirteen to fifteen years."""
    words = page.text.split("For a patient")[1].split("What is covered")[0]
    assert flesch(words) > 60
    assert flesch("Heterogeneous institutional considerations necessitate deliberation.") < 0


def flesch(text):
    sentences = len(re.findall(r"[.!?](?:\s|$)", text))
    words = re.findall(r"[A-Za-z]+", text)
    syllables = sum(
        max(1, len(re.findall(r"[aeiouy]+", re.sub(r"(?<=[^l])e$|es$|ed$", "", word.lower()))))
        for word in words
    )
    return 206.835 - 1.015 * len(words) / sentences - 84.6 * syllables / len(words)


def test_rounds_that_went_alike_are_one_line_and_the_others_say_who_was_missing_and_why(page):
    silent = "did not answer within 120 s"
    assert page.tables[ATTENDANCE][1:] == [
        ["1 to 8", "3 of 3", "1.22 times", "1", "nobody"],
        [
            "9",
            "no sum 1 of 3 had done their part",
            "no sum charged to each clinic that had released its part",
            "1",
            f"harbour: {silent}; hillside: {silent}",
        ],
        ["9", "3 of 3", "1.22 times", "2", "nobody"],
        ["10 to 16", "3 of 3", "1.22 times", "1", "nobody"],
        ["17", "2 of 3", "1.00 times", "1", f"riverside: {silent}"],
        ["18 to 30", "3 of 3", "1.22 times", "1", "nobody"],
    ]


def test_attempts_after_a_restart_are_told_by_life_and_attempt(make_record, record, read_page):
    first, second = record.participation[:2]
    entries = (first, replace(second, attempt=11), replace(second, round=3, attempt=23))
    page = read_page(render_html(make_record(participation=entries, resumes=2, **NO_DRAWINGS)))
    told = [row[3] for row in page.tables[ATTENDANCE][1:]]
    assert told == ["1", "life 2, attempt 1", "life 3, attempt 3"]


def test_the_page_says_how_many_clinics_a_sum_needs_and_how_many_may_collude(page):
    assert (
        "3 clinics were asked in each round. 2 of them are needed to open a sum. The promise holds "
        "as long as none of them shares what it knows with the coordinator. The run's settings let "
        "at most 1 be missing from a sum."
    ) in page.text
    assert "In 1 of 30 rounds at least one clinic was missing." in page.text
    assert "1 attempt ended without a sum and was made again with fresh noise." in page.text
    assert "resumed" not in page.text


@pytest.mark.parametrize(
    ("dropouts", "colluding", "words"),
    [
        (0, 0, "All are needed to open a sum. The promise holds as long as none of them shares"),
        (1, 1, "2 of them are needed to open a sum. The promise holds as long as at most 1 of"),
        (0, 0, "all shares are what epsilon counts on"),
        (1, 1, "1 of 3 shares are all that epsilon counts on"),
    ],
)
def test_thresholds_are_told_as_they_were_planned(
    make_record, record, read_page, dropouts, colluding, words
):
    promise = replace(
        record.guarantee, tolerated_dropouts=dropouts, colluding_clinics=colluding, sums=()
    )
    assert words in read_page(render_html(make_record(guarantee=promise, **NO_DRAWINGS))).text


def test_the_noise_of_each_sum_is_told_in_its_units_from_the_least_to_the_greatest(page):
    assert page.tables[SUMS][1:] == [
        ["Counts of patients by diagnosis", "1", "1 patient", "7.728 patients"],
        [
            "Sum of gradients: how the model should change",
            "2 to 30",
            "0.5",
            "3.7 to 4.532",
        ],
    ]


@pytest.mark.parametrize(
    ("trust", "noise", "words", "cell"),
    [
        (
            "local",
            sqrt(3),
            "Each clinic adds all of the noise that epsilon counts on",
            "1.73 times",
        ),
        ("central", 1.0, "The coordinator adds the noise", "1.00 times"),
        ("none", 0.0, "No sum has noise.", "no noise"),
        ("central", None, "The coordinator adds the noise", "not told"),
    ],
)
def test_whose_noise_it_is_is_said_for_each_trust_model(
    make_record, record, read_page, trust, noise, words, cell
):
    entry = replace(record.participation[0], noise=noise)
    promise = replace(record.guarantee, trust=trust, private=trust != "none")
    changed = make_record(guarantee=promise, participation=(entry,), **NO_DRAWINGS)
    page = read_page(render_html(changed))
    assert words in page.text
    assert "to open a sum" not in page.text
    assert page.tables[ATTENDANCE][1][2].startswith(cell)
    assert (SUMS in page.tables) is (trust != "none")


def test_a_run_that_was_resumed_says_how_often(make_record, read_page):
    text = read_page(render_html(make_record(resumes=2, **NO_DRAWINGS))).text
    assert "The run was broken off and resumed 2 times." in text
    assert "What a clinic had released for it before stays charged in its ledger." in text


def test_a_partial_run_is_stamped_with_who_was_missing_and_a_whole_one_is_not(
    make_record, record, page, read_page
):
    header = page.text.split("In short")[0]
    assert "INCOMPLETE Clinics were missing from the training." in header
    assert "Missing, of 30 rounds: riverside from 1." in header
    # An attempt that failed and was made again leaves nobody out of the result.
    whole = tuple(each for each in record.participation if each.round != 17)
    rendered = render_html(make_record(participation=whole, complete=True, **NO_DRAWINGS))
    assert "In 1 of 30 rounds not all of them did ." in page.text
    again = read_page(rendered).text
    assert "INCOMPLETE" not in again
    assert "Every clinic that was asked is in the sums of every round." in again


def test_a_leaking_split_is_nowhere_called_kept_out(make_record, record):
    leak = "31 lesions with images in training and in testing"
    leaking, whole = (
        render_html(make_record(data={**record.data, **more})) for more in ({"leak": leak}, {})
    )
    for false in ("were kept out of the training", "is in one split only"):
        assert false in whole
        assert false not in leaking
    assert leaking.count(leak) >= 3


def test_the_tone_scale_is_named(page, make_record, record, read_page):
    assert "Scale: MILK10k's classes, 0 very dark to 5 very light." in page.text
    unnamed = make_record(data={**record.data, "tone_scale": "none"}, groups=record.groups[:1])
    assert "Scale:" not in read_page(render_html(unnamed)).text


def test_no_verdict_is_given_on_the_gap_between_groups(page):
    text = page.text.lower()
    assert "cannot be told" in text
    for word in ("max-min", "largest gap", "bias detected", "is fair", "unfair", "pass", "fail "):
        assert word not in text


def test_more_than_two_classes_name_every_diagnosis(make_record, record, read_page):
    labels = Labels(("naevus", "melanoma", "carcinoma"), (False, True, True))
    figures = {**record.overall.estimates, "malignancy_auroc": Estimate(0.91, 0.9, 0.93)}
    overall = replace(record.overall, estimates=figures)
    changed = make_record(classes=labels, overall=overall, **NO_DRAWINGS)
    page = read_page(render_html(changed))
    assert "naevus, melanoma, carcinoma. Malignant among them: melanoma, carcinoma." in page.text
    assert "AUROC, malignant or not" in page.tables["Performance: everybody"][0]


def test_the_barest_record_still_makes_a_page(make_record, read_page):
    bare = GroupResult("overall", "overall", 0, 0, 0, 0, {})
    record = make_record(
        overall=bare,
        groups=(),
        yardsticks=(),
        participation=(),
        cohort_flow=(),
        cohort_table=(),
        history=(),
        data={},
        versions={},
        config={},
        threshold=None,
        threshold_source="",
    )
    assert "the data name no groups" in read_page(render_html(record)).text


def test_data_without_patients_say_so_wherever_they_are_counted(make_record, record, read_page):
    data = {**record.data, "unit": "lesion"}
    page = read_page(render_html(make_record(data=data, groups=())))
    assert "1,161 lesions that were kept out" in page.text
    assert "a person with several of them is protected less" in page.text
    assert "Lesions by clinic and split, and their malignant images" in page.tables
    assert page.tables["Performance: everybody"][1][0].startswith("All test images 1,161 lesions")
