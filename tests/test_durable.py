"""Files that are written whole or not at all, and locks that hold."""

from __future__ import annotations

import os
import signal
import stat
import threading
from pathlib import Path

import pytest

from skinml import durable
from skinml.durable import locked, make_folder, read_whole, remove, write_whole
from skinml.errors import EnvironmentProblem
from tests.full_disk import full_disk


def test_content_is_replaced_whole_and_closed_to_others(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    for content in (b"", b"old", b"new " * 100_000):
        write_whole(path, content, "policy")
        assert read_whole(path, "policy") == content
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [each.name for each in tmp_path.iterdir()] == ["policy.yaml"]


def test_a_full_disk_leaves_the_old_content_and_no_remains(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    write_whole(path, b"old", "policy")
    with full_disk(1000), pytest.raises(EnvironmentProblem, match="a policy that skinml can write"):
        write_whole(path, b"new" * 1000, "policy")
    assert path.read_bytes() == b"old"
    assert [each.name for each in tmp_path.iterdir()] == ["policy.yaml"]


def test_a_link_laid_in_the_way_is_not_followed(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(b"mine")
    (tmp_path / ".policy.yaml.partial").symlink_to(elsewhere)
    write_whole(tmp_path / "policy.yaml", b"new", "policy")
    assert elsewhere.read_bytes() == b"mine"
    assert not (tmp_path / "policy.yaml").is_symlink()
    assert (tmp_path / "policy.yaml").read_bytes() == b"new"


def test_a_file_laid_in_the_way_and_kept_open_does_not_become_the_new_one(tmp_path: Path) -> None:
    planted = tmp_path / ".keys.partial"
    planted.touch(mode=0o666)
    with planted.open("r+b") as kept_open:
        write_whole(tmp_path / "keys", b"secret", "keys")
        assert kept_open.read() == b""
    assert stat.S_IMODE((tmp_path / "keys").stat().st_mode) == 0o600


def test_a_locks_file_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / ".lock").symlink_to(tmp_path / "made through the link")
    with (
        pytest.raises(EnvironmentProblem, match="a vault that skinml can lock"),
        locked(tmp_path / ".lock", "vault"),
    ):
        pytest.fail("taken")
    assert not (tmp_path / "made through the link").exists()


def test_a_lock_keeps_threads_apart(tmp_path: Path) -> None:
    seen: list[int] = []

    def work() -> None:
        for _ in range(50):
            with locked(tmp_path / ".lock", "vault"):
                before = len(seen)
                os.sched_yield()
                seen.append(before)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == list(range(200))


def test_a_lock_ends_with_the_block_even_when_it_fails(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="inside"), locked(tmp_path / ".lock", "vault"):
        raise ValueError("inside")
    with locked(tmp_path / ".lock", "vault"):
        pass


def test_what_the_system_refuses_names_the_file_by_what_it_is_and_no_path(tmp_path: Path) -> None:
    nowhere = tmp_path / "Anna Schmidt" / "policy.yaml"
    for act in (
        lambda: write_whole(nowhere, b"", "policy"),
        lambda: read_whole(nowhere, "policy"),
        lambda: remove(nowhere, "policy"),
    ):
        with pytest.raises(EnvironmentProblem, match="policy") as caught:
            act()
        assert "Anna" not in str(caught.value)


def test_removing_twice_is_removing(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.touch()
    remove(path, "policy")
    remove(path, "policy")
    assert not path.exists()


def test_a_new_folder_is_closed_to_others(tmp_path: Path) -> None:
    make_folder(tmp_path / "a" / "b", "vault")
    make_folder(tmp_path / "a" / "b", "vault")
    assert stat.S_IMODE((tmp_path / "a" / "b").stat().st_mode) == 0o700


def test_a_lock_that_a_stopped_process_holds_is_told_and_not_waited_for_for_ever(
    tmp_path: Path,
) -> None:
    child = os.fork()
    if not child:
        with locked(tmp_path / ".lock", "anchor"):
            os.kill(os.getpid(), signal.SIGSTOP)
        os._exit(0)
    os.waitpid(child, os.WUNTRACED)
    try:
        with (
            pytest.raises(EnvironmentProblem, match="another process that holds it"),
            locked(tmp_path / ".lock", "anchor", patience_s=0.1),
        ):
            pass
    finally:
        os.kill(child, signal.SIGCONT)
        os.waitpid(child, 0)
    with locked(tmp_path / ".lock", "anchor", patience_s=0.1):
        pass


@pytest.mark.parametrize("size", [0, 15, 16, 100])
def test_an_old_content_is_overwritten_to_its_end_however_long_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """One write takes less than 2 GiB; stores of prepared images are longer."""
    monkeypatch.setattr(durable, "_ZEROS", 16)
    path = tmp_path / "old"
    path.write_bytes(b"x" * size)
    with path.open("rb") as old:
        with durable.overwritten(path):
            path.unlink()
        assert old.read() == bytes(size)
