"""Statements of a ledger: every figure against a composition made without skinml."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from math import inf, sqrt
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.stats import norm

from skinml.errors import BudgetExceededError, ConfigError, IntegrityError
from skinml.journal import Journal, KeyedSeal
from skinml.privacy.allowance import epsilon_left, gaussian_epsilon
from skinml.privacy.events import (
    GaussianEvent,
    SampledGaussianEvent,
    UnprotectedEvent,
    event_to_json,
)
from skinml.privacy.ledger import (
    SCHEMA,
    Binding,
    Ceilings,
    Entry,
    Ledger,
    entries_of_year,
    require_affordable,
    spent,
)
from skinml.privacy.plan import Release, gaussian_releases
from skinml.privacy.settings import PrivacySettings
from skinml.privacy.statement import entries_until, epsilon_everywhere, statement
from skinml.stewardship.anchors import Anchors

DELTA = 1e-5
KEY = bytes(range(32))
BINDING = Binding(
    run="run-1",
    round=1,
    attempt=1,
    participants=("a", "b", "c"),
    trust="distributed",
    unit="patient_within_clinic",
    split_key_id="k",
    simulated=True,
)
DAY = date(2026, 6, 1)
NAMES = {"label counts": "label_counts", "training": "gradient", "validation": "scores"}


def composed(noises, delta=DELTA):
    """Epsilon of Gaussian releases in one: delta in closed form, inverted by bisection."""
    mu = sqrt(math.fsum(1 / noise**2 for noise in noises))

    def excess(eps):
        tail = norm.logcdf(-eps / mu - mu / 2)
        return norm.cdf(-eps / mu + mu / 2) - math.exp(eps + tail) - delta

    return brentq(excess, 0, mu**2 / 2 + 10 * mu) if excess(0) > 0 else 0.0


def run_noises(eps, rounds=100):
    """Noise multipliers of the head's recipe, from the shares of the budget in the notes."""
    mu = brentq(lambda m: composed([1 / m]) - eps, 1e-3, 50, xtol=1e-14)
    return {
        "label counts": [1 / (mu * sqrt(0.05))],
        "training": [1 / (mu * sqrt(0.10))] + [sqrt(rounds) / (mu * sqrt(0.85))] * rounds,
        "validation": [1 / mu],
    }


def told(run, day, noises, start=0, **binding):
    """Entries as a ledger would hold them after a run."""
    bound = replace(BINDING, run=run, **binding)
    made = []
    for purpose, values in noises.items():
        split = "validation" if purpose == "validation" else "train"
        for number, noise in enumerate(values, 1):
            at = datetime.combine(day, datetime.min.time(), UTC) + timedelta(hours=10)
            where = replace(bound, round=number)
            event = GaussianEvent(noise)
            made.append(
                Entry(
                    start + len(made),
                    at.isoformat(),
                    where,
                    NAMES[purpose],
                    purpose,
                    split,
                    event,
                    True,
                )
            )
    return made


def ledger_of(*runs, **binding):
    """Several runs one after another: (name, day, epsilon)."""
    entries = []
    for run, day, eps in runs:
        entries += told(run, day, run_noises(eps), len(entries), **binding)
    return entries


def train(noises):
    return noises["label counts"] + noises["training"]


@pytest.mark.parametrize("eps", [0.5, 3.0, 8.0])
def test_one_run_costs_what_its_schedule_composes_to(eps):
    said = statement(ledger_of(("run-1", DAY, eps)), DELTA, DAY)
    noises = run_noises(eps)
    assert composed(train(noises)) == pytest.approx(eps, abs=1e-9)
    assert said.total.epsilon == pytest.approx(eps, abs=1e-3)
    assert said.runs[0].cost == said.total == said.year
    assert said.total.num_releases == 103
    assert said.purposes["label counts"].epsilon == pytest.approx(
        composed(noises["label counts"]), abs=1e-3
    )
    assert said.purposes["training"].epsilon == pytest.approx(
        composed(noises["training"]), abs=1e-3
    )
    assert said.splits["train"].epsilon == pytest.approx(eps, abs=1e-3)
    assert said.splits["validation"].epsilon == pytest.approx(eps, abs=1e-3)


def test_twenty_rounds_cost_their_composition_and_neither_one_nor_twenty_times_it():
    entries = told("run-1", DAY, {"training": [6.0] * 20})
    said = statement(entries, DELTA, DAY)
    assert said.total.epsilon == pytest.approx(composed([6.0] * 20), abs=1e-3)
    one = composed([6.0])
    assert 3 * one < said.total.epsilon < 20 * one
    assert said.runs[0].num_rounds == 20


def test_three_runs_over_a_year_compose_and_leave_the_year_one_by_one():
    days = (date(2026, 1, 10), date(2026, 5, 20), date(2026, 12, 1))
    asked = (3.0, 1.0, 2.0)
    entries = ledger_of(*zip(("one", "two", "three"), days, asked, strict=True))
    noises = [train(run_noises(eps)) for eps in asked]

    def oracle(*numbers):
        return composed([noise for number in numbers for noise in noises[number]])

    def spent_at(day):
        said = statement(entries, DELTA, day)
        return [said.total.epsilon, said.year.epsilon]

    expected = {
        date(2026, 1, 9): (0, 0),
        days[0]: (oracle(0), oracle(0)),
        days[1]: (oracle(0, 1), oracle(0, 1)),
        date(2026, 12, 31): (oracle(0, 1, 2), oracle(0, 1, 2)),
        date(2027, 2, 1): (oracle(0, 1, 2), oracle(1, 2)),
        date(2027, 6, 1): (oracle(0, 1, 2), oracle(2)),
        date(2028, 1, 1): (oracle(0, 1, 2), 0),
    }
    for day, values in expected.items():
        assert spent_at(day) == pytest.approx(values, abs=1e-3), day
    said = statement(entries, DELTA, date(2026, 12, 31))
    assert [each.run for each in said.runs] == ["one", "two", "three"]
    for each, eps in zip(said.runs, asked, strict=True):
        assert each.cost.epsilon == pytest.approx(eps, abs=1e-3)
    assert said.total.epsilon < sum(asked) - 1  # composed, never added up


def test_the_edge_of_the_year_is_never_below_what_the_gate_charges_that_day():
    entries = ledger_of(("old", date(2025, 6, 1), 1.0), ("new", date(2026, 5, 31), 1.0))
    both, one = (
        composed(train(run_noises(1.0)) * 2),
        composed(train(run_noises(1.0))),
    )
    for days, expected in ((0, both), (1, one)):
        day = DAY + timedelta(days=days)
        year = statement(entries, DELTA, day).year.epsilon
        assert year == pytest.approx(expected, abs=1e-3)
        for hour in (0, 9, 10, 11, 23):
            now = datetime(day.year, day.month, day.day, hour, 59, tzinfo=UTC)
            assert spent(entries_of_year(entries, now), DELTA) <= year


def test_splits_are_apart_under_one_key_and_compose_under_two():
    one = told("run-1", DAY, {"training": [2.0], "validation": [1.5]})
    apart = statement(one, DELTA, DAY)
    assert apart.num_split_keys == 1
    assert apart.total.epsilon == max(each.epsilon for each in apart.splits.values())
    other = told("run-2", DAY, {"training": [2.0], "validation": [1.5]}, 2, split_key_id="other")
    mixed = statement(one + other, DELTA, DAY)
    assert mixed.num_split_keys == 2
    assert mixed.total.epsilon == pytest.approx(composed([2.0, 1.5] * 2), abs=1e-3)


def test_a_release_without_noise_is_unbounded_and_only_where_it_was():
    entries = told("one", DAY, {"training": [5.0]}) + told("two", DAY, {"validation": [5.0]}, 1)
    entries[0] = replace(entries[0], event=UnprotectedEvent())
    said = statement(entries, DELTA, DAY)
    assert said.total.epsilon == said.year.epsilon == said.across == inf
    assert (said.total.num_bare, said.total.num_fixed) == (1, 0)
    assert [each.cost.epsilon < inf for each in said.runs] == [False, True]
    assert said.splits["validation"].epsilon == pytest.approx(composed([5.0]), abs=1e-3)
    assert said.purposes["training"].epsilon == inf


def test_noise_that_a_test_fixed_is_unbounded_and_told_apart():
    entries = [replace(each, guarantee=False) for each in told("one", DAY, {"training": [5.0]})]
    said = statement(entries, DELTA, DAY)
    assert said.total.epsilon == said.runs[0].across == inf
    assert (said.total.num_bare, said.total.num_fixed) == (0, 1)


def test_units_trust_and_simulation_are_named_by_run():
    entries = [
        *told("one", DAY, {"training": [5.0]}),
        *told("two", DAY, {"training": [5.0]}, 1, unit="patient", trust="local", simulated=False),
    ]
    said = statement(entries, DELTA, DAY)
    one, two = said.runs
    assert (one.units, one.trusts, one.simulated) == (
        ("patient_within_clinic",),
        ("distributed",),
        True,
    )
    assert (two.units, two.trusts, two.simulated) == (("patient",), ("local",), False)
    assert said.units == ("patient", "patient_within_clinic")
    assert one.num_clinics == 3
    mixed = [entries[0], replace(entries[1], binding=replace(entries[1].binding, run="one"))]
    both = statement(mixed, DELTA, DAY).runs[0]
    assert (both.trusts, both.simulated) == (("distributed", "local"), False)


def test_runs_stand_in_the_order_of_their_last_release():
    entries = told("one", DAY, {"training": [5.0, 5.0]})
    middle = told("two", DAY, {"training": [5.0]}, 1)
    entries = [entries[0], *middle, replace(entries[1], index=2)]
    assert [each.run for each in statement(entries, DELTA, DAY).runs] == ["two", "one"]


def test_nothing_released_costs_nothing():
    said = statement((), DELTA, DAY)
    assert said.runs == ()
    assert said.total.epsilon == said.year.epsilon == said.across == 0
    assert said.purposes == said.splits == {}


@pytest.mark.parametrize("delta", [0.0, 1.0, float("nan")])
def test_impossible_deltas_are_refused_also_where_nothing_was_released(delta):
    with pytest.raises(ConfigError, match="delta"):
        statement((), delta, DAY)


def test_a_day_before_there_were_ledgers_is_refused():
    with pytest.raises(ConfigError, match="year"):
        statement((), DELTA, date(1, 1, 1))


@pytest.mark.parametrize(
    ("trust", "unit", "factor"),
    [
        ("distributed", "patient_within_clinic", 3),  # moves one sum three times as far
        ("central", "patient_within_clinic", 3),
        ("local", "patient_within_clinic", sqrt(3)),  # three releases
        ("distributed", "patient", 1),  # each clip was divided already
    ],
)
def test_a_patient_at_all_clinics_of_a_run_is_read_too(trust, unit, factor):
    entries = ledger_of(("run-1", DAY, 1.0), trust=trust, unit=unit)
    across = composed([noise / factor for noise in train(run_noises(1.0))])
    said = statement(entries, DELTA, DAY)
    assert said.runs[0].across == pytest.approx(across, abs=1e-3)
    assert said.across == pytest.approx(across, abs=1e-3)


def test_a_lone_clinic_has_one_reading():
    said = statement(ledger_of(("run-1", DAY, 1.0), participants=("pooled",)), DELTA, DAY)
    assert said.across == pytest.approx(said.total.epsilon, abs=1e-3)


@pytest.mark.parametrize(("prob", "steps"), [(0.1, 50), (0.5, 20), (1.0, 20)])
def test_sampling_at_each_clinic_costs_no_more_across_clinics_than_is_told(prob, steps):
    """Against the exact mixture: how many of three clinics drew the patient is binomial."""
    from dp_accounting import dp_event, privacy_accountant
    from dp_accounting.pld import pld_privacy_accountant
    from scipy.stats import binom

    entry = told("run-1", DAY, {"training": [4.0]})[0]
    entry = replace(entry, event=SampledGaussianEvent(4.0, prob, steps))
    exact = pld_privacy_accountant.PLDAccountant(
        privacy_accountant.NeighboringRelation.ADD_OR_REMOVE_ONE,
        value_discretization_interval=1e-3,
    )
    drawn = [float(binom.pmf(k, 3, prob)) for k in range(4)]
    exact.compose(dp_event.MixtureOfGaussiansDpEvent(4.0, [0, 1, 2, 3], drawn), steps)
    across = statement([entry], DELTA, DAY).across
    truth = exact.get_epsilon(DELTA)
    assert truth <= across + 1e-3
    if prob == 1:
        assert across == pytest.approx(truth, abs=2e-3)
    local = replace(entry, binding=replace(BINDING, trust="local"))
    thrice = replace(entry, event=SampledGaussianEvent(4.0, prob, 3 * steps))
    assert statement([local], DELTA, DAY).across == spent([thrice], DELTA)


def test_a_sum_over_clinics_counts_once_for_a_patient_at_all_of_them():
    one = ledger_of(("run-1", DAY, 1.0))
    noises = train(run_noises(1.0))
    everywhere = composed([noise / 3 for noise in noises])
    assert epsilon_everywhere([one, one, one], DELTA) == pytest.approx(everywhere, abs=1e-3)
    pooled = ledger_of(("run-2", DAY, 1.0), participants=("pooled",))
    both = composed([noise / 3 for noise in noises] + noises)
    assert epsilon_everywhere([one, one, one, pooled], DELTA) == pytest.approx(both, abs=1e-3)
    assert epsilon_everywhere([], DELTA) == 0


def test_a_retry_at_one_clinic_counts_again_and_one_fixed_noise_spoils_the_sum():
    one = told("run-1", DAY, {"training": [9.0]})
    again = [*one, replace(one[0], index=1)]
    twice = composed([3.0, 3.0])
    assert epsilon_everywhere([one, again], DELTA) == pytest.approx(twice, abs=1e-3)
    fixed = [replace(one[0], guarantee=False)]
    assert epsilon_everywhere([one, fixed], DELTA) == inf
    assert epsilon_everywhere([fixed, one], DELTA) == inf


def test_a_clock_that_was_set_back_hides_nothing():
    """What stands in front of an entry of the day was there by then, whatever it is dated."""
    days = (DAY, DAY + timedelta(days=300), DAY + timedelta(days=1), DAY + timedelta(days=400))
    entries = [
        told("run-1", day, {"training": [5.0]}, number)[0] for number, day in enumerate(days)
    ]
    assert len(entries_until(entries, DAY - timedelta(days=1))) == 0
    assert len(entries_until(entries, DAY)) == 1
    assert len(entries_until(entries, DAY + timedelta(days=1))) == 3
    said = statement(entries, DELTA, DAY + timedelta(days=1))
    assert (said.num_later, said.num_backwards) == (1, 1)
    assert said.total.num_releases == 3
    everything = statement(entries, DELTA, DAY + timedelta(days=1), with_later=True)
    assert (everything.num_later, everything.total.num_releases) == (0, 4)


@pytest.mark.parametrize("mu", [0.05, 0.2681, 0.7191, 1.666, 5.0, 20.0])
@pytest.mark.parametrize("delta", [1e-9, 1e-5, 0.1])
def test_the_closed_form_of_epsilon_inverts_delta(mu, delta):
    assert gaussian_epsilon(mu, delta) == pytest.approx(composed([1 / mu], delta), abs=1e-6)


def test_hardly_any_loss_is_epsilon_zero():
    assert gaussian_epsilon(1e-6, 1e-5) == 0


def next_run(eps, split_key_id="k"):
    """What a run of the head's recipe would put into the ledger."""
    asked = PrivacySettings(epsilon=eps, delta=DELTA)
    parts = [("train", [0.05, 0.10, 0.85]), ("validation", [1.0])]
    planned = []
    for split, shares in parts:
        releases = [(Release("any", split, split, 1.0, 0.0, (1,)), share) for share in shares]
        for release in gaussian_releases(asked, releases):
            bound = replace(BINDING, run="next", split_key_id=split_key_id)
            planned.append(
                Entry(
                    0, "2026-06-01T10:00:00+00:00", bound, "any", split, split, release.event, True
                )
            )
    return planned


def affordable(held, planned, ceiling):
    now = datetime(2026, 6, 1, 12, tzinfo=UTC)
    try:
        require_affordable(held, planned, Ceilings(life=ceiling), delta=DELTA, now=now)
    except BudgetExceededError:
        return False
    return True


SAMPLED = SampledGaussianEvent(1.3, 0.02, 200)
HELD = {
    "one run": lambda: ledger_of(("run-1", DAY, 1.0)),
    "more training than validation": lambda: told(
        "run-1", DAY, {"training": [3.0], "validation": [9.0]}
    ),
    "only validation": lambda: told("run-1", DAY, {"validation": [2.0]}),
    "only the test split": lambda: [
        replace(each, split="test") for each in told("run-1", DAY, {"training": [3.0]})
    ],
    "two split keys": lambda: (
        told("run-1", DAY, {"training": [5.0], "validation": [5.0]})
        + told("run-2", DAY, {"training": [5.0]}, 2, split_key_id="other")
    ),
    "sampled": lambda: [
        replace(each, event=SAMPLED) for each in told("run-1", DAY, {"training": [1.0]})
    ],
    "nothing": list,
}


@pytest.mark.parametrize("held", HELD.values(), ids=HELD)
@pytest.mark.parametrize("ceiling", [2.0, 4.5])
def test_what_is_left_the_gate_affords_and_hardly_more(held, ceiling):
    entries = held()
    key = entries[-1].binding.split_key_id if entries else "k"
    left = epsilon_left(entries, ceiling, DELTA)
    assert 0 < left <= ceiling
    assert affordable(entries, next_run(left, key), ceiling)
    assert not affordable(entries, next_run(left + 0.02, key), ceiling)


def test_nothing_is_left_at_the_ceiling_above_it_and_without_a_bound():
    entries = ledger_of(("run-1", DAY, 1.0))
    for ceiling in (0.5, spent(entries, DELTA), 1.0):
        assert epsilon_left(entries, ceiling, DELTA) == 0
    entries[0] = replace(entries[0], guarantee=False)
    assert epsilon_left(entries, 50.0, DELTA) == 0
    with pytest.raises(ConfigError, match="ceiling"):
        epsilon_left(entries, 0.0, DELTA)


def test_less_than_one_step_is_nothing():
    hardly = SampledGaussianEvent(5.0, 0.001, 10)
    entries = [replace(each, event=hardly) for each in told("one", DAY, {"training": [1.0]})]
    assert 0 < spent(entries, DELTA) < 0.002
    assert epsilon_left(entries, 0.008, DELTA) == 0
    assert epsilon_left((), 0.004, DELTA) == 0


def write(folder, entries):
    """Write entries of any date into a real ledger with its chain and anchor."""
    anchors = Anchors(folder / "anchors.json", "a", KEY)
    if not anchors.path.exists():
        anchors.create()
    name = "privacy ledger of clinic a"
    path, anchor = folder / "ledger.jsonl", anchors.journal("ledger")
    Journal(path, name, KeyedSeal(KEY), anchor).append(lambda _: list(map(body, entries)))


def body(entry):
    bound = {**vars(entry.binding), "participants": list(entry.binding.participants)}
    values = {**vars(entry), "binding": bound, "event": event_to_json(entry.event)}
    return values | {"schema": SCHEMA}


def opened(folder):
    anchors = Anchors(folder / "anchors.json", "a", KEY)
    return Ledger(folder / "ledger.jsonl", "a", KEY, anchors.journal("ledger"))


@st.composite
def histories(draw):
    """A clinic's releases over two years: days rise, everything else is drawn."""
    count = draw(st.integers(1, 9))
    days = sorted(draw(st.lists(st.integers(0, 730), min_size=count, max_size=count)))
    entries = []
    for number, offset in enumerate(days):
        noise = draw(st.sampled_from([10.0, 20.0, 40.0]))
        purpose = draw(st.sampled_from(sorted(NAMES)))
        run = draw(st.sampled_from(["one", "two", "three"]))
        day = DAY + timedelta(days=offset)
        entries += told(run, day, {purpose: [noise]}, number)
    return entries


@settings(max_examples=15, deadline=None, derandomize=True)
@given(histories(), st.integers(0, 1100), st.randoms(use_true_random=False))
def test_chain_and_statement_together(entries, offset, random):
    """What was written is what is told; a changed byte is never told as if nothing had been."""
    day = DAY + timedelta(days=offset)
    with TemporaryDirectory() as place:
        folder = Path(place)
        write(folder, entries)
        read = opened(folder).entries()
        assert read == tuple(entries)
        said = statement(read, DELTA, day)
        held = [each for each in entries if each.time[:10] <= day.isoformat()]
        assert said.total.num_releases == len(held)
        splits = {each.split for each in held}
        oracle = {
            split: composed([e.event.noise_multiplier for e in held if e.split == split])
            for split in splits
        }
        assert {name: cost.epsilon for name, cost in said.splits.items()} == pytest.approx(
            oracle, abs=1e-3
        )
        assert said.total.epsilon == pytest.approx(max(oracle.values(), default=0), abs=1e-3)
        parts = [said.year, *(each.cost for each in said.runs), *said.purposes.values()]
        assert all(part.epsilon <= said.total.epsilon + 1e-9 for part in parts)
        assert sum(each.cost.num_releases for each in said.runs) == len(held)
        before = statement(read, DELTA, day - timedelta(days=200))
        assert before.total.epsilon <= said.total.epsilon
        content = bytearray((folder / "ledger.jsonl").read_bytes())
        content[random.randrange(len(content))] ^= random.randrange(1, 256)
        (folder / "ledger.jsonl").write_bytes(bytes(content))
        with pytest.raises(IntegrityError):
            opened(folder).entries()
