"""A policy in YAML: strict, whole, and the same after writing and reading."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from skinml.data.manifest_rules import OPTIONAL
from skinml.errors import ConfigError
from skinml.stewardship.policy import (
    KEPT_FIELDS,
    Policy,
    parse_policy,
    policy_digest,
    policy_from,
    policy_yaml,
)
from skinml.stewardship.purposes import PURPOSES

BASIS = b"""
clinic: North
purposes: [research, federated_training]
coordinators: [simulation]
experiments: ["*"]
privacy:
  least_noise_multiplier: null
  max_epsilon_per_run: 3
  max_epsilon_per_year: 6.5
  max_epsilon_for_life: 10
  max_delta: 1e-5
least_patients: 50
least_clinics: 3
retention: {images_days: null, features_days: 365, predictions_days: 30, log_days: 3650}
fields: [age, sex]
roles: {steward: [anna], clinician: [], operator: ["*"], auditor: []}
"""

REQUIRED = (
    *("clinic", "purposes", "coordinators", "experiments", "privacy"),
    *(f"privacy.{name}" for name in ("least_noise_multiplier", "max_epsilon_per_run")),
    *(f"privacy.max_{name}" for name in ("epsilon_per_year", "epsilon_for_life", "delta")),
    *("least_patients", "least_clinics", "retention", "fields", "roles"),
    *(f"retention.{name}_days" for name in ("images", "features", "predictions", "log")),
    *(f"roles.{name}" for name in ("steward", "clinician", "operator", "auditor")),
)


def values() -> dict[str, Any]:
    found = yaml.safe_load(BASIS.replace(b"1e-5", b"1.0e-5"))
    assert isinstance(found, dict)
    return found


def change(path: str, value: object) -> dict[str, Any]:
    found = values()
    *sections, last = path.split(".")
    place = found
    for section in sections:
        place = place.setdefault(section, {})
    if value is KeyError:
        del place[last]
    else:
        place[last] = value
    return found


def refusal(changed: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        policy_from(changed)
    return "\n".join([str(caught.value), *caught.value.details])


def fields(model: type[BaseModel] = Policy, path: str = "") -> Iterator[str]:
    """Every key of the schema, sections and what is in them."""
    for name, field in model.model_fields.items():
        yield path + name
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from fields(kind, f"{path}{name}.")


@pytest.fixture
def policy() -> Policy:
    return parse_policy(BASIS)


def test_numbers_and_words_mean_what_they_look_like(policy):
    assert policy.privacy.max_delta == 1e-5
    assert policy.privacy.least_noise_multiplier is None
    assert policy.roles.operator == ("*",)
    assert policy.trust == ("distributed", "local")
    assert policy.schema_version == 1


@pytest.mark.parametrize("path", REQUIRED)
def test_what_has_no_stricter_default_cannot_be_left_out(path):
    assert f"{path}: missing" in refusal(change(path, KeyError))


@pytest.mark.parametrize(
    ("path", "close"),
    [
        ("purpose", "purposes"),
        ("privacy.max_epsilon_per_runs", "max_epsilon_per_run"),
        ("privacy.max_epsilon_year", "max_epsilon_per_year"),
        ("retention.image_days", "images_days"),
        ("roles.stewards", "steward"),
        ("alerts.refusal", "refusals"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_known_one(path, close):
    assert f"{path}: no such key; did you mean {close}" in refusal(change(path, 1))


def test_keys_of_a_wrong_file_are_not_repeated():
    told = refusal(values() | {"PAT_0042": "x", "Erika Musterfrau": "y"})
    with pytest.raises(ConfigError) as caught:
        parse_policy(b"PAT_0042: 1\nPAT_0042: 2\n")
    assert "line 2" in str(caught.value)
    assert "2 problems" in told
    assert "PAT_0042" not in told + str(caught.value)
    assert "Erika" not in told


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("schema_version", 2),
        ("schema_version", "1"),
        ("schema_version", True),
        ("clinic", ""),
        ("clinic", " North"),
        ("clinic", "No\nrth"),
        ("clinic", 7),
        ("purposes", []),
        ("purposes", ["profit"]),
        ("purposes", ["care", "care"]),
        ("purposes", "care"),
        ("coordinators", [True]),
        ("coordinators", None),
        ("coordinators", ["Study Centre"]),
        ("coordinators", ["*"]),
        ("experiments", ["*", "quickstart"]),
        ("experiments", ["../quickstart"]),
        ("trust", []),
        ("trust", ["everyone"]),
        ("units", ["image"]),
        ("privacy", None),
        ("privacy.max_epsilon_per_run", "3"),
        ("privacy.max_epsilon_per_run", True),
        ("privacy.max_epsilon_per_run", 0),
        ("privacy.max_epsilon_per_run", -1.0),
        ("privacy.max_epsilon_per_run", float("nan")),
        ("privacy.max_epsilon_per_run", float("inf")),
        ("privacy.max_delta", 1),
        ("privacy.least_noise_multiplier", 0),
        ("least_patients", 0),
        ("least_patients", 49.5),
        ("least_patients", None),
        ("least_clinics", True),
        ("retention.log_days", 0),
        ("retention.images_days", "forever"),
        ("fields", ["patient_id"]),
        ("fields", ["name"]),
        ("roles.steward", []),
        ("roles.steward", ["*", "anna"]),
        ("roles.operator", ["an na"]),
        ("roles.operator", [1000]),
        ("alerts.refusals", 0),
        ("alerts", [3]),
    ],
)
def test_an_impossible_value_is_refused_by_its_path(path, value):
    assert path in refusal(change(path, value))


@pytest.mark.parametrize(
    ("path", "value"), [("max_epsilon_per_run", 7), ("max_epsilon_per_year", 11)]
)
def test_a_shorter_time_may_not_cost_more_than_a_longer_one(path, value):
    assert f"privacy: {path} ({value}) is above" in refusal(change(f"privacy.{path}", value))


def test_a_run_may_not_cost_more_than_a_life():
    changed = change("privacy.max_epsilon_per_year", None)
    changed["privacy"]["max_epsilon_per_run"] = 10.5
    assert "max_epsilon_per_run (10.5) is above max_epsilon_for_life (10)" in refusal(changed)


def test_all_problems_are_listed_at_once():
    changed = change("purposes", ["profit", "war"]) | {"least_patients": 0, "colour": "red"}
    del changed["roles"]["auditor"]
    told = refusal(changed)
    assert "5 problems" in told
    for path in ("purposes.0", "purposes.1", "least_patients", "colour", "roles.auditor"):
        assert f"\n{path}: " in told


@pytest.mark.parametrize(
    ("content", "got"),
    [
        (b"", "no keys"),
        (b"- clinic", "no keys"),
        (b"clinic", "no keys"),
        (b"clinic: [", "line 1"),
        (b"clinic: a\nclinic: b\n", "line 2: clinic stands twice"),
        (BASIS.replace(b"  max_delta", b"  max_epsilon_per_run: 99\n  max_delta"), "stands twice"),
        (b"clinic: &a x\ncoordinators: [*a]\n", "aliases"),
        (b"a: !!python/object/apply:os.getcwd []", "tag"),
        (b"a: !!binary aGVsbG8=", "tag"),
        (b"a: !!int word", "not YAML"),
        (b"1: a", "a key must be a word"),
        (b"\xff\xfe\x00", "not YAML"),
        (b"a: \x00", "not YAML"),
        (b"[" * 50_000, "not YAML"),
        (b"a: " + b"x" * 70_000, "bytes"),
    ],
)
def test_what_is_not_plain_yaml_is_refused(content, got):
    with pytest.raises(ConfigError) as caught:
        parse_policy(content)
    assert got in str(caught.value)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_damaged_policy_is_refused_or_still_a_policy_but_never_a_crash(data):
    content = bytearray(BASIS)
    place = data.draw(st.integers(0, len(content) - 1))
    content[place : place + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    try:
        found = parse_policy(bytes(content))
    except ConfigError:
        return
    assert isinstance(found, Policy)


NAMES = st.text(min_size=1, max_size=64).filter(
    lambda word: word.isprintable() and word.strip() == word
)
USERS = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.@-]{0,20}", fullmatch=True)
SOME_USERS = st.one_of(st.just(["*"]), st.lists(USERS, unique=True, max_size=12))
DAYS = st.one_of(st.none(), st.integers(1, 36500))
CEILING = st.one_of(st.none(), st.floats(1e-300, 1e300))


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    epsilons = sorted(draw(st.lists(st.floats(1e-300, 1e300), min_size=3, max_size=3)))
    kept = [value if draw(st.booleans()) else None for value in epsilons]
    return policy_from(
        {
            "clinic": draw(NAMES),
            "purposes": draw(st.lists(st.sampled_from(PURPOSES), unique=True, min_size=1)),
            "coordinators": draw(st.lists(USERS, unique=True, max_size=5)),
            "experiments": draw(st.sampled_from([["*"], [], ["null"], ["1e5", "True", "a-b"]])),
            "trust": ["none"],
            "units": ["patient"],
            "privacy": {
                "least_noise_multiplier": draw(CEILING),
                "max_epsilon_per_run": kept[0],
                "max_epsilon_per_year": kept[1],
                "max_epsilon_for_life": kept[2],
                "max_delta": draw(st.one_of(st.none(), st.floats(1e-300, 0.999))),
            },
            "least_patients": draw(st.integers(1, 10**9)),
            "least_clinics": draw(st.integers(1, 100)),
            "retention": {f"{name}_days": draw(DAYS) for name in ("images", "features")}
            | {f"{name}_days": draw(DAYS) for name in ("predictions", "log")},
            "fields": draw(st.lists(st.sampled_from(KEPT_FIELDS), unique=True)),
            "roles": {name: draw(SOME_USERS) for name in ("clinician", "operator", "auditor")}
            | {"steward": draw(SOME_USERS.filter(len))},
            "alerts": {"refusals": draw(st.integers(1, 10**9))},
            "approval": {"without_asking": draw(st.sampled_from([["*"], [], ["null", "a-b"]]))},
        }
    )


@settings(max_examples=60, deadline=None)
@given(policies())
def test_writing_and_reading_a_policy_changes_nothing(policy):
    text = policy_yaml(policy)
    assert parse_policy(text.encode()) == policy
    # A reader that is not ours agrees on everything but numbers without a point, such as 1e5.
    theirs = yaml.safe_load(text)
    assert theirs["roles"]["steward"] == list(policy.roles.steward)
    assert theirs["coordinators"] == list(policy.coordinators)


def test_every_field_is_written_below_a_comment_that_says_what_it_does(policy):
    lines = policy_yaml(policy).splitlines()
    assert max(map(len, lines)) <= 80
    for path in fields():
        name = path.split(".")[-1]
        place = next(i for i, line in enumerate(lines) if line.strip().startswith(f"{name}:"))
        assert lines[place - 1].strip().startswith("# "), f"{path} has no comment"


def test_the_digest_knows_another_policy_and_overlooks_comments_and_order(policy):
    same = BASIS.replace(b"[age, sex]", b"[sex, age]  # two").replace(b"run: 3\n", b"run: 3.0\n")
    assert same != BASIS
    assert policy_digest(parse_policy(same)) == policy_digest(policy)
    other = parse_policy(BASIS.replace(b"run: 3\n", b"run: 3.5\n"))
    assert policy_digest(other) != policy_digest(policy)


def test_a_policy_of_the_first_folders_keeps_the_digest_that_their_logs_signed(policy):
    """Computed once, before `licences`, `originals` and `originals_days` were fields."""
    signed = "581a46bc2135b4896947c45aa5a16d22ed1b719223278ef9eea8196e7cca1be4"
    assert policy_digest(policy) == signed
    assert policy_digest(parse_policy(policy_yaml(policy).encode())) == signed
    others = [
        change("licences", ["CC0"]),
        change("originals", "keep"),
        change("retention.originals_days", 30),
    ]
    digests = {policy_digest(policy_from(other)) for other in others}
    assert len(digests | {signed}) == 4


def test_a_policy_cannot_be_changed_in_place(policy):
    with pytest.raises(ValueError, match="frozen"):
        policy.privacy.max_delta = 1.0


def test_the_fields_of_a_policy_are_columns_of_a_manifest():
    assert set(KEPT_FIELDS) <= set(OPTIONAL)
    where_from = {"clinic", "dataset", "licence", "kept_until", "series", "skin_tone_scale"}
    where_from |= {"published_split"}
    # An import has always kept these; no training reads them, only counts do.
    course = {"treatment", "outcome"}
    assert set(OPTIONAL) - set(KEPT_FIELDS) <= where_from | course
