"""`skinml clinic ...`: a clinic's own desk."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click
import typer
from typer.core import TyperCommand, TyperGroup

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

PANELS: dict[str, dict[str, Callable[..., Any] | typer.Typer]] = {
    "Set up": {
        "init": clinic_init.init,
        "policy": clinic_policy.app,
    },
    "Data": {
        "consent": clinic_consent.app,
        "import": clinic_import.import_,
        "check": clinic_check.check,
    },
    "Every day": {
        "status": clinic_status.status,
        "review": clinic_review.review,
        "retention": clinic_retention.retention,
    },
    "Patients' rights": {
        "requests": clinic_requests.app,
        "contributions": clinic_rights.contributions,
        "access": clinic_rights.access,
        "correct": clinic_correct.correct,
        "restrict": clinic_requests.restrict,
        "erase": clinic_rights.erase,
    },
    "Federation": {
        "join": clinic_join.join,
        "serve": clinic_join.serve,
        "approve": clinic_approve.approve,
    },
    "Records and keys": {
        "log": clinic_log.app,
        "ledger": clinic_ledger.ledger,
        "certificate": clinic_retention.certificate,
        "evidence": clinic_evidence.evidence,
        "keys": clinic_keys.app,
        "anchor": clinic_keys.anchor,
    },
}
"""The commands by the day's work, in the order in which a clinic needs them."""
# They ask for a patient, whose number somebody may type behind the command.
_ABOUT_A_PATIENT = {"contributions", "access", "correct", "restrict", "erase"}


class _ByTheDay(TyperGroup):
    """Typer shows commands before groups; here they stand as the day goes."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Name the commands in the order of the panels."""
        del ctx
        return [name for commands in PANELS.values() for name in commands]


app = typer.Typer(
    cls=_ByTheDay,
    no_args_is_help=True,
    help="A clinic's own desk: its folder, rules, consents, data and log.",
)
for _panel, _commands in PANELS.items():
    for _name, _what in _commands.items():
        if isinstance(_what, typer.Typer):
            app.add_typer(_what, name=_name, rich_help_panel=_panel)
        else:
            _kind = QuietCommand if _name in _ABOUT_A_PATIENT else TyperCommand
            app.command(_name, cls=_kind, rich_help_panel=_panel)(_what)


@app.callback()
def _group() -> None:
    """Make a clinic's folder, look at its data, and keep its rules, consents and log."""
