"""What a model card says in sentences."""

from __future__ import annotations

from collections.abc import Sequence

from skinml.records import RunRecord
from skinml.reports.derived import Derived
from skinml.reports.numbers import at_most, count, delta, epsilon, figure
from skinml.reports.wording import trust_words, unit_words

NOT_FOR = (
    "To decide about a patient. It is not a medical device, and a clinician decides.",
    "To tell anybody that a mark is harmless, or that no examination is needed.",
    "Photographs of other kinds, cameras or parts of the body than those in the data.",
    "Groups of people that have no line in the figures, or a line without an interval.",
)
ETHICS = (
    (
        "Skin tone is judged from photographs or by people and is sometimes wrong; it is no "
        "race and no ancestry. Wrong tones mostly make gaps look smaller than they are."
    ),
    (
        "Gaps between groups may come from diagnoses, cameras or labels. A gap that is not shown "
        "is not one that is not there."
    ),
    (
        "A mistake does not cost all alike: a cancer that is missed harms more than a false alarm, "
        "and late diagnosis is already more frequent on dark skin."
    ),
    (
        "Nobody can be taken out of a finished model again; whoever withdraws is left out of later "
        "rounds and later models."
    ),
    "Whoever passes this model on passes on what its figures tell about the test patients as well.",
)


def about_model(record: RunRecord, derived: Derived) -> tuple[str, ...]:
    """Say what a model is.

    Args:
        record: What the run may show.
        derived: What the report works out from it.

    Returns:
        Paragraphs.
    """
    model = record.config.get("model", {})
    network = model.get("network") or model.get("backbone") or "a network"
    kind = (
        f"A linear head on the features of {model.get('backbone', 'a frozen network')}"
        if model.get("kind") == "linear_head"
        else f"The network {network}"
    )
    where = (
        f"trained across {derived.num_clinics} clinics"
        if derived.num_clinics > 1
        else "trained in one place"
    )
    alarm = (
        "No threshold for alarms was set."
        if record.threshold is None
        else f"From a malignancy score of {figure(record.threshold, 3)} on an image raises an "
        f"alarm ({record.threshold_source})."
    )
    bad = [
        name
        for name, malignant in zip(record.classes.names, record.classes.malignant, strict=True)
        if malignant
    ]
    among = "" if bad == ["malignant"] else f"; malignant among them: {', '.join(bad) or 'none'}"
    return (
        (
            f"{kind}, {where} with skinml. It gives a photograph of a patch of skin a score for "
            f"each of {', '.join(record.classes.names)}{among}."
        ),
        alarm,
    )


def intended(record: RunRecord) -> tuple[str, ...]:
    """Say what a model is for.

    Args:
        record: What the run may show.

    Returns:
        Paragraphs.
    """
    purpose = record.config.get("purpose", "research")
    return (
        (
            f"For {purpose}: to study how such a model does on each group of patients, and to "
            "decide whether, and where, it may be tried. The person who decides that fills in the "
            "last page of the report. Not for:"
        ),
    )


def licence_words(record: RunRecord) -> str:
    """Say under which terms data were used, and that nobody has chosen those of the model.

    Args:
        record: What the run may show.

    Returns:
        A paragraph.
    """
    licence = record.data.get("licence", "")
    known = f"The data's own licences: {licence}." if licence else "The data name no licence."
    return (
        f"{known} Nobody has chosen a licence for this model, so that the metadata say unknown; "
        "whoever publishes it does."
    )


def privacy_words(record: RunRecord) -> tuple[str, ...]:
    """Say what a patient is promised.

    Args:
        record: What the run may show.

    Returns:
        Paragraphs.
    """
    promised = record.guarantee
    trust = " ".join(trust_words(promised.trust))
    exact = (
        ("The figures on this card were counted exactly: epsilon does not cover them.",)
        if record.evaluation_source == "exact"
        else ("The figures on this card come from noised counts, which epsilon covers.",)
    )
    if not promised.private:
        return (f"NOT PRIVATE. No number limits what the model tells of a patient. {trust}", *exact)
    guess = (
        ""
        if promised.advantage is None
        else " A guess whether a patient took part is right at most "
        f"{at_most(50 * (1 + promised.advantage), 1)} times in 100; a coin is right 50 times."
    )
    return (
        (
            f"Epsilon {epsilon(promised.epsilon)} at delta {delta(promised.delta)} for "
            f"{unit_words(promised.unit)}; trust {promised.trust}. {trust}{guess}"
        ),
        *exact,
    )


def limits(record: RunRecord, few: Sequence[str], absent: Sequence[str]) -> tuple[str, ...]:
    """Say what figures cannot tell.

    Args:
        record: What the run may show.
        few: Groups with too few test items for a finding.
        absent: Groups that there should be and that no test patient is of.

    Returns:
        Points of a list.
    """
    told = [
        (
            f"One run with one seed ({record.seed}). Another seed gives other figures; the "
            "intervals do not include that."
        ),
        "Intervals are made for each figure on its own; among many of them some miss the truth.",
        (
            "Diagnoses, clinics and cameras differ between groups, and the figures are not "
            "adjusted for them."
        ),
    ]
    if few:
        told.append(f"Too few malignant or other images for a finding: {', '.join(few)}.")
    if absent:
        told.append(f"No test patient at all: {', '.join(absent)}.")
    if not record.data.get("evaluated_on"):
        told.append(
            "The test patients come from the same clinics as the training patients. Elsewhere the "
            "model may do worse."
        )
    if record.guarantee.simulated:
        told.append(
            "Clinics were played by one machine: delays and differences of real sites are not in "
            "these figures."
        )
    if not record.complete:
        told.append("Clinics were missing from the training; with them figures may be different.")
    if record.resumes:
        told.append(f"The run was broken off and resumed ({count(record.resumes)}).")
    return tuple(told)
