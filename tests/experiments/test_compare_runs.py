"""What a comparison is made of: arms from words, patients in common, runs that are the same."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from skinml.config import load_config
from skinml.errors import ConfigError, InputError
from skinml.experiments.compare_configs import sorted_by_config, told_config
from skinml.experiments.compare_plan import arms_of, plan_runs, require_affordable, seeds_of
from skinml.experiments.compare_runs import FinishedRun, find_broken_off, find_finished, in_common
from skinml.experiments.workspace import Workspace
from skinml.records import Labels, Predictions
from skinml.tracking.allowlist import checked_params

BINARY = Labels(("benign", "malignant"), (False, True))


def predictions(*patients: str) -> Predictions:
    size = len(patients)
    return Predictions(
        BINARY,
        np.zeros(size, dtype=np.int64),
        np.tile([0.4, 0.6], (size, 1)),
        np.ones(size, dtype=np.int64),
        np.array(patients),
        {"skin_tone": np.array(patients)},
    )


def test_each_epsilon_is_an_arm_and_each_change_one_more_of_each() -> None:
    arms = arms_of(["none", "3.0"], ["seed=1 training.head.rounds=9"])
    assert [arm.changes for arm in arms] == [
        ("privacy.trust=none",),
        ("privacy.epsilon=3",),
        ("privacy.trust=none", "seed=1", "training.head.rounds=9"),
        ("privacy.epsilon=3", "seed=1", "training.head.rounds=9"),
    ]
    assert [arm.name for arm in arms_of([], ["data.seed=1"])] == ["as configured", "data.seed=1"]


@pytest.mark.parametrize("words", ["", "1,1", "1,,2", "1.5", "-1", "one"])
def test_seeds_are_different_whole_numbers(words: str) -> None:
    with pytest.raises(InputError, match="whole numbers"):
        seeds_of(words)


@pytest.mark.parametrize("word", ["0", "-3", "inf", "nan", "None", "much"])
def test_an_epsilon_is_a_number_above_zero(word: str) -> None:
    with pytest.raises(InputError, match="epsilon"):
        arms_of([word])


def test_every_config_is_composed_before_the_first_run_begins() -> None:
    with pytest.raises(ConfigError, match="no_such"):
        plan_runs("quickstart", (), arms_of(["3"], ["privacy.no_such=1"]), (0,))
    planned = plan_runs("quickstart", ("seed=9",), arms_of(["none", "3"]), (4, 5))
    assert [(run.arm, run.config.seed) for run in planned] == [
        ("none", 4),
        ("none", 5),
        ("epsilon 3", 4),
        ("epsilon 3", 5),
    ]
    assert [run.config.privacy.private for run in planned] == [False, False, True, True]


def test_an_arm_that_changes_nothing_is_refused() -> None:
    arms = arms_of([], ["mitigation.method=none"])
    with pytest.raises(InputError, match=r"'mitigation.method=none' beside 'as configured'"):
        plan_runs("quickstart", (), arms, (0,))


def test_what_several_runs_are_charged_is_their_composition(tmp_path) -> None:
    arms = arms_of(["none", "2"])
    planned = plan_runs("quickstart", ("training.head.rounds=3",), arms, (0, 1))
    found = require_affordable(planned, "quickstart", Workspace(tmp_path))
    assert (found.num_runs, found.num_unbounded) == (4, 2)
    # Two runs of epsilon 2 cost more than one and, as Gaussian noise composes, less than twice 2.
    assert 2.5 < found.epsilon < 3.5
    one = require_affordable(planned[2:3], "quickstart", Workspace(tmp_path))
    assert one.epsilon == pytest.approx(2, abs=0.02)


def test_who_is_not_in_every_run_is_in_none() -> None:
    shared, left_out = in_common([predictions("a", "b", "b", "c"), predictions("b", "b", "c", "d")])
    assert left_out == 2
    for each in shared:
        assert each.patients.tolist() == ["b", "b", "c"]
        assert each.groups["skin_tone"].tolist() == ["b", "b", "c"]
    same, nobody = in_common([predictions("a"), predictions("a")])
    assert nobody == 0
    assert [each.patients.tolist() for each in same] == [["a"], ["a"]]


def test_a_run_of_another_config_or_of_other_code_is_not_taken(not_private) -> None:
    workspace = Workspace(not_private.folder.parents[1])
    config = load_config("quickstart", ()).model_copy(update={"work_dir": workspace.root})
    assert find_finished(config, workspace) is None
    assert find_broken_off(config, workspace) is None
    kept = not_private.record.config
    own = type(config).model_validate(kept)
    found = find_finished(own, workspace)
    assert found is not None
    assert found.record.run == not_private.record.run
    assert find_finished(own.model_copy(update={"seed": 77}), workspace) is None
    path = not_private.folder / "record.json"
    content = path.read_text()
    source = not_private.record.versions["skinml source"]
    path.write_text(content.replace(source, "sha256:0000000000000000"))
    try:
        assert find_finished(own, workspace) is None
    finally:
        path.write_text(content)


def test_runs_are_one_arm_where_their_configs_differ_in_the_seed_alone(not_private) -> None:
    def run(number: int, seed: int, private: bool = True, **privacy: object) -> FinishedRun:
        record = not_private.record
        words = {"epsilon": 3.0, "trust": "distributed" if private else "none", **privacy}
        config = {**record.config, "seed": seed}
        config["privacy"] = {**record.config["privacy"], **words}
        promised = replace(record.guarantee, private=private, trust=str(words["trust"]))
        named = replace(record, run=f"run-{number}", seed=seed, config=config, guarantee=promised)
        return FinishedRun(not_private.folder, named)

    def names(*runs: FinishedRun) -> dict[str, int]:
        return {name: len(each) for name, each in sorted_by_config(runs).items()}

    bare = run(0, 0, private=False)
    assert names(bare, run(1, 1, private=False, epsilon=8.0)) == {"none": 2}
    assert names(bare, run(1, 0), run(2, 1)) == {"none": 1, "epsilon 3": 2}
    assert names(run(1, 0), run(2, 0, epsilon=1.0)) == {"epsilon 3": 1, "epsilon 1": 1}
    assert names(run(1, 0), run(2, 0, trust="local")) == {
        "epsilon 3, privacy.trust=distributed": 1,
        "epsilon 3, privacy.trust=local": 1,
    }
    assert names(run(1, 0), run(2, 0, clip_norm=0.1)) == {
        "epsilon 3, privacy.clip_norm=0.5": 1,
        "epsilon 3, privacy.clip_norm=0.1": 1,
    }
    # The same seed twice is not two seeds.
    assert names(run(1, 0), run(2, 0)) == {"run-1": 1, "run-2": 1}


def test_what_a_comparison_tells_of_the_configs_may_be_tracked(not_private) -> None:
    told = told_config(FinishedRun(not_private.folder, not_private.record))
    assert checked_params(told)["privacy.trust"] == "none"
