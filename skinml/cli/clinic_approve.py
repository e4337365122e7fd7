"""`skinml clinic approve`: what a coordinator asks for, and the answer."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from math import isinf
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from skinml.cli.edge import printable
from skinml.cli.options import AsJson, AtFolder
from skinml.errors import InputError

if TYPE_CHECKING:
    from skinml.clinic.folder import ClinicFolder
    from skinml.deployment.card import Card
    from skinml.deployment.proposals import Proposed

_WIDTH = 80
_LABELS = 12
_ANSWERS = {
    "yes": "approved",
    "no": "refused",
    "rule": "approved by rule, as the policy says",
    "": "waits for an answer",
}
_DIFFERENT = ("refused", "open", "stricter")
_SPANS = {"run": "this run", "year": "in one year", "life": "for life"}


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

    Example: skinml clinic approve derm_tone-20260301-093000-1f2e --folder ./clinic
    """
    from skinml.clinic.opening import open_at_screen

    answered = yes or no
    if (yes and no) or (answered and run is None):
        raise InputError(
            rule="one run and one answer",
            got="--yes and --no" if yes and no else "an answer without a run",
            do="See what waits: skinml clinic approve. Then: skinml clinic approve RUN --yes.",
        )
    opened = open_at_screen(folder)
    if run is None:
        _list(opened, as_json=as_json)
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
    console = Console(file=console.file, width=min(console.width, _WIDTH), highlight=False)
    if config:
        console.print(Text("Its config, but for what no clinic's run reads"), style="bold")
        for name, value in card.config:
            console.print(Text(printable(f"{name}: {value}")), overflow="fold")
        console.print()
    console.print(Text(f"Run {card.proposed.proposal.run}"), style="bold")
    table = _table(console)
    for topic, lines in _sections(card):
        table.add_row(topic, Text("\n".join(printable(line) for line in lines)))
    console.print(table)
    _print_terms(card, console)
    console.print(Text(f"\n{_standing(card)}"), style="bold")


def _sections(card: Card) -> list[tuple[str, Sequence[str]]]:
    asked = card.proposed.proposal
    others = ", ".join(asked.clinics)
    code = "as the installed skinml published it"
    if not card.known_code:
        code = f"UNKNOWN to the installed skinml: {asked.bundle[:16]}; it would run under your yes"
    return [
        ("who asks", [f"{asked.coordinator}, of {len(asked.clinics)} clinics: {others}"]),
        ("what for", [_plain(asked.purpose)]),
        ("experiment", [asked.experiment, *_changes(card)]),
        *([("who counts", [card.steering])] if card.steering else []),
        ("code", [code]),
        ("data", _data(card)),
        ("what leaves", _leaving(card)),
        ("epsilon", _costs(card)),
        ("until", [f"{asked.expires.astimezone(UTC):%d %B %Y, %H:%M} UTC; then it ends"]),
    ]


def _changes(card: Card) -> list[str]:
    if card.changed is None:
        return ["The installed skinml has no experiment of this name."]
    look = "all of it: add --config"
    if not card.changed:
        return [f"Just as the installed skinml has it; {look}"]
    lines = [f"{name}: {theirs} (here: {ours})" for name, ours, theirs in card.changed]
    return [f"Differs from the installed skinml's; {look}", *lines]


def _data(card: Card) -> list[str]:
    if card.data is None:
        return [f"Not counted: {card.data_note}"]
    counts = card.data
    lines = [f"{counts.num_patients:,} patients with {counts.num_images:,} images"]
    lines[0] += f"; {counts.num_training:,} of them train the model, the others test it."
    if counts.num_refused:
        lines.append(f"{counts.num_refused:,} other patients may not be used for it.")
    return [*lines, "Exact numbers, for this clinic's eyes: they stay here."]


def _leaving(card: Card) -> list[str]:
    lines = []
    for each in card.leaving:
        size = "a number for each feature and class"
        if each.shape is not None:
            size = f"{' x '.join(map(str, each.shape)) or '1'} numbers"
        times = "once" if each.times == 1 else f"{each.times} times"
        noise = f"noise {each.noise_multiplier:.3g}" if each.noise_multiplier else "NO NOISE"
        lines.append(f"{each.what}, {times}: {size}, over {each.about}, {noise}")
    if any(each.noise_multiplier for each in card.leaving):
        lines.append(
            "Noise 1 is as strong as the most that one patient can change; more hides more."
        )
    return [*lines, f"In sums over patients, {card.form}.", "No image and no row of the list."]


def _costs(card: Card) -> list[str]:
    lines = []
    for each in card.costs:
        line = f"{_SPANS[each.span]}: {_number(each.reached)}"
        if each.ceiling is not None:
            line += f" of at most {_number(each.ceiling)}"
        if each.left is not None:
            line += f"; leaves {_number(each.left)} for one more run"
        lines.append(line)
    again = "a round tried again is charged again: "
    most = "the policy has no ceiling" if card.most is None else f"at most {_number(card.most)}"
    lines.append(again + most)
    return [*lines, f"at delta {card.delta:g}; smaller is more private"]


def _print_terms(card: Card, console: Console) -> None:
    """Print the terms on which the run and the policy differ, what is refused first."""
    console.print(Text("\nHeld against your policy"), style="bold")
    table = Table(box=None, pad_edge=False)
    for heading in ("term", "policy", "asked", ""):
        table.add_column(heading, overflow="fold")
    different = [term for verdict in _DIFFERENT for term in card.terms if term.verdict == verdict]
    for term in different:
        style = "bold" if term.verdict == "refused" else ""
        row = (_plain(term.name), term.allowed, term.asked, term.verdict)
        table.add_row(*(Text(printable(words), style=style) for words in row))
    if different:
        console.print(table)
    within = [_plain(term.name) for term in card.terms if term.verdict == "within"]
    if within:
        console.print(Text(f"As the policy has it: {', '.join(within)}."))


def _plain(words: str) -> str:
    return words.replace("_", " ")


def _standing(card: Card) -> str:
    found = card.proposed
    if card.refused:
        names = ", ".join(map(_plain, card.refused))
        return f"The policy refuses: {names}. Only a change of the policy allows a yes."
    if found.state == "refused" and found.answer != "no":
        return "It has expired. The coordinator may submit it again."
    by = f" by {found.actor}" if found.answer in ("yes", "no") else ""
    return f"It {'is ' if found.answer else ''}{_ANSWERS[found.answer]}{by}."


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
    return f"The run is {state}. The audit log says so."


def _list(opened: ClinicFolder, *, as_json: bool) -> None:
    from skinml.clinic.gate import require_role
    from skinml.deployment.proposals import all_proposed

    require_role(opened, "policy.read")
    found = [each for each in all_proposed(opened) if each.proposal.expires > datetime.now(UTC)]
    if as_json:
        print(json.dumps({"runs": [_short(each) for each in found]}), flush=True)
        return
    console = Console()
    console = Console(width=min(console.width, _WIDTH), highlight=False)
    if not found:
        console.print("No coordinator asks for anything.")
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("run", "who asks", "until", ""):
        table.add_column(heading, overflow="fold", no_wrap=heading == "run")
    for each in found:
        asked = each.proposal
        until = f"{asked.expires.astimezone(UTC):%d %b %H:%M}"
        stands = "waits" if each.state == "pending" else each.state
        row = (asked.run, asked.coordinator, until, stands)
        style = "bold" if each.state == "pending" else ""
        table.add_row(*(Text(printable(word), style=style) for word in row))
    console.print(table)
    place = shlex.quote(str(opened.path))
    console.print("\nLook at one and answer:")
    console.print(Text(f"   skinml clinic approve RUN --folder {place}"), soft_wrap=True)


def _table(console: Console) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(width=_LABELS)
    table.add_column(width=console.width - _LABELS - 1, overflow="fold")
    return table


def _number(value: float) -> str:
    return "unbounded" if isinf(value) else f"{value:.4g}"


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
