"""The one screen about a run: its note, its row, and what the gate writes there."""

from __future__ import annotations

import json
import shutil
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from skinml.errors import DataError, EnvironmentProblem, PolicyError
from skinml.records import GroupResult
from skinml.tracking.content import final_metrics
from skinml.tracking.overview import GATE, NOTE, VIEW, experiment_tags, overview_tags, several_note
from skinml.tracking.page import serve_page
from skinml.tracking.quiet import quiet
from skinml.tracking.registry import stage_model
from skinml.tracking.settings import GROUP_ATTRIBUTES, TrackingSettings


def opened(uri: str):
    with quiet():
        from mlflow import MlflowClient

        return MlflowClient(uri, registry_uri=uri)


def test_the_note_answers_what_ran_on_what_at_which_epsilon_and_how_by_tone(make_record):
    tags = overview_tags(make_record(), GROUP_ATTRIBUTES)
    first = tags[NOTE].split("\n\n")[0].splitlines()
    assert first[0].startswith("- **Ran:** toy on toy, seed 3, 2026-11-21, SIMULATED")
    assert "INCOMPLETE" in first[0]
    assert "epsilon 2.90 at delta 1e-05" in first[1]
    assert "AUROC 0.90 (0.85 to 0.94)" in first[2]
    assert first[3].startswith("- **AUROC by skin tone:** 0-2: 0.90 (0.85 to 0.94)")
    assert "no criteria were fixed" in first[4]
    assert "| harbour | 2.90 | 4.10 | 2 of 2 |" in tags[NOTE]
    assert tags["skinml.by_tone"].startswith("0-2: 0.90")


def test_an_epsilon_is_never_shown_smaller_than_it_is_nor_with_more_digits_than_on_the_page(
    make_record,
):
    record = make_record()
    spent = replace(record.guarantee, epsilon=2.99996, total_epsilon=4.1301)
    found = replace(record, guarantee=spent)
    assert "epsilon 3.00 at delta" in overview_tags(found, GROUP_ATTRIBUTES)["skinml.promise"]
    told = final_metrics(found, GROUP_ATTRIBUTES)
    assert (told["epsilon"], told["total_epsilon"]) == (3.0, 4.14)


def test_without_tones_and_without_a_promise_the_note_says_so(make_record):
    record = make_record()
    bare = replace(
        record, groups=(), guarantee=replace(record.guarantee, private=False, epsilon=None)
    )
    tags = overview_tags(bare, GROUP_ATTRIBUTES)
    assert "NOT PRIVATE" in tags[NOTE]
    assert "how the model does by tone is not known" in tags[NOTE]
    assert tags["skinml.promise"] == "nothing: no noise was added"


def test_an_undefined_figure_is_told_with_its_reason_and_never_as_zero(make_record):
    note = overview_tags(make_record(), GROUP_ATTRIBUTES)[NOTE]
    assert "none: no malignant images" in note
    assert " 0.00 " not in note


@pytest.mark.parametrize("name", ["patient_00017", "HAM_0001234"])
def test_a_group_that_points_at_somebody_is_in_no_note(make_record, name):
    record = make_record()
    odd = GroupResult("skin_tone", name, 1, 1, 1, 0, record.overall.estimates)
    with pytest.raises(PolicyError) as caught:
        overview_tags(replace(record, groups=(odd,)), GROUP_ATTRIBUTES)
    assert name not in str(caught.value)


def test_a_name_cannot_write_markup_or_a_row_of_its_own():
    note = several_note("a|b", ("arm",), [("x | y\n| z <b>",)], "words")
    assert note.splitlines()[0] == "**a\\|b**"
    assert note.splitlines()[-3] == "| x \\| y \\| z \\<b\\> |"


def test_of_many_rows_the_note_has_the_first_and_says_how_many_there_are():
    note = several_note("many", ("arm", "auroc"), [(str(n), "1") for n in range(40)], "words")
    assert "and 28 more" in note
    assert len(note.splitlines()) < 25


def test_the_list_has_its_columns(finished):
    client = opened(finished.uri)
    tags = client.get_experiment_by_name("skinml").tags
    assert json.loads(tags[f"mlflow.sharedViewState.{VIEW}"])["selectedColumns"]
    assert experiment_tags().items() <= tags.items()


@pytest.fixture
def place(finished, tmp_path) -> Path:
    """A copy of the finished run's store: the test's own."""
    shutil.copy(finished.folder / "work" / "mlflow.db", tmp_path)
    return tmp_path


def staged(place, finished, record, **changes):
    usual = {"passed": True, "reasons": ["met: auroc at least 0.8; 0.90"]}
    return stage_model(TrackingSettings(), place, finished.run_id, record, **{**usual, **changes})


def test_the_gate_gives_stages_and_takes_them(place, finished, make_record):
    client = opened(f"sqlite:///{place / 'mlflow.db'}")
    before = client.get_model_version("skinml-toy", "1")
    assert before.tags[GATE] == "no criteria were fixed"
    assert before.aliases == []
    record = make_record()
    assert staged(place, finished, record).aliases == ("candidate",)
    both = staged(place, finished, record, approve=True)
    assert both.aliases == ("approved", "candidate")
    reason = "not met: auroc at least 0.95; 0.90"
    assert staged(place, finished, record, passed=False, reasons=[reason]).aliases == ()
    version = client.get_model_version("skinml-toy", "1")
    assert version.tags[GATE] == "refused"
    assert version.tags["skinml.gate_reason"] == reason
    run = client.get_run(finished.run_id).data.tags
    assert run[GATE] == "refused"
    assert "refused: not met: auroc at least 0.95" in run[NOTE]


def test_approval_never_comes_without_passing(place, finished, make_record):
    found = staged(place, finished, make_record(), passed=False, approve=True)
    assert found.aliases == ()


def test_the_gate_writes_to_no_other_run_than_its_own(place, finished, make_record):
    with pytest.raises(DataError, match="another run"):
        staged(place, finished, make_record(run="20261121-101502-toy-4"))
    client = opened(f"sqlite:///{place / 'mlflow.db'}")
    assert client.get_model_version("skinml-toy", "1").aliases == []


def test_a_port_that_is_taken_is_named(place):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(EnvironmentProblem, match=f"port={port}"):
            serve_page(TrackingSettings(), place, port=port, ready=print)


@pytest.mark.parametrize("uri", [None, "https://mlflow.example"])
def test_where_there_is_nothing_to_serve_the_page_says_what_to_do(tmp_path, uri):
    with pytest.raises(DataError, match=r"--work-dir|Open that address"):
        serve_page(TrackingSettings(uri=uri), tmp_path, port=0, ready=print)
    assert list(tmp_path.iterdir()) == []


def test_of_lesions_the_note_says_lesions(make_record):
    record = make_record()
    spread = replace(record.guarantee, epsilon_across_clinics=15.7943, max_clinics=4)
    found = replace(record, guarantee=spread, data={"name": "toy", "unit": "lesion"})
    tags = overview_tags(found, GROUP_ATTRIBUTES)
    assert tags["skinml.promise"].endswith("15.80 of a lesion at 4 clinics")
    assert " malignant images" in tags[NOTE].split("lesions, which stand for patients;")[1]
