"""How a federation stands: its clinics, its runs, its server, its certificates."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from skinml.deployment import bundle
from skinml.deployment.certificates import RENEW_DAYS, expiry, fingerprint
from skinml.deployment.federation_folder import Enrolment, FederationFolder
from skinml.deployment.flower_runs import FlowerRun, list_runs
from skinml.deployment.invitations import parse_time, time_text
from skinml.deployment.open_runs import OpenRun, open_runs
from skinml.deployment.superlink import Node, control, listed
from skinml.durable import read_whole
from skinml.errors import EnvironmentProblem


@dataclass(frozen=True)
class Certificates:
    """When the certificates end, and the digest by which people compare the authority.

    Attributes:
        authority_ends: UTC.
        authority_digest: SHA-256 of the authority's certificate.
        server_ends: UTC.
    """

    authority_ends: datetime
    authority_digest: str
    server_ends: datetime

    def values(self) -> dict[str, object]:
        """Write it as JSON.

        Returns:
            Plain values.
        """
        return {
            "authority": {
                "expires": time_text(self.authority_ends),
                "sha256": self.authority_digest,
            },
            "certificate": {"expires": time_text(self.server_ends)},
        }


@dataclass(frozen=True)
class Clinic:
    """How a clinic stands.

    Attributes:
        name: Its name.
        enrolment: What the book says.
        node: What the SuperLink says; None where it was not asked or knows of none.
        expired: Whether it is invited with a code that has ended.
    """

    name: str
    enrolment: Enrolment
    node: Node | None
    expired: bool

    @property
    def state(self) -> str:
        """One word for it: invited, expired, joined or revoked."""
        return "expired" if self.expired else self.enrolment.state

    def values(self) -> dict[str, object]:
        """Write it as JSON.

        Returns:
            Plain values; node_id as text, for it is larger than JSON's readers can count.
        """
        seen = self.node.last_seen if self.node else None
        node_id = self.enrolment.node_id
        return {
            "state": self.state,
            "purposes": list(self.enrolment.purposes),
            "expires": self.enrolment.expires,
            "joined": self.enrolment.joined,
            "revoked": self.enrolment.revoked,
            "node_id": None if node_id is None else str(node_id),
            "node": self.node.status if self.node else None,
            "last_seen": time_text(seen) if seen else None,
        }


@dataclass(frozen=True)
class Overview:
    """How a federation stands.

    Attributes:
        federation: Its name.
        address: Where clinics connect to.
        served_since: Since when it is served, UTC; None where it is not.
        answers: Whether the SuperLink answered.
        certificates: When they end.
        clinics: The clinics in order of their names.
        runs: The runs that are not over, in order of their ids.
        at: When this was found.
    """

    federation: str
    address: str
    served_since: str | None
    answers: bool
    certificates: Certificates
    clinics: tuple[Clinic, ...]
    runs: tuple[OpenRun, ...]
    at: datetime

    def values(self) -> dict[str, object]:
        """Write it as JSON.

        Returns:
            Plain values.
        """
        return {
            "federation": self.federation,
            "address": self.address,
            "served_since": self.served_since,
            "answers": self.answers,
            **self.certificates.values(),
            "bundle": bundle.digest(),
            "clinics": {each.name: each.values() for each in self.clinics},
            "runs": {each.run: each.values() for each in self.runs},
        }

    def remarks(self) -> tuple[str, ...]:
        """Say what somebody should look after.

        Returns:
            Sentences.
        """
        found = []
        left = (self.certificates.server_ends - self.at).days
        if left < 0:
            found.append("The server's certificate has expired: restart skinml federation serve.")
        elif left < RENEW_DAYS:
            found.append(
                f"The server's certificate ends in {left} days; the next start of skinml "
                "federation serve renews it."
            )
        if self.served_since and not self.answers:
            found.append("The SuperLink does not answer: see logs/serve.jsonl in the folder.")
        return tuple(found)


def certificates_of(folder: FederationFolder) -> Certificates:
    """Read when a federation's certificates end.

    Args:
        folder: The federation's folder.

    Returns:
        The times, and the authority's digest.

    Raises:
        EnvironmentProblem: If a file cannot be read.
        IntegrityError: If one is damaged.
    """
    authority = read_whole(folder.ca_certificate, "authority's certificate")
    server = read_whole(folder.server_certificate, "server's certificate")
    return Certificates(expiry(authority), fingerprint(authority), expiry(server))


def overview(folder: FederationFolder, now: datetime, also: Iterable[str] = ()) -> Overview:
    """Find out how a federation stands.

    Args:
        folder: The federation's folder.
        now: The time, with its zone.
        also: Runs to be shown even if they are finished.

    Returns:
        How it stands; without what the SuperLink knows where it does not answer.

    Raises:
        EnvironmentProblem: If a file cannot be read.
        IntegrityError: If one is damaged.
    """
    served = folder.served()
    known: dict[int, Node] = {}
    flower: tuple[FlowerRun, ...] = ()
    answers = False
    if served is not None:
        try:
            with control(folder, served.port) as client:
                known = {node.id: node for node in listed(client)}
                flower = list_runs(client)
            answers = True
        except EnvironmentProblem:
            pass  # the overview says so
    clinics = tuple(
        Clinic(
            name=name,
            enrolment=each,
            node=known.get(each.node_id) if each.node_id is not None else None,
            expired=each.state == "invited" and now >= parse_time(each.expires),
        )
        for name, each in sorted(folder.enrolments().items())
    )
    return Overview(
        federation=folder.name,
        address=folder.settings.address,
        served_since=served.since if served else None,
        answers=answers,
        certificates=certificates_of(folder),
        clinics=clinics,
        runs=open_runs(folder, flower, now, also),
        at=now,
    )
