"""What a clinic's node opens: its own sealed samples, unchanged, and nothing else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from skinml.clinic.folder import open_folder
from skinml.config import load_config
from skinml.errors import ConfigError, IntegrityError
from skinml.experiments.sites import Terms, drop_samples, open_clinic, store_samples
from skinml.records import SPLITS, Labels, Samples

RUN = "quickstart-20260101-000000-abcd"
NORTH, SOUTH = "north", "south"


def _samples(size: int) -> dict[str, Samples]:
    random = np.random.default_rng(0)
    return {
        split: Samples(
            inputs=random.normal(size=(size, 8)).astype(np.float32),
            labels=np.arange(size) % 2,
            patients=np.array([f"P{number}" for number in range(size)]),
            groups={"sex": np.full(size, "female")},
        )
        for split in SPLITS
    }


@pytest.fixture
def terms(tmp_path: Path) -> Terms:
    """A run of two clinics whose samples are stored."""
    for name in (NORTH, SOUTH):
        store_samples(open_folder(tmp_path, name), RUN, _samples(6))
    classes = Labels(("benign", "malignant"), (False, True))
    config = load_config("quickstart").model_dump_json()
    return Terms(RUN, config, (NORTH, SOUTH), str(tmp_path), classes, 8)


@pytest.mark.parametrize("node", [{"partition-id": 1}, {"clinic": SOUTH}])
def test_a_node_opens_the_clinic_that_it_stands_for(terms: Terms, node: dict[str, object]) -> None:
    assert open_clinic(terms, node).name == SOUTH


@pytest.mark.parametrize("node", [{}, {"partition-id": 2}, {"partition-id": -1}, {"clinic": "x"}])
def test_a_node_of_no_clinic_is_refused(terms: Terms, node: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="one of the run's clinics"):
        open_clinic(terms, node)


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("place", [0, 40, -1])
def test_changed_samples_are_never_opened(terms: Terms, split: str, place: int) -> None:
    path = Path(terms.clinics_root) / NORTH / "runs" / RUN / f"samples-{split}.sealed"
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(IntegrityError) as caught:
        open_clinic(terms, {"clinic": NORTH})
    assert caught.value.exit_code == 5
    assert open_clinic(terms, {"clinic": SOUTH}).name == SOUTH


def test_one_clinics_samples_do_not_open_at_another(terms: Terms) -> None:
    north, south = (Path(terms.clinics_root) / name / "runs" / RUN for name in (NORTH, SOUTH))
    (south / "samples-train.sealed").replace(north / "samples-train.sealed")
    with pytest.raises(IntegrityError):
        open_clinic(terms, {"clinic": NORTH})


def test_dropping_samples_leaves_none_and_can_be_repeated(terms: Terms) -> None:
    folder = open_folder(Path(terms.clinics_root), NORTH)
    for _ in range(2):
        drop_samples(folder, RUN)
        assert not folder.run(RUN).exists()
