"""Part of `scripts/bench`: one step of end-to-end DP-SGD, a clinic's sample of patients.

Beside it Opacus' default, `make_private` with hooks on the same network and images, and the same
step in plain PyTorch without privacy. What Opacus takes images for are patients of one image here.
The peers work in processes of their own, with the C library as it comes: skinml tells it to keep
freed memory, which a plain loop does not. All work on one thread; what is compared is processor
time, which other work on the machine changes little.
"""

from __future__ import annotations

import argparse
import copy
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from bench_rows import TURNS, Row, Size, in_turn, require_same, row
from opacus import PrivacyEngine
from torch import nn

from skinml.models.allocator import keep_freed_memory
from skinml.models.networks import build_network
from skinml.privacy.dpsgd import StepPlan, clipped_sum, descend
from skinml.privacy.dpsgd_sampling import Sampled
from skinml.privacy.gradient_modes import fastest_mode
from skinml.privacy.losses import LOSSES
from skinml.privacy.noise import secret_noise
from skinml.seeding import Seeds

CLASSES, CLIP_NORM, LEARNING_RATE = 2, 1.0, 0.1


@dataclass(frozen=True)
class Case:
    """One network and size of images.

    Attributes:
        name: What it is called in the table.
        build: Builds the network.
        pixels: Height and width.
        patients: How many are in a step.
        least: How many times as fast as Opacus' default ours should be.
    """

    name: str
    build: Callable[[], nn.Module]
    pixels: int
    patients: int
    least: float


class Depthwise(nn.Module):
    """Depthwise separable convolutions with GroupNorm, as small mobile networks have them."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, 32, 3, 2, 1, bias=False), nn.GroupNorm(8, 32)]
        layers.append(nn.ReLU())
        for wide, wider, stride in ((32, 64, 1), (64, 128, 2), (128, 128, 1), (128, 256, 2)):
            layers += [nn.Conv2d(wide, wide, 3, stride, 1, groups=wide, bias=False)]
            layers += [nn.GroupNorm(8, wide), nn.ReLU()]
            layers += [nn.Conv2d(wide, wider, 1, bias=False), nn.GroupNorm(8, wider), nn.ReLU()]
        self.body, self.fc = nn.Sequential(*layers), nn.Linear(256, CLASSES)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Score images."""
        scores: torch.Tensor = self.fc(self.body(images).mean(dim=(2, 3)))
        return scores


def depthwise() -> nn.Module:
    """Build the depthwise network with fixed weights."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Depthwise()


def named(name: str) -> Callable[[], nn.Module]:
    """Build one of skinml's networks with fixed weights."""
    return lambda: build_network(name, CLASSES, Seeds(0).stream("weights"))


FULL = (
    Case("small CNN, 64 px", named("small_cnn"), 64, 64, 1.0),
    Case("ResNet-18 GroupNorm, 64 px", named("resnet18_groupnorm"), 64, 32, 1.0),
    Case("ResNet-18 GroupNorm, 128 px", named("resnet18_groupnorm"), 128, 16, 1.0),
    Case("depthwise net, 64 px", depthwise, 64, 64, 2.0),
)
SMOKE = (
    Case("small CNN, 16 px", named("small_cnn"), 16, 6, 1.0),
    Case("depthwise net, 16 px", depthwise, 16, 6, 2.0),
)
CASES = {"full": FULL, "smoke": SMOKE}


def rows(size: Size) -> list[Row]:
    """Measure a step of each network.

    Args:
        size: "smoke" or "full".

    Returns:
        The rows.
    """
    torch.set_num_threads(1)
    keep_freed_memory()  # as a run does
    found = []
    for case in CASES[size]:
        found += measure(case, TURNS[size], size)
    return found


def measure(case: Case, turns: int, size: Size) -> list[Row]:
    """Time a step beside Opacus' default, and beside one without privacy."""
    images, labels = batch(case)
    ours = Ours(case, images, labels)
    moved = Opacus(case, images, labels, noise_multiplier=0.0).moved()
    # Opacus adds 1e-6 to each norm before it divides by it.
    require_same(f"clipped sum of {case.name} beside Opacus", ours.exact(), moved, 2e-3)
    found = []
    for kind, words in (("opacus", "Opacus"), ("plain", "no privacy")):
        with Elsewhere(CASES[size].index(case), size, kind) as peer:
            mine, other = in_turn(ours.step, peer.step, turns)
        against = case if kind == "opacus" else None
        name = f"dpsgd: {case.name}, beside {words}"
        found.append(_row(name, mine, other, against, ours.mode, size))
    return found


def batch(case: Case) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw the images of a step and their classes, the same in each process."""
    stream = torch.Generator().manual_seed(0)
    images = torch.randn((case.patients, 3, case.pixels, case.pixels), generator=stream)
    return images, torch.randint(CLASSES, (case.patients,), generator=stream)


class Elsewhere:
    """A peer in a process of its own, which takes a step for each line that it is given.

    Args:
        place: Number of the case.
        size: "smoke" or "full".
        kind: "opacus" or "plain".
    """

    def __init__(self, place: int, size: Size, kind: str) -> None:
        words = [sys.executable, __file__, str(place), size, kind]
        self._process = subprocess.Popen(  # noqa: S603  # ourselves
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self) -> Elsewhere:
        """Wait for nothing: the first step does."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the process."""
        self._process.communicate()

    def step(self) -> float:
        """Let it take one step, and hear how many seconds of the processor that took."""
        asked, answers = self._process.stdin, self._process.stdout
        if asked is None or answers is None:
            raise RuntimeError("the peer has no pipes")
        asked.write("step\n")
        asked.flush()
        return float(answers.readline())


def serve(arguments: list[str]) -> None:
    """Take a peer's steps, one for each line of the standard input."""
    parser = argparse.ArgumentParser()
    parser.add_argument("place", type=int)
    parser.add_argument("size", choices=list(CASES))
    parser.add_argument("kind", choices=("opacus", "plain"))
    asked = parser.parse_args(arguments)
    torch.set_num_threads(1)
    case = CASES[asked.size][asked.place]
    images, labels = batch(case)
    peer: Opacus | Plain = Plain(case, images, labels)
    if asked.kind == "opacus":
        peer = Opacus(case, images, labels, noise_multiplier=1.0)
    for _ in sys.stdin:
        began = time.process_time()
        peer.step()
        sys.stdout.write(f"{time.process_time() - began!r}\n")
        sys.stdout.flush()


def _row(
    name: str,
    mine: list[float],
    other: list[float],
    case: Case | None,
    mode: str,
    size: Size,
) -> Row:
    return row(
        name,
        [1e3 * each for each in mine],
        [1e3 * each for each in other],
        goal=None if case is None else f"at least {case.least:g}",
        size=size,
        unit="ms of CPU",
        note=f"mode {mode}" + ("" if case is None else f", {case.patients} patients a step"),
    )


class Ours:
    """A step of skinml.

    Args:
        case: What.
        images: The patients' images.
        labels: Their classes.
    """

    def __init__(self, case: Case, images: torch.Tensor, labels: torch.Tensor) -> None:
        self._module, self._images, self._labels = case.build(), images, labels
        loss = LOSSES["cross_entropy"]
        self.mode = fastest_mode(self._module, tuple(images.shape[1:]), loss)
        self._sample = [Sampled(np.array([at]), at) for at in range(len(images))]
        self._plan = StepPlan(
            steps=1,
            sampling_prob=1.0,
            divisor=float(len(images)),
            clip_norm=CLIP_NORM,
            noise_multiplier=1.0,
            learning_rate=LEARNING_RATE,
            max_images=1,
            mode=self.mode,
        )

    def exact(self) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        """Add up the clipped gradients."""
        module = copy.deepcopy(self._module)
        return clipped_sum(module, self._images, self._labels, self._sample, self._plan)

    def step(self) -> float:
        """Take one step, and tell how many seconds of the processor that took."""
        began = time.process_time()
        total = clipped_sum(self._module, self._images, self._labels, self._sample, self._plan)
        total += secret_noise().normal(total.shape, CLIP_NORM)
        descend(self._module, total * (LEARNING_RATE / self._plan.divisor))
        return time.process_time() - began


class Opacus:
    """A step of Opacus with hooks, all images in one batch.

    Args:
        case: What.
        images: The images.
        labels: Their classes.
        noise_multiplier: Its noise.
    """

    def __init__(
        self, case: Case, images: torch.Tensor, labels: torch.Tensor, noise_multiplier: float
    ) -> None:
        self._images, self._labels = images, labels
        module = case.build()
        held = torch.utils.data.TensorDataset(images, labels)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._module, self._optimiser, _ = PrivacyEngine().make_private(
                module=module,
                optimizer=torch.optim.SGD(module.parameters(), lr=LEARNING_RATE),
                data_loader=torch.utils.data.DataLoader(held, batch_size=len(images)),
                noise_multiplier=noise_multiplier,
                max_grad_norm=CLIP_NORM,
                poisson_sampling=False,
            )

    def moved(self) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        """Take one step, and tell the sum that it followed, in the order of the names."""
        before = flat(self._module._module)
        self.step()
        return (before - flat(self._module._module)) * len(self._images) / LEARNING_RATE

    def step(self) -> None:
        """Take one step."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._optimiser.zero_grad()
            scores = self._module(self._images)
            nn.functional.cross_entropy(scores, self._labels).backward()
            self._optimiser.step()


class Plain:
    """A step without privacy.

    Args:
        case: What.
        images: The images.
        labels: Their classes.
    """

    def __init__(self, case: Case, images: torch.Tensor, labels: torch.Tensor) -> None:
        self._module, self._images, self._labels = case.build(), images, labels
        self._optimiser = torch.optim.SGD(self._module.parameters(), lr=LEARNING_RATE)

    def step(self) -> None:
        """Take one step."""
        self._optimiser.zero_grad()
        nn.functional.cross_entropy(self._module(self._images), self._labels).backward()
        self._optimiser.step()


def flat(module: nn.Module) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Put a network's parameters behind one another, in the order of their names."""
    parts = [p.detach().numpy().ravel() for _, p in sorted(module.named_parameters())]
    return np.concatenate(parts).astype(np.float64)


if __name__ == "__main__":
    serve(sys.argv[1:])
