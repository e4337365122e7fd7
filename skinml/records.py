"""Frozen values that cross rooms: samples, predictions, estimates, participation, a run's record.

Arrays are read, never written. What holds a patient's id says so; a `RunRecord` may be shown.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skinml.errors import require_same_length

FloatArray = NDArray[np.floating[Any]]
IntArray = NDArray[np.integer[Any]]
StrArray = NDArray[np.str_]
BoolArray = NDArray[np.bool_]
Arrays = Mapping[str, NDArray[Any]]

SPLITS = ("train", "validation", "test")
EVERY_SPLIT = "all"  # what a release is about that looks at patients of every split
ADMISSION_CELLS = (  # what can become of a patient at a clinic's gate
    "admitted",
    "no consent",
    "licence not allowed",
    "purpose not covered",
    "data not covered",
    "not yet valid",
    "expired",
    "kept too long",
    "restricted",
    "withdrawn",
)
UNKNOWN_GROUP = "unknown"


@dataclass(frozen=True)
class Labels:
    """What a model tells apart.

    Attributes:
        names: The classes in the order of the model's outputs.
        malignant: For each class, whether it counts as malignant.
    """

    names: tuple[str, ...]
    malignant: tuple[bool, ...]

    def __post_init__(self) -> None:
        require_same_length(names=self.names, malignant=self.malignant)


@dataclass(frozen=True, repr=False)
class Samples:
    """One clinic's items of one split, ready for a model. Per patient: never log.

    An item is what is scored at once: an image, or a lesion with several views.

    Attributes:
        inputs: (n, ...) features (n, d) or images (n, height, width, 3) of uint8.
        labels: (n,) index into the classes.
        patients: (n,) the id of each item's patient.
        groups: For each attribute, such as "skin_tone", (n,) the item's group, or "unknown".
    """

    inputs: NDArray[Any]
    labels: IntArray
    patients: StrArray
    groups: Mapping[str, StrArray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        require_same_length(
            inputs=self.inputs, labels=self.labels, patients=self.patients, **self.groups
        )

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, chosen: NDArray[Any]) -> Samples:
        """Keep some of the items.

        Args:
            chosen: (n,) mask, or the positions of the items to keep.

        Returns:
            The chosen items in the order asked for.
        """
        return Samples(
            inputs=self.inputs[chosen],
            labels=self.labels[chosen],
            patients=self.patients[chosen],
            groups={name: values[chosen] for name, values in self.groups.items()},
        )


def join_samples(parts: Sequence[Samples]) -> Samples:
    """Put the items of several clinics behind one another.

    Args:
        parts: At least one set of samples, all with the same attributes and input shape.

    Returns:
        All items, in the order of the parts.
    """
    names = parts[0].groups.keys()
    return Samples(
        inputs=np.concatenate([part.inputs for part in parts]),
        labels=np.concatenate([part.labels for part in parts]),
        patients=np.concatenate([part.patients for part in parts]),
        groups={name: np.concatenate([part.groups[name] for part in parts]) for name in names},
    )


@dataclass(frozen=True, repr=False)
class Predictions:
    """One model's scores on some items. Per patient: never leaves a clinic outside a simulation.

    Attributes:
        classes: What the columns of `probabilities` mean.
        labels: (n,) index of the true class.
        probabilities: (n, classes), rows sum to 1.
        decisions: (n,) index of the class that the model decides for.
        patients: (n,) the id of each item's patient, the unit of resampling.
        groups: For each attribute, (n,) the item's group.
    """

    classes: Labels
    labels: IntArray
    probabilities: FloatArray
    decisions: IntArray
    patients: StrArray
    groups: Mapping[str, StrArray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        require_same_length(
            labels=self.labels,
            probabilities=self.probabilities,
            decisions=self.decisions,
            patients=self.patients,
            **self.groups,
        )

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def malignant(self) -> BoolArray:
        """(n,) whether the true class counts as malignant."""
        return np.asarray(self.classes.malignant, dtype=bool)[self.labels]

    @property
    def malignancy_scores(self) -> FloatArray:
        """(n,) the probability given to all malignant classes together."""
        columns = np.asarray(self.classes.malignant, dtype=bool)
        return np.asarray(self.probabilities[:, columns].sum(axis=1))


def join_predictions(parts: Sequence[Predictions]) -> Predictions:
    """Put the predictions of several clinics behind one another.

    Args:
        parts: At least one set of predictions of one model.

    Returns:
        All items, in the order of the parts.
    """
    names = parts[0].groups.keys()
    return Predictions(
        classes=parts[0].classes,
        labels=np.concatenate([part.labels for part in parts]),
        probabilities=np.concatenate([part.probabilities for part in parts]),
        decisions=np.concatenate([part.decisions for part in parts]),
        patients=np.concatenate([part.patients for part in parts]),
        groups={name: np.concatenate([part.groups[name] for part in parts]) for name in names},
    )


@dataclass(frozen=True)
class Estimate:
    """A number with its uncertainty, or the reason why there is none.

    Attributes:
        value: The estimate; None where it is undefined, never 0 in its stead.
        low: Lower limit of the interval; None where there is none.
        high: Upper limit of the interval; None where there is none.
        level: The interval's nominal coverage.
        method: How the interval was made, such as "patient bootstrap".
        reason: Why the value or the interval is missing; empty where nothing is.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    level: float = 0.95
    method: str = ""
    reason: str = ""


@dataclass(frozen=True)
class GroupResult:
    """How a model does on one group.

    Attributes:
        attribute: What the groups are of, such as "skin_tone"; "overall" for everybody.
        group: The group's name within the attribute.
        num_images: Items of the group; None where only patients were counted.
        num_patients: Patients of the group.
        num_positives: Malignant items; malignant patients where only patients were counted.
        num_negatives: Items, or patients, that are not malignant.
        estimates: The figures by name, such as "auroc".
        count_std: Standard deviation of the noise in num_positives and in num_negatives; 0 where
            they are exact. With noise a number may be below 0.
        cross_checks: The same figures by another method, where its conditions are met.
    """

    attribute: str
    group: str
    num_images: int | None
    num_patients: int
    num_positives: int
    num_negatives: int
    estimates: Mapping[str, Estimate]
    count_std: float = 0.0
    cross_checks: Mapping[str, Estimate] = field(default_factory=dict)


@dataclass(frozen=True)
class Yardstick:
    """Another way to a model on the same data, to hold the run's own against.

    Attributes:
        name: What it is, in words for a reader.
        private: Whether it was trained with a privacy guarantee.
        estimates: The figures on the same test items, by name.
    """

    name: str
    private: bool
    estimates: Mapping[str, Estimate]


@dataclass(frozen=True)
class PersonalHead:
    """A clinic's own head beside the run's model, on that clinic's own test patients.

    Attributes:
        clinic: The clinic.
        shared: Figures of the run's model.
        personal: Figures of the clinic's own head; no guarantee covers it.
    """

    clinic: str
    shared: Mapping[str, Estimate]
    personal: Mapping[str, Estimate]


@dataclass(frozen=True)
class Participation:
    """Who took part in one attempt at a round.

    Attributes:
        round: The round's number, from 1.
        expected: The clinics asked.
        took_part: The clinics whose contribution is in the sum; where none was made, those that
            had answered.
        missing: The other clinics, each with the reason in words free of private data.
        attempt: Which attempt at the round; an attempt that ended without a sum has its own entry.
        noise: Standard deviation of the noise in each sum of the round over the one that the
            ledgers count on: 1 or more where privacy is promised, 0 without a promise; None where
            no sum was made, or a robust strategy made something else of the clinics' parts.
    """

    round: int
    expected: tuple[str, ...]
    took_part: tuple[str, ...]
    missing: Mapping[str, str]
    attempt: int = 1
    noise: float | None = None


def last_attempts(participation: Iterable[Participation]) -> tuple[Participation, ...]:
    """Choose the entry of each round's last attempt.

    Args:
        participation: Entries in the order in which things happened.

    Returns:
        One entry a round, in the order of the rounds.
    """
    by_round = {each.round: each for each in participation}
    return tuple(by_round[number] for number in sorted(by_round))


@dataclass(frozen=True)
class ClinicSpend:
    """What one clinic's ledger says.

    Attributes:
        epsilon: Spent by this run; None without a guarantee.
        total_epsilon: Spent since the ledger began, this run included; None without a guarantee.
        num_events: Releases of this run in the ledger.
        num_read: Entries of the ledger that the total is of; None where it was not recorded.
    """

    epsilon: float | None
    total_epsilon: float | None
    num_events: int
    num_read: int | None = None


@dataclass(frozen=True)
class PlannedSum:
    """One kind of sum over the clinics, with the noise that the ledgers count on.

    Attributes:
        name: The release's name in the ledgers, such as "gradient".
        first_round: The first of the consecutive rounds that make it.
        last_round: The last of them.
        sensitivity: By how much one patient moves it at most (L2 norm), in the sum's own units;
            None where nothing bounds that.
        std: Standard deviation of the noise in each number, in these units; 0 without a promise.
        local_steps: Steps inside each clinic that it is made from; sensitivity and noise are then
            those of each step's sum of gradients at one clinic. 0: the noise is in the sum.
    """

    name: str
    first_round: int
    last_round: int
    sensitivity: float | None
    std: float
    local_steps: int = 0


@dataclass(frozen=True)
class Guarantee:
    """What a run promises to a patient.

    Attributes:
        private: Whether there is a promise at all.
        trust: The trust model: "none", "central", "distributed" or "local".
        unit: Whose data are protected as a whole, such as "patient_within_clinic".
        epsilon: The run's epsilon, the greatest over clinics; None without a guarantee.
        total_epsilon: The greatest total over the clinics' ledgers; None without a guarantee.
        epsilon_across_clinics: That of a patient at `max_clinics` clinics; None without one.
        max_clinics: At how many of the run's clinics a patient may be.
        delta: The delta that every epsilon is read at.
        simulated: Whether one machine saw everything.
        clinics: The spend of each clinic by name.
        covered: What the run's epsilon covers, in words.
        not_covered: What it does not cover, in words.
        advantage: By how much the best guess whether a patient took part in this run can beat a
            coin: it is right with chance (1 + advantage) / 2; None without a guarantee.
        total_advantage: The same for all runs in the ledgers.
        recognised: Share of patients, at most, found by a test that suspects 1% of others; or None.
        replace_one_epsilon: That of data that differ in whose records one patient's are, or None.
        num_clinics: Clinics of the run, k; 0 where it was not recorded.
        tolerated_dropouts: Clinics that may drop out of a sum under "distributed".
        colluding_clinics: Clinics c that may pool what they know under "distributed".
        sums: The sums of the run's plan; empty where they were not recorded.
    """

    private: bool
    trust: str
    unit: str
    epsilon: float | None
    total_epsilon: float | None
    epsilon_across_clinics: float | None
    max_clinics: int
    delta: float
    simulated: bool
    clinics: Mapping[str, ClinicSpend]
    covered: tuple[str, ...] = ()
    not_covered: tuple[str, ...] = ()
    advantage: float | None = None
    total_advantage: float | None = None
    recognised: float | None = None
    replace_one_epsilon: float | None = None
    num_clinics: int = 0
    tolerated_dropouts: int = 0
    colluding_clinics: int = 0
    sums: tuple[PlannedSum, ...] = ()


@dataclass(frozen=True)
class CohortStage:
    """One line of the cohort's flow from files to test items.

    Attributes:
        name: The stage in words, such as "read from the manifest" or "test".
        num_images: Images left.
        num_patients: Patients left.
        note: Why others were left out; empty where none were.
    """

    name: str
    num_images: int
    num_patients: int
    note: str = ""


@dataclass(frozen=True)
class CohortCell:
    """One line of Table 1: how many of a group are in each split.

    Attributes:
        attribute: What is counted, such as "clinic", "skin_tone" or "label".
        group: The group's name.
        num_patients: Patients in each split by the split's name.
        num_positives: Malignant items in each split by the split's name.
    """

    attribute: str
    group: str
    num_patients: Mapping[str, int]
    num_positives: Mapping[str, int]


@dataclass(frozen=True)
class NoisedCounts:
    """Counts of patients over all clinics that left the clinics with noise.

    Attributes:
        counts: By what is counted, rounded; noise can take one below 0.
        std: Standard deviation of the noise in each.
    """

    counts: Mapping[str, int]
    std: float


@dataclass(frozen=True)
class RunRecord:
    """Everything that a finished run may show: what reports and tracking are made from.

    Attributes:
        run: The run's id.
        experiment: The experiment's name.
        seed: The run's seed.
        started: When the run began, ISO 8601, UTC.
        wall_s: Seconds of work up to the last figure; of a resumed run those of all its processes.
        evaluation_source: "exact" (a simulation that saw the predictions) or "dp_counts".
        classes: What the model tells apart.
        threshold: The malignancy score from which an item counts as alarm.
        threshold_source: Where the threshold comes from, in words.
        overall: The figures on all test items.
        groups: The figures by group, all attributes behind one another.
        yardsticks: Other models on the same items.
        guarantee: What is promised to a patient.
        participation: Who took part, a round each.
        cohort_flow: From files to test items.
        cohort_table: Table 1.
        data: What the data are: name, unit, digest, licence and the like, never a patient's id.
        config: The whole validated config as plain values.
        versions: The versions of skinml and the libraries that it stands on.
        history: For each round, public figures of the optimiser such as the update's norm.
        complete: Whether every expected clinic took part in every round, in its last attempt.
        admissions: Released counts of what became of patients at the gates; None: none were.
        resumes: How often the run was broken off and resumed.
        personal_heads: The clinics' own heads where they keep some; only a simulation sees them.
        gaps: Comparisons of groups as `skinml.fairness.gaps` writes them; None: none were made.
        kind: "run"; "predictions" where figures come from a file, and nothing is known of training.
        curves: Calibration and decision curves as `skinml.fairness.curves` writes them.
        released_counts: (groups, 2, bins) the noised sum behind figures of "dp_counts".
        mitigation: What could be done after training, as `skinml.fairness.after_training` has it.
        label_sets: Their coverage as `skinml.fairness.set_coverage` has it; None: there are none.
    """

    run: str
    experiment: str
    seed: int
    started: str
    wall_s: float
    evaluation_source: str
    classes: Labels
    threshold: float | None
    threshold_source: str
    overall: GroupResult
    groups: tuple[GroupResult, ...]
    yardsticks: tuple[Yardstick, ...]
    guarantee: Guarantee
    participation: tuple[Participation, ...]
    cohort_flow: tuple[CohortStage, ...]
    cohort_table: tuple[CohortCell, ...]
    data: Mapping[str, str]
    config: Mapping[str, Any]
    versions: Mapping[str, str]
    history: tuple[Mapping[str, float], ...]
    complete: bool
    admissions: NoisedCounts | None = None
    resumes: int = 0
    personal_heads: tuple[PersonalHead, ...] = ()
    gaps: Mapping[str, Any] | None = None
    kind: str = "run"
    curves: tuple[Mapping[str, Any], ...] = ()
    released_counts: tuple[tuple[tuple[float, ...], ...], ...] | None = None
    mitigation: Mapping[str, Any] | None = None
    label_sets: Mapping[str, Any] | None = None
