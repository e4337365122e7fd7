"""A federation inside one process: real folders, the coordinator's and the clinics' real code.

Messages go through `LocalGrid` instead of a SuperLink; everything else is what a deployment runs.
"""

from __future__ import annotations

import csv
import hashlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from skinml.clinic.folder import ClinicFolder, create_folder, open_folder
from skinml.deployment import joining
from skinml.deployment.federation_folder import Enrolment, FederationFolder, make_federation
from skinml.deployment.server_app import conduct
from skinml.deployment.site_app import OpenRun, site_app
from skinml.experiments.sites import Terms, open_site, site_setup
from skinml.federated.clinic import Clinic, ClinicSetup
from skinml.federated.local_grid import LocalGrid
from skinml.privacy.noise import NoiseSource, fixed_noise
from skinml.stewardship.policy import parse_policy
from tests.policy_text import policy_text

NAME = "derm-net"
WIDE: Mapping[str, str] = {
    "coordinators": f"[{NAME}]",
    "least_patients": "5",
    "max_epsilon_per_run": "20",
    "max_epsilon_per_year": "100",
    "max_epsilon_for_life": "100",
}
UNBOUNDED = {f"max_epsilon_{span}": "null" for span in ("per_run", "per_year", "for_life")}
"""What a clinic's policy allows where a test fixed the noise, and nothing is promised."""
IN_PROCESS_S = 300.0
"""Seconds that one answer may take: clinics in the same process compute while they are asked."""
BY_RULE = "approval: {without_asking: [quickstart]}\n"


class LocalFederation:
    """A federation's folder, its clinics' folders, and a grid between them.

    Attributes:
        folder: The federation's folder.
        clinics: Each clinic's folder.
    """

    def __init__(
        self,
        place: Path,
        data: Mapping[str, Path],
        *,
        rule: str = BY_RULE,
        open_run: OpenRun = open_site,
        asked_for: Sequence[str] = ("federated_training",),
        **policy: str,
    ) -> None:
        now = datetime.now(UTC)
        self.folder: FederationFolder = make_federation(place / "net", NAME, "127.0.0.1:8443", now)
        self.clinics: dict[str, ClinicFolder] = {}
        self._apps: dict[int, ClientApp] = {}
        for number, (name, images) in enumerate(data.items(), start=2):
            self.clinics[name] = folder = make_clinic(place, name, rule, policy)
            _join(self.folder, folder, number, images, asked_for)
            app = site_app(folder.path, open_run)
            self._apps |= {number: app, number + len(data): app}
        self.heard: list[tuple[str, str]] = []
        self.before: Callable[[str, str], None] = lambda clinic, kind: None

    def conduct(self, run: str) -> None:
        """Drive a submitted run, as the process does that Flower starts for it."""
        conduct(self.folder, run, self.grid(), patience_s=IN_PROCESS_S)

    def grid(self) -> LocalGrid:
        """Make a grid that brings each node's messages to its clinic, which may join twice."""
        names = dict(enumerate([*self.clinics, *self.clinics], start=2))

        class Router(ClientApp):
            def __call__(app, message: Message, context: Context) -> Message:  # noqa: N805 ours is self
                node = message.metadata.dst_node_id
                self.before(names[node], message.metadata.message_type)
                self.heard.append((names[node], message.metadata.message_type))
                return self._apps[node](message, context)

        return LocalGrid(Router(), [{} for _ in names])


def open_with_fixed_noise(terms: Terms, folder: ClinicFolder) -> Clinic:
    """Open a clinic whose noise is its name's, every time."""
    return Clinic(with_fixed_noise(site_setup(terms, folder)))


def fixed_source(name: str) -> Callable[[], NoiseSource]:
    """Give a clinic's noise for tests: the same in each release."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
    return lambda: fixed_noise(np.random.default_rng(seed))


def with_fixed_noise(setup: ClinicSetup) -> ClinicSetup:
    """Replace the source of a clinic's noise, not its size."""
    return replace(setup, mechanism=replace(setup.mechanism, open_source=fixed_source(setup.name)))


def slices(whole: Path, clinics: Sequence[str], place: Path, most: int = 10**6) -> dict[str, Path]:
    """Give each clinic a folder of its own rows and images of a cohort.

    Args:
        whole: The cohort's folder.
        clinics: Names in the manifest.
        place: Where the folders are made.
        most: Patients of a clinic at most, half of them ill where there are as many.
    """
    with (whole / "manifest.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    made = {}
    for name in clinics:
        mine = [row for row in rows if row["clinic"] == name]
        ill = {row["patient_id"] for row in mine if row["malignant"] == "1"}
        well = {row["patient_id"] for row in mine} - ill
        kept = {*sorted(ill, key=_shuffled)[: most // 2]}
        kept |= {*sorted(well, key=_shuffled)[: most - len(kept)]}
        folder = place / f"images-{name}"
        for row in (mine := [row for row in mine if row["patient_id"] in kept]):
            target = folder / row["image"]
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(whole / row["image"], target)
        with (folder / "manifest.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(mine)
        for sidecar in whole.glob("manifest.y*ml"):
            shutil.copyfile(sidecar, folder / sidecar.name)
        made[name] = folder
    return made


def _shuffled(patient: str) -> str:
    return hashlib.sha256(patient.encode()).hexdigest()


def make_clinic(place: Path, name: str, rule: str, lines: Mapping[str, str]) -> ClinicFolder:
    """Make a clinic's folder whose policy has other lines than the usual ones."""
    text = policy_text(**{**WIDE, **lines, "clinic": name}) + rule
    create_folder(
        place / name,
        name=name,
        policy=parse_policy(text.encode()),
        anchors=place / f"anchors-{name}",
        virtual=True,
    )
    return open_folder(place / name)


def _join(
    federation: FederationFolder,
    folder: ClinicFolder,
    node: int,
    images: Path,
    purposes: Sequence[str],
) -> None:
    now = datetime.now(UTC)
    key = folder.path / "keys" / f"node-{node:016x}"
    made = ec.generate_private_key(ec.SECP384R1())
    key.write_bytes(made.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    key.chmod(0o600)
    member = joining.Membership(
        federation=NAME,
        clinic=folder.name,
        address="127.0.0.1:8443",
        ca="none",
        node_id=node,
        node_key=key.name,
        public_key=joining.public_line(key),
        joined=now,
        data=str(images),
    )
    content = member.model_dump_json().encode()
    folder.anchors.replace(folder.path / joining.FILE, content, "membership")
    with federation.changing() as book:
        book[folder.name] = Enrolment(
            state="joined",
            code_digest="0" * 64,
            expires=now.isoformat(),
            purposes=tuple(purposes),
            node_id=node,
            signing_key=folder.identity.public_key,
            joined=now.isoformat(),
        )
