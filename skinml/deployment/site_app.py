"""What a clinic answers a federation: the app that the clinic's runner holds ready.

Nothing is answered about a run that nobody at the clinic approved, and its config is the one that
was approved, whatever the coordinator sends.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from skinml.clinic.folder import ClinicFolder
from skinml.clinic.opening import open_at_screen
from skinml.deployment.joining import require_membership
from skinml.deployment.leftovers import tidy
from skinml.deployment.peers import require_known_keys
from skinml.deployment.proposals import approved_config, proposed, receive
from skinml.deployment.run_proposal import parse_proposal
from skinml.deployment.setup_messages import NOT_READY, answer_setup, read_end, read_terms
from skinml.errors import ConfigError, IntegrityError, PolicyError
from skinml.experiments.site_run import close_site, find_terms, prepare_site
from skinml.experiments.sites import Terms, open_site
from skinml.federated.client_app import answered, guarded
from skinml.federated.clinic import Clinic
from skinml.federated.messages import Reply, Request, unpack_request

OpenRun = Callable[[Terms, ClinicFolder], Clinic]


def site_app(path: Path, open_run: OpenRun = open_site) -> ClientApp:
    """Make the app of a clinic.

    Args:
        path: The clinic's folder.
        open_run: Opens the clinic for a run that is approved and made ready.

    Returns:
        The app, with the handlers "query.propose", "query.prepare", "query.finish" and "train".

    Raises:
        ConfigError, EnvironmentProblem, IntegrityError: As `open_at_screen`.

    Guarantees:
        A sum is computed only in a run that is approved at that moment, for the clinics that it
        was prepared for. Of an error that nobody foresaw nothing but its class leaves the clinic.
    """
    folder = open_at_screen(path)
    ready: dict[str, Clinic] = {}
    app = ClientApp()

    @app.query("propose")
    def propose(message: Message, context: Context) -> Message:
        del context
        return answer_setup(message, folder.name, lambda content: _proposed(folder, content))

    @app.query("prepare")
    def prepare(message: Message, context: Context) -> Message:
        del context
        return answer_setup(message, folder.name, lambda content: _prepared(folder, content))

    @app.query("finish")
    def finish(message: Message, context: Context) -> Message:
        del context
        return answer_setup(message, folder.name, lambda content: _finished(folder, content, ready))

    @app.train()
    def train(message: Message, context: Context) -> Message:
        del context
        return guarded(
            message, lambda: _reply(folder, unpack_request(message.content), ready, open_run)
        )

    return app


def _proposed(folder: ClinicFolder, content: bytes) -> str:
    tidy(folder)
    return receive(folder, parse_proposal(content))


def _prepared(folder: ClinicFolder, content: bytes) -> str:
    """Make ready for a run whose terms came; what they name must be what was approved."""
    run = str(_object(content).get("run"))
    config, membership = approved_config(folder, run), require_membership(folder)
    terms, proposal = read_terms(content, config), proposed(folder, run).proposal
    strangers = set(terms.clinics) - set(proposal.clinics)
    if strangers or folder.name not in terms.clinics or terms.coordinator != proposal.coordinator:
        raise IntegrityError(
            rule="a run of clinics that were named when it was proposed, this one among them",
            got=f"{len(strangers)} others",
            do="Submit the run anew.",
        )
    require_known_keys(folder, terms.registered)
    if membership.data is None:
        raise ConfigError(
            rule="a folder of data that the clinic serves",
            got="none",
            do="At the clinic: skinml clinic serve --data IMAGES --folder FOLDER",
        )
    tidy(folder, beginning=run)
    taxonomy = Path(membership.taxonomy) if membership.taxonomy else None
    prepare_site(folder, terms, Path(membership.data), membership.manifest, taxonomy)
    return "ready"


def _finished(folder: ClinicFolder, content: bytes, ready: dict[str, Clinic]) -> str:
    run, outcome = read_end(content)
    proposed(folder, run)  # a run that nobody proposed is nobody's to end
    ready.pop(run, None)
    close_site(folder, run, outcome)
    return "gone"


def _reply(
    folder: ClinicFolder, request: Request, ready: dict[str, Clinic], open_run: OpenRun
) -> Reply:
    try:
        config = approved_config(folder, request.run)  # also after a no in the middle of a run
    except PolicyError:
        ready.pop(request.run, None)
        tidy(folder)
        raise
    terms = find_terms(folder, request.run)
    if terms is None or terms.config != config:
        ready.pop(request.run, None)
        raise PolicyError(
            rule=NOT_READY,
            got=f"run={request.run}",
            do="Ask it to prepare first.",
        )
    if request.run not in ready:
        ready[request.run] = open_run(terms, folder)
    return answered(ready[request.run], request)


def _object(content: bytes) -> dict[str, object]:
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise IntegrityError(
            rule="a JSON object",
            got="another text",
            do="Use the same release of skinml at the coordinator and at the clinics.",
        )
    return found
