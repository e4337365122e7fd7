"""`skinml clinic ...`: a clinic's own desk."""

from __future__ import annotations

import typer

from skinml.cli import (
    clinic_approve,
    clinic_check,
    clinic_consent,
    clinic_correct,
    clinic_evidence,
    clinic_import,
    clinic_init,
    clinic_join,
    clinic_keys,
    clinic_ledger,
    clinic_log,
    clinic_policy,
    clinic_requests,
    clinic_retention,
    clinic_review,
    clinic_rights,
    clinic_status,
)
from skinml.cli.patient_input import QuietCommand

app = typer.Typer(
    no_args_is_help=True,
    help="A clinic's own desk: its folder, rules, consents, data and log.",
)
app.command()(clinic_init.init)
app.command(name="import")(clinic_import.import_)
app.command()(clinic_review.review)
app.command()(clinic_check.check)
app.command()(clinic_status.status)
app.command()(clinic_ledger.ledger)
app.command()(clinic_join.join)
app.command()(clinic_join.serve)
app.command()(clinic_approve.approve)
app.add_typer(clinic_policy.app, name="policy")
app.add_typer(clinic_consent.app, name="consent")
app.add_typer(clinic_log.app, name="log")
app.add_typer(clinic_keys.app, name="keys")
app.command()(clinic_keys.anchor)
app.command()(clinic_evidence.evidence)
app.command()(clinic_retention.retention)
app.command()(clinic_retention.certificate)
app.command(cls=QuietCommand)(clinic_rights.contributions)
app.command(cls=QuietCommand)(clinic_rights.access)
app.command(cls=QuietCommand)(clinic_correct.correct)
app.command(cls=QuietCommand)(clinic_rights.erase)
app.command(cls=QuietCommand)(clinic_requests.restrict)
app.add_typer(clinic_requests.app, name="requests")


@app.callback()
def _group() -> None:
    """Make a clinic's folder, look at its data, and keep its rules, consents and log."""
