"""The usual way to train privately at several clinics: Flower's simulation, Opacus in each client.

    python scripts/bench_flower_opacus.py FEATURES.npz RESULT.json --rounds 20

The peer of `bench_malignancy.py`: FedAvg over a linear layer on the same features, one local epoch
a round, `make_private` in each client with the noise that Opacus asks for at epsilon 3 over all
rounds. Its unit is the image. Step size and clip were chosen on the validation images.
"""

from __future__ import annotations

import argparse
import json
import os
import time
import warnings
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from opacus import PrivacyEngine
from opacus.accountants.utils import get_noise_multiplier
from sklearn.metrics import roc_auc_score
from torch import nn

BATCH, LEARNING_RATE, MOMENTUM, CLIP_NORM = 64, 0.3, 0.9, 1.0
EPSILON, DELTA = 3.0, 1e-5
client = ClientApp()


@cache
def opened(path: str) -> Mapping[str, np.ndarray]:
    """Read the features once a process."""
    with np.load(path, allow_pickle=False) as held:
        return {name: held[name] for name in held.files}


def part(path: str, split: str, clinic: str | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Take the images of a split, of one clinic or of all."""
    held = opened(path)
    rows = held["split"] == split
    if clinic is not None:
        rows &= held["clinic"] == clinic
    return torch.from_numpy(held["inputs"][rows]), torch.from_numpy(held["labels"][rows])


def layer(path: str) -> nn.Linear:
    """Make the model."""
    held = opened(path)
    made = nn.Linear(held["inputs"].shape[1], int(held["labels"].max()) + 1)
    nn.init.zeros_(made.weight)
    nn.init.zeros_(made.bias)
    return made


@client.train()
def train(message: Message, context: Context) -> Message:
    """Train one epoch with Opacus."""
    told = message.content["config"]
    path = str(told["path"])
    clinics = sorted(set(opened(path)["clinic"].tolist()))
    place = int(context.node_config["partition-id"])
    inputs, labels = part(path, "train", clinics[place])
    module = layer(path)
    module.load_state_dict(message.content["arrays"].to_torch_state_dict())
    held = torch.utils.data.TensorDataset(inputs, labels)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrapped, optimiser, loader = PrivacyEngine().make_private(
            module=module,
            optimizer=torch.optim.SGD(module.parameters(), LEARNING_RATE, MOMENTUM),
            data_loader=torch.utils.data.DataLoader(held, batch_size=BATCH),
            noise_multiplier=json.loads(str(told["noise"]))[place],
            max_grad_norm=CLIP_NORM,
        )
        for batch, truth in loader:
            optimiser.zero_grad()
            nn.functional.cross_entropy(wrapped(batch), truth).backward()
            optimiser.step()
    content = RecordDict(
        {
            "arrays": ArrayRecord(wrapped._module.state_dict()),
            "metrics": MetricRecord({"num-examples": len(labels)}),
        }
    )
    return Message(content, reply_to=message)


def noise_of(path: str, rounds: int) -> list[float]:
    """Ask Opacus for the noise of each clinic."""
    found = []
    for clinic in sorted(set(opened(path)["clinic"].tolist())):
        count = len(part(path, "train", clinic)[1])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found.append(
                get_noise_multiplier(
                    target_epsilon=EPSILON,
                    target_delta=DELTA,
                    sample_rate=min(1.0, BATCH / count),
                    epochs=rounds,
                    accountant="rdp",
                )
            )
    return found


def without_start(seconds: list[float]) -> float:
    """Add the rounds' seconds up; the first, in which workers start, counts as the median.

    Args:
        seconds: Of each round.

    Returns:
        Seconds of all rounds.
    """
    return float(np.sum(seconds[1:]) + np.median(seconds[1:]))


def main() -> None:
    """Train, and write down how long it took and what came of it."""
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n", maxsplit=1)[0])
    parser.add_argument("features", type=Path)
    parser.add_argument("result", type=Path)
    parser.add_argument("--rounds", type=int, default=20)
    asked = parser.parse_args()
    path, held = str(asked.features.resolve()), opened(str(asked.features.resolve()))
    noise = noise_of(path, asked.rounds)
    server, kept = ServerApp(), {}

    @server.main()
    def serve(grid: Grid, context: Context) -> None:
        clinics = len(noise)
        strategy = FedAvg(
            fraction_evaluate=0.0, min_train_nodes=clinics, min_available_nodes=clinics
        )
        told = ConfigRecord({"path": path, "noise": json.dumps(noise)})
        first = ArrayRecord(layer(path).state_dict())
        ends: list[float] = []

        def note(number: int, arrays: ArrayRecord) -> MetricRecord:
            ends.append(time.perf_counter())
            return MetricRecord()

        done = strategy.start(
            grid, first, num_rounds=asked.rounds, train_config=told, evaluate_fn=note
        )
        kept["rounds_s"] = without_start(np.diff(ends).tolist())
        kept["state"] = done.arrays.to_torch_state_dict()

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    began = time.perf_counter()
    run_simulation(
        server_app=server,
        client_app=client,
        num_supernodes=len(noise),
        backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0.0}},
    )
    whole = time.perf_counter() - began
    module = layer(path)
    module.load_state_dict(kept["state"])
    test = held["split"] == "test"
    with torch.no_grad():
        scores = module(torch.from_numpy(held["inputs"][test])).softmax(dim=1)[:, 1].numpy()
    auroc = float(roc_auc_score(held["labels"][test], scores))
    found = {"whole_s": whole, "rounds_s": kept["rounds_s"], "auroc": auroc, "noise": noise}
    asked.result.write_text(json.dumps(found))


if __name__ == "__main__":
    # Worker processes import this module by its name instead of unpickling it.
    import bench_flower_opacus

    bench_flower_opacus.main()
