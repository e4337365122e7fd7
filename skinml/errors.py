"""Every error that skinml raises on purpose, and the checks of arguments that raise them.

The tree, with the exit code of the command line behind each name:

    SkinmlError
    ├── InputError                  2   the user's input is at fault
    │   ├── ConfigError             2   a setting, an override or an argument
    │   ├── DataError               2   a manifest, an image, a predictions file
    │   └── UnsupportedModelError   2   a network that DP training cannot accept
    ├── RefusedError                3   a rule of the clinic says no
    │   ├── PolicyError             3   its policy
    │   └── BudgetExceededError     3   its privacy budget
    ├── IncompleteRunError          4   clinics were missing
    ├── IntegrityError              5   something was changed
    └── EnvironmentProblem          6   disk, network, a missing extra

A message says which rule, what was got and what to do. It never holds a patient's id, the path
of a patient's image or a list of labels.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence, Sized
from math import isfinite


class SkinmlError(Exception):
    """A failure that skinml foresaw.

    Args:
        rule: What was expected, as the end of the sentence "Expected ...".
        got: What was found instead, with the name of the value.
        do: What the user can do about it, a whole sentence.
        details: Further lines, one a problem, where several were found together.
    """

    exit_code = 1

    def __init__(self, *, rule: str, got: str, do: str, details: Sequence[str] = ()) -> None:
        super().__init__(rule, got, do, tuple(details))
        self.rule = rule
        self.got = got
        self.do = do
        self.details = tuple(details)

    def __str__(self) -> str:
        return f"Expected {self.rule}; got {self.got}. {self.do}"

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle by keywords, so that errors survive the way back from a worker process."""
        return _rebuild, (type(self), self.rule, self.got, self.do, self.details)


def _rebuild(
    kind: type[SkinmlError], rule: str, got: str, do: str, details: tuple[str, ...]
) -> SkinmlError:
    return kind(rule=rule, got=got, do=do, details=details)


class InputError(SkinmlError):
    """The user's input is at fault."""

    exit_code = 2


class ConfigError(InputError):
    """A setting, an override or an argument is at fault."""


class DataError(InputError):
    """A manifest, an image or a predictions file is at fault."""


class UnsupportedModelError(InputError):
    """The network does something that differentially private training cannot accept."""


class RefusedError(SkinmlError):
    """A rule of the clinic says no."""

    exit_code = 3


class PolicyError(RefusedError):
    """The clinic's policy does not allow it."""


class BudgetExceededError(RefusedError):
    """The clinic's privacy budget does not allow it."""


class IncompleteRunError(SkinmlError):
    """A run ended without the clinics that it needed."""

    exit_code = 4


class IntegrityError(SkinmlError):
    """Something was changed that nobody may change."""

    exit_code = 5


class EnvironmentProblem(SkinmlError):
    """The machine is at fault: disk, network, a missing extra."""

    exit_code = 6


def require_positive(**values: float) -> None:
    """Check that each named value is finite and above zero.

    Args:
        **values: The values under the names that the message shall use.

    Raises:
        ConfigError: If one is zero, negative, infinite or NaN.
    """
    for name, value in values.items():
        if not (isfinite(value) and value > 0):
            raise ConfigError(
                rule=f"{name} above zero", got=f"{name}={value}", do=f"Give {name} a value above 0."
            )


def require_in_range(low: float, high: float, **values: float) -> None:
    """Check that each named value lies in [low, high].

    Args:
        low: Smallest value allowed.
        high: Greatest value allowed.
        **values: The values under the names that the message shall use.

    Raises:
        ConfigError: If one lies outside or is NaN.
    """
    for name, value in values.items():
        if not low <= value <= high:
            raise ConfigError(
                rule=f"{name} from {low:g} to {high:g}",
                got=f"{name}={value}",
                do=f"Choose {name} within these limits.",
            )


def require_one_of(allowed: Collection[str], **values: str) -> None:
    """Check that each named value is one of the allowed words.

    Args:
        allowed: The words allowed.
        **values: The values under the names that the message shall use.

    Raises:
        ConfigError: If one is another word.
    """
    for name, value in values.items():
        if value not in allowed:
            raise ConfigError(
                rule=f"{name} one of {', '.join(sorted(allowed))}",
                got=f"{name}={value}",
                do="Choose one of these words.",
            )


def require_same_length(**values: Sized) -> None:
    """Check that all named sequences have one length.

    Args:
        **values: The sequences under the names that the message shall use.

    Raises:
        DataError: If two lengths differ.
    """
    lengths = {name: len(value) for name, value in values.items()}
    if len(set(lengths.values())) > 1:
        raise DataError(
            rule="sequences of one length",
            got=", ".join(f"len({name})={length}" for name, length in lengths.items()),
            do="Pass one entry an item in each of them.",
        )
