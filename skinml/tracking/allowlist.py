"""What may be written into a tracking store: a list of names, and values that point at nobody.

A tracking store is read by more people than a clinic's files. Nothing goes into it by default:
a name that is not on these lists is refused, and so is a value under a permitted name that looks
like a patient's id or like the path of an image.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any

from skinml.errors import ConfigError, PolicyError

FIGURES = (
    "auroc",
    "malignancy_auroc",
    "balanced_accuracy",
    "sensitivity",
    "specificity",
    "ppv",
    "npv",
    "brier",
    "calibration_intercept",
    "calibration_slope",
    "ece",
    "malignancy_ece",
)
COUNTS = ("n_images", "n_patients", "n_positives", "n_negatives")
SPENDS = ("epsilon", "total_epsilon", "epsilon_across_clinics", "delta")
RUN_METRICS = (
    "wall_s",
    "threshold",
    "num_rounds",
    "num_attempts",
    "num_incomplete_rounds",
    "num_resumes",
    "least_survivors",
    "least_noise_ratio",
    "secure_sum_threshold",
    "secure_sum_colluding",
)
CLINIC_METRICS = (
    "epsilon",
    "total_epsilon",
    "num_events",
    "rounds_taken_part",
    "rounds_expected",
)
# What each round adds about a clinic: whether it was there and how long it took to answer, which
# the coordinator sees anyway. Nothing is among them that a clinic's data decide alone.
CLINIC_ROUND_METRICS = ("took_part", "rounds_share", "answer_s")
# Public figures of a round. A figure that reads private data has "exact." before its name, as a
# reminder that epsilon does not cover it. No epsilon is among them: that of one round alone means
# nothing, and looks like that of the run (it is read from the ledger, when the run is over).
ROUND_METRICS = (
    "update_norm",
    "weight_norm",
    "weights_norm",
    "gradient_norm",
    "noise_norm",
    "learning_rate",
    "clip_norm",
    "noise_multiplier",
    "noise_std",
    "sampling_rate",
    "divisor",
    "num_clinics",
    "num_expected",
    "num_missing",
    "round_s",
    "wall_s",
    "images_per_s",
)
EXACT_ROUND_METRICS = ("train_loss", "validation_loss", "validation_auroc", "clipped_share")
TAGS = (
    "mlflow.note.content",
    "mlflow.parentRunId",
    "mlflow.runName",
    "skinml.by_tone",
    "skinml.clinic",
    "skinml.complete",
    "skinml.data",
    "skinml.evaluation_source",
    "skinml.experiment",
    "skinml.failure",
    "skinml.gate",
    "skinml.gate_reason",
    "skinml.kind",
    "skinml.private",
    "skinml.promise",
    "skinml.run",
    "skinml.seed",
    "skinml.simulated",
    "skinml.started",
    "skinml.trust",
    "skinml.unit",
    "skinml.version",
)
PARAM_SECTIONS = (
    "data",
    "model",
    "privacy",
    "training",
    "federation",
    "fairness",
    "tracking",
    "mitigation",
    "reports",
    "stewardship",
)
PARAM_NAMES = ("name", "experiment", "seed", "work_dir")

# MLflow's own limits (mlflow.utils.validation of 3.17).
MAX_PARAM_CHARS = 6000
MAX_NAME_CHARS = 250

_PART = r"[A-Za-z0-9_\- ./+<>=]+"
_PARAM = re.compile(rf"(?:{'|'.join(PARAM_SECTIONS)})\.{_PART}|{'|'.join(PARAM_NAMES)}")
_IMAGE = re.compile(r"\.(?:jpe?g|png|tiff?|bmp|gif|webp|heic|dcm|dicom)\b", re.IGNORECASE)
# The shapes in which the public skin datasets and hospitals write the ids of people and images.
_PERSON = re.compile(
    r"(?<![A-Za-z0-9])(?:patient|pat|subject|person|case|lesion|image|img|isic|ham|il|ip|mrn)"
    r"[_-]\d{3,}|\b(?:patient|subject|mrn)[ #:]+\d{2,}|^\d{7,}$",
    re.IGNORECASE,
)
_CREDENTIALS = re.compile(r"(?<=://)[^/@\s]+@")
_SECRET_NAME = re.compile(r"(?:^|[._])(?:password|passwd|secret|token|api_key)", re.IGNORECASE)
_DIGEST = re.compile(r"[A-Za-z0-9:+/=_-]{4,200}")


@dataclass(frozen=True)
class DatasetRef:
    """Data that a run used, by digest.

    Attributes:
        name: The data's name, such as "derm_malignancy/harbour/train".
        digest: A digest of the content; for private data an HMAC under the clinic's key.
        source: Where the data come from, in words or as the address of a published dataset.
        num_patients: How many patients; None where that is not public.
    """

    name: str
    digest: str
    source: str
    num_patients: int | None = None


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, object]:
    """Flatten a nested mapping to dotted names.

    Args:
        values: Plain values, possibly nested.
        prefix: Put before every name.

    Returns:
        The values by their dotted names.

    >>> flatten({"privacy": {"epsilon": 3.0}, "seed": 7})
    {'privacy.epsilon': 3.0, 'seed': 7}
    """
    flat: dict[str, object] = {}
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            flat.update(flatten(value, f"{prefix}{name}."))
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def checked_params(params: Mapping[str, Any]) -> dict[str, str]:
    """Check and write out a run's config.

    Args:
        params: The config, nested or flattened.

    Returns:
        Flat names and values as text; a password in an address is masked, a long value cut.

    Raises:
        PolicyError: If a name is not on the list, or a value looks like a patient's id or like
            the path of an image.
    """
    written = {}
    for name, value in flatten(params).items():
        if not _PARAM.fullmatch(name) or len(name) > MAX_NAME_CHARS:
            raise _not_listed("param", name)
        text = _CREDENTIALS.sub("***@", _text(value))
        if _SECRET_NAME.search(name) and value is not None:
            text = "***"
        _require_nobody(f"param {name}", text if isinstance(value, str | list | tuple) else "")
        written[_metric_safe(name)] = _cut(text)
    return written


def checked_tags(tags: Mapping[str, object]) -> dict[str, str]:
    """Check a run's tags.

    Args:
        tags: The tags.

    Returns:
        The tags as text.

    Raises:
        PolicyError: If a name is not on the list, or a value looks like a patient's id or like
            the path of an image.
    """
    for name in tags:
        if name not in TAGS:
            raise _not_listed("tag", name)
    written = {name: _cut(_text(value)) for name, value in tags.items()}
    for name, text in written.items():
        # A run's id holds the time of its start, a parent's id is MLflow's own.
        if name not in {"skinml.run", "mlflow.parentRunId", "mlflow.runName", "skinml.seed"}:
            _require_nobody(f"tag {name}", text)
        elif _IMAGE.search(text):
            raise _points_at_somebody(f"tag {name}")
    return written


def checked_round_metrics(metrics: Mapping[str, float]) -> dict[str, float]:
    """Check what a round reports.

    Args:
        metrics: Figures of the round.

    Returns:
        The figures that are numbers; NaN and infinity are left out.

    Raises:
        PolicyError: If a name is not on the list.
    """
    allowed = {*ROUND_METRICS, *(f"exact.{name}" for name in EXACT_ROUND_METRICS)}
    for name in metrics:
        if name not in allowed:
            raise _not_listed("round metric", name)
    return {name: float(value) for name, value in metrics.items() if isfinite(value)}


def checked_clinic_rounds(
    clinics: Mapping[str, Mapping[str, float]],
) -> dict[str, dict[str, float]]:
    """Check what a round adds about each clinic.

    Args:
        clinics: By clinic its figures.

    Returns:
        The same under names that a store takes; NaN and infinity are left out.

    Raises:
        PolicyError: If a figure is not on the list, or a clinic's name looks like a patient's.
    """
    for figures in clinics.values():
        for name in figures:
            if name not in CLINIC_ROUND_METRICS:
                raise _not_listed("metric of a clinic", name)
    return {
        checked_word("a clinic's name", clinic): {
            name: float(value) for name, value in figures.items() if isfinite(value)
        }
        for clinic, figures in clinics.items()
    }


def checked_attribute(attribute: str, allowed: tuple[str, ...]) -> str:
    """Check that an attribute's groups may be named.

    Args:
        attribute: The attribute.
        allowed: The attributes on the list.

    Returns:
        The attribute.

    Raises:
        PolicyError: If it is not on the list.
    """
    if attribute not in allowed:
        raise PolicyError(
            rule=f"attributes among {', '.join(allowed)} in a tracking store",
            got=f"attribute={attribute}",
            do="Add it to tracking.group_attributes if its groups single out nobody.",
        )
    return attribute


def checked_word(what: str, word: str) -> str:
    """Check a group's or a clinic's name, and make it fit for a metric's name.

    Args:
        what: What the word is, for the message.
        word: The name.

    Returns:
        The name with "_" in place of characters that MLflow refuses.

    Raises:
        PolicyError: If the name looks like a patient's id or like the path of an image.
    """
    _require_nobody(what, word)
    return _metric_safe(word).replace("/", "_").replace(":", "_") or "_"


def checked_dataset(dataset: DatasetRef) -> DatasetRef:
    """Check a dataset's reference.

    Args:
        dataset: The reference.

    Returns:
        The reference, unchanged.

    Raises:
        ConfigError: If the digest is not one.
        PolicyError: If the name or source looks like a patient's id or like an image's path.
    """
    if not _DIGEST.fullmatch(dataset.digest):
        raise ConfigError(
            rule="a digest of letters, digits and :+/=_-",
            got=f"a digest of {len(dataset.digest)} characters",
            do="Pass the digest of the data, not the data.",
        )
    _require_nobody("dataset name", dataset.name)
    _require_nobody("dataset source", dataset.source)
    return dataset


def clean_reason(reason: str) -> str:
    """Make the reason of a failure fit for a store.

    Args:
        reason: What went wrong.

    Returns:
        The reason, or a sentence in its place where it seems to point at somebody.
    """
    if _IMAGE.search(reason) or _PERSON.search(reason):
        return "The reason is not shown: it may point at a patient. See the run's own output."
    return _cut(reason)


def _text(value: object) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(str(entry) for entry in value)
    return "" if value is None else str(value)


def _cut(text: str) -> str:
    if len(text) <= MAX_PARAM_CHARS:
        return text
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    tail = f"... [cut; whole value sha256 {digest}]"
    return text[: MAX_PARAM_CHARS - len(tail)] + tail


def _metric_safe(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_\-. :/]", "_", name)


def _require_nobody(where: str, text: str) -> None:
    if _IMAGE.search(text) or _PERSON.search(text):
        raise _points_at_somebody(where)


def _points_at_somebody(where: str) -> PolicyError:
    # The value itself must not be in the message.
    return PolicyError(
        rule="values in a tracking store that point at nobody",
        got=f"what looks like a patient's id or an image's path in {where}",
        do="Take it out, or switch tracking off with tracking.enabled=false.",
    )


def _not_listed(kind: str, name: str) -> PolicyError:
    shown = "a name that may point at a patient" if _points(name) else f"{kind}={name}"
    return PolicyError(
        rule=f"a {kind} on the tracking allow-list",
        got=shown,
        do="Keep it out of the run, or add it in skinml/tracking/allowlist.py after a review.",
    )


def _points(name: str) -> bool:
    return bool(_IMAGE.search(name) or _PERSON.search(name)) or len(name) > MAX_NAME_CHARS
