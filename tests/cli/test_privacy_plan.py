"""`skinml privacy plan`: figures, the nearest possible ask, a clinic's ledger, a plot."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from skinml.clinic.folder import ClinicFolder, create_folder, open_folder
from skinml.clinic.gate import policy_ceilings
from skinml.config import load_config
from skinml.errors import BudgetExceededError, RefusedError
from skinml.experiments.approval import drafted, expected_classes, propose
from skinml.experiments.learners import build_learner, split_key_id, validation_release
from skinml.experiments.plan_limits import Bounds, draft_of, require_possible
from skinml.federated.clinic import planned_entries, require_budget
from skinml.privacy.ledger import Binding, Entry, entries_of_year, spent
from skinml.stewardship.policy import parse_policy
from skinml.stewardship.policy_terms import compare, require_within
from tests.cli.conftest import Invoke
from tests.policy_text import policy_text

POLICY = policy_text(
    least_noise_multiplier="0.5",
    max_epsilon_per_year="4",
    roles='{steward: ["*"], clinician: [], operator: [], auditor: []}',
)
NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
PLAN = ("privacy", "plan", "quickstart")
Make = Callable[..., Path]


@pytest.fixture
def north(tmp_path: Path) -> Make:
    """Make a clinic whose ledger holds some runs."""

    def make(*epsilons: float, roles: str = "") -> Path:
        policy = parse_policy(
            (POLICY.replace('steward: ["*"]', roles) if roles else POLICY).encode()
        )
        place, anchors = tmp_path / "north", tmp_path / "anchors"
        folder = create_folder(place, name="north", policy=policy, anchors=anchors, virtual=True)
        for number, eps in enumerate(epsilons):
            reserve(folder, f"run-{number}", eps)
        return place

    return make


def schedule_of(run: str, *overrides: str) -> list[Entry]:
    config = load_config("quickstart", overrides)
    learner = build_learner(config, expected_classes(config), 1, 6)
    key = split_key_id(config.data)
    return planned_entries(
        learner, validation_release(config), config.privacy, run=run, split_key_id=key
    )


def reserve(folder: ClinicFolder, run: str, eps: float) -> None:
    entries = schedule_of(run, f"privacy.epsilon={eps}")
    bound = entries[0].binding
    binding = Binding(run, 1, 1, ("north",), bound.trust, bound.unit, bound.split_key_id, True)
    releases = [(e.name, e.purpose, e.split, e.event) for e in entries]
    folder.ledger.reserve(binding, releases)


def nearest(do: str) -> list[str]:
    """The settings that a refusal names."""
    return re.findall(r"\b[a-z_]+\.[a-z_.]+=[^\s,]*[^\s,.]", do)


def test_the_plan_fits_eighty_columns_and_names_both_readings(
    skinml: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    outcome = skinml(*PLAN, "privacy.epsilon=1.4", "privacy.budget.epsilon=3")
    assert outcome.code == 0, outcome.told
    assert max(map(len, outcome.out.splitlines())) <= 80
    said = " ".join(outcome.out.split())
    assert "unit patient_within_clinic: 1.400 for a patient at one clinic alone" in said
    # 11.141 in closed form, of mu of 1.4 times 6; the plan keeps a hundred-thousandth of mu free.
    assert "11.140 for a patient at all 6 clinics" in said
    assert "over 420 training patients, 70% of data.synthetic.num_patients" in said
    assert "Such runs that still fit: 3" in said


def test_the_plan_is_what_the_run_will_be_charged(skinml: Invoke) -> None:
    plan = skinml(*PLAN, "privacy.epsilon=2", "privacy.trust=local", "--json").json
    entries = schedule_of("one", "privacy.epsilon=2", "privacy.trust=local")
    assert plan["epsilon"] == spent(entries, 1e-5)
    noises = {each["name"]: each["noise_multiplier"] for each in plan["releases"]}
    assert noises == {entry.name: entry.event.noise_multiplier for entry in entries}
    assert sum(each["times"] for each in plan["releases"]) == len(entries)
    assert (plan["unit"], plan["trust"], plan["num_clinics"]) == (
        "patient_within_clinic",
        "local",
        6,
    )


def test_ten_rounds_more_and_fewer_are_those_of_the_recipe(skinml: Invoke) -> None:
    plan = skinml(*PLAN, "--patients", 6000, "--json").json
    assert [each["rounds"] for each in plan["rounds"]] == [90, 100, 101, 110]
    for each in plan["rounds"]:
        entries = schedule_of("one", f"training.head.rounds={each['rounds']}")
        gradient = next(entry.event for entry in entries if entry.name == "gradient")
        assert each["noise_multiplier"] == gradient.noise_multiplier
    costs = [each["epsilon"] for each in plan["rounds"]]
    assert costs == sorted(costs)
    assert costs[1] == pytest.approx(plan["epsilon"], abs=1e-6)  # the grids are paid one by one
    assert plan["patients"] == 4200
    assert plan["noise_to_signal"] == plan["rounds"][1]["signal"]


def test_few_rounds_have_none_below_the_least(skinml: Invoke) -> None:
    plan = skinml(*PLAN, "training.head.rounds=5", "--json").json
    assert [each["rounds"] for each in plan["rounds"]] == [5, 6, 15]


@pytest.mark.slow
def test_end_to_end_training_is_planned_too(skinml: Invoke) -> None:
    words = ("training.network.rounds=3", "training.network.steps_per_round=2", "--json")
    plan = skinml("privacy", "plan", "quickstart_end_to_end", *words).json
    weights = plan["releases"][0]
    assert (weights["name"], weights["times"], weights["sampling_prob"]) == ("weights", 6, 0.15)
    assert 7.9 < plan["readings"][0]["epsilon"] <= 8
    step = 3**0.5 * weights["noise_multiplier"] / (0.15 * plan["patients"])
    assert plan["noise_to_signal"]["step"] == pytest.approx(step)


def test_without_a_promise_nothing_is_a_number_that_is_none(skinml: Invoke, tmp_path: Path) -> None:
    plan = skinml(*PLAN, "privacy.trust=none", "--json").json
    assert plan["epsilon"] is None
    assert {each["epsilon"] for each in plan["readings"]} == {None}
    assert "NOT PRIVATE" in skinml(*PLAN, "privacy.trust=none").out
    assert skinml(*PLAN, "privacy.trust=none", "--plot", tmp_path / "p.png").code == 2


@pytest.mark.parametrize(
    ("overrides", "code"),
    [
        (["privacy.budget.epsilon=2"], 3),
        (["privacy.budget.epsilon_per_year=1.25"], 3),
        (["clinic.policy.privacy.max_epsilon_per_run=0.7"], 3),
        pytest.param(["clinic.policy.privacy.least_noise_multiplier=3"], 3, marks=pytest.mark.slow),
        (["clinic.policy.privacy.max_delta=1e-6"], 3),
        pytest.param(
            ["clinic.policy.privacy.max_delta=1e-6", "privacy.budget.epsilon=1"],
            3,
            marks=pytest.mark.slow,
        ),
        pytest.param(["clinic.policy.trust=[local]"], 3, marks=pytest.mark.slow),
        pytest.param(
            ["privacy.trust=none", "clinic.policy.privacy.max_epsilon_for_life=2"],
            3,
            marks=pytest.mark.slow,
        ),
        (["privacy.tolerated_dropouts=6"], 2),
        (["privacy.colluding_clinics=7"], 2),
        (["privacy.tolerated_dropouts=2", "privacy.colluding_clinics=2"], 2),
    ],
    ids=str,
)
def test_the_nearest_possible_ask_is_possible(
    skinml: Invoke, overrides: list[str], code: int
) -> None:
    refused = skinml(*PLAN, *overrides, "--json")
    assert refused.code == code, refused.told
    changes = nearest(refused.json["error"]["do"])
    assert changes, refused.told
    allowed = skinml(*PLAN, *overrides, *changes, "--json")
    assert allowed.code == 0, allowed.told
    for change in changes:
        key, _, value = change.partition("=")
        if key == "privacy.epsilon":  # and nothing nearer is
            wider = f"{key}={float(value) * 1.01}"
            assert skinml(*PLAN, *overrides, *changes, wider, "--json").code == code


def test_too_few_clinics_are_told_how_many_would_do(skinml: Invoke) -> None:
    refused = skinml(*PLAN, "clinic.policy.least_clinics=9", "--json")
    assert refused.code == 3
    assert "a run of 9 clinics" in refused.json["error"]["do"]
    assert skinml(*PLAN, "clinic.policy.least_clinics=9", "--clinics", 9, "--json").code == 0


def test_a_recipe_that_the_policy_cannot_have_is_told_so(skinml: Invoke) -> None:
    words = ("quickstart_end_to_end", "clinic.policy.trust=[distributed]", "--json")
    refused = skinml("privacy", "plan", *words)
    assert refused.code == 3
    assert "No run of this experiment fits" in refused.json["error"]["do"]


def test_the_number_of_clinics_is_asked_for_where_only_the_data_know(skinml: Invoke) -> None:
    assert "--clinics" in skinml("privacy", "plan", "derm_malignancy").err
    plan = skinml("privacy", "plan", "derm_malignancy", "--clinics", 4, "--json").json
    assert (plan["num_clinics"], plan["unit_stands_for"], plan["patients"]) == (4, "lesion", 6000)


def test_a_clinics_ledger_says_what_is_left_and_the_look_is_logged(
    skinml: Invoke, north: Make
) -> None:
    folder = north(1.0, 1.5)
    plan = skinml(*PLAN, "privacy.epsilon=1", "--folder", folder, "--json").json
    held, run = open_folder(folder).ledger.entries(), schedule_of("next", "privacy.epsilon=1")
    assert plan["ledger"]["life"] == plan["ledger"]["year"] == spent(held, 1e-5)
    ceilings = {each["span"]: each for each in plan["ceilings"]}
    assert ceilings["year"]["with_run"] == spent([*held, *run], 1e-5)
    count = plan["runs"]
    assert count == min(ceilings["year"]["runs"], ceilings["life"]["runs"])
    assert spent([*held, *run * count], 1e-5) <= 4 < spent([*held, *run * (count + 1)], 1e-5)
    events = [entry for entry in open_folder(folder).audit.entries() if entry.event == "access"]
    assert [event.fields["kind"] for event in events] == ["ledger"]
    shown = skinml(*PLAN, "privacy.epsilon=1", "--folder", folder).out
    assert max(map(len, shown.splitlines())) <= 80
    assert "Ledger of north: 206 releases" in " ".join(shown.split())


def test_who_may_not_read_the_ledger_plans_without_it(skinml: Invoke, north: Make) -> None:
    folder = north(1.0, roles="steward: [nobody-else]")
    assert skinml(*PLAN, "--folder", folder).code == 3


ASKS = (
    # within
    ("privacy.epsilon=1",),
    ("privacy.epsilon=2.8", "privacy.trust=local"),
    ("privacy.epsilon=0.8", "data.split_key=other"),
    # refused
    (),
    ("privacy.epsilon=3.2",),
    ("privacy.epsilon=1", "privacy.delta=1e-4"),
    ("privacy.trust=central",),
    ("privacy.epsilon=2", "privacy.budget.epsilon=2.5"),
    ("privacy.epsilon=1", "privacy.trust=local", "federation.allowed_missing=5"),
    ("privacy.epsilon=2.9", "data.split_key=other"),
)
# Two split keys and a larger delta are held on either side by fast tests of their own:
# privacy/test_planner.py and test_ledger.py; above, and stewardship/test_policy_terms.py.
FAST = (ASKS[0], ASKS[3], ASKS[8])


@pytest.mark.parametrize(
    "overrides",
    [
        pytest.param(each, id=" ".join(each), marks=[pytest.mark.slow] * (each not in FAST))
        for each in ASKS
    ],
)
def test_plan_and_gate_agree(skinml: Invoke, north: Make, overrides: tuple[str, ...]) -> None:
    """The gate that a run meets says yes exactly where the plan does."""
    folder = open_folder(north(2.5))
    config = load_config("quickstart", overrides)
    draft = drafted(config, expected_classes(config), num_clinics=6, run="gate")
    proposal = propose(draft, folder, num_patients=None)
    try:
        require_within(folder.policy, proposal, before_counting=True)
        held = folder.ledger.entries()
        require_budget(held, draft.entries, policy_ceilings(folder), config.privacy)
        code = 0
    except RefusedError:
        code = 3
    planned = skinml(*PLAN, *overrides, "--folder", folder.path, "--json")
    assert planned.code == code, (planned.told, compare(folder.policy, proposal))
    assert code == (0 if overrides in ASKS[:3] else 3)


def dated(entries: list[Entry], days_ago: float) -> tuple[Entry, ...]:
    time = (NOW - timedelta(days=days_ago)).isoformat(timespec="seconds")
    return tuple(replace(entry, time=time) for entry in entries)


def refusal(held: tuple[Entry, ...], *overrides: str) -> str:
    bounds = Bounds(parse_policy(POLICY.encode()), "north", held, NOW)
    draft = draft_of(load_config("quickstart", overrides), 6)
    with pytest.raises(BudgetExceededError) as caught:
        require_possible(draft, bounds, "quickstart", overrides)
    return caught.value.do


def test_where_only_the_year_is_full_the_day_is_told_from_which_the_run_fits() -> None:
    old, new = schedule_of("old"), schedule_of("new", "privacy.epsilon=2.5")
    held = dated(old, 300) + dated(new, 10)
    told = refusal(held, "privacy.epsilon=2.9")
    found = re.search(r"possible from (\d{4})-(\d\d)-(\d\d) on", told)
    assert found, told
    day = datetime(*map(int, found.groups()), tzinfo=UTC)
    run = schedule_of("next", "privacy.epsilon=2.9")
    assert spent([*entries_of_year(held, day), *run], 1e-5) <= 4
    before = entries_of_year(held, day - timedelta(days=2))
    assert spent([*before, *run], 1e-5) > 4


def test_a_ledger_that_is_used_up_has_no_nearest_ask() -> None:
    held = tuple(entry for n in range(9) for entry in dated(schedule_of(f"run-{n}"), 400))
    assert "nothing is left at clinic north" in refusal(held)


def test_the_plot_is_a_picture(skinml: Invoke, tmp_path: Path) -> None:
    from PIL import Image

    place = tmp_path / "plan.png"
    outcome = skinml(*PLAN, "--plot", place, "--json")
    assert outcome.code == 0, outcome.told
    assert outcome.json["plot"] == str(place)
    with Image.open(place) as picture:
        assert picture.size == (1200, 510)
        assert len(picture.convert("RGB").getcolors(2**20) or ()) > 50


@pytest.mark.parametrize(
    ("name", "code"), [("plan.svg", 2), ("manifest", 2), ("nowhere/plan.png", 6)]
)
def test_a_plot_that_cannot_be_is_refused(
    skinml: Invoke, tmp_path: Path, name: str, code: int
) -> None:
    assert skinml(*PLAN, "--plot", tmp_path / name, "--json").code == code


def test_a_recipe_of_one_round_is_planned_by_its_own_release(skinml: Invoke) -> None:
    """More rounds would change nothing, so that none are offered."""
    plan = skinml(*PLAN, "privacy.recipe=prototypes", "--patients", 6000, "--json").json
    sums = next(each for each in plan["releases"] if each["name"] == "class_sums")
    assert plan["rounds"] == []
    step = sums["noise_multiplier"] / 4200
    assert plan["noise_to_signal"] == pytest.approx({"step": step, "run": step})
    told = skinml(*PLAN, "privacy.recipe=prototypes").out
    assert "all rounds" not in told
    assert "epsilon at noise" not in told


def test_a_plan_without_features_has_the_noise_of_its_run(skinml: Invoke) -> None:
    plan = skinml(*PLAN, "--json").json
    config = load_config("quickstart")
    learner = build_learner(config, expected_classes(config), 1280, 6)
    run = {r.name: r.noise_multiplier for x in learner.rounds for r in x.releases}
    told = {each["name"]: each["noise_multiplier"] for each in plan["releases"]}
    assert {name: told[name] for name in run} == pytest.approx(run, rel=2e-5)
