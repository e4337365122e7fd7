"""Which role may do what, and which roles a user of this computer has.

Each role has what its work needs and nothing else. What the table does not hold is refused.
"""

from __future__ import annotations

import os
import pwd
from typing import Literal, get_args

from skinml.errors import EnvironmentProblem
from skinml.stewardship.policy import ANYBODY, Roles

Role = Literal["steward", "clinician", "operator", "auditor"]
Action = Literal[
    "policy.change",
    "policy.read",
    "consent.change",
    "consent.read",
    "consent.count",
    "record.export",
    "data.import",
    "data.review",
    "data.use",
    "log.read",
    "log.export",
    "keys.rotate",
    "erase",
    "run.train",
    "run.approve",
    "federation.join",
    "check",
]

ROLES: tuple[Role, ...] = get_args(Role)
ACTIONS: tuple[Action, ...] = get_args(Action)

WORDS: dict[Action, str] = {
    "policy.change": "change the policy",
    "policy.read": "read the policy",
    "consent.change": "record or withdraw consents",
    "consent.read": "read a patient's consents",
    "consent.count": "count consents",
    "record.export": "write out a patient's whole record",
    "data.import": "import data",
    "data.review": "review imported pictures",
    "data.use": "use patients' data for care",
    "log.read": "read the audit log and the ledger",
    "log.export": "export the audit log",
    "keys.rotate": "change keys",
    "erase": "erase patients' data",
    "run.train": "start an approved run",
    "run.approve": "approve a run",
    "federation.join": "join a federation",
    "check": "check the folder and its data",
}
"""Each action as the end of "... may"."""

PERMISSIONS: dict[Role, frozenset[Action]] = {
    "steward": frozenset(
        {
            "policy.change",
            "policy.read",
            "consent.change",
            "consent.read",
            "consent.count",
            "record.export",
            "data.review",
            "log.read",
            "log.export",
            "keys.rotate",
            "erase",
            "run.approve",
            "federation.join",
            "check",
        }
    ),
    "clinician": frozenset(
        {"policy.read", "consent.change", "consent.read", "consent.count", "data.use"}
    ),
    "operator": frozenset(
        {"policy.read", "consent.count", "data.import", "data.review", "run.train", "check"}
    ),
    "auditor": frozenset({"policy.read", "consent.count", "log.read", "log.export"}),
}


def os_user() -> str:
    """Name the user of this computer whose process this is.

    Returns:
        The name of the real user id, whatever the environment says.

    Raises:
        EnvironmentProblem: If the computer knows no name for it.
    """
    number = os.getuid()
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        raise EnvironmentProblem(
            rule="a user that this computer has a name for",
            got=f"uid={number}",
            do="Run skinml as a user with an account, for roles are given to names.",
        ) from None


def strangers_among(roles: Roles) -> tuple[str, ...]:
    """List the names with a role that no user of this computer has.

    Args:
        roles: The policy's roles.

    Returns:
        The names, sorted: a slip, or an account that is yet to be made.

    >>> strangers_among(Roles(steward=("root", "no-such-user"), clinician=(), operator=("*",),
    ...                       auditor=()))
    ('no-such-user',)
    """
    names = {name for role in ROLES for name in getattr(roles, role)} - {ANYBODY}
    return tuple(sorted(name for name in names if not _is_known(name)))


def _is_known(user: str) -> bool:
    try:
        pwd.getpwnam(user)
    except (KeyError, ValueError):  # a name with a NUL, too
        return False
    return True


def roles_of(roles: Roles, user: str) -> tuple[Role, ...]:
    """List the roles that a user has.

    Args:
        roles: The policy's roles.
        user: A user name of this computer.

    Returns:
        The roles, in the order of `ROLES`.

    >>> some = Roles(steward=("ada",), clinician=(), operator=("*",), auditor=())
    >>> roles_of(some, "ada"), roles_of(some, "bo")
    (('steward', 'operator'), ('operator',))
    """
    return tuple(role for role in ROLES if {user, ANYBODY} & set(getattr(roles, role)))


def roles_with(action: Action) -> tuple[Role, ...]:
    """List the roles that may do something.

    Args:
        action: What shall be done.

    Returns:
        The roles, in the order of `ROLES`.
    """
    return tuple(role for role in ROLES if action in PERMISSIONS[role])


def allowed(roles: Roles, user: str, action: Action) -> bool:
    """Tell whether a user may do something.

    Args:
        roles: The policy's roles.
        user: A user name of this computer.
        action: What shall be done.

    Returns:
        Whether one of the user's roles may.

    >>> some = Roles(steward=("ada",), clinician=(), operator=("bo",), auditor=())
    >>> allowed(some, "bo", "run.train"), allowed(some, "bo", "run.approve")
    (True, False)
    """
    return any(action in PERMISSIONS[role] for role in roles_of(roles, user))
