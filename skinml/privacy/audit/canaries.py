"""White-box canaries: who was in, read from every release of a run.

Each canary is a patient whom the auditor made and who was in training or not by a fair coin. The
auditor knows everything but the coins and the noise: the queries, everybody else's exact sums, and
what each canary would have added. Those known sums are subtracted; what is left is noise and the
canaries that were in.

Symbols in this file: m canaries, s numbers in a release.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from skinml.errors import ConfigError, require_positive
from skinml.records import BoolArray, FloatArray


@dataclass(frozen=True, repr=False)
class Evidence:
    """What the releases so far tell about the canaries.

    Attributes:
        gram: (m, m) inner products of the canaries' contributions over the noise's variance.
        match: (m,) inner products of contributions and what is left of the releases, likewise.
    """

    gram: FloatArray
    match: FloatArray


def toss_coins(num_canaries: int, rng: np.random.Generator) -> BoolArray:
    """Decide which canaries are in training.

    Args:
        num_canaries: m.
        rng: A random stream.

    Returns:
        (m,) independent fair coins.
    """
    return rng.random(num_canaries) < 0.5


def no_evidence(num_canaries: int) -> Evidence:
    """Begin without a release.

    Args:
        num_canaries: m.

    Returns:
        Evidence of nothing.
    """
    return Evidence(np.zeros((num_canaries, num_canaries)), np.zeros(num_canaries))


def add_release(
    evidence: Evidence, contributions: FloatArray, left: FloatArray, std: float
) -> Evidence:
    """Take a release into account.

    Args:
        evidence: What is known from the releases before it.
        contributions: (m, s) what each canary adds to the exact release if it is in.
        left: (s,) the release less everybody else's exact sum.
        std: Standard deviation of the noise that the release is said to have, above zero.

    Returns:
        The evidence of all of them.

    Raises:
        ConfigError: If std is not above zero.
    """
    require_positive(std=std)
    scaled = contributions / std
    return Evidence(
        evidence.gram + scaled @ scaled.T, evidence.match + scaled @ (left.ravel() / std)
    )


def canary_scores(evidence: Evidence) -> FloatArray:
    """Score each canary: least squares over all releases, in standard deviations of its noise.

    Where the noise is what it is said to be, a score is normal of variance 1, and being in moves
    its mean by the mu of Gaussian differential privacy that this canary loses. Canaries need not
    be orthogonal: what they share is taken out, which can only lower the mean.

    Args:
        evidence: What all releases tell.

    Returns:
        (m,) scores, higher for who was in.

    Raises:
        ConfigError: If some canary cannot be told from the others.

    Source:
        Best linear unbiased estimation, Aitken 1936.
    """
    gram = evidence.gram
    try:
        np.linalg.cholesky(gram)
        inverse = np.linalg.inv(gram)
    except np.linalg.LinAlgError:
        raise ConfigError(
            rule="canaries that differ in what they add to the releases",
            got=f"{len(gram)} canaries, some of which are sums of others",
            do="Plant fewer canaries.",
        ) from None
    spread = np.sqrt(np.diagonal(inverse))
    return np.asarray((inverse @ evidence.match) / spread)
