from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
import yaml
from pydantic import BaseModel

from skinml.data.cohort import MALIGNANCY, Cohort, Door, build_cohort, licensed_only
from skinml.data.groups import age_bands
from skinml.data.manifest import read_manifest
from skinml.data.settings import DataSettings
from skinml.errors import ConfigError, DataError, PolicyError
from skinml.records import SPLITS, Labels
from skinml.seeding import Seeds
from skinml.stewardship.licences import LICENCES
from skinml.stewardship.policy import KEPT_FIELDS

if TYPE_CHECKING:
    from tests.data.conftest import Folder

CONFIGS = Path(__file__).parents[2] / "configs" / "data"
DAY = datetime.date(2026, 11, 21)
BINS = {"skin_tone": {"0-2": ("0", "1", "2"), "3-5": ("3", "4", "5")}}


def settings(**more: Any) -> DataSettings:
    plain: dict[str, Any] = {
        "name": "test",
        "root": ".",
        "split_key": "key",
        "tone_scale": "milk",
        "bins": BINS,
    }
    return DataSettings.model_validate(plain | more)


def cohort(folder: Folder, rows: pd.DataFrame | None = None, **options: Any) -> Cohort:
    if rows is not None:
        folder.write(rows)
    manifest = read_manifest(folder.manifest, root=folder.root)
    asked = {"purpose": "research", "doors": licensed_only} | {
        name: options.pop(name) for name in {"labels", "split", "purpose", "doors"} & options.keys()
    }
    return build_cohort(manifest, settings(**options), Seeds(0), day=DAY, **asked)


@pytest.fixture
def many(make_folder: Callable[..., Folder]) -> Folder:
    return make_folder(60)


def test_every_image_is_an_item_with_its_groups(many: Folder) -> None:
    made = cohort(many)
    raw = many.rows
    assert made.labels == MALIGNANCY
    assert made.items["patient_id"].tolist() == raw["patient_id"].tolist()
    assert made.items["label"].tolist() == [0, 1] * 30
    assert made.items["sex"].tolist()[:4] == ["unknown", "female", "female", "unknown"]
    assert made.items["age_band"].tolist()[9:11] == ["0-29", "30-49"]
    assert made.items["skin_tone"].tolist()[:6] == ["0-2"] * 3 + ["3-5"] * 3
    assert made.views.tolist() == [[index] for index in range(60)]
    assert made.images["row"].tolist() == list(range(2, 62))
    assert made.tone_scale == "milk"


def test_the_table_has_the_unknown_last(many: Folder) -> None:
    many.rows["anatomical_site"] = ["upper_extremity", "", "back"] * 20
    many.write(many.rows)
    sites = [cell.group for cell in cohort(many).table if cell.attribute == "anatomical_site"]
    assert "unknown" in sites[2:]
    assert sites.index("unknown") == len(sites) - 1 > sites.index("upper_extremity")


def test_flow_ends_in_the_splits_and_loses_nobody_silently(many: Folder) -> None:
    made = cohort(many, where={"clinic": ["north"]})
    images = [stage.num_images for stage in made.flow]
    assert images[:4] == [60, 30, 30, 30]
    assert sum(images[-3:]) == 30
    assert [stage.name for stage in made.flow[-3:]] == list(SPLITS)
    assert made.flow[1].note == "clinic: north"


def test_table_counts_patients_and_malignant_items(many: Folder) -> None:
    made = cohort(many)
    for cell in made.table:
        rows = made.items
        if cell.attribute == "label":
            rows = rows[rows["label"] == made.labels.names.index(cell.group)]
        else:
            rows = rows[rows[cell.attribute] == cell.group]
        for split in SPLITS:
            part = rows[rows["split"] == split]
            assert cell.num_patients[split] == len(set(part["patient_id"]))
            assert cell.num_positives[split] == (part["label"] == 1).sum()
    attributes = {cell.attribute for cell in made.table}
    assert attributes == {"label", "clinic", "skin_tone", "sex", "age_band", "anatomical_site"}


def test_diagnoses_are_classes_in_the_order_asked_for(many: Folder) -> None:
    made = cohort(many, target="diagnosis", classes=["nevus", "melanoma"])
    assert made.labels == Labels(("nevus", "melanoma"), (False, True))
    turned = cohort(many, target="diagnosis", classes=["melanoma", "nevus"])
    assert (turned.items["label"] == 1 - made.items["label"]).all()
    assert (turned.items["malignant"] == made.items["malignant"]).all()


def test_a_class_without_items_is_refused(many: Folder) -> None:
    with pytest.raises(DataError, match="none of dermatofibroma"):
        cohort(many, target="diagnosis", classes=["nevus", "melanoma", "dermatofibroma"])


def test_a_class_that_nobody_knows_is_refused(many: Folder) -> None:
    with pytest.raises(ConfigError, match="classes=naevi"):
        cohort(many, target="diagnosis", classes=["naevi", "melanoma"])


def test_rows_of_other_diagnoses_are_left_out_and_counted(many: Folder) -> None:
    rows = many.rows.copy()
    rows.loc[:4, "diagnosis"] = "df"
    labels = Labels(("nevus", "melanoma"), (False, True))
    made = cohort(many, rows, labels=labels, split=False)
    assert len(made.items) == 55
    assert made.flow[3].num_images == 55
    assert set(made.items["split"]) == {"test"}


@pytest.fixture
def lesions(many: Folder) -> Folder:
    """Thirty lesions with a close-up and a dermoscopic image each; lesion 0 lacks its close-up."""
    rows = many.rows.iloc[:60].copy()
    for column in ("patient_id", "lesion_id", "diagnosis", "clinic", "skin_tone"):
        rows[column] = np.repeat(rows[column].to_numpy()[:30], 2)
    rows["modality"] = ["clinical_closeup", "dermoscopic"] * 30
    rows.loc[0, "modality"] = "overview"
    rows.loc[2, "age"] = ""
    rows.loc[3, "age"] = "55"
    many.write(rows)
    return many


def test_views_of_a_lesion_make_one_item(lesions: Folder) -> None:
    made = cohort(lesions, views=["dermoscopic", "clinical_closeup"])
    assert made.views.shape == (29, 2)
    in_order = dict.fromkeys(pd.read_csv(lesions.manifest)["lesion_id"].tolist()[2:])
    assert made.items["lesion_id"].tolist() == list(in_order)
    for view, modality in enumerate(["dermoscopic", "clinical_closeup"]):
        images = made.images.iloc[made.views[:, view]]
        assert set(images["modality"]) == {modality}
        assert images["lesion_id"].tolist() == made.items["lesion_id"].tolist()
    assert sorted(made.views.ravel().tolist()) == list(range(len(made.images)))
    stage = next(stage for stage in made.flow if stage.name == "with every view")
    assert (stage.num_images, stage.num_patients) == (58, 29)
    assert stage.note.endswith("these together count as one image in every figure")


def test_a_view_that_knows_the_age_speaks_for_the_other(lesions: Folder) -> None:
    made = cohort(lesions, views=["clinical_closeup", "dermoscopic"])
    assert made.items["age_band"].tolist()[0] == "50-69"


def test_views_that_disagree_are_refused(lesions: Folder) -> None:
    rows = pd.read_csv(lesions.manifest, dtype=str)
    rows.loc[4, "diagnosis"] = "mel"
    rows.loc[5, "diagnosis"] = "nv"
    with pytest.raises(DataError, match="1 lesions whose images have different ones"):
        cohort(lesions, rows, views=["clinical_closeup", "dermoscopic"])


def test_lesions_without_the_views_leave_nothing(many: Folder) -> None:
    with pytest.raises(DataError, match="none after choosing lesions with the views"):
        cohort(many, views=["dermoscopic", "clinical_closeup"])


def test_removing_a_patient_moves_nobody(many: Folder) -> None:
    partition = {"by": "random", "num_clinics": 2}
    before = cohort(many, partition=partition).items.set_index("patient_id")
    after = cohort(many, many.rows.drop(index=7), partition=partition).items
    after = after.set_index("patient_id")
    assert "P7" not in after.index
    columns = ["split", "clinic"]
    assert (before.loc[after.index, columns] == after[columns]).all().all()


CLINIC_FAULTS = {
    "one class": (lambda rows: rows.assign(diagnosis="nv"), "2 classes in training", "only benign"),
    "one patient": (lambda rows: rows.assign(patient_id="P0"), "2 training patients", "got 1"),
}


@pytest.mark.parametrize("fault", CLINIC_FAULTS)
def test_clinic_that_cannot_train_is_named(many: Folder, fault: str) -> None:
    change, rule, got = CLINIC_FAULTS[fault]
    south = many.rows["clinic"] == "south"
    rows = pd.concat([many.rows[~south], change(many.rows[south])])
    with pytest.raises(DataError) as caught:
        cohort(many, rows)
    assert f"{rule} at clinic south" in str(caught.value)
    assert got in str(caught.value)
    assert cohort(many, rows, split=False).items["split"].eq("test").all()
    other = pd.DataFrame([many.rows[~south].iloc[0]]).assign(
        image=rows["image"].iloc[-1], patient_id="P-private", lesion_id="L-private", licence=""
    )
    private = pd.concat([rows.iloc[:-1], other])
    with pytest.raises(DataError, match=f"{rule} at clinic south; got fewer"):
        cohort(many, private)


def test_clinic_without_a_training_patient_is_named(many: Folder) -> None:
    splits = cohort(many).items.set_index("patient_id")["split"]
    rows = many.rows.assign(clinic="north")
    rows.loc[rows["patient_id"].map(splits) == "test", "clinic"] = "south"
    with pytest.raises(DataError, match="2 training patients at clinic south; got 0"):
        cohort(many, rows)


def test_made_clinic_that_nobody_was_dealt_to_is_named(many: Folder) -> None:
    with pytest.raises(DataError, match="training patients at clinic made-"):
        cohort(many, partition={"by": "random", "num_clinics": 100, "prefix": "made"})


def test_clinic_asked_for_and_not_there_is_named(many: Folder) -> None:
    with pytest.raises(DataError, match="none for west"):
        cohort(many, where={"clinic": ["north", "west"]})


def test_unknown_clinic_can_be_evaluated(many: Folder) -> None:
    made = cohort(many, many.rows.drop(columns="clinic"), split=False)
    assert set(made.items["clinic"]) == {"unknown"}


def test_nothing_left_is_refused(many: Folder) -> None:
    with pytest.raises(DataError, match="none after choosing"):
        cohort(many, where={"modality": ["overview"]}, split=False)


def test_unknown_column_to_choose_by_is_refused(many: Folder) -> None:
    with pytest.raises(ConfigError, match=r"where\.hospital"):
        cohort(many, where={"hospital": ["x"]})


def test_scales_of_tone_are_never_mixed(many: Folder) -> None:
    rows = many.rows.copy()
    rows.loc[5, ["skin_tone", "skin_tone_scale"]] = ["4", "fitzpatrick"]
    with pytest.raises(DataError, match="fitzpatrick in 1 rows, milk in 59 rows"):
        cohort(many, rows)
    with pytest.raises(DataError, match="one scale of skin tone"):
        cohort(many, rows, bins={})
    assert cohort(many, where={"skin_tone_scale": ["milk"]}).tone_scale == "milk"


def test_bins_are_not_used_on_another_scale(many: Folder) -> None:
    rows = many.rows.assign(skin_tone="3", skin_tone_scale="fitzpatrick")
    with pytest.raises(DataError, match="of the scale milk"):
        cohort(many, rows)


def test_value_in_no_bin_is_refused(many: Folder) -> None:
    bins = {"skin_tone": {"0-2": ["0", "1", "2"], "3": ["3"]}}
    with pytest.raises(DataError, match="4 in 10 items, 5 in 10 items"):
        cohort(many, bins=bins)


def test_rows_without_a_basis_are_refused(many: Folder) -> None:
    with pytest.raises(PolicyError):
        cohort(many, many.rows.drop(columns="licence"))
    part = many.rows.assign(licence=["CC0"] * 50 + [""] * 10)
    made = cohort(many, part)
    assert len(made.items) == 50
    with pytest.raises(PolicyError):
        cohort(many, purpose="publication_of_images")
    # How many were refused, and how many of a clinic's own are in training, is not for the report.
    assert [stage.name for stage in made.flow] == ["test"]
    assert {split for cell in made.table for split in cell.num_patients} == {"test"}
    own = [each.standings for each in made.admissions.values()]
    assert sum(list(each.values()).count("") for each in own) == 50
    assert sum(list(each.values()).count("no licence") for each in own) == 10
    assert sum(admission.num_refused for admission in made.admissions.values()) == 10


def test_each_clinic_is_asked_about_its_own_patients_and_keeps_its_own_fields(many: Folder) -> None:
    asked: dict[str, set[str]] = {}

    def doors(clinic: str, patients: Sequence[str]) -> Door:
        asked[clinic] = set(patients)
        return Door(fields=() if clinic == "north" else KEPT_FIELDS)

    made = cohort(many, doors=doors)
    frame = read_manifest(many.manifest, root=many.root).frame
    assert asked == {
        str(clinic): set(rows["patient_id"]) for clinic, rows in frame.groupby("clinic")
    }
    unknown = made.items[["skin_tone", "sex", "age_band", "anatomical_site"]] == "unknown"
    north = made.items["clinic"] == "north"
    assert unknown[north].all(axis=None)
    assert not unknown[~north].all(axis=None)
    assert made.items["malignant"].tolist() == cohort(many).items["malignant"].tolist()


def test_a_licence_that_a_clinics_policy_does_not_name_opens_nothing_and_makes_nothing_public(
    many: Folder,
) -> None:
    def doors(clinic: str, patients: Sequence[str]) -> Door:
        return Door(Agreed(), licences=() if clinic == "north" else LICENCES)

    made = cohort(many, doors=doors)
    assert made.private
    admitted = {clinic: dict(each.admitted) for clinic, each in made.admissions.items()}
    assert admitted["north"].keys() == {"consent"}
    assert all(found.keys() == {"licence"} for n, found in admitted.items() if n != "north")


@dataclass(frozen=True)
class Agreed:
    """A register in which everybody agreed."""

    def verdicts(self, patients, purpose, day, kinds=None):
        return np.full(len(patients), "", dtype="<U20")


def test_a_manifest_is_private_as_soon_as_one_row_has_no_licence_used_or_not(many: Folder) -> None:
    assert not cohort(many).private
    licences = ["CC BY 4.0"] * 59
    made = cohort(many, many.rows.assign(licence=[*licences, ""]))
    assert made.private
    assert len(made.images) == 59
    assert cohort(many, many.rows.assign(licence=[*licences, "CC BY my lawyer"])).private


def test_digest_follows_what_is_chosen(many: Folder) -> None:
    one = cohort(many).digest
    assert cohort(many).digest == one
    assert cohort(many, split_key="other").digest != one
    assert cohort(many, many.rows.assign(sex="male")).digest != one


def test_age_limits_belong_to_the_upper_band() -> None:
    bands = age_bands([29.9, 30, 49, 50, np.nan], (30, 50)).tolist()
    assert bands == ["0-29", "30-49", "30-49", "50+", "unknown"]


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"roots": "x"}, "roots"),
        ({"root": None}, "needs root"),
        ({"target": "diagnosis"}, "at least two classes"),
        ({"classes": ["a", "a"]}, "differ"),
        ({"views": ["a", "a"]}, "differ"),
        ({"groups": ["hair"]}, "groups must be among"),
        ({"age_bands": [50, 30]}, "rise"),
        ({"bins": {"sex": {"a": ["x"], "b": ["x"]}}}, "share a value"),
        ({"tone_scale": None}, "need tone_scale"),
        ({"split_key": ""}, "split_key"),
    ],
)
def test_settings_that_contradict_themselves_are_refused(more: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        settings(**more)


def test_every_setting_is_described() -> None:
    def undescribed(model: type[BaseModel]) -> list[str]:
        bare = []
        for name, field in model.model_fields.items():
            if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
                bare += undescribed(field.annotation)
            if not field.description:
                bare.append(f"{model.__name__}.{name}")
        return bare

    assert undescribed(DataSettings) == []


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_config_is_valid_and_named_after_its_file(path: Path) -> None:
    shipped = DataSettings.model_validate(yaml.safe_load(path.read_text()))
    assert shipped.name == path.stem


@pytest.mark.derm
@pytest.mark.parametrize(
    ("name", "num_items", "num_patients", "clinics"),
    [
        (
            "derm_malignancy",
            10548,
            7898,
            {"milk10k", "rosendahl", "vidir_modern", "vidir_molemax"},
        ),
        ("derm_diagnosis", 7112, 5232, {"rosendahl", "vidir_modern", "vidir_molemax"}),
        ("derm_tone", 3436, 3339, {"milk-1", "milk-2", "milk-3", "milk-4"}),
    ],
)
def test_shipped_config_builds_its_cohort(
    derm_root: Path, name: str, num_items: int, num_patients: int, clinics: set[str]
) -> None:
    shipped = DataSettings.model_validate(yaml.safe_load((CONFIGS / f"{name}.yaml").read_text()))
    manifest = read_manifest(derm_root / shipped.manifest, root=derm_root, unit=shipped.unit)
    made = build_cohort(
        manifest, shipped, Seeds(shipped.seed), purpose="federated_training", day=DAY
    )
    assert len(made.items) == num_items
    assert made.items["patient_id"].nunique() == num_patients
    assert set(made.items["clinic"]) == clinics
    assert made.unit == "lesion"
