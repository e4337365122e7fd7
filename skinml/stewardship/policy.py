"""A clinic's policy: what its patients' data may be used for, by whom, and within which limits.

What is not allowed in writing is refused. The one file `policy.yaml` says all of it; only what has
a default that is the stricter choice may be left out. A ceiling is taken away by writing null,
never by forgetting its line.
"""

from __future__ import annotations

import hashlib
import json
import re
import textwrap
from collections import Counter
from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from skinml.stewardship.licences import LICENCES, Licence
from skinml.stewardship.purposes import Purpose
from skinml.stewardship.strict_yaml import read_yaml, validated

ANYBODY = "*"
"""Among experiments: any. Among the users of a role: whoever can open the folder."""

Trust = Literal["none", "central", "distributed", "local"]
Unit = Literal["patient_within_clinic", "patient"]
Originals = Literal["drop", "keep"]
KeptField = Literal[
    "lesion_id",
    "malignant",
    "age",
    "sex",
    "anatomical_site",
    "skin_tone",
    "modality",
    "confirmation",
]
KEPT_FIELDS: tuple[KeptField, ...] = get_args(KeptField)
"""The columns of a manifest that a policy decides on. The image, the patient, the diagnosis, its
treatment and outcome, and what says where a row comes from and why it may be used are always kept;
no training reads treatment or outcome."""

_FROZEN = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
_EXPERIMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
# Names that the audit log can hold, too.
_COORDINATOR = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@+-]{0,63}")
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@+$\\-]{0,63}")
_PLAIN = re.compile(r"[a-z][a-z_-]*")
# Words that this or another reader of YAML would not take as words.
_NOT_PLAIN = ("null", "true", "false", "yes", "no", "on", "off", "y", "n")
_WIDTH = 80
# What came after folders were first made, and is no part of their digests while at its default.
# Never take a name away, nor change such a default: digests that logs signed would be others.
_LATER = ("licences", "originals")
_LATER_DAYS = ("originals_days",)
_LATER_PURPOSE_DAYS = ("statistics_days",)


def _once(words: tuple[str, ...]) -> tuple[str, ...]:
    twice = [word for word, count in Counter(words).items() if count > 1]
    if twice:
        raise ValueError(f"{twice[0]} stands twice")
    return words


def _alone(words: tuple[str, ...]) -> tuple[str, ...]:
    if ANYBODY in words and len(words) > 1:
        raise ValueError(f"'{ANYBODY}' already stands for all: write it alone")
    return words


def _name(word: str) -> str:
    if not (word.isprintable() and word.strip() == word and 1 <= len(word) <= 64):
        raise ValueError("expected 1 to 64 printable characters without spaces at the ends")
    return word


def _experiment(word: str) -> str:
    if word != ANYBODY and not _EXPERIMENT.fullmatch(word):
        raise ValueError(f"expected an experiment's name or '{ANYBODY}'")
    return word


def _coordinator(word: str) -> str:
    if not _COORDINATOR.fullmatch(word):
        raise ValueError("expected a name of up to 64 letters, digits and _ . @ + -")
    return word


def _user(word: str) -> str:
    if word != ANYBODY and not _USER.fullmatch(word):
        raise ValueError(f"expected a user name of this computer or '{ANYBODY}'")
    return word


_Word = Annotated[str, Field(strict=True)]
_Users = Annotated[
    tuple[Annotated[_Word, AfterValidator(_user)], ...],
    AfterValidator(_once),
    AfterValidator(_alone),
]
_Count = Annotated[int, Field(strict=True, ge=1, le=10**9)]
_Days = Annotated[int, Field(strict=True, ge=1, le=36500)] | None
_Ceiling = Annotated[float, Field(strict=True, gt=0)] | None


class PrivacyLimits(BaseModel):
    """Floors and ceilings of privacy; None takes one away."""

    model_config = _FROZEN

    least_noise_multiplier: _Ceiling = Field(
        description="Least noise, as a multiple of what one patient can change. More noise means "
        "more privacy. null: no floor of its own."
    )
    max_epsilon_per_run: _Ceiling = Field(
        description="Greatest epsilon, the measure of privacy loss, of one training run. Smaller "
        "means more private. null: no ceiling."
    )
    max_epsilon_per_year: _Ceiling = Field(
        description="Greatest epsilon of all runs of one year together. null: no ceiling."
    )
    max_epsilon_for_life: _Ceiling = Field(
        description="Greatest epsilon of all runs ever. When it is reached, nothing more is "
        "released. null: no ceiling."
    )
    max_delta: Annotated[float, Field(strict=True, gt=0, lt=1)] | None = Field(
        description="Greatest delta, the small chance that epsilon does not hold; well below one "
        "divided by the number of patients. null: no ceiling."
    )

    @model_validator(mode="after")
    def _ceilings_rise(self) -> Self:
        names = ("max_epsilon_per_run", "max_epsilon_per_year", "max_epsilon_for_life")
        known = [(name, getattr(self, name)) for name in names if getattr(self, name) is not None]
        for (shorter, low), (longer, high) in pairwise(known):
            if low > high:
                raise ValueError(f"{shorter} ({low:g}) is above {longer} ({high:g})")
        return self


class PurposeDays(BaseModel):
    """For how many days after its import a picture is used for a purpose; None sets no end."""

    model_config = _FROZEN

    care_days: _Days = Field(None, description="For care.")
    research_days: _Days = Field(None, description="For research.")
    teaching_days: _Days = Field(None, description="For teaching.")
    federated_training_days: _Days = Field(None, description="For training with other clinics.")
    publication_of_images_days: _Days = Field(None, description="For publication.")
    statistics_days: _Days = Field(None, description="For counts of patients over clinics.")


class FieldDays(BaseModel):
    """For how many days after its import a field is kept; None: as long as the picture."""

    model_config = _FROZEN

    lesion_id_days: _Days = Field(None, description="Which pictures show the same lesion.")
    malignant_days: _Days = Field(None, description="Whether it is malignant.")
    age_days: _Days = Field(None, description="The patient's age.")
    sex_days: _Days = Field(None, description="The patient's sex.")
    anatomical_site_days: _Days = Field(None, description="Where on the body it is.")
    skin_tone_days: _Days = Field(None, description="The skin tone, with its scale.")
    modality_days: _Days = Field(None, description="How the picture was taken.")
    confirmation_days: _Days = Field(None, description="How the diagnosis was confirmed.")


class Retention(BaseModel):
    """For how many days things are kept; None keeps them until somebody erases them."""

    model_config = _FROZEN

    images_days: _Days = Field(description="Days that images in the vault are kept.")
    originals_days: _Days = Field(
        None,
        description="Days after its import that the original file of a picture is kept, where "
        "'originals' says keep. null: as long as the picture.",
    )
    features_days: _Days = Field(
        description="Days that a network's features of the images are kept. They can be computed "
        "again."
    )
    predictions_days: _Days = Field(description="Days that predictions for patients are kept.")
    log_days: _Days = Field(
        description="Days that the audit log is kept at least. Laws may ask for years."
    )
    by_purpose: PurposeDays = Field(
        default_factory=PurposeDays,
        description="Days after its import that a picture is used for a purpose. null: as long as "
        "it is kept.",
    )
    by_field: FieldDays = Field(
        default_factory=FieldDays,
        description="Days after its import that a field beside the picture is kept. null: as long "
        "as the picture is.",
    )

    @model_validator(mode="after")
    def _originals_end_with_the_pictures(self) -> Self:
        longest, days = self.images_days, self.originals_days
        if longest is not None and days is not None and days > longest:
            raise ValueError(f"originals_days ({days}) is above images_days ({longest})")
        return self


class Roles(BaseModel):
    """Who of this computer's users is what; "*" is whoever can open the folder."""

    model_config = _FROZEN

    steward: Annotated[_Users, Field(min_length=1)] = Field(
        description="Decide: policy, consents, approval of runs, keys, patients' copies, erasure."
    )
    clinician: _Users = Field(description="Keep consents and use the data for care.")
    operator: _Users = Field(description="Import data, check them and start approved runs.")
    auditor: _Users = Field(
        description="Read the logs, the ledger, this policy and how many consents there are."
    )


class AlertRules(BaseModel):
    """When the audit log raises a flag."""

    model_config = _FROZEN

    refusals: _Count = Field(3, description="So many refusals of one user raise a flag ...")
    within_hours: _Count = Field(24, description="... when they fall within so many hours.")
    bulk_patients: _Count = Field(
        100, description="So many patients read or exported by one user within these hours, too."
    )


class RequestRules(BaseModel):
    """In which time patients' requests are answered."""

    model_config = _FROZEN

    answer_days: _Count = Field(
        30,
        description="Days in which a request for access, correction, restriction or erasure is "
        "answered. GDPR asks for a month, HIPAA for 30 days.",
    )


class ApprovalRules(BaseModel):
    """Which runs of a federation need no person's yes."""

    model_config = _FROZEN

    without_asking: Annotated[
        tuple[Annotated[_Word, AfterValidator(_experiment)], ...],
        AfterValidator(_once),
        AfterValidator(_alone),
    ] = Field(
        (),
        description="Experiments that run here without anybody being asked, as long as all else "
        "in this policy is kept; '*' is any. Empty: a steward approves each run.",
    )


class SpecialFields(BaseModel):
    """Data that harm most where they get out: kept for named purposes or not at all."""

    model_config = _FROZEN

    genetic: Annotated[tuple[Purpose, ...], AfterValidator(_once)] = Field(
        (), description="Purposes that genetic data may be kept for. Empty: they are refused."
    )
    financial: Annotated[tuple[Purpose, ...], AfterValidator(_once)] = Field(
        (), description="Purposes that financial data may be kept for. Empty: they are refused."
    )


class Policy(BaseModel):
    """Everything that a clinic has decided on the use of its patients' data."""

    model_config = _FROZEN

    schema_version: Annotated[int, Field(strict=True, ge=1, le=1)] = Field(
        1, description="Version of this file's form."
    )
    clinic: Annotated[_Word, AfterValidator(_name)] = Field(
        description="The clinic that this policy belongs to."
    )
    purposes: Annotated[tuple[Purpose, ...], AfterValidator(_once), Field(min_length=1)] = Field(
        description="What data may be used for at all: care, research, teaching, "
        "federated_training, publication_of_images, statistics. Each patient's consent must allow "
        "it too."
    )
    licences: Annotated[tuple[Licence, ...], AfterValidator(_once)] = Field(
        (),
        description="Licences, in any version, under which a public dataset's rows may be used "
        "without a consent of the patient; a list states its own, so name only those of datasets "
        f"that you know: {', '.join(LICENCES)}. Empty: each patient's consent is needed.",
    )
    coordinators: Annotated[
        tuple[Annotated[_Word, AfterValidator(_coordinator)], ...], AfterValidator(_once)
    ] = Field(
        description="Who may ask for training runs, by name. 'simulation' is this computer "
        "itself. Empty: nobody."
    )
    experiments: Annotated[
        tuple[Annotated[_Word, AfterValidator(_experiment)], ...],
        AfterValidator(_once),
        AfterValidator(_alone),
    ] = Field(description="Which experiments may run here, by name; '*' is any. Empty: none.")
    trust: Annotated[tuple[Trust, ...], AfterValidator(_once), Field(min_length=1)] = Field(
        ("distributed", "local"),
        description="Who may be the one that adds the noise. distributed: each clinic a share, "
        "only sums can be read. local: each clinic all of it, nobody need be trusted. central: "
        "the coordinator, who sees what leaves the clinic. none: nobody, no privacy at all.",
    )
    units: Annotated[tuple[Unit, ...], AfterValidator(_once), Field(min_length=1)] = Field(
        ("patient_within_clinic", "patient"),
        description="Whose data are protected as a whole: a patient's within this clinic "
        "(patient_within_clinic), or a patient's at several clinics together (patient).",
    )
    privacy: PrivacyLimits = Field(description="Limits of privacy. Whatever is stricter wins.")
    least_patients: _Count = Field(
        description="Fewest patients of this clinic that a training run may use."
    )
    least_clinics: _Count = Field(
        description="Fewest clinics whose contributions are summed before anybody can read them."
    )
    retention: Retention = Field(
        description="How long things are kept. null: until somebody erases them."
    )
    fields: Annotated[tuple[KeptField, ...], AfterValidator(_once)] = Field(
        description="What may be kept and used beside image, patient, diagnosis and origin: "
        f"{', '.join(KEPT_FIELDS)}."
    )
    originals: Originals = Field(
        "drop",
        description="The files that pictures are imported from. drop: nothing of them stays but "
        "the picture that was made safe. keep: the whole file too, sealed apart, for the patient's "
        "own copy alone; it can show a face, a name or where it was taken.",
    )
    special_fields: SpecialFields = Field(
        default_factory=SpecialFields,
        description="Whether an import may bring in genetic or financial data.",
    )
    roles: Roles = Field(
        description="Who may do what: user names of this computer. '*' is whoever can open this "
        "folder. Empty: nobody."
    )
    alerts: AlertRules = Field(
        default_factory=AlertRules,
        description="When the audit log raises a flag.",
    )
    requests: RequestRules = Field(
        default_factory=RequestRules,
        description="In which time patients' requests are answered.",
    )
    approval: ApprovalRules = Field(
        default_factory=ApprovalRules,
        description="Which runs of a federation need no person's yes.",
    )


def parse_policy(content: bytes) -> Policy:
    """Read a policy.

    Args:
        content: The bytes of a `policy.yaml`.

    Returns:
        The policy.

    Raises:
        ConfigError: If it is not YAML, or if a key is unknown, twice or missing, or a value
            impossible. All problems are listed, unknown keys with the nearest known one.
    """
    return policy_from(read_yaml(content, "policy"))


def policy_from(values: Mapping[str, Any], what: str = "policy") -> Policy:
    """Check values from elsewhere, such as the answers to questions.

    Args:
        values: Nested values with a policy's keys.
        what: Where they come from, for the message.

    Returns:
        The policy.

    Raises:
        ConfigError: If a key is unknown or missing or a value impossible; all problems are listed.
    """
    return validated(Policy, values, what)


def policy_yaml(policy: Policy) -> str:
    """Write a policy for people, with a comment at each field that says what it does.

    Args:
        policy: The policy.

    Returns:
        YAML of at most 80 columns, unless a single name is longer; `parse_policy` gives the same
        policy.
    """
    head = textwrap.wrap(
        "The policy of this clinic. Whatever it does not allow is refused; a training run may be "
        "stricter, never looser. Change it with 'skinml clinic policy change': a change of this "
        "file by any other way is noticed, and nothing runs until it is restored.",
        width=_WIDTH - 2,
    )
    return "\n".join([*(f"# {line}" for line in head), *_section(policy, "")]) + "\n"


def policy_digest(policy: Policy) -> str:
    """Name a policy by what it says, whatever the comments and the order in its file.

    Args:
        policy: The policy.

    Returns:
        SHA-256 in 64 hexadecimal digits. Fields that folders of an earlier release do not know
        count where they are not at their default, so that a policy that nobody changed keeps the
        digest that its audit log signed.
    """
    said = _ordered(policy.model_dump(exclude=_later_defaults(policy)))
    values = json.dumps(said, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(values.encode()).hexdigest()


def _later_defaults(policy: Policy) -> dict[str, Any]:
    """Name the fields that came later and are at their default, as pydantic leaves them out."""
    same: dict[str, Any] = {
        name: True for name in _LATER if getattr(policy, name) == Policy.model_fields[name].default
    }
    rules = policy.retention
    inner: dict[str, Any] = {
        n: True for n in _LATER_DAYS if getattr(rules, n) == Retention.model_fields[n].default
    }
    late = {n: True for n in _LATER_PURPOSE_DAYS if getattr(rules.by_purpose, n) is None}
    inner |= {"by_purpose": late} if late else {}
    return same | ({"retention": inner} if inner else {})


def _ordered(value: Any) -> Any:
    """Sort what is a set, and make equal numbers look equal."""
    if isinstance(value, dict):
        return {name: _ordered(inner) for name, inner in value.items()}
    if isinstance(value, tuple):
        return sorted(value)
    return float(value) if isinstance(value, int) else value


def _section(model: BaseModel, indent: str) -> list[str]:
    lines: list[str] = []
    for name, field in type(model).model_fields.items():
        comment = textwrap.wrap(field.description or "", width=_WIDTH - len(indent) - 2)
        lines += [""] * (not indent) + [f"{indent}# {line}" for line in comment]
        value = getattr(model, name)
        if isinstance(value, BaseModel):
            lines += [f"{indent}{name}:", *_section(value, indent + "  ")]
        elif isinstance(value, tuple):
            lines += _words(f"{indent}{name}:", value, indent)
        else:
            lines.append(f"{indent}{name}: {_scalar(value)}")
    return lines


def _words(start: str, words: tuple[str, ...], indent: str) -> list[str]:
    short = f"{start} [{', '.join(map(_scalar, words))}]"
    if len(short) <= _WIDTH:
        return [short]
    return [start, *(f"{indent}  - {_scalar(word)}" for word in words)]


def _scalar(value: str | float | None) -> str:
    if isinstance(value, str):
        plain = _PLAIN.fullmatch(value) and value not in _NOT_PLAIN
        return value if plain else json.dumps(value, ensure_ascii=False)
    return "null" if value is None else repr(value).removesuffix(".0")
