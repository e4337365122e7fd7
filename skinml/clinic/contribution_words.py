"""What a patient's part in runs means, in sentences for the patient."""

from __future__ import annotations

from math import ceil, isinf

from skinml.clinic.contributions import Contributions

_UNBOUNDED = (
    "Something left this clinic without protecting noise: nothing bounds what it can tell about "
    "the patient."
)
_GONE = (
    "No model was changed, and none will be: what a model learnt from many patients cannot be "
    "taken out for one. Later runs leave the patient out."
)
_STAYS = (
    "A model that was trained keeps what it learnt. A withdrawal or an erasure changes what later "
    "runs may use, and no model."
)


def sentences(found: Contributions) -> list[str]:
    """Say what a patient's part in runs means, and what is not claimed.

    Args:
        found: What the clinic can tell.

    Returns:
        Sentences for a patient.
    """
    lines = ["This patient was erased from the clinic's folder."] if found.erased else []
    if not found.runs:
        lines += ["No run that this clinic has a record of read this patient's data."]
    else:
        several = f"{found.models} models" if found.models else "No model"
        models = "1 model" if found.models == 1 else several
        lines += [f"{models} learnt from this patient's data."]
        lines += _bound(found)
    if found.exact_figures:
        lines.append(
            "The patient was among those whom a model was tested on. In a simulation these figures "
            "are exact: no epsilon bounds them."
        )
    if found.unknown:
        lines.append(
            f"Of {len(found.unknown)} other run(s) the record is gone: nobody can tell any more "
            "whether they read this patient's data. If all of them did, epsilon is at most "
            f"{epsilon_words(found.epsilon_at_most)} in all."
        )
    if found.models:
        lines.append(_GONE if found.erased else _STAYS)
    return lines


def _bound(found: Contributions) -> list[str]:
    if isinf(found.epsilon):
        return [_UNBOUNDED]
    if not found.epsilon:
        return []
    words = (
        f"What bounds it: epsilon {found.epsilon:.3f} at delta {found.delta:g}, all together. In "
        "words: somebody who sees everything that these runs let out, and knows all other "
        "patients, and guesses whether this patient took part, is right at most "
        f"{ceil(100 * found.guess)} times in 100. Without looking it would be 50."
    )
    return [words]


def epsilon_words(epsilon: float) -> str:
    """Write an epsilon with three digits behind the point."""
    return "unbounded" if isinf(epsilon) else f"{epsilon:.3f}"
