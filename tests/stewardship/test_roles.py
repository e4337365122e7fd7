"""Roles: what each may do, and nothing else."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys

import pytest

from skinml.stewardship.policy import Roles
from skinml.stewardship.roles import (
    ACTIONS,
    PERMISSIONS,
    ROLES,
    WORDS,
    allowed,
    os_user,
    roles_of,
    roles_with,
)

USERS = Roles(steward=("ada",), clinician=("bo",), operator=("cy",), auditor=("di",))
# The rules in a second hand: who may, for each action, by initials.
MAY = {
    "policy.change": "a",
    "policy.read": "abcd",
    "consent.change": "ab",
    "consent.read": "ab",
    "consent.count": "abcd",
    "record.export": "a",
    "data.import": "c",
    "data.review": "ac",
    "data.use": "b",
    "log.read": "ad",
    "log.export": "ad",
    "keys.rotate": "a",
    "erase": "a",
    "run.train": "c",
    "run.approve": "a",
    "federation.join": "a",
    "check": "ac",
}


@pytest.mark.parametrize("user", ["ada", "bo", "cy", "di", "eve", "root", "", "*"])
@pytest.mark.parametrize("action", ACTIONS)
def test_a_user_may_what_the_role_needs_and_nothing_else(user, action):
    expected = user in ("ada", "bo", "cy", "di") and user[0] in MAY[action]
    assert allowed(USERS, user, action) is expected


def test_every_action_has_words_and_a_role_and_every_role_an_action():
    assert set(WORDS) == set(ACTIONS) == set(MAY)
    assert all(roles_with(action) for action in ACTIONS)
    assert set(PERMISSIONS) == set(ROLES)
    assert all(PERMISSIONS[role] < set(ACTIONS) for role in ROLES)


def test_whoever_approves_a_run_does_not_start_it():
    assert not PERMISSIONS["operator"] & {"run.approve", "policy.change", "consent.change"}
    assert "run.train" not in PERMISSIONS["steward"]


def test_an_auditor_changes_nothing_and_sees_no_patient():
    assert PERMISSIONS["auditor"] == {"policy.read", "consent.count", "log.read", "log.export"}


def test_a_star_is_everybody_in_that_role_only():
    roles = Roles(steward=("ada",), clinician=(), operator=("*",), auditor=())
    assert roles_of(roles, "eve") == ("operator",)
    assert allowed(roles, "eve", "run.train")
    assert not allowed(roles, "eve", "run.approve")


def test_two_roles_of_one_user_add_up():
    roles = Roles(steward=("ada",), clinician=("ada",), operator=(), auditor=())
    assert roles_of(roles, "ada") == ("steward", "clinician")
    assert allowed(roles, "ada", "erase")
    assert allowed(roles, "ada", "data.use")
    assert not allowed(roles, "ada", "run.train")


def test_names_are_compared_whole():
    roles = Roles(steward=("ada.b",), clinician=(), operator=(), auditor=())
    assert not any(roles_of(roles, user) for user in ("ada", "ada.", "ADA.B", "ada.b "))


def test_the_user_is_the_real_one_whatever_the_environment_says():
    code = "from skinml.stewardship.roles import os_user; print(os_user())"
    environment = os.environ | {"USER": "mallory", "LOGNAME": "mallory", "USERNAME": "mallory"}
    told = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert told.stdout.strip() == pwd.getpwuid(os.getuid()).pw_name == os_user()
