"""What a coordinator asks a clinic for: a run, word for word."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from skinml.clinic.folder import ClinicFolder
from skinml.config import RunConfig, parse_config
from skinml.deployment.invitations import CLINIC_NAME
from skinml.errors import ConfigError
from skinml.stewardship.policy_terms import Proposal as Terms

if TYPE_CHECKING:
    from skinml.experiments.approval import Draft

_LONGEST_CONFIG = 256 * 1024
_SAME_RELEASE = "Use the same release of skinml at the coordinator and at the clinics."

_Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.@+-]{0,127}$")]
_Clinic = Annotated[str, Field(pattern=CLINIC_NAME)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class RunProposal(BaseModel):
    """What a coordinator asks for. All of it comes from another machine."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = 1
    run: _Name = Field(description="The run's id.")
    experiment: _Name = Field(description="The experiment's name.")
    purpose: _Name = Field(description="What the data shall be used for.")
    config: str = Field(max_length=_LONGEST_CONFIG, description="The run's whole config, JSON.")
    coordinator: _Name = Field(description="The federation's name.")
    expires: AwareDatetime = Field(description="Until when a yes holds.")
    bundle: Sha256 = Field(description="SHA-256 of the code that travels.")
    clinics: tuple[_Clinic, ...] = Field(
        min_length=1, max_length=1000, description="The clinics that are asked."
    )

    @property
    def digest(self) -> str:
        """SHA-256 of all that it says, 64 hexadecimal digits."""
        return hashlib.sha256(self.content()).hexdigest()

    def content(self) -> bytes:
        """Write it down, always the same way."""
        values = self.model_dump(mode="json")
        return json.dumps(values, sort_keys=True, separators=(",", ":")).encode() + b"\n"


def parse_proposal(content: str | bytes) -> RunProposal:
    """Read a proposal that came from a coordinator.

    Args:
        content: JSON.

    Returns:
        The proposal.

    Raises:
        ConfigError: If it is none, or not byte for byte as `RunProposal.content` writes it.
    """
    try:
        found = RunProposal.model_validate_json(content)
        if found.content() == (content if isinstance(content, bytes) else content.encode()):
            return found
        fields = ["the whole"]
    except ValidationError as error:
        named = sorted({str(each["loc"][0]) for each in error.errors() if each["loc"]})
        fields = named or ["the whole"]
    raise ConfigError(
        rule="a proposal of a run, as this release of skinml writes it",
        got=f"another form of: {', '.join(fields)}",
        do=_SAME_RELEASE,
    )


def config_of(proposal: RunProposal) -> RunConfig:
    """Read a proposal's config with the installed release's own rules.

    Args:
        proposal: The proposal.

    Returns:
        The config.

    Raises:
        ConfigError: If it is none, or not of the experiment and the purpose that are asked for.
    """
    try:
        values = json.loads(proposal.config)
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict):
        raise ConfigError(
            rule="a config as a JSON object",
            got="another text",
            do=_SAME_RELEASE,
        )
    config = parse_config(values)
    if (config.name, config.purpose) != (proposal.experiment, proposal.purpose):
        raise ConfigError(
            rule="a config of the experiment and for the purpose that are asked for",
            got="another experiment's or purpose's",
            do="Submit the run again.",
        )
    return config


def asked(folder: ClinicFolder, proposal: RunProposal) -> tuple[Draft, Terms]:
    """Put a proposal into the terms of the clinic's policy.

    Args:
        folder: The clinic's folder.
        proposal: What is asked for.

    Returns:
        The run as its recipe plans it, of a run that has begun here what is left of it, and the
        terms; patients are not counted in them.

    Raises:
        ConfigError: If the config's sections do not fit together.
        IntegrityError: If the clinic's ledger was changed.
    """
    from skinml.experiments.approval import (  # takes long to load
        drafted,
        expected_classes,
        first_round_left,
        propose,
    )

    config = config_of(proposal)
    classes = expected_classes(config)
    draft = drafted(
        config,
        classes,
        num_clinics=len(proposal.clinics),
        run=proposal.run,
        from_round=first_round_left(folder, proposal.run),
    )
    terms = propose(draft, folder, num_patients=None)
    return draft, replace(terms, coordinator=proposal.coordinator)
