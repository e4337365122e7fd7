"""`skinml clinic approve`: what a coordinator asks for, and the answer."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from skinml.cli.edge import lines_of, printable
from skinml.cli.options import AsJson, AtFolder
from skinml.cli.screen import minute, narrow_console, print_next
from skinml.errors import InputError

if TYPE_CHECKING:
    from skinml.clinic.folder import ClinicFolder
    from skinml.deployment.card import Card
    from skinml.deployment.proposals import Proposed

_LABELS = 12


def approve(
    run: Annotated[str | None, typer.Argument(help="The run; without it: what waits.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Approve without asking.")] = False,
    no: Annotated[bool, typer.Option("--no", help="Refuse without asking.")] = False,
    config: Annotated[
        bool, typer.Option("--config", help="Show the run's whole config, too, before the rest.")
    ] = False,
    folder: AtFolder = Path(),
    as_json: AsJson = False,
) -> None:
    """Show a run that a coordinator asks for, and say yes or no to it.

    Example: skinml clinic approve derm_tone-20260301-093000-1f2e --folder north
    """
    from skinml.clinic.opening import open_at_screen

    answered = yes or no
    if (yes and no) or (answered and run is None):
        raise InputError(
            rule="one run and one answer",
            got="--yes and --no" if yes and no else "an answer without a run",
            do="See what waits: skinml clinic approve --folder FOLDER",
        )
    opened = open_at_screen(folder)
    if run is None:
        _list(opened, folder, as_json=as_json)
        return
    from skinml.deployment.card import card_of
    from skinml.deployment.proposals import answer

    if no:
        state: str = answer(opened, run, False)
        told = json.dumps({"run": run, "state": state}) if as_json else _said(state)
        print(told, flush=True)
        return
    card = card_of(opened, run)
    if not as_json:
        print_card(card, Console(), config=config)
    agreed = True if yes else None if as_json else _asked(card)
    state = card.proposed.state
    if agreed is not None:
        state = answer(opened, run, agreed, expected=card.proposed.proposal.digest)
    if as_json:
        print(json.dumps(_values(card) | {"state": state}, allow_nan=False), flush=True)
    elif agreed is not None:
        print(_said(state), flush=True)


def print_card(card: Card, console: Console, *, config: bool = False) -> None:
    """Print a card.

    Args:
        card: The card.
        console: Where to.
        config: Print the config, too: first, so that the rest is on the screen when it is asked.
    """
    from skinml.deployment.card_words import sections_of, standing_of

    console = narrow_console(console)
    if config:
        console.print(Text("Its config, but for what no clinic's run reads"), style="bold")
        for name, value in card.config:
            console.print(Text(printable(f"{name}: {value}")), overflow="fold")
        console.print()
    console.print(Text(f"Run {card.proposed.proposal.run}"), style="bold")
    table, width = _table(console), console.width - _LABELS - 1
    for topic, lines in sections_of(card, config="add --config"):
        told = (each for line in lines for each in lines_of(printable(line), width))
        table.add_row(topic, Text("\n".join(told)))
    console.print(table)
    _print_terms(card, console)
    console.print(Text(f"\n{standing_of(card)}"), style="bold")


def _print_terms(card: Card, console: Console) -> None:
    """Print the terms on which the run and the policy differ, what is refused first."""
    from skinml.deployment.card_words import different_terms, plain, terms_within

    console.print(Text("\nHeld against your policy"), style="bold")
    table = Table(box=None, pad_edge=False)
    for heading in ("term", "policy", "asked", ""):
        table.add_column(heading, overflow="fold")
    different = different_terms(card)
    for term in different:
        style = "bold" if term.verdict == "refused" else ""
        row = (plain(term.name), term.allowed, term.asked, term.verdict)
        table.add_row(*(Text(printable(words), style=style) for words in row))
    if different:
        console.print(table)
    within = terms_within(card)
    if within:
        console.print(Text(f"As the policy has it: {', '.join(within)}."))


def _asked(card: Card) -> bool | None:
    """Ask on standard error; no answer is none, and the run goes on waiting."""
    if card.proposed.state != "pending" or card.refused:
        return None
    if not sys.stdin.isatty():
        print("Nothing was answered: give --yes or --no.", file=sys.stderr, flush=True)
        return None
    said = typer.prompt("May it run here? yes, no or later", default="later", err=True)
    return {"yes": True, "y": True, "no": False, "n": False}.get(str(said).strip().lower())


def _said(state: str) -> str:
    more = "It gets no further answer from here. " if state == "refused" else ""
    return f"The run is {state}. {more}The audit log says so."


def _list(opened: ClinicFolder, folder: Path, *, as_json: bool) -> None:
    from skinml.clinic.gate import require_role
    from skinml.deployment.proposals import WORDS, all_proposed

    require_role(opened, "policy.read")
    found = [each for each in all_proposed(opened) if each.proposal.expires > datetime.now(UTC)]
    if as_json:
        print(json.dumps({"runs": [_short(each) for each in found]}), flush=True)
        return
    console = narrow_console()
    if not found:
        console.print("No coordinator asks for anything.")
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("run", "who asks", "until (UTC)", ""):
        table.add_column(heading, overflow="fold", no_wrap=heading == "run")
    for each in found:
        asked = each.proposal
        until = minute(asked.expires.astimezone(UTC).isoformat())
        row = (asked.run, asked.coordinator, until, WORDS[each.state])
        style = "bold" if each.state == "pending" else ""
        table.add_row(*(Text(printable(word), style=style) for word in row))
    console.print(table)
    waiting = [each.proposal.run for each in found if each.state == "pending"]
    if waiting:
        print_next(console, f"skinml clinic approve {waiting[0]} --folder FOLDER", folder)


def _table(console: Console) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(width=_LABELS)
    table.add_column(width=console.width - _LABELS - 1, overflow="fold")
    return table


def _short(found: Proposed) -> dict[str, object]:
    asked = found.proposal.model_dump(mode="json", exclude={"config", "version"})
    told = {"state": found.state, "answer": found.answer or None, "actor": found.actor or None}
    return asked | told | {"digest": found.proposal.digest}


def _values(card: Card) -> dict[str, object]:
    costs = [
        {name: None if value == float("inf") else value for name, value in asdict(each).items()}
        for each in card.costs
    ]
    changed = [{"name": name, "here": a, "asked": b} for name, a, b in card.changed or ()]
    return _short(card.proposed) | {
        "config": json.loads(card.proposed.proposal.config),
        "changed": None if card.changed is None else changed,
        "terms": [asdict(term) for term in card.terms],
        "refused": list(card.refused),
        "leaving": [asdict(each) for each in card.leaving],
        "form": card.form,
        "costs": costs,
        "most": card.most,
        "delta": card.delta,
        "data": None if card.data is None else asdict(card.data),
        "data_note": card.data_note,
        "known_code": card.known_code,
        "steering": card.steering or None,
    }
