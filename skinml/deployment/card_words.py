"""The approval card in words, for the terminal and for the page at the clinic's desk."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC
from math import isinf
from typing import TYPE_CHECKING

from skinml.stewardship.policy_terms import Term

if TYPE_CHECKING:
    from skinml.deployment.card import Card

_ANSWERS = {
    "yes": "approved",
    "no": "refused",
    "rule": "approved by rule, as the policy says",
    "": "waits for an answer",
}
_DIFFERENT = ("refused", "open", "stricter")
SPANS = {"run": "this run", "year": "in one year", "life": "for life"}
"""The spans of a clinic's ceilings."""


def sections_of(card: Card, *, config: str) -> list[tuple[str, Sequence[str]]]:
    """Say what is asked for, topic by topic.

    Args:
        card: The card.
        config: How the reader gets to see the whole config, as "add --config".

    Returns:
        Topics and their lines, in the order in which they are read.
    """
    asked = card.proposed.proposal
    others = ", ".join(asked.clinics)
    code = "as the installed skinml published it"
    if not card.known_code:
        code = f"UNKNOWN to the installed skinml: {asked.bundle[:16]}; it would run under your yes"
    return [
        ("who asks", [f"{asked.coordinator}, of {len(asked.clinics)} clinics: {others}"]),
        ("what for", [plain(asked.purpose)]),
        ("experiment", [asked.experiment, *_changes(card, config)]),
        *([("who counts", [card.steering])] if card.steering else []),
        *([("tables", _tables(card))] if card.tables else []),
        ("code", [code]),
        ("data", _data(card)),
        ("what leaves", _leaving(card)),
        ("epsilon", _costs(card)),
        ("until", [f"{asked.expires.astimezone(UTC):%Y-%m-%d %H:%M} UTC; then it ends"]),
    ]


def different_terms(card: Card) -> list[Term]:
    """List the terms on which the run and the policy differ.

    Args:
        card: The card.

    Returns:
        What is refused first.
    """
    return [term for verdict in _DIFFERENT for term in card.terms if term.verdict == verdict]


def terms_within(card: Card) -> list[str]:
    """Name the terms that are as the policy has them.

    Args:
        card: The card.

    Returns:
        Their names in words.
    """
    return [plain(term.name) for term in card.terms if term.verdict == "within"]


def standing_of(card: Card) -> str:
    """Say where the run stands.

    Args:
        card: The card.

    Returns:
        One or two sentences.
    """
    found = card.proposed
    if card.refused:
        names = ", ".join(map(plain, card.refused))
        return f"The policy refuses: {names}. Only a change of the policy allows a yes."
    if found.state == "refused" and found.answer != "no":
        return "It has expired. The coordinator may submit it again."
    by = f" by {found.actor}" if found.answer in ("yes", "no") else ""
    return f"It {'is ' if found.answer else ''}{_ANSWERS[found.answer]}{by}."


def plain(words: str) -> str:
    """Write a name of the schema as people read it.

    Args:
        words: The name.

    Returns:
        With blanks for underscores.

    >>> plain("federated_training")
    'federated training'
    """
    return words.replace("_", " ")


def number(value: float) -> str:
    """Write an epsilon.

    Args:
        value: Zero or above; infinite where something was released without noise.

    Returns:
        Four digits.

    >>> number(2.0), number(float("inf"))
    ('2', 'unbounded')
    """
    return "unbounded" if isinf(value) else f"{value:.4g}"


def _changes(card: Card, config: str) -> list[str]:
    if card.changed is None:
        return ["The installed skinml has no experiment of this name."]
    look = f"all of it: {config}"
    if not card.changed:
        return [f"Just as the installed skinml has it; {look}"]
    lines = [f"{name}: {theirs} (here: {ours})" for name, ours, theirs in card.changed]
    return [f"Differs from the installed skinml's; {look}", *lines]


def _tables(card: Card) -> list[str]:
    return [", ".join(each.replace(":", " by ").replace("_", " ") for each in card.tables)]


def _data(card: Card) -> list[str]:
    if card.data is None:
        return [f"Not counted: {card.data_note}"]
    counts = card.data
    if card.tables:
        lines = [f"{counts.num_patients:,} patients would be counted, once in each table."]
    else:
        lines = [f"{counts.num_patients:,} patients with {counts.num_images:,} images"]
        lines[0] += f"; {counts.num_training:,} of them train the model, the others test it."
    if counts.num_refused:
        more = (
            "1 other patient"
            if counts.num_refused == 1
            else f"{counts.num_refused:,} other patients"
        )
        lines.append(f"{more} may not be used for it.")
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
    if card.charged:
        lines.append(f"charged for it already: {number(card.charged)}")
        lines.append("the lines below are what it reaches if it goes on from there")
    for each in card.costs:
        line = f"{SPANS[each.span]}: {number(each.reached)}"
        if each.ceiling is not None:
            line += f" of at most {number(each.ceiling)}"
        if each.left is not None:
            line += f"; leaves {number(each.left)} for one more run"
        lines.append(line)
    again = "a round tried again is charged again: "
    most = "the policy has no ceiling" if card.most is None else f"at most {number(card.most)}"
    lines.append(again + most)
    return [*lines, f"at delta {card.delta:g}; smaller is more private"]
