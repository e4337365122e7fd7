"""The ten questions that a new clinic is asked, with their reasons, and what the answers mean."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from skinml.errors import ConfigError
from skinml.stewardship.policy import KEPT_FIELDS, Policy, policy_from
from skinml.stewardship.purposes import PURPOSES
from skinml.stewardship.roles import os_user
from skinml.stewardship.strict_yaml import read_yaml, validated

PASSPHRASE = "passphrase"  # noqa: S105  the name of a method, not a secret
KEYRING = "keyring"
NOTHING = "none"
_WHAT = "file of answers"
_LOG_DAYS = 3650
_MAX_DELTA = 1e-5
_AGAIN = {
    "epsilon": "Type three numbers of which none is smaller than the one before it.",
    "least_patients": "Type a number from 1 on.",
    "least_clinics": "Type a number from 1 on.",
    "keep_days": "Type a number of days from 1 on, or 'none'.",
    "name": "Write it without accents, such as Praxis Mueller.",
}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 _.-]{0,63}")

_STRICT = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class EpsilonAnswer(BaseModel):
    """Ceilings of epsilon; None takes one away."""

    model_config = _STRICT

    per_run: float | None = 3.0
    per_year: float | None = 6.0
    for_life: float | None = 10.0


class Answers(BaseModel):
    """What a new clinic decides before anything else. None of it is secret.

    Attributes:
        name: The clinic's name.
        purposes: What its data may be used for.
        epsilon: Greatest epsilon of a run, of a year and of all time.
        least_patients: Fewest training patients of a run.
        least_clinics: Fewest clinics in a sum.
        unlock: "passphrase", "keyring", or the absolute path of a key file to be made.
        anchor: The folder that remembers the clinic's last state.
        steward: Users of this computer who decide.
        operator: Users of this computer who run.
        keep_days: Days that features and predictions are kept; None: until they are erased.
        licences: Licences of public datasets that need no consents. Nobody is asked for them:
            only a file of answers can name them.
    """

    model_config = _STRICT

    name: str
    purposes: tuple[str, ...] = ("care", "federated_training")
    epsilon: EpsilonAnswer = EpsilonAnswer()
    least_patients: int = Field(100, strict=True)
    least_clinics: int = Field(3, strict=True)
    unlock: str = PASSPHRASE
    anchor: Path
    steward: tuple[str, ...]
    operator: tuple[str, ...]
    keep_days: int | None = Field(365, strict=True)
    licences: tuple[str, ...] = ()

    @field_validator("name")
    @classmethod
    def _plain(cls, value: str) -> str:
        if not _NAME.fullmatch(value):
            raise ValueError(
                "must be letters from A to Z, digits, spaces and _ . - (64 at most, first a letter "
                "or digit), for files are called by it"
            )
        return value

    @property
    def method(self) -> Literal["passphrase", "keyring", "key_file"]:
        """How the key is unlocked."""
        if self.unlock == PASSPHRASE:
            return "passphrase"
        return "keyring" if self.unlock == KEYRING else "key_file"


@dataclass(frozen=True)
class Question:
    """One question.

    Attributes:
        name: The answer's name in an answers file.
        ask: The question.
        reason: Why it is asked, a line.
    """

    name: str
    ask: str
    reason: str


QUESTIONS = (
    Question("name", "What is the clinic called?", "Other clinics and reports see this name."),
    Question(
        "purposes",
        "What may patients' data be used for, where they consent?",
        "Any of: care, research, teaching, federated_training, statistics and others.",
    ),
    Question(
        "epsilon",
        "How much privacy may be spent in a run, in a year, ever?",
        "Three bounds on what a patient may lose (epsilon): 1 is strict, 10 is loose.",
    ),
    Question(
        "least_patients",
        "How many patients must a training run have here?",
        "With few patients one of them stands out, and noise drowns what is learnt.",
    ),
    Question(
        "least_clinics",
        "How many clinics must take part in a run?",
        "A sum over clinics leaves; of two, each can work out the other's part.",
    ),
    Question(
        "unlock",
        "What unlocks the clinic's key?",
        "passphrase, keyring, or a path where a key file is made, best another disk.",
    ),
    Question(
        "anchor",
        "In which folder is the clinic's last state remembered?",
        "It shows when somebody puts back an older copy. Best on another disk.",
    ),
    Question(
        "steward",
        "Who decides on policy, consents, runs and erasure?",
        "User names of this computer. Nobody else can change these rules.",
    ),
    Question(
        "operator",
        "Who brings data in and starts runs?",
        "User names of this computer; best somebody else than the steward.",
    ),
    Question(
        "keep_days",
        "For how many days is kept what is computed from images?",
        "Features and predictions can be computed again; 'none' keeps them.",
    ),
)


def usual_answers(folder: Path, environment: Mapping[str, str]) -> Answers:
    """Answer every question by its default.

    Args:
        folder: The clinic's folder to be; it gives the name.
        environment: The process's; XDG_STATE_HOME is where programs of a user remember things.

    Returns:
        The answers.

    Raises:
        EnvironmentProblem: If this computer has no name for the user.
    """
    state = Path(environment.get("XDG_STATE_HOME", ""))
    if not state.is_absolute():  # the XDG specification: a relative one counts as none
        state = Path.home() / ".local" / "state"
    name, user = folder.absolute().name, os_user()
    return Answers(
        name=name if _NAME.fullmatch(name) else "clinic",
        anchor=state / "skinml" / "anchors",
        steward=(user,),
        operator=(user,),
    )


def parse_answers(content: bytes, defaults: Answers) -> Answers:
    """Read an answers file; what it leaves out is answered by its default.

    Args:
        content: The file's bytes: YAML with the names of `Answers`.
        defaults: The defaults.

    Returns:
        The answers.

    Raises:
        ConfigError: If a key is unknown or a value impossible; all problems are listed.
    """
    return _checked(defaults.model_dump() | read_yaml(content, _WHAT))


def answered(answers: Answers, name: str, text: str) -> Answers:
    """Take in what somebody typed as the answer to one question.

    Args:
        answers: The answers so far.
        name: The question's name.
        text: What was typed.

    Returns:
        The answers with this one.

    Raises:
        ConfigError: If it is no answer to the question.
    """
    values = answers.model_dump() | {name: _value(name, text.strip())}
    try:
        _validated(values)
    except ConfigError as error:
        # At the screen there is one answer and no file: its first problem, and what to type.
        first = error.details[0] if error.details else error.got.partition(": ")[2]
        raise ConfigError(
            rule=error.rule, got=first, do=_AGAIN.get(name, "Type another answer.")
        ) from error
    return _checked(values)


def typed(answers: Answers, name: str) -> str:
    """Write an answer as somebody would type it.

    Args:
        answers: The answers.
        name: The question's name.

    Returns:
        The text, which `answered` understands.
    """
    value = getattr(answers, name)
    if isinstance(value, EpsilonAnswer):
        return " ".join(_number(each) for each in (value.per_run, value.per_year, value.for_life))
    if isinstance(value, tuple):
        return ", ".join(value)
    return NOTHING if value is None else str(value)


def policy_of(answers: Answers) -> Policy:
    """Build the first policy of a clinic.

    What was not asked takes the cautious side: no coordinator but this computer itself, sums
    that no coordinator can look into, and no field beyond those that results are told by.

    Args:
        answers: The answers.

    Returns:
        The policy.

    Raises:
        ConfigError: If an answer is impossible; all problems are listed.
    """
    return policy_from(
        {
            "clinic": answers.name,
            "purposes": answers.purposes,
            "licences": answers.licences,
            "coordinators": ("simulation",),
            "experiments": ("*",),
            "privacy": {
                "least_noise_multiplier": None,
                "max_epsilon_per_run": answers.epsilon.per_run,
                "max_epsilon_per_year": answers.epsilon.per_year,
                "max_epsilon_for_life": answers.epsilon.for_life,
                "max_delta": _MAX_DELTA,
            },
            "least_patients": answers.least_patients,
            "least_clinics": answers.least_clinics,
            "retention": {
                "images_days": None,
                "features_days": answers.keep_days,
                "predictions_days": answers.keep_days,
                "log_days": _LOG_DAYS,
            },
            "fields": KEPT_FIELDS,
            "roles": {
                "steward": answers.steward,
                "clinician": answers.steward,
                "operator": answers.operator,
                "auditor": answers.steward,
            },
        },
        _WHAT,
    )


def _validated(values: Mapping[str, Any]) -> Answers:
    answers = validated(Answers, values, _WHAT)
    policy_of(answers)
    return answers


def _checked(values: Mapping[str, Any]) -> Answers:
    answers = _validated(values)
    places = {"anchor": answers.anchor.expanduser()}
    if answers.method == "key_file":
        places["unlock"] = Path(answers.unlock).expanduser()
    for name, place in places.items():
        if not place.is_absolute():
            words = "passphrase, keyring or " if name == "unlock" else ""
            raise ConfigError(
                rule=f"{words}a path from the root on as {name}",
                got=f"{name}={getattr(answers, name)}",
                do="Write the whole path, such as /media/usb/skinml.",
            )
    return answers.model_copy(
        update={name: str(place) if name == "unlock" else place for name, place in places.items()}
    )


def _value(name: str, text: str) -> Any:
    """Turn typed text into a value of the answers file."""
    if name == "epsilon":
        return _epsilons(text)
    if name == "purposes":
        return _purposes(text)
    if name in ("steward", "operator"):
        return tuple(re.split(r"[,;\s]+", text.strip(",; "))) if text else ()
    if name == "keep_days" and text == NOTHING:
        return None
    if name in ("least_patients", "least_clinics", "keep_days"):
        if not re.fullmatch(r"[0-9]{1,9}", text):
            raise ConfigError(rule=f"a whole number for {name}", got=text, do="Type a number.")
        return int(text)
    return text


def _purposes(text: str) -> tuple[str, ...]:
    """Split purposes; a space in one stands for the line between its words."""
    words = tuple(re.split(r"[,;\s]+", text.strip(",; "))) if text else ()
    whole = tuple("_".join(each.split()) for each in re.split(r"[,;]", text) if each.strip())
    chosen = whole if set(whole) <= set(PURPOSES) else words
    unknown = [word for word in chosen if word not in PURPOSES]
    if unknown or not chosen:
        raise ConfigError(
            rule=f"one or more of {', '.join(PURPOSES)}",
            got=", ".join(unknown)[:60] or "nothing",
            do=f"Choose among {', '.join(PURPOSES)}.",
        )
    return chosen


def _epsilons(text: str) -> dict[str, float | None]:
    words = re.split(r"[,;\s]+", text)
    names = tuple(EpsilonAnswer.model_fields)
    try:
        values = [None if word == NOTHING else float(word) for word in words]
    except ValueError:
        values = []
    if len(values) != len(names):
        raise ConfigError(
            rule="three numbers: for a run, for a year, for life",
            got=text,
            do=f"Type three numbers such as 3 6 10; '{NOTHING}' takes a ceiling away.",
        )
    return dict(zip(names, values, strict=True))


def _number(value: float | None) -> str:
    return NOTHING if value is None else f"{value:g}"
