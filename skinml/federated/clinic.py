"""A clinic's side of a run: the only code that turns a request into something that leaves.

The clinic follows its own copy of the schedule. A coordinator names a round; it can choose
neither what is computed nor how much noise is added.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

import numpy as np

from skinml.errors import IntegrityError, PolicyError
from skinml.fairness.count_tables import CountsLayout, patient_table
from skinml.fairness.label_sets import SetsLayout
from skinml.federated.grid_check import require_on_grid
from skinml.federated.messages import SUMS, Request, require_sums
from skinml.federated.secure_clinic import SecureClinic
from skinml.federated.secure_masks import Words, to_ring
from skinml.federated.secure_session import Signed
from skinml.federated.secure_steps import answer_step, query_digest
from skinml.federated.step_book import StepBook, answer_once
from skinml.federated.validation_scores import FeaturePart, score_table
from skinml.privacy.ledger import Binding, Ceilings, Entry, Ledger, require_affordable
from skinml.privacy.mechanism import Mechanism
from skinml.privacy.plan import ADMISSIONS, Release, admissions_release, units_of_patient
from skinml.privacy.quantise import GRID, counts_on_grid
from skinml.privacy.settings import PrivacySettings
from skinml.records import Arrays, BoolArray, FloatArray, IntArray, Predictions, Samples
from skinml.seeding import Seeds
from skinml.training.array_bytes import read_arrays, write_arrays
from skinml.training.learner import Contributor, Learner, Round

VALIDATION = "validation"
# The trust models under which the coordinator gets a clinic's sum without noise.
_READS_SUMS = ("none", "central")


def _nothing(model: Arrays) -> None:
    """Make nothing of the final model."""


def _unheard(round_: int, patients: int) -> None:
    """Hear nothing, as an audit of clinics that release nothing does."""


@dataclass(frozen=True)
class CountsRelease:
    """What a run publishes its test figures from.

    Attributes:
        release: The release of counts of test patients.
        layout: Which patients are counted in which cell; public.
    """

    release: Release
    layout: CountsLayout


@dataclass(frozen=True)
class ClinicSetup:
    """Everything that a clinic brings to a run.

    Attributes:
        name: The clinic's name.
        run: The run that it approved.
        participants: All clinics of that run: the noise is shared out between them.
        learner: The recipe of that run, from the clinic's own copy of the config.
        validation: The release of validation scores that ends the schedule, if there is one.
        samples: Its samples by split, or those of all splits under `records.EVERY_SPLIT`.
        predict: Scores samples with a model's arrays.
        keep: Stores predictions by split inside the clinic.
        admitted: From a split to the mask of its samples that may be used now: consents change
            while a run goes on.
        note: Hears which entries of the ledger read which samples, by split, before a release.
        ledger: Its ledger.
        ceilings: Asked in each round what its policy lets a ledger reach now; raises where the
            policy no longer allows the run.
        least_patients: Training patients that its policy asks of a round.
        mechanism: Its part of the noise.
        privacy: The promise of the run.
        split_key_id: Short public digest of the split key.
        sampling_root: Secret seed of its sampling streams.
        simulated: Whether one machine sees everything.
        secure: Its side of the run's secure sums; None where sums leave as they are.
        book: What it has answered, where sums leave as they are; None computes and charges anew
            whenever it is asked, as an audit wants it.
        admissions: How many patients its gate put into each of `records.ADMISSION_CELLS`, each
            patient into one; None where the run releases no noised counts of them.
        not_finite: Hears in each round of training, before anything leaves, the round's number and
            how many patients' contributions were not finite. The number is exact: it may go into
            the clinic's own log and nowhere else. A real run gives one that writes it.
        personalise: Does in the last round what the clinic does with the final model for itself;
            it gives nothing back, and what it makes stays in the clinic's folder.
        test_counts: The counts of test patients that the last round releases too; None: none.
        label_sets: The rows for label sets in the release of validation scores; None: it has none.
        features: What is added to it of the validation images' features; None: nothing.
    """

    name: str
    run: str
    participants: tuple[str, ...]
    learner: Learner
    validation: Release | None
    samples: Mapping[str, Samples]
    predict: Callable[[Arrays, Samples], Predictions]
    keep: Callable[[str, Predictions], None]
    admitted: Callable[[str], BoolArray]
    note: Callable[[tuple[Entry, ...], Mapping[str, BoolArray]], None]
    ledger: Ledger
    ceilings: Callable[[], Ceilings]
    least_patients: int
    mechanism: Mechanism
    privacy: PrivacySettings
    split_key_id: str
    sampling_root: int
    simulated: bool
    secure: SecureClinic | None = None
    book: StepBook | None = None
    admissions: IntArray | None = None
    not_finite: Callable[[int, int], None] = _unheard
    personalise: Callable[[Arrays], None] = _nothing
    test_counts: CountsRelease | None = None
    label_sets: SetsLayout | None = None
    features: FeaturePart | None = None

    @property
    def counted(self) -> Release | None:
        """The release of counts of test patients, where there is one."""
        return self.test_counts.release if self.test_counts else None


def schedule(
    learner: Learner,
    validation: Release | None,
    admissions: Release | None = None,
    test_counts: Release | None = None,
) -> tuple[Round, ...]:
    """Append the evaluation to a recipe's rounds.

    Args:
        learner: The recipe.
        validation: The release of validation scores; None where nothing is evaluated.
        admissions: The release of counts of admissions, `privacy.plan.admissions_release`, which
            the last round makes too.
        test_counts: The release of counts of test patients, `privacy.plan.evaluation_release`,
            which the last round makes too.

    Returns:
        All rounds of the run.
    """
    if validation is None:
        return learner.rounds
    last = tuple(each for each in (validation, test_counts, admissions) if each is not None)
    return (*learner.rounds, Round(len(learner.rounds) + 1, VALIDATION, last))


class Clinic:
    """Answers the requests of one run.

    Args:
        setup: What the clinic brings.

    Guarantees:
        Each release is in the ledger, synced to the disk, before it is computed. A run that would
        pass a budget is refused before its first computation. Of the rounds only those of the
        clinic's own schedule are answered. Every round asks anew whose data may be used: who
        withdrew before it has no part in it.
    """

    def __init__(self, setup: ClinicSetup) -> None:
        self._setup = setup
        admissions = admissions_release(setup.privacy)
        self._rounds = schedule(setup.learner, setup.validation, admissions, setup.counted)
        self._contributor: tuple[bytes, Contributor] | None = None
        self._queries: dict[str, Mapping[str, tuple[tuple[int, ...], np.dtype[Any]]]] = {}

    @property
    def name(self) -> str:
        """The clinic's name."""
        return self._setup.name

    def step(self, request: Request) -> Signed:
        """Do one step of a round's secure sum.

        Args:
            request: What the coordinator asks; with the step "masked" or "paired" the round is
                done as `answer` does it, once an attempt.

        Returns:
            This clinic's signed message.

        Raises:
            IntegrityError: If the run has no secure sums, or the step breaks their rules.
            SkinmlError: Whatever keeps the clinic from its round, as in `answer`.
        """
        secure = self._setup.secure
        if secure is None:
            raise IntegrityError(
                rule=f"a run with secure sums at clinic {self._setup.name}",
                got=f"step={request.step}",
                do="Ask for plain sums.",
            )
        if request.step == "keys":
            self._require_approved(request, range(1))
            return secure.advertise()
        round_ = self._round(request)

        def compute() -> Words:
            sums = self._sums(round_, request)
            return np.concatenate([to_ring(sums[r.name], r.grid) for r in round_.releases])

        return answer_step(secure, request, compute)

    def answer(self, request: Request) -> Arrays:
        """Do one round and give the clinic's sums as they are, with its own noise.

        Asked the same again in the same attempt, the clinic sends what it sent: no new charge.

        Args:
            request: What the coordinator asks.

        Returns:
            One array for each release of the round, with this clinic's noise in it.

        Raises:
            IntegrityError: If the request is not about the approved run and schedule, carries
                other arrays than the recipe's, or other ones than before in the same attempt; if
                a later attempt was answered or the ledger was changed; or if what would leave is
                not exactly the planned releases.
            BudgetExceededError: If what the ledger holds and the rest of the run would together
                pass the budget.
            EnvironmentProblem: If the ledger cannot be written.
            PolicyError: If the policy no longer allows the run; or if the coordinator reads the
                clinic's sums, and so many withdrew that fewer patients are left to train on than
                the policy asks for.
        """
        if self._setup.secure is not None:
            raise IntegrityError(
                rule=f"the sums of clinic {self._setup.name} to leave under masks alone",
                got="a request for plain sums",
                do="Run the same release of skinml at the coordinator and at every clinic.",
            )
        round_, book = self._round(request), self._setup.book
        if book is None:
            return self._sums(round_, request)
        made: list[Arrays] = []

        def make(_: object) -> bytes:
            made.append(self._sums(round_, request))
            return write_arrays(made[0])

        place, digest = (request.round, request.attempt), query_digest(request.query).hex()
        kept = answer_once(book, self._setup.name, place, SUMS, digest, make)
        return made[0] if made else read_arrays(kept)

    def _sums(self, round_: Round, request: Request) -> Arrays:
        """Compute what the round releases, after the ledger has it."""
        self._require_query(round_, request.query)
        setup = self._setup
        own = round_.releases[0].split  # a recipe's round reads one
        read = ("validation", "test") if round_.kind == VALIDATION else (own,)
        masks = {split: setup.admitted(split) for split in read}
        if round_.kind != VALIDATION:
            self._require_patients(own, masks[own])
        entries = setup.ledger.reserve(
            self._binding(request),
            [(r.name, r.purpose, r.split, r.event) for r in round_.releases],
            guarantee=setup.privacy.private and setup.mechanism.open_source().guarantee,
            admit=partial(self._require_budget, request, setup.ceilings()),
        )
        setup.note(entries, masks)
        if round_.kind == VALIDATION:
            sums: Arrays = self._evaluate(round_, request.query, masks)
        else:
            # Keyed by the ledger's position: no sample is ever drawn twice under one ledger.
            sampling = Seeds(setup.sampling_root).stream(f"sampling/{entries[0].index}")
            contributor = self._opened(own, masks[own])
            sums = contributor.contribute(round_, request.query, setup.mechanism, sampling)
            setup.not_finite(round_.number, contributor.not_finite)
        require_sums(sums, {r.name: r.shape for r in round_.releases}, setup.name)
        require_on_grid(sums, round_.releases, setup.name)
        return sums

    def _round(self, request: Request) -> Round:
        self._require_approved(request, range(1, len(self._rounds) + 1))
        return self._rounds[request.round - 1]

    def _require_approved(self, request: Request, rounds: range) -> None:
        # With fewer or other participants this clinic's share of the noise would not suffice.
        mine, theirs = self._setup.participants, request.participants
        known = request.run == self._setup.run and (
            theirs == mine or sorted(theirs) == sorted(mine)
        )
        if not (known and request.round in rounds):
            raise IntegrityError(
                rule=f"a round of the run that clinic {self._setup.name} approved, with all of "
                "its clinics",
                got=f"run={request.run}, round={request.round}, "
                f"{len(request.participants)} participants",
                do="Ask for the approved run and its schedule.",
            )

    def _require_query(self, round_: Round, query: Arrays) -> None:
        """Take only what the recipe sends: a NaN in it could single a patient out."""
        if round_.kind not in self._queries:
            learner = self._setup.learner
            state = learner.start()
            sent = learner.model if round_.kind == VALIDATION else partial(learner.query, round_)
            self._queries[round_.kind] = {
                name: (values.shape, values.dtype) for name, values in sent(state).items()
            }
        found = {name: (values.shape, values.dtype) for name, values in query.items()}
        finite = all(np.isfinite(values).all() for values in query.values())
        if found != self._queries[round_.kind] or not finite:
            raise IntegrityError(
                rule=f"the recipe's own finite arrays in round {round_.number}",
                got="arrays of other names, shapes or types, or not finite",
                do="Run the same release of skinml at the coordinator and at every clinic.",
            )

    def _require_patients(self, split: str, mask: BoolArray) -> None:
        """Hold the policy's floor in each round where the coordinator reads the clinic's own sum.

        Elsewhere the noise protects whoever is left, and to stop would tell that somebody withdrew.
        """
        setup = self._setup
        if setup.privacy.trust not in _READS_SUMS:
            return
        if len(set(setup.samples[split].patients[mask].tolist())) < setup.least_patients:
            raise PolicyError(
                rule=f"at least {setup.least_patients} patients in a round, as the policy "
                f"of clinic {setup.name} asks (least_patients)",
                got="fewer, after withdrawals",
                do="Leave the clinic out of the run, or begin it anew once more patients agreed.",
            )

    def _require_budget(
        self, request: Request, ceilings: Ceilings, entries: Sequence[Entry]
    ) -> None:
        """Look at each round, for another run may have spent since the last one."""
        setup = self._setup
        planned = _planned(
            setup.learner,
            setup.validation,
            setup.privacy,
            self._binding(request),
            from_round=request.round,
            test_counts=setup.counted,
        )
        require_budget(entries, planned, ceilings, setup.privacy)

    def _binding(self, request: Request) -> Binding:
        setup = self._setup
        return Binding(
            run=request.run,
            round=request.round,
            attempt=request.attempt,
            participants=request.participants,
            trust=setup.privacy.trust,
            unit=setup.privacy.unit,
            split_key_id=setup.split_key_id,
            simulated=setup.simulated,
        )

    def _opened(self, split: str, mask: BoolArray) -> Contributor:
        """Prepare the samples that may be used; again only where they have changed."""
        known = mask.tobytes()
        if self._contributor is None or self._contributor[0] != known:
            samples = self._setup.samples[split].take(mask)
            self._contributor = known, self._setup.learner.contributor(samples)
        return self._contributor[1]

    def _count_admissions(self, release: Release) -> FloatArray:
        """Count what became of whom at the gate; each patient is in one cell."""
        setup = self._setup
        if setup.admissions is None:
            raise IntegrityError(
                rule=f"counts of who was admitted at clinic {setup.name}, which the run releases",
                got="none",
                do="Start the run anew.",
            )
        share = 1 / setup.privacy.max_clinics_per_patient
        return setup.mechanism.privatize(release, counts_on_grid(setup.admissions, share))

    def _evaluate(
        self, round_: Round, model: Arrays, masks: Mapping[str, BoolArray]
    ) -> dict[str, FloatArray]:
        """Keep the predictions here; let only noisy counts leave."""
        setup = self._setup
        chosen = {split: setup.samples[split].take(mask) for split, mask in masks.items()}
        predictions = {split: setup.predict(model, part) for split, part in chosen.items()}
        for split, made in predictions.items():
            setup.keep(split, made)
        setup.personalise(model)
        validation, *others = round_.releases
        most = setup.privacy.max_clinics_per_patient
        rows = setup.features.rows(chosen["validation"], most) if setup.features else None
        scores = score_table(predictions["validation"], setup.label_sets, most, rows)
        found = {validation.name: setup.mechanism.privatize(validation, scores)}
        for release in others:
            if release.name == ADMISSIONS:
                found[release.name] = self._count_admissions(release)
            else:
                found[release.name] = self._count_tested(release, predictions["test"])
        return found

    def _count_tested(self, release: Release, predictions: Predictions) -> FloatArray:
        """Count test patients by group, truth and score; one moves all cells by at most 1."""
        setup = self._setup
        if setup.test_counts is None:
            raise IntegrityError(
                rule=f"the public cells of the test counts at clinic {setup.name}",
                got="none",
                do="Start the run anew.",
            )
        layout = setup.test_counts.layout
        units = units_of_patient(len(layout.columns), setup.privacy.max_clinics_per_patient)
        table = patient_table(predictions, layout, units)
        return setup.mechanism.privatize(release, table * GRID)


def planned_entries(
    learner: Learner,
    validation: Release | None,
    privacy: PrivacySettings,
    *,
    run: str,
    split_key_id: str,
    from_round: int = 1,
    test_counts: Release | None = None,
) -> list[Entry]:
    """Write down what a run, or the rest of it, will release at one clinic, as if it had.

    Args:
        learner: The recipe.
        validation: The release of validation scores, if there is one.
        privacy: The promise of the run.
        run: The run's id.
        split_key_id: Short public digest of the split key.
        from_round: The first round of what is left.
        test_counts: The release of counts of test patients, where there is one.

    Returns:
        Entries like those of a ledger.
    """
    binding = Binding(run, 1, 1, (), privacy.trust, privacy.unit, split_key_id, True)
    return _planned(
        learner, validation, privacy, binding, from_round=from_round, test_counts=test_counts
    )


def require_budget(
    entries: Sequence[Entry],
    planned: Sequence[Entry],
    ceilings: Ceilings,
    privacy: PrivacySettings,
) -> None:
    """Refuse a schedule that would pass the clinic's own ceilings or those that the run set itself.

    Args:
        entries: What the clinic's ledger holds.
        planned: The run's schedule, or what is left of it, see `planned_entries`.
        ceilings: What the clinic's policy lets the ledger reach.
        privacy: The promise of the run, with its budget.

    Raises:
        BudgetExceededError: If it would.
    """
    now = datetime.now(UTC)
    asked = Ceilings(
        year=privacy.budget.epsilon_per_year,
        life=privacy.budget.epsilon,
        rule="privacy.budget.epsilon, privacy.budget.epsilon_per_year",
    )
    for each in (ceilings, asked):
        require_affordable(entries, planned, each, delta=privacy.delta, now=now)


def _planned(
    learner: Learner,
    validation: Release | None,
    privacy: PrivacySettings,
    binding: Binding,
    *,
    from_round: int,
    test_counts: Release | None,
) -> list[Entry]:
    """Write down what a round and all later ones will release, as if they had."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return [
        Entry(0, now, binding, r.name, r.purpose, r.split, r.event, guarantee=True)
        for round_ in schedule(learner, validation, admissions_release(privacy), test_counts)
        if round_.number >= from_round
        for r in round_.releases
    ]
