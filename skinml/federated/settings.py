"""How rounds are run."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from skinml.attempts import MOST_ATTEMPTS

StrategyName = Literal[
    "fedavg", "fedadam", "fedyogi", "fedprox", "qfedavg", "trimmed_mean", "median", "krum"
]


class StrategySettings(BaseModel):
    """How clinics' sums become one step; which fit which trust model: `strategy_rules`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: StrategyName = Field(
        "fedavg",
        description="fedavg: the plain sum; fedadam, fedyogi: an adaptive step on it; fedprox: "
        "local steps that are drawn back to where they began; trimmed_mean, median, krum: robust "
        "against clinics that send something else than their sums; qfedavg: clinics with a high "
        "loss count more, only where nothing is promised.",
    )
    q: float = Field(
        0.1,
        ge=0,
        le=20,
        description="Power of a clinic's loss that it is weighed by; 0 is fedavg (qfedavg).",
    )
    server_learning_rate: float = Field(
        0.1, gt=0, description="Step of the coordinator (fedadam, fedyogi)."
    )
    beta_1: float = Field(
        0.9, ge=0, le=0.99999, description="Decay of the first moment (fedadam, fedyogi)."
    )
    beta_2: float = Field(
        0.99, ge=0, le=0.99999, description="Decay of the second moment (fedadam, fedyogi)."
    )
    tau: float = Field(
        1e-3, gt=0, description="Added to the root of the second moment (fedadam, fedyogi)."
    )
    proximal_mu: float = Field(
        0.01, gt=0, description="Pull of local steps back to the round's weights (fedprox)."
    )
    trim_fraction: float = Field(
        0.2,
        gt=0,
        lt=0.5,
        description="Part of the clinics cut off at each end, for each number by itself "
        "(trimmed_mean).",
    )
    malicious_clinics: int = Field(
        1, ge=0, description="Clinics that may send anything, f; needs 2 f + 3 clinics (krum)."
    )
    krum_selects: int = Field(
        1,
        ge=1,
        description="Clinics whose sums are taken; 1 is Krum itself, more is Multi-Krum (krum).",
    )


class FederationSettings(BaseModel):
    """How the clinics of a run are reached and what happens when one is missing."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mode: Literal["simulation", "centralised", "deployed"] = Field(
        "simulation",
        description="simulation: one Flower node a clinic on this machine; centralised: all "
        "patients at one clinic called 'pooled' and no wire; deployed: real clinics, which `skinml "
        "federation submit` asks.",
    )
    allowed_missing: int = Field(
        0, ge=0, description="Clinics that a round may go on without; more end the run (exit 4)."
    )
    round_deadline_s: float = Field(
        600.0, gt=0, description="Seconds after which a silent clinic counts as missing."
    )
    resends: int = Field(
        1,
        ge=0,
        le=10,
        description="How often a clinic that stays silent is asked the same again within the "
        "deadline; an answer that was lost is sent again as it was, at no cost.",
    )
    attempts: int = Field(
        1,
        ge=1,
        le=MOST_ATTEMPTS,
        description="Attempts at a round that too few clinics took part in; from the second on "
        "each costs as much of the budget as another round.",
    )
    cpus: int = Field(
        0, ge=0, description="Processor cores for the simulation; 0 takes all there are, at most 8."
    )
    strategy: StrategySettings = Field(
        default=StrategySettings(), description="How clinics' sums become one step."
    )
    max_update_norm: float | None = Field(
        None,
        gt=0,
        description="Greatest L2 norm of what one clinic sends in a round of training, for "
        "end-to-end training of how far its weights moved; a public figure. A clinic above it is "
        "missing in that round. None: no bound.",
    )
