"""Changing a clinic's policy: by whom, in what order, and killed at any moment."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import pytest

from skinml.clinic.folder import ClinicFolder, create_folder, open_folder
from skinml.clinic.policies import (
    apply_change,
    compare_proposal,
    plan_change,
    put_in_force,
    show_policy,
)
from skinml.errors import ConfigError, IntegrityError, PolicyError
from skinml.stewardship.policy import Policy, parse_policy, policy_digest, policy_yaml
from skinml.stewardship.policy_terms import Proposal
from skinml.stewardship.roles import os_user
from tests.policy_text import policy_text

NOW = datetime(2026, 3, 1, 9, 30, tzinfo=UTC)
BASIS = policy_text(fields="[age, sex, skin_tone]").encode()
STRICTER = BASIS.replace(b"per_run: 3", b"per_run: 2")
PROPOSAL = Proposal(
    experiment="quickstart",
    purpose="research",
    coordinator="simulation",
    trust="distributed",
    unit="patient",
    epsilon=4.0,
    delta=1e-5,
    noise_multiplier=2.0,
    clinics=2,
    patients=None,
    fields=("age",),
    epsilon_year=4.0,
    epsilon_life=4.0,
)


def make(place: Path, content: bytes = BASIS) -> ClinicFolder:
    policy = parse_policy(content)
    create_folder(
        place / "north", name="north", policy=policy, anchors=place / "anchors", virtual=True
    )
    return open_folder(place / "north")


@pytest.fixture
def folder(tmp_path: Path) -> ClinicFolder:
    return make(tmp_path)


def changes(folder: ClinicFolder) -> list[tuple[object, object]]:
    """What the log says: digests before and after each change."""
    entries = [entry for entry in folder.audit.entries() if entry.event == "policy changed"]
    return [(entry.fields["before"], entry.fields["after"]) for entry in entries]


def test_a_change_is_planned_applied_and_logged(folder):
    planned = plan_change(folder, STRICTER)
    assert planned.difference == ("max_epsilon_per_run: 3 -> 2 (stricter)",)
    assert folder.policy == parse_policy(BASIS), "planning changes nothing"
    apply_change(folder, planned, now=NOW)
    again = open_folder(folder.path)
    assert again.policy == parse_policy(STRICTER)
    assert changes(again) == [(planned.before, planned.after)]
    entry = again.audit.entries()[-1]
    assert (entry.actor, entry.fields["changes"]) == (os_user(), 1)
    assert planned.after == policy_digest(again.policy)


def test_the_file_says_everything_even_what_the_new_one_left_out(folder):
    apply_change(folder, plan_change(folder, STRICTER), now=NOW)
    text = (folder.path / "policy.yaml").read_text()
    assert "trust: [distributed, local]" in text
    assert text == policy_yaml(folder.policy)


def test_a_policy_that_says_the_same_is_not_written_again(folder):
    before = (folder.path / "policy.yaml").stat().st_mtime_ns
    planned = plan_change(folder, b"# the same\n" + BASIS)
    apply_change(folder, planned, now=NOW)
    assert planned.difference == ()
    assert changes(folder) == []
    assert (folder.path / "policy.yaml").stat().st_mtime_ns == before


def test_a_change_that_was_compared_with_another_policy_is_refused(folder):
    mine, theirs = plan_change(folder, STRICTER), plan_change(folder, STRICTER.replace(b"50", b"9"))
    apply_change(folder, theirs, now=NOW)
    with pytest.raises(ConfigError, match="meantime"):
        apply_change(folder, mine, now=NOW)
    assert folder.policy.least_patients == 9
    assert len(changes(folder)) == 1


@pytest.mark.parametrize(
    "content", [b"", STRICTER.replace(b"clinic: north", b"clinic: south"), b"clinic: north\n"]
)
def test_what_is_not_this_clinics_policy_is_refused(folder, content):
    with pytest.raises(ConfigError):
        plan_change(folder, content)
    assert folder.policy == parse_policy(BASIS)


def test_only_a_steward_changes_and_a_refusal_is_logged(tmp_path):
    folder = make(tmp_path, BASIS.replace(b'steward: ["*"]', b"steward: [nobody-here]"))
    with pytest.raises(PolicyError, match="steward"):
        plan_change(folder, STRICTER)
    refusal = folder.audit.entries()[-1]
    assert (refusal.event, refusal.fields["action"]) == ("refusal", "policy.change")
    show_policy(folder)  # an operator may read


def test_a_planned_change_is_no_leave_to_change(folder):
    planned = plan_change(folder, BASIS.replace(b'steward: ["*"]', b"steward: [nobody-here]"))
    apply_change(folder, planned, now=NOW)
    with pytest.raises(PolicyError):
        apply_change(folder, planned, now=NOW)


def test_somebody_without_a_role_does_not_even_read(tmp_path):
    roles = b"roles: {steward: [nobody-here], clinician: [], operator: [], auditor: []}\n"
    folder = make(tmp_path, BASIS[: BASIS.index(b"roles")] + roles)
    for act in (show_policy, lambda it: compare_proposal(it, PROPOSAL)):
        with pytest.raises(PolicyError):
            act(folder)
    assert [entry.event for entry in folder.audit.entries()][-2:] == ["refusal", "refusal"]


def test_a_proposal_is_compared_with_the_policy_that_holds_now(folder):
    assert compare_proposal(folder, PROPOSAL).refused == ("epsilon_per_run",)
    looser = BASIS.replace(b"per_run: 3", b"per_run: 5")
    apply_change(folder, plan_change(folder, looser), now=NOW)
    assert compare_proposal(folder, PROPOSAL).refused == ()


@pytest.mark.parametrize("keep", ["policy", "anchor"])
def test_an_older_policy_put_back_is_noticed(folder, keep):
    place = folder.anchors.path if keep == "anchor" else folder.path / "policy.yaml"
    old = place.read_bytes()
    apply_change(folder, plan_change(folder, STRICTER), now=NOW)
    place.write_bytes(old)
    with pytest.raises(IntegrityError):
        open_folder(folder.path)


def test_every_changed_byte_of_the_policy_is_noticed(folder):
    path = folder.path / "policy.yaml"
    whole = path.read_bytes()
    for place in range(0, len(whole), 7):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(IntegrityError, match=r"policy"):
            folder.policy  # noqa: B018  reading it is the check
    path.write_bytes(whole)
    assert folder.policy == parse_policy(BASIS)
    path.unlink()
    with pytest.raises(IntegrityError, match="no file"):
        folder.policy  # noqa: B018


def _changed_until(folder: ClinicFolder, new: Policy, step: int) -> bool:
    """Change the policy in another process, killed before its step-th file operation."""
    child = os.fork()
    if child == 0:
        seen = 0

        def count(event: str, _: object) -> None:
            nonlocal seen
            if event in ("open", "os.rename", "os.remove", "os.truncate", "fcntl.flock"):
                seen += 1
                if seen == step:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(count)
        try:
            put_in_force(folder, new, "tester", now=NOW)
            os._exit(0)
        finally:
            os._exit(1)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, -signal.SIGKILL)
    return code == 0


def kill_at_every_step(path: Path) -> int:
    """Change the policy to and fro, each time killed one file operation later than before."""
    policies = [parse_policy(BASIS), parse_policy(STRICTER)]
    kept, done, step, after = set(), False, 0, open_folder(path)
    while not done:
        step += 1
        old = after.policy
        new = policies[1 - policies.index(old)]
        done = _changed_until(after, new, step)
        after = open_folder(path)
        assert after.policy in (old, new)
        kept.add(after.policy == old)
        if after.policy == new:
            assert changes(after)[-1][1] == policy_digest(new), "no policy holds unlogged"
        assert step < 100
    assert kept == {True, False}, "kills fell before and after the change"
    put_in_force(after, policies[1 - policies.index(after.policy)], "tester", now=NOW)
    told = changes(after)
    assert all(a[1] == b[0] for a, b in pairwise(told)), "the log is one story"
    return step


def test_killed_at_any_file_operation_the_old_or_the_new_policy_holds_and_is_logged(folder):
    # In a small process of its own: forking a test run that holds torch takes much longer.
    code = (
        "import sys; from pathlib import Path; from tests.clinic.test_policies import *; "
        "print(kill_at_every_step(Path(sys.argv[1])))"
    )
    told = subprocess.run(
        [sys.executable, "-c", code, str(folder.path)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.returncode == 0, told.stderr
    assert int(told.stdout) > 8
