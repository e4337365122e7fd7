"""The one process at a clinic that answers a federation's messages, with installed code alone.

It takes the place of Flower's own executor. A message comes with a bundle of code: its SHA-256 is
held against what may run here, and it is never unpacked, whatever is in it. What runs is the
installed skinml, loaded once, so that networks and features stay in memory from round to round.
It uses parts of Flower that are internal, so it runs with the tested releases only.

A task that takes too long, or that nobody waits for any more, cannot be stopped inside its
process: the process ends, and the supervisor starts it anew.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skinml.deployment.log_lines import Spoken, said_of
from skinml.durable import read_whole
from skinml.errors import EnvironmentProblem, SkinmlError
from skinml.stewardship.audit_events import is_name

if TYPE_CHECKING:
    from flwr.app import Context, Message
    from flwr.clientapp import ClientApp
    from flwr.supercore.runtime import RuntimeHttpClient

TESTED = ("1.41.0",)
"""Releases of Flower whose internal parts this module was tested with."""

EXIT_LATE = 75
EXIT_UNWANTED = 76
NOT_APPROVED = 7  # flwr's own ErrorCode for an app that was not verified
SITE_ERROR = 2  # flwr's own ErrorCode for an app that raised
USUAL_LIMIT_S = 3600.0

_POLL_S = 0.1
_BEAT_S = 10.0
_LOOK_S = 0.5
_TIDY_S = 3600.0
_ACQUIRE = "/flwr.proto.Runtime/AcquireTask"
_KIND = "flwr-clientapp"
_log = logging.getLogger("skinml.runner")

Approved = Callable[[], frozenset[str]]
"""Gives the SHA-256 of all bundles that may run here at this moment."""


@dataclass(frozen=True)
class Desk:
    """What a runner answers with.

    Attributes:
        app: What is run; installed code.
        approved: Which bundles may ask for it.
        refused: Told of each bundle that may not, by its SHA-256.
        limit_s: Seconds that one task may take.
        tidy: Called between tasks, once an hour.
    """

    app: ClientApp
    approved: Approved
    refused: Callable[[str], None] = lambda digest: None
    limit_s: float = USUAL_LIMIT_S
    tidy: Callable[[], object] = lambda: None


def require_tested_flower() -> str:
    """Check that the installed Flower is a release whose internal parts are known.

    Returns:
        The release.

    Raises:
        EnvironmentProblem: If it is another one.
    """
    import flwr

    if flwr.__version__ not in TESTED:
        raise EnvironmentProblem(
            rule=f"Flower {' or '.join(TESTED)}, which the clinic's runner was tested with",
            got=f"flwr={flwr.__version__}",
            do=f"Install it: pip install 'flwr=={TESTED[-1]}'. Nothing runs until then.",
        )
    return flwr.__version__


def is_approved(content: bytes, named: Sequence[str], approved: frozenset[str]) -> bool:
    """Tell whether a bundle may run here.

    Args:
        content: The bundle's bytes.
        named: The SHA-256 that each part of the message names it by.
        approved: SHA-256 of the bundles that may run.

    Returns:
        Whether the bytes themselves are approved, and nobody names them otherwise.

    >>> import hashlib
    >>> known = hashlib.sha256(b"a bundle").hexdigest()
    >>> is_approved(b"a bundle", [known], frozenset({known}))
    True
    >>> is_approved(b"another", [known], frozenset({known}))
    False
    """
    digest = hashlib.sha256(content).hexdigest()
    return digest in approved and all(name == digest for name in named)


def serve(desk: Desk, address: str, secret: bytes) -> None:
    """Answer tasks of a SuperNode in process isolation, for ever.

    Args:
        desk: What to answer with.
        address: Of the SuperNode's Runtime API, host:port on this machine.
        secret: What the SuperNode knows its executor by.

    Raises:
        EnvironmentProblem: If Flower is not a tested release.

    Guarantees:
        No byte of a bundle is unpacked or loaded. No word of an exception leaves the clinic. A
        task that takes longer than the limit ends this process, after the coordinator was told.
    """
    release = require_tested_flower()
    for noisy in ("httpx", "httpcore", "flwr"):  # a line ten times a second
        logging.getLogger(noisy).setLevel(logging.ERROR)
    from flwr.supercore.interceptors import SuperExecAuthHttpInterceptor

    gate = SuperExecAuthHttpInterceptor(master_secret=secret, protected_methods={_ACQUIRE})
    tasks = _client(address, gate)
    # One thread for all tasks: what a thread keeps warm stays warm.
    worker = ThreadPoolExecutor(1, thread_name_prefix="task")
    _log.info("ready: Flower %s, tested with %s", release, ", ".join(TESTED))
    heard, tidied = True, -_TIDY_S
    while True:
        if time.monotonic() - tidied > _TIDY_S:
            tidied = time.monotonic()
            _tidied(desk)
        task = _next_task(tasks)
        if task is None:
            if heard:
                _log.info("no answer of the SuperNode yet; trying on")
            heard = False
            time.sleep(1.0)
        elif task.HasField("task") and task.token:
            heard = True
            _perform(desk, address, task, worker)
        else:
            heard = True
            time.sleep(_POLL_S)


def _tidied(desk: Desk) -> None:
    try:
        desk.tidy()
    except SkinmlError as error:  # the same stands in the way of the next task, which tells it
        _log.warning("what ended runs left could not be removed: %s", type(error).__name__)


def _next_task(tasks: RuntimeHttpClient) -> Any:
    """Ask the SuperNode for work; None where it does not answer."""
    import httpx
    from flwr.proto.runtime_pb2 import AcquireTaskRequest

    try:
        return tasks.AcquireTask(AcquireTaskRequest(supported_task_types=[_KIND]))
    except httpx.HTTPStatusError as error:
        if error.response.status_code in (401, 403):
            raise EnvironmentProblem(
                rule="the SuperNode that this runner was started with",
                got="another one, which does not know its secret",
                do="End whatever else listens on this computer's port; the supervisor tries again.",
            ) from None
        return None
    except httpx.HTTPError:
        return None


def _perform(desk: Desk, address: str, task: Any, worker: ThreadPoolExecutor) -> None:
    """Do one task; whatever fails in it, the next one is taken all the same."""
    import httpx
    from flwr.supercore.inflatable.inflatable_utils import ObjectPullError
    from flwr.supercore.interceptors import RuntimeTokenHttpInterceptor
    from flwr.supernode.runtime.run_clientapp import (
        pull_task_input,
        push_message,
        push_task_output,
    )

    runtime = _client(address, RuntimeTokenHttpInterceptor(task.token))
    beats = _Beats(runtime)
    try:
        message, context, run, fab = pull_task_input(runtime)
        began = time.monotonic()
        names = (fab.hash_str, run.fab_hash, task.task.fab_hash)
        refusal = _judged(desk, fab.content, names, message)
        reply, good = (
            _answered(desk, message, context, worker, beats)
            if refusal is None
            else (refusal, False)
        )
        _by_the_coordinators_clock(reply, message, time.monotonic() - began)
        push_message(runtime, reply, context)
        status = "completed" if good else "failed"
        push_task_output(runtime, context if good else None, status, "")
    except (httpx.HTTPError, ObjectPullError, RuntimeError, ValueError) as error:
        # The coordinator's messages are strangers' words, and the line may drop at any moment.
        _log.warning("a task was lost on its way: %s", type(error).__name__)
        beats.stop()
        runtime.close()
        return
    late = beats.late
    beats.stop()
    runtime.close()
    if late:
        _leave(EXIT_LATE, "the task took too long; starting anew")


def _by_the_coordinators_clock(reply: Message, message: Message, seconds: float) -> None:
    """Date a reply from its question: by a clock that is a day ahead it would have expired."""
    asked = message.metadata
    reply.metadata.created_at = asked.created_at + seconds
    reply.metadata.ttl = max(asked.ttl - seconds, 1.0)


def _judged(desk: Desk, content: bytes, names: Sequence[str], message: Message) -> Message | None:
    """Refuse a task whose code nobody approved; None where it may run."""
    try:
        approved = desk.approved()
    except SkinmlError as error:
        _log.error("nothing may run: %s", error)
        return _error(message, SITE_ERROR, "site error")
    if is_approved(content, names, approved):
        return None
    digest = hashlib.sha256(content).hexdigest()
    told = {"told": _about(message, "refused")}
    _log.warning("refused a bundle that nobody here approved: %s", digest, extra=told)
    desk.refused(digest)
    return _error(message, NOT_APPROVED, "code not approved at this site")


def _answered(
    desk: Desk, message: Message, context: Context, worker: ThreadPoolExecutor, beats: _Beats
) -> tuple[Message, bool]:
    """Let the app answer, within its time; give the reply and whether it is a good one."""
    began = time.monotonic()
    work = worker.submit(desk.app, message=message, context=context)
    while not wait([work], timeout=_LOOK_S).done:
        if beats.unwanted:
            _leave(EXIT_UNWANTED, "nobody waits for this task any more; starting anew")
        if time.monotonic() - began > desk.limit_s:
            beats.late = True
            told = {"told": _about(message, "late")}
            _log.error("no answer to %s within %g s", _kind(message), desk.limit_s, extra=told)
            return _error(message, SITE_ERROR, "site error"), False
    error = work.exception()  # whatever it is, its words stay here
    if error is not None:
        told = {"told": _about(message, "failed")}
        _log.error("%s failed: %s", _kind(message), said_of(error), extra=told)
        return _error(message, SITE_ERROR, "site error"), False
    told = _about(message, "answered") | {"seconds": round(time.monotonic() - began, 3)}
    _log.info("answered %s in %.1f s", told["kind"], told["seconds"], extra={"told": told})
    return work.result(), True


def _kind(message: Message) -> str:
    kind = message.metadata.message_type
    return kind if kind.isascii() and kind.isprintable() and len(kind) < 64 else "a message"


def _about(message: Message, event: str) -> dict[str, Any]:
    """Tell for the log what a message is about, as far as a stranger's words can be believed."""
    told: dict[str, Any] = {"event": event, "kind": _kind(message)}
    try:
        if "request" in message.content:
            said = dict(message.content["request"])
        else:
            content: Any = dict(message.content["setup"])["content"]
            said = json.loads(content)
        run, number = said["run"], said.get("round")
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        return told
    if is_name(str(run)):
        told["run"] = str(run)
    if isinstance(number, int) and not isinstance(number, bool) and 0 <= number < 2**31:
        told["round"] = number
    return told


def _error(message: Message, code: int, reason: str) -> Message:
    from flwr.app import Message as Reply
    from flwr.app.error import Error

    return Reply(Error(code=code, reason=reason), reply_to=message)


class _Beats:
    """Tells the SuperNode that a task is being worked on, and hears when nobody wants it.

    Flower's own sender interrupts the whole process where a task is unwanted; here the loop
    that waits for the task asks.
    """

    def __init__(self, runtime: RuntimeHttpClient) -> None:
        self._runtime = runtime
        self._ended = threading.Event()
        self.unwanted = False
        self.late = False
        self._thread = threading.Thread(target=self._run, daemon=True, name="beats")
        self._thread.start()

    def stop(self) -> None:
        """Say nothing more."""
        self._ended.set()
        self._thread.join(timeout=_BEAT_S)

    def _run(self) -> None:
        import httpx
        from flwr.proto.runtime_pb2 import SendTaskHeartbeatRequest

        while not self._ended.is_set():
            try:
                if not self._runtime.SendTaskHeartbeat(SendTaskHeartbeatRequest()).success:
                    self.unwanted = True
                    return
            except httpx.HTTPError:
                _log.debug("a heartbeat was lost")
            self._ended.wait(_BEAT_S)


def _client(address: str, gate: Any) -> RuntimeHttpClient:
    from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
    from flwr.supercore.retry import make_simple_http_retry_invoker
    from flwr.supercore.runtime import RuntimeHttpClient

    return RuntimeHttpClient.from_server_address(
        server_address=address,
        insecure=True,  # loopback alone
        root_certificates=None,
        interceptors=[RuntimeVersionHttpInterceptor(component_name=_KIND), gate],
        retry_invoker=make_simple_http_retry_invoker(),
    )


def _leave(code: int, words: str) -> None:
    """End the process at once: a thread that hangs would keep it for ever."""
    _log.error(words)
    logging.shutdown()
    os._exit(code)


def desk_of(folder: Path, limit_s: float) -> Desk:
    """Open a clinic's folder and make ready what its runner answers with.

    Args:
        folder: The clinic's folder.
        limit_s: Seconds that one task may take.

    Returns:
        The desk.

    Raises:
        ConfigError, EnvironmentProblem, IntegrityError: As `open_at_screen`.
    """
    from datetime import UTC, datetime

    from skinml.clinic.opening import open_at_screen
    from skinml.deployment.leftovers import tidy
    from skinml.deployment.proposals import approved_bundles
    from skinml.deployment.site_app import site_app
    from skinml.stewardship.roles import os_user

    opened = open_at_screen(folder)
    told: set[str] = set()

    def refused(digest: str) -> None:
        if digest not in told:  # once: a stranger shall not fill the log
            told.add(digest)
            now = datetime.now(UTC)
            opened.audit.write("bundle refused", os_user(), now=now, digest=digest)

    app = site_app(folder)
    return Desk(app, lambda: approved_bundles(opened), refused, limit_s, lambda: tidy(opened))


def main(words: Sequence[str] | None = None) -> int:
    """Run as a process: `python -m skinml.deployment.runner`.

    Args:
        words: The arguments; by default the process's own.

    Returns:
        The exit code, where it ends by itself.
    """
    parser = argparse.ArgumentParser(description="Answer a federation's messages at a clinic.")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--address", required=True)
    parser.add_argument("--secret-file", type=Path, required=True)
    parser.add_argument("--limit-s", type=float, default=USUAL_LIMIT_S)
    given = parser.parse_args(words)
    said = logging.StreamHandler(sys.stderr)
    said.setFormatter(Spoken())
    logging.basicConfig(level=logging.INFO, handlers=[said])
    # A traceback's last line can tell of a patient, and what is printed goes into a log.
    sys.excepthook = lambda kind, error, trace: _log.critical("defect: %s", said_of(error))
    threading.excepthook = lambda told: _log.critical("defect: %s", said_of(told.exc_value))
    signal.signal(signal.SIGTERM, lambda number, frame: _leave(0, "told to end"))
    try:
        secret = read_whole(given.secret_file, "secret of the SuperNode")
        serve(desk_of(given.folder, given.limit_s), given.address, secret)
    except SkinmlError as error:
        _log.error("%s", error)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
