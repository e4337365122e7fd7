"""From what each clinic sent to one total: the plain sum, or a sum that outliers cannot pull far.

A robust total stands in the place of the sum over k clinics: k times the coordinate-wise median,
k times the trimmed mean, or k times the mean of the clinics that Krum takes. Where clinics' sums
have their noise already, or nothing is promised, Flower's own classes do it. Under central trust
the noise must come between the rule and its result:

The sum of the m middle ones of k sorted numbers moves by at most as much as the numbers did
together, for sorting brings two lists no further apart (rearrangement). Of one patient each clinic
i holds a part v_i, so that the middle sums move by at most sum_i |v_i| in each coordinate, and by
at most sum_i ||v_i|| in L2 norm: no more than the plain sum is bounded by. They consist of the
same multiples of the grid. So they are released in the sum's place, with the sum's noise and the
sum's event, and the factor k/m comes after the noise. Krum has no such bound: one patient can
change which clinics are taken.

k clinics, m of them in the middle.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict

from skinml.errors import IntegrityError
from skinml.federated.plain_sums import PlainSum
from skinml.federated.settings import StrategySettings
from skinml.federated.strategy_rules import ROBUST
from skinml.privacy.mechanism import Mechanism
from skinml.records import Arrays, FloatArray
from skinml.training.learner import Round

if TYPE_CHECKING:
    from flwr.serverapp.strategy import FedAvg

Combine = Callable[[Mapping[str, Arrays], Round, Mechanism], Arrays]
"""From the clinics' arrays, the round and the coordinator's noise to the total."""

# What a robust rule is for. Counts of scores stay sums: most of their cells hold hardly anybody,
# and a median of them would be empty.
_TRAINING = ("training", "label counts")
_LOCAL_STEPS = "local_steps"


def add_up(sums: Mapping[str, Arrays], round_: Round, mechanism: Mechanism) -> Arrays:
    """Add the clinics' arrays up.

    A round whose total this is needs no clinic's arrays longer than it takes to add them, see
    `skinml.federated.plain_sums.PlainSum`: the coordinator does not keep them.

    Args:
        sums: The arrays of each clinic.
        round_: The round.
        mechanism: The coordinator's part of the noise.

    Returns:
        One array a release, with the coordinator's noise.
    """
    total = PlainSum(round_)
    for arrays in sums.values():
        total.add(arrays)
    return total.total(mechanism)


def combiner(strategy: StrategySettings, trust: str) -> Combine:
    """Choose how the clinics' arrays become a total.

    Args:
        strategy: The strategy; `strategy_rules.require_allowed` has let it pass.
        trust: The run's trust model.

    Returns:
        The function. FedAvg, FedAdam, FedYogi and FedProx share the plain sum.

    Guarantees:
        Under trust "central" the total is post-processing of a release that one patient moves by
        at most the release's sensitivity, with the release's noise.
    """
    if strategy.name not in ROBUST:
        return add_up

    def combine(sums: Mapping[str, Arrays], round_: Round, mechanism: Mechanism) -> Arrays:
        if any(release.purpose not in _TRAINING for release in round_.releases):
            return add_up(sums, round_, mechanism)
        if trust == "central":
            return _middle(strategy, sums, round_, mechanism)
        return aggregated(_flower_strategy(strategy), sums)

    return combine


def aggregated(strategy: FedAvg, sums: Mapping[str, Arrays]) -> dict[str, FloatArray]:
    """Let one of Flower's strategies aggregate, every clinic with the same weight.

    Args:
        strategy: The strategy; of it `aggregate_train` is called.
        sums: The arrays of each clinic, of the same names and shapes.

    Returns:
        What it gives, times the number of clinics: it stands for a sum.

    Raises:
        IntegrityError: If the strategy gives nothing.
    """
    replies = [_reply(arrays) for _, arrays in sorted(sums.items())]
    found, _ = strategy.aggregate_train(1, replies)
    if found is None:
        raise IntegrityError(
            rule="arrays from the strategy's aggregation",
            got=f"none of {len(replies)} clinics",
            do="Ask at least one clinic.",
        )
    return {name: len(replies) * array.numpy() for name, array in found.items()}


def _reply(arrays: Arrays) -> Message:
    """Wrap a clinic's arrays as Flower's strategies read them; they take arrays out of it."""
    record = ArrayRecord({name: Array(np.ascontiguousarray(a)) for name, a in arrays.items()})
    content = RecordDict({"arrays": record, "metrics": MetricRecord({"num-examples": 1})})
    return Message(content, 1, "train")


def _flower_strategy(strategy: StrategySettings) -> FedAvg:
    from flwr.serverapp.strategy import FedMedian, FedTrimmedAvg, MultiKrum  # slow to load

    if strategy.name == "median":
        return FedMedian()
    if strategy.name == "trimmed_mean":
        return FedTrimmedAvg(beta=strategy.trim_fraction)
    return MultiKrum(
        num_malicious_nodes=strategy.malicious_clinics, num_nodes_to_select=strategy.krum_selects
    )


def _middle(
    strategy: StrategySettings, sums: Mapping[str, Arrays], round_: Round, mechanism: Mechanism
) -> Arrays:
    """Release the sum of the middle ones in place of the sum, then scale it up to k."""
    k = len(sums)
    cut = (k - 1) // 2 if strategy.name == "median" else int(strategy.trim_fraction * k)
    total: dict[str, FloatArray] = {}
    for release in round_.releases:
        ordered = np.sort([arrays[release.name] for arrays in sums.values()], axis=0)
        middle = np.sum(ordered[cut : k - cut], axis=0)
        total[release.name] = mechanism.privatize(release, middle) * (k / (k - 2 * cut))
    return total


def require_short(
    sums: Arrays, round_: Round, query: Arrays, bound: float | None, clinic: str
) -> None:
    """Refuse a clinic's arrays that are longer than the run's public bound.

    Under local noise the bound has to leave room for it, a length of about the noise's standard
    deviation times the root of the array's size: it stops scaling, and no small lie.

    Args:
        sums: The clinic's arrays, whose names and shapes are sound.
        round_: The round.
        query: What the clinic was sent; after local steps the length is that of the move from it.
        bound: Greatest L2 norm; none: everything passes.
        clinic: Whose they are, for the message.

    Raises:
        IntegrityError: If an array for training is longer.
    """
    for release in round_.releases:
        if bound is None or release.purpose != "training":
            continue
        sent = sums[release.name]
        if round_.kind == _LOCAL_STEPS:
            sent = sent - np.concatenate([query[name].ravel() for name in sorted(query)])
        if (norm := float(np.linalg.norm(sent))) > bound:
            raise IntegrityError(
                rule=f"'{release.name}' of L2 norm at most {bound:g} "
                f"(federation.max_update_norm) from clinic {clinic}",
                got=f"norm {norm:.3g}",
                do="Ask the clinic what it sent.",
            )
