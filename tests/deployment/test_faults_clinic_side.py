"""Clinics that lie, are revoked, have a full disk or a false clock, while the others go on."""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest

from tests.deployment import hostile_desk
from tests.deployment.real_federation import (
    LOCAL,
    Federation,
    family,
    real_federation,
    wait_for,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
NAMES = ("east", "north", "south")
MAY_LACK_ONE = (*LOCAL, "federation.allowed_missing=1", "federation.round_deadline_s=240")
DAY_S = 86400
# What asks this computer for the time gets another one: a preloaded library, no root needed.
FALSE_CLOCK = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>
static long off(void) { const char *s = getenv("FALSE_BY_S"); return s ? atol(s) : 0; }
int clock_gettime(clockid_t id, struct timespec *at) {
  static int (*real)(clockid_t, struct timespec *);
  if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
  int code = real(id, at);
  if (!code && id == CLOCK_REALTIME) at->tv_sec += off();
  return code;
}
int gettimeofday(struct timeval *at, void *zone) {
  struct timespec now;
  (void)zone;
  if (clock_gettime(CLOCK_REALTIME, &now)) return -1;
  at->tv_sec = now.tv_sec;
  at->tv_usec = now.tv_nsec / 1000;
  return 0;
}
time_t time(time_t *at) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  if (at) *at = now.tv_sec;
  return now.tv_sec;
}
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    with real_federation(tmp_path_factory.mktemp("side"), *NAMES) as net:
        yield net


def end_clinic(net: Federation, name: str) -> None:
    net.serving[name].send_signal(signal.SIGTERM)
    net.serving[name].wait(timeout=90)


def test_what_a_lying_clinic_sends_is_left_out_by_name_and_spoils_nobody(net: Federation) -> None:
    end_clinic(net, "north")
    lies = ("garbage", "nan", "another", "stale")
    lying = (sys.executable, str(hostile_desk.__file__), str(net.clinics["north"].path))
    net.serve_with("north", *lying, *lies)
    run = net.submit(*MAY_LACK_ONE)
    result = net.finished(run)
    assert len(result["participation"]) == len(lies)
    for each, lie in zip(result["participation"], lies, strict=True):
        assert each["took_part"] == ["east", "south"], lie
        assert "north" in each["missing"]
        assert len(each["missing"]["north"]) < 400
    assert "another question" in result["participation"][3]["missing"]["north"]
    assert net.charged("east", run) == net.charged("south", run)
    assert len(net.charged("north", run)) == len(net.charged("south", run))  # its own loss
    end_clinic(net, "north")
    net.serve_with("north", *lying, "huge")
    run = net.submit(*LOCAL)
    now = wait_for(lambda: net.ended(run))
    assert now.stage == "failed"
    assert "north" in now.problem
    assert not (net.folder.runs / run).exists()
    end_clinic(net, "north")
    net.serve("north")
    wait_for(lambda: net.online() == set(NAMES), poll_s=1.0)
    net.command("resume", run)
    assert net.finished(run)["complete"] is True


def test_a_full_disk_at_a_clinic_costs_it_its_part_until_there_is_room(net: Federation) -> None:
    run = net.submit(*MAY_LACK_ONE)
    wait_for(lambda: net.reached(run, "round", 1))
    mine = [psutil.Process(net.serving["north"].pid), *family(net.serving["north"].pid)]
    usual = mine[0].rlimit(psutil.RLIMIT_FSIZE)
    for each in mine:
        each.rlimit(psutil.RLIMIT_FSIZE, (1, usual[1]))
    wait_for(lambda: net.reached(run, "round", 2))
    for each in mine:
        with contextlib.suppress(psutil.NoSuchProcess):
            each.rlimit(psutil.RLIMIT_FSIZE, usual)
    result = net.finished(run)
    lacking = [each for each in result["participation"] if "north" in each["missing"]]
    assert 1 <= len(lacking) <= 2
    assert all("EnvironmentProblem" in each["missing"]["north"] for each in lacking)
    assert result["participation"][-1]["took_part"] == list(NAMES)
    broken = {each["round"] for each in lacking}
    assert {number for number, _ in net.charged("north", run)} >= {1, 4} - broken


@pytest.mark.parametrize("off_s", [DAY_S, -DAY_S])
def test_a_clock_a_day_off_is_told_and_reckoned_with(net: Federation, off_s: int) -> None:
    compiler = shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("no C compiler to make a false clock with")
    library = net.machine.place / "false_clock.so"
    if not library.exists():
        made = [compiler, "-shared", "-fPIC", "-x", "c", "-", "-o", str(library), "-ldl"]
        subprocess.run(made, input=FALSE_CLOCK.encode(), check=True)
    end_clinic(net, "north")
    net.serve("north", LD_PRELOAD=str(library), FALSE_BY_S=str(off_s))
    wait_for(lambda: "86,400 s" in net.printed("north") or "86,399 s" in net.printed("north"))
    assert ("ahead of" if off_s > 0 else "behind") in net.printed("north")
    wait_for(lambda: net.online() == set(NAMES), poll_s=1.0)
    run = net.submit(*LOCAL)
    result = net.finished(run)
    assert result["complete"] is True
    end_clinic(net, "north")
    net.serve("north")


def test_a_clinic_revoked_in_the_middle_of_a_run_is_out_of_it_and_told_so(net: Federation) -> None:
    run = net.submit(*MAY_LACK_ONE)
    wait_for(lambda: net.reached(run, "round", 1))
    net.command("revoke", "north")
    result = net.finished(run)
    last = result["participation"][-1]
    assert last["took_part"] == ["east", "south"]
    assert list(last["missing"]) == ["north"]
    assert {number for number, _ in net.charged("south", run)} == {1, 2, 3, 4}
    wait_for(lambda: "does not let this clinic in" in net.printed("north"))
    end_clinic(net, "north")
    assert net.online() <= {"east", "south"}
