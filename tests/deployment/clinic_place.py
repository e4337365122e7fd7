"""A clinic's folder and a coordinator's proposal, for tests."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from skinml.clinic.folder import ClinicFolder, create_folder, open_folder
from skinml.config import load_config
from skinml.deployment.bundle import digest
from skinml.deployment.run_proposal import RunProposal
from skinml.stewardship.policy import parse_policy
from tests.policy_text import policy_text

NOW = datetime(2026, 3, 1, 9, 30, tzinfo=UTC)
RUN = "quickstart-20260301-093000-1f2e"
FEDERATION = "derm-net"


def make_folder(place: Path, *, approval: str = "", **lines: str) -> ClinicFolder:
    """Make the folder of a clinic called north, whose policy knows the federation."""
    text = policy_text(**{"coordinators": f"[{FEDERATION}]", **lines})
    if approval:
        text += f"approval: {{without_asking: {approval}}}\n"
    policy = parse_policy(text.encode())
    create_folder(
        place / "north", name="north", policy=policy, anchors=place / "anchors", virtual=True
    )
    return open_folder(place / "north")


def proposal(*overrides: str, **changes: Any) -> RunProposal:
    """A proposal of the quickstart to the clinics north and south."""
    config = load_config("quickstart", overrides)
    values: dict[str, Any] = {
        "run": RUN,
        "experiment": "quickstart",
        "purpose": "federated_training",
        "config": json.dumps(config.model_dump(mode="json")),
        "coordinator": FEDERATION,
        "expires": NOW + timedelta(days=7),
        "bundle": digest(),
        "clinics": ("north", "south"),
    }
    return RunProposal(**(values | changes))
