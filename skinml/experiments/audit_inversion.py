"""Gradient inversion through the real contributors: raw updates against what leaves a clinic.

The worst case for the patient: a clinic whose only patient it is, and a coordinator that sends
weights of its own choice and knows in which steps the patient was. Updates come from the recipe's
own contributor; only the share of the noise differs between the views.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count

import numpy as np
from numpy.typing import NDArray

from skinml.config import RunConfig
from skinml.errors import DataError
from skinml.experiments.learners import build_learner
from skinml.experiments.progress import Progress, Silence
from skinml.models.linear_head import head_inputs
from skinml.models.networks import (
    build_network,
    input_tensor,
    network_arrays,
)
from skinml.privacy.audit.inversion import (
    Effort,
    InversionFinding,
    Observed,
    Picture,
    place_of,
    places,
    psnr,
    reconstruct,
    recover_features,
    ssim,
)
from skinml.privacy.mechanism import Mechanism
from skinml.privacy.trust import noise_rule
from skinml.records import FloatArray, Labels, Samples, join_samples
from skinml.seeding import Seeds
from skinml.training.head_clinic import GRADIENT
from skinml.training.learner import Round

_MOST_UPDATES = 30
_HEADS_ATTACKED = 20
_GALLERY = 500


@dataclass(frozen=True)
class View:
    """Something that an attacker may see of one clinic's update.

    Attributes:
        seen: What it is, in words.
        under: Under which trust models, and by whom, it can be seen.
        share: The noise in it, as a part of the whole noise of the promise.
    """

    seen: str
    under: tuple[str, ...]
    share: float


@dataclass(frozen=True, eq=False)
class Inverted:
    """What came of the attacks.

    Attributes:
        findings: One a view.
        pictures: For the report; empty for heads.
        note: What a reader must know of it, a whole sentence or more.
    """

    findings: tuple[InversionFinding, ...]
    pictures: tuple[Picture, ...]
    note: str


def views(config: RunConfig, num_clinics: int) -> tuple[View, ...]:
    """List what can be seen of a clinic's update under the four trust models.

    Args:
        config: The run's config.
        num_clinics: Clinics in the run.

    Returns:
        From no noise to all of it.

    Raises:
        ConfigError: If no honest clinic would be left.
    """
    shared = config.privacy.model_copy(update={"trust": "distributed"})
    part = noise_rule(shared, num_clinics).clinic
    found = [
        View("the raw update", ("none: everybody", "central: the coordinator"), 0.0),
        View(
            "all noise, everybody else's part known",
            ("central: who gets the model", "distributed: the sum", "local: the coordinator"),
            1.0,
        ),
    ]
    if part < 1:
        one = View("one clinic's part alone", ("distributed: who breaks the secure sum",), part)
        found.insert(1, one)
    return tuple(found)


def invert_heads(
    config: RunConfig,
    samples: Mapping[str, Samples],
    classes: Labels,
    *,
    num_attacked: int = _HEADS_ATTACKED,
) -> Inverted:
    """Recover features from a head's gradients and look for the patient whom they belong to.

    The attacker knows every candidate's features, sends the same weights in each round and averages
    what comes back.

    Args:
        config: The experiment's config, of a linear head.
        samples: Each clinic's training samples, features of norm at most 1.
        classes: What the head tells apart.
        num_attacked: Patients who are attacked.

    Returns:
        A finding a view; no pictures.

    Raises:
        DataError: If there are fewer than two patients.
    """
    everybody = join_samples(list(samples.values()))
    chosen = _one_item_each(everybody, _GALLERY, Seeds(config.seed).stream("audit/gallery"))
    _require_several(len(chosen))
    attacked = list(range(min(num_attacked, len(chosen))))
    num_features = everybody.inputs.shape[1]
    learner = build_learner(config, classes, num_features, len(samples))
    gradients = [each for each in learner.rounds if each.kind == GRADIENT]
    centre = everybody.inputs.mean(axis=0).astype(np.float32)
    state = dict(learner.start()) | {"centre": centre}
    query = learner.query(gradients[0], state)
    alone = [learner.contributor(everybody.take(chosen[at : at + 1])) for at in range(len(chosen))]
    nobody = np.random.default_rng(0)  # heads take all patients: nothing is drawn from it

    def answers(who: int, rounds: Sequence[Round], share: float) -> FloatArray:
        mechanism = Mechanism(share)
        sums = [alone[who].contribute(each, query, mechanism, nobody)[GRADIENT] for each in rounds]
        return np.asarray(np.mean(sums, axis=0))

    exact = np.stack([answers(who, gradients[:1], 0.0) for who in range(len(chosen))])
    bias = config.training.head.bias_input
    inputs = head_inputs(everybody.inputs[chosen], centre, bias)[:, :-1]
    unrelated = float(np.mean([_cosine(inputs[at], inputs[at - 1]) for at in attacked]))
    release = next(each for each in gradients[0].releases if each.name == GRADIENT)
    findings = []
    for view in views(config, len(samples)):
        rounds = gradients if view.share > 0 else gradients[:1]
        seen = np.stack([answers(who, rounds, view.share) for who in attacked])
        distances = _distances(seen, exact)
        where = [place_of(distances[at], who) for at, who in enumerate(attacked)]
        alike = [
            _cosine(recover_features(seen[at], bias), inputs[who])
            for at, who in enumerate(attacked)
        ]
        findings.append(
            InversionFinding(
                what="features",
                seen=view.seen,
                under=view.under,
                noise=view.share * release.noise_multiplier,
                num_updates=len(rounds),
                num_attacked=len(attacked),
                num_candidates=len(chosen),
                place=float(np.mean(where)),
                likeness={"cosine": float(np.mean(alike))},
                unrelated={"cosine": unrelated},
            )
        )
    return Inverted(tuple(findings), (), _FEATURES_NOTE)


_FEATURES_NOTE = (
    "A head never sees pictures, only a backbone's features of them: what an update gives away are "
    "the features, and by them the patient. Pictures can be had back from networks that are "
    "trained end to end."
)


def invert_pictures(
    config: RunConfig,
    samples: Mapping[str, Samples],
    classes: Labels,
    *,
    may_be_shown: bool,
    num_attacked: int = 2,
    effort: Effort | None = None,
    progress: Progress | None = None,
) -> Inverted:
    """Reconstruct pictures from the gradients of a network that is trained end to end.

    Args:
        config: The experiment's config, of a network.
        samples: Each clinic's training samples, images (n, height, width, 3) of uint8.
        classes: What the network tells apart.
        may_be_shown: Whether the data are drawn or under a licence that lets others see them.
        num_attacked: Patients who are attacked.
        effort: How hard the attacker tries.
        progress: Hears how far it is.

    Returns:
        A finding a view, and the pictures where they may be shown.

    Raises:
        DataError: If there are fewer than two patients with pictures.
    """
    everybody = join_samples(list(samples.values()))
    chosen = _one_item_each(everybody, _GALLERY, Seeds(config.seed).stream("audit/gallery"))
    _require_several(len(chosen))
    gallery = input_tensor(everybody.inputs[chosen]).numpy().astype(np.float64)
    attacked = list(range(min(num_attacked, len(chosen))))
    target = _Target(config, classes)
    watcher, seen = progress or Silence(), views(config, len(samples))
    watcher.begin("reconstructing pictures", len(seen) * len(attacked))
    # What an attacker can know without any update: what such pictures look like on average.
    averages = [_average_of_others(gallery, who) for who in attacked]
    pictures = [
        _shown("the patient's picture", at, gallery[who]) for at, who in enumerate(attacked)
    ]
    findings, done = [], 0
    for view in seen:
        got = []
        for at, who in enumerate(attacked):
            one = everybody.take(chosen[who : who + 1])
            observed = target.updates(one, view.share)
            rng = Seeds(config.seed).stream(f"audit/inversion/{at}")
            label = int(one.labels[0])
            got.append(reconstruct(observed, label, averages[at], effort or Effort(), rng))
            pictures.append(_shown(view.seen, at, got[-1]))
            done += 1
            watcher.reached(done)
        findings.append(_found(view, target, got, gallery, attacked, averages))
    pictures += [_shown("no update: the average", at, each) for at, each in enumerate(averages)]
    note = _PICTURES_NOTE if may_be_shown else f"{_PICTURES_NOTE} {_NOT_SHOWN}"
    return Inverted(tuple(findings), tuple(pictures) if may_be_shown else (), note)


_PICTURES_NOTE = (
    "The attacker is a coordinator that sends weights of its own choice to a clinic whose only "
    "patient it is. It knows the diagnosis and which steps the patient was drawn into, and begins "
    "with the average of all other pictures."
)
_NOT_SHOWN = (
    "Pictures are not shown: some of these data are a clinic's own patients, whose pictures no "
    "licence lets others see."
)


class _Target:
    """A clinic of one patient that answers a coordinator of ill will, with its real contributor."""

    def __init__(self, config: RunConfig, classes: Labels) -> None:
        recipe = config.training.network
        steps = recipe.rounds * recipe.steps_per_round
        # As many steps as a patient is drawn into on average; the attacker is told which.
        self.num_updates = min(_MOST_UPDATES, max(1, round(steps * recipe.sampling_prob)))
        # The same schedule a step at a time: the sum of one step is what noise is shared in.
        one_step = recipe.model_copy(
            update={"rounds": steps, "steps_per_round": 1, "gradient_mode": "auto"}
        )
        privacy = config.privacy.model_copy(update={"trust": "central"})
        training = config.training.model_copy(update={"network": one_step})
        own = config.model_copy(update={"privacy": privacy, "training": training})
        self._learner = build_learner(own, classes, 0, 1)
        self._round = self._learner.rounds[0]
        self.noise = self._round.releases[0].noise_multiplier
        self._seeds, self._name, self._classes = Seeds(config.seed), config.model.network, classes

    def updates(self, samples: Samples, share: float) -> list[Observed]:
        """Ask the clinic at weights of the attacker's choice, and keep the steps with the patient.

        The draws depend on the step and the patient, not on the noise.
        """
        contributor, name = self._learner.contributor(samples), self._round.releases[0].name
        start, found = self._learner.start(), list[Observed]()
        for step in count():
            draws = f"audit/sampling/{step}"
            bare = contributor.contribute(
                self._round, start, Mechanism(0.0), self._seeds.stream(draws)
            )
            if not bare[name].any():
                continue
            network = build_network(
                str(self._name),
                len(self._classes.names),
                self._seeds.stream(f"audit/weights/{len(found)}"),
            )
            seen = contributor.contribute(
                self._round, network_arrays(network), Mechanism(share), self._seeds.stream(draws)
            )
            found.append(Observed(network, np.asarray(seen[name])))
            if len(found) == self.num_updates:
                break
        return found


def _found(
    view: View,
    target: _Target,
    got: Sequence[FloatArray],
    gallery: FloatArray,
    attacked: Sequence[int],
    averages: Sequence[FloatArray],
) -> InversionFinding:
    where = places(np.stack(got), gallery, attacked)
    return InversionFinding(
        what="picture",
        seen=view.seen,
        under=view.under,
        noise=view.share * target.noise,
        num_updates=target.num_updates,
        num_attacked=len(attacked),
        num_candidates=len(gallery),
        place=float(np.mean(where)),
        likeness=_likeness(got, gallery[list(attacked)]),
        unrelated=_likeness(averages, gallery[list(attacked)]),
    )


def _likeness(got: Sequence[FloatArray], truths: FloatArray) -> dict[str, float]:
    pairs = list(zip(got, truths, strict=True))
    return {
        "psnr": float(np.mean([psnr(one, truth) for one, truth in pairs])),
        "ssim": float(np.mean([ssim(one, truth) for one, truth in pairs])),
    }


def _one_item_each(samples: Samples, at_most: int, rng: np.random.Generator) -> NDArray[np.intp]:
    """Choose patients in a random order, and of each the first item."""
    _, first = np.unique(samples.patients, return_index=True)
    return np.asarray(rng.permutation(first)[:at_most])


def _require_several(num_patients: int) -> None:
    if num_patients < 2:
        raise DataError(
            rule="at least two training patients to tell apart",
            got=f"{num_patients}",
            do="Audit an experiment with more patients.",
        )


def _average_of_others(gallery: FloatArray, who: int) -> FloatArray:
    return np.asarray((gallery.sum(axis=0) - gallery[who]) / (len(gallery) - 1))


def _distances(seen: FloatArray, exact: FloatArray) -> FloatArray:
    """(m, n) squared distances between what was seen and each candidate's gradient."""
    flat, known = seen.reshape(len(seen), -1), exact.reshape(len(exact), -1)
    return np.asarray((known**2).sum(axis=1) - 2 * flat @ known.T)


def _cosine(one: FloatArray, other: FloatArray) -> float:
    lengths = float(np.linalg.norm(one) * np.linalg.norm(other))
    return float(one @ other) / lengths if lengths > 0 else 0.0


def _shown(title: str, row: int, picture: FloatArray) -> Picture:
    pixels = np.rint((np.clip(picture, -1, 1) + 1) * 127.5).astype(np.uint8)
    return Picture(title, row, np.ascontiguousarray(pixels.transpose(1, 2, 0)))
