"""Ten questions: each has a default that is an answer, and each answer reaches the policy."""

from __future__ import annotations

from pathlib import Path

import pytest

from skinml.clinic.answers import (
    QUESTIONS,
    Answers,
    Question,
    answered,
    parse_answers,
    policy_of,
    typed,
    usual_answers,
)
from skinml.errors import ConfigError
from skinml.stewardship.roles import os_user


@pytest.fixture
def defaults(tmp_path: Path) -> Answers:
    return usual_answers(tmp_path / "north", {"XDG_STATE_HOME": str(tmp_path / "state")})


def test_there_are_at_most_ten_questions_and_they_are_the_answers_but_for_licences() -> None:
    assert len(QUESTIONS) <= 10
    assert {question.name for question in QUESTIONS} | {"licences"} == set(Answers.model_fields)


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: question.name)
def test_a_question_and_its_reason_are_a_line_each(question: Question) -> None:
    assert len(question.ask) <= 70
    assert len(question.reason) <= 77


def test_every_default_is_an_answer_that_changes_nothing(defaults: Answers) -> None:
    for question in QUESTIONS:
        assert answered(defaults, question.name, typed(defaults, question.name)) == defaults


def test_the_defaults_are_private_and_close_to_everybody_else(defaults: Answers) -> None:
    policy = policy_of(defaults)
    assert policy.clinic == "north"
    assert set(policy.trust) == {"distributed", "local"}
    assert policy.coordinators == ("simulation",)
    assert policy.roles.steward == policy.roles.operator == (os_user(),)
    assert "publication_of_images" not in policy.purposes
    assert policy.privacy.max_epsilon_for_life == 10


@pytest.mark.parametrize(
    ("name", "text", "path", "value"),
    [
        ("name", "St. Mary 2", ("clinic",), "St. Mary 2"),
        ("purposes", "care research", ("purposes",), ("care", "research")),
        ("purposes", "teaching,care", ("purposes",), ("teaching", "care")),
        ("epsilon", "1, 2, none", ("privacy", "max_epsilon_for_life"), None),
        ("epsilon", "1 2 4", ("privacy", "max_epsilon_per_year"), 2.0),
        ("least_patients", "7", ("least_patients",), 7),
        ("least_clinics", "4", ("least_clinics",), 4),
        ("steward", "bo, cy", ("roles", "steward"), ("bo", "cy")),
        ("steward", "bo, cy", ("roles", "auditor"), ("bo", "cy")),
        ("operator", "di", ("roles", "operator"), ("di",)),
        ("keep_days", "30", ("retention", "features_days"), 30),
        ("keep_days", "none", ("retention", "predictions_days"), None),
    ],
)
def test_what_is_typed_reaches_the_policy(
    defaults: Answers, name: str, text: str, path: tuple[str, ...], value: object
) -> None:
    found: object = policy_of(answered(defaults, name, text))
    for part in path:
        found = getattr(found, part)
    assert found == value


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("name", ""),
        ("name", "a/b"),
        ("name", "north\nsouth"),
        ("purposes", ""),
        ("purposes", "selling"),
        ("epsilon", "3"),
        ("epsilon", "6 3 10"),
        ("epsilon", "0 3 10"),
        ("epsilon", "nan 3 10"),
        ("epsilon", "three six ten"),
        ("least_patients", "0"),
        ("least_patients", "-3"),
        ("least_clinics", "many"),
        ("unlock", "keyfile"),
        ("anchor", "beside"),
        ("steward", ""),
        ("operator", "a b/c"),
        ("keep_days", "0"),
    ],
)
def test_what_is_no_answer_is_refused_at_once(defaults: Answers, name: str, text: str) -> None:
    with pytest.raises(ConfigError):
        answered(defaults, name, text)


@pytest.mark.parametrize("state", ["", "relative"])
def test_the_anchor_is_usually_where_programs_remember_things(
    tmp_path: Path, defaults: Answers, state: str
) -> None:
    assert defaults.anchor == tmp_path / "state/skinml/anchors"
    home = usual_answers(tmp_path, {"XDG_STATE_HOME": state}).anchor
    assert home == Path.home() / ".local/state/skinml/anchors"


def test_a_path_unlocks_by_key_file(defaults: Answers, tmp_path: Path) -> None:
    assert answered(defaults, "unlock", str(tmp_path / "key")).method == "key_file"
    assert answered(defaults, "unlock", "keyring").method == "keyring"
    assert defaults.method == "passphrase"


def test_a_home_is_written_out(defaults: Answers) -> None:
    assert answered(defaults, "anchor", "~/anchors").anchor == Path.home() / "anchors"


def test_a_file_may_leave_anything_out(defaults: Answers) -> None:
    assert parse_answers(b"{}", defaults) == defaults
    text = b"name: south\nepsilon: {per_run: 1}\nkeep_days: null\n"
    found = parse_answers(text, defaults)
    assert (found.name, found.epsilon.per_run, found.keep_days) == ("south", 1, None)
    assert found.epsilon.for_life == 10


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (b"nmae: south", "did you mean name"),
        (b"least_patients: 3.5", "least_patients"),
        (b"passphrase: open sesame", "no such key"),
        (b"name: [a, b]", "name"),
        (b"name: a\nname: b", "stands twice"),
    ],
)
def test_a_file_with_another_shape_is_refused_by_name(
    defaults: Answers, text: bytes, told: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_answers(text, defaults)
    assert told in str(caught.value)


def test_a_purpose_may_be_typed_as_it_is_read(defaults: Answers) -> None:
    taken = answered(defaults, "purposes", "care, federated training")
    assert taken.purposes == ("care", "federated_training")


@pytest.mark.parametrize(
    ("name", "text", "do"),
    [
        ("purposes", "care, reserch", "Choose among care, research"),
        ("epsilon", "6 3 10", "none is smaller than the one before"),
        ("keep_days", "0", "a number of days from 1 on"),
    ],
)
def test_a_refused_answer_says_what_to_type_and_speaks_of_no_file(
    defaults: Answers, name: str, text: str, do: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        answered(defaults, name, text)
    assert do in caught.value.do
    assert "file" not in caught.value.do


def test_a_name_that_does_not_do_is_told_in_words() -> None:
    usual = usual_answers(Path("north"), {})
    with pytest.raises(
        ConfigError, match=r"must be letters from A to Z.*not 'Praxis Müller'"
    ) as told:
        answered(usual, "name", "Praxis Müller")
    assert "pattern" not in str(told.value)
