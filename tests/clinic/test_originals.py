"""Original files: kept only where the policy says so, apart, and reached by no door but one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from skinml.clinic.access import write_copy
from skinml.clinic.certificates import verify_certificate
from skinml.clinic.check_clinic import check_clinic
from skinml.clinic.check_machine import Moment
from skinml.clinic.consents import add_consent
from skinml.clinic.erasure import erase_patient
from skinml.clinic.evidence import write_evidence
from skinml.clinic.folder import ClinicFolder, open_folder
from skinml.clinic.imported_data import imported_manifest
from skinml.clinic.opening import open_at_screen
from skinml.clinic.policies import apply_change, plan_change
from skinml.clinic.restriction import restrict_patient
from skinml.clinic.retention import apply_retention, retention_due
from skinml.clinic.review import Review, Verdict, version_of
from skinml.data.deidentify import Finders
from skinml.data.sealed_images import SealedImages
from skinml.errors import IntegrityError
from skinml.stewardship.deidentification import Box, Sighting
from skinml.stewardship.pictures import ORIGINAL, PENDING, PICTURE
from tests.clinic.hostile_pictures import NAME, PLANTED, jpeg, skin, with_gps
from tests.clinic.rights import FORM, make
from tests.clinic.test_import import NOTHING, bring, everywhere, leaks, write_list
from tests.policy_text import policy_text
from tests.stewardship.test_vault_killed import die_at

NOW = datetime.now(UTC).replace(microsecond=0)
DAYS = "features_days: 365, predictions_days: 365, log_days: 9"
UNSURE = Finders(lambda pixels: [Sighting(Box(6, 4, 30, 20, "face"), 0.25)], lambda pixels: [])
PATIENTS = ("ada", "ada", "bo")


@pytest.fixture
def camera(tmp_path: Path) -> tuple[Path, Path]:
    """Two pictures of one patient, one of another, and a file that is broken; with their list."""
    source = tmp_path / "camera"
    source.mkdir()
    rows = []
    for number, patient in enumerate((*PATIENTS, "bo")):
        content = with_gps(number) if number < 3 else b"broken " + NAME.encode()
        (source / f"{number}.jpg").write_bytes(content)
        row = {"patient_id": patient, "image": f"{number}.jpg", "diagnosis": "nevus"}
        rows.append(row)
    return source, write_list(tmp_path / "list.csv", rows)


@pytest.fixture
def kept(camera: tuple[Path, Path], tmp_path: Path) -> ClinicFolder:
    """A clinic that keeps originals, with the camera's pictures."""
    folder = make(tmp_path, originals="keep")
    assert bring(folder, *camera, now=NOW).originals == 3
    return folder


def contents(folder: ClinicFolder) -> Iterator[bytes]:
    """Everything in the vault that any key of the clinic opens."""
    names = [path.name for path in (folder.path / "vault" / "objects").rglob("*") if path.is_file()]
    for _, content in folder.vault.find(names):
        yield content


def files_of(camera: tuple[Path, Path]) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(camera[0].iterdir())}


def spoil_originals(folder: ClinicFolder) -> None:
    """Change the bytes of each original on the disk: whoever opens one, stops."""
    for name in folder.pictures.originals():
        path = folder.path / "vault" / "objects" / name[:2] / name
        path.write_bytes(path.read_bytes()[:-1] + b"\0")


def test_where_the_policy_drops_originals_no_byte_of_one_is_left(camera, tmp_path) -> None:
    folder = make(tmp_path)
    report = bring(folder, *camera, now=NOW)
    assert (report.originals, report.states["rejected"]) == (0, 1)
    assert folder.vault.listed([ORIGINAL]) == set()
    found = list(contents(folder))
    assert len(found) == 3
    assert not any(leaks(content) for content in found)
    assert leaks(everywhere(folder)) == []


def test_where_the_policy_keeps_them_they_lie_sealed_byte_for_byte(kept, camera) -> None:
    files = files_of(camera)
    for number, patient in enumerate(PATIENTS):
        picture = kept.pictures.find(kept.pictures.number_of(patient, f"{number}.jpg"))
        assert kept.vault.read(picture.original, [ORIGINAL]) == files[f"{number}.jpg"]
        assert leaks(files[f"{number}.jpg"])
        assert not leaks(kept.vault.read(picture.object))
    broken = kept.pictures.find(kept.pictures.number_of("bo", "3.jpg"))
    assert (broken.state, broken.original) == ("rejected", None)
    assert kept.vault.listed([ORIGINAL]) == kept.pictures.originals()
    assert leaks(everywhere(kept), PLANTED) == []


def test_a_dry_run_tells_of_originals_and_keeps_none(camera, tmp_path) -> None:
    folder = make(tmp_path, originals="keep")
    assert bring(folder, *camera, now=NOW, dry_run=True).originals == 3
    assert folder.vault.listed([ORIGINAL, PICTURE]) == set()


def test_no_door_but_the_patients_copy_opens_an_original(kept, tmp_path) -> None:
    """Each original is spoilt on the disk: any door that opened one would stop."""
    for patient in set(PATIENTS):
        add_consent(kept, patient, FORM, now=NOW)
    spoil_originals(kept)
    manifest = imported_manifest(kept, "federated_training", NOW.date())
    assert not set(manifest.frame["image"]) & kept.pictures.originals()
    for image in manifest.frame["image"]:
        assert (manifest.root / image).read()
    checked = check_clinic(kept, None, now=NOW, clocks=lambda: Moment(0.0, 0.0))
    assert checked.num_images == 3
    review = Review(kept)
    for number, picture in review.pictures().items():
        if picture.object:
            assert review.pixels(number)
    review.close()
    assert write_copy(kept, "ada", tmp_path / "copy", now=NOW).pictures == 2
    with pytest.raises(IntegrityError):
        write_copy(kept, "ada", tmp_path / "other", now=NOW, originals=True)


def test_the_door_of_training_refuses_an_original_that_stands_where_a_picture_would(kept) -> None:
    images = SealedImages(kept.vault)
    for name in kept.pictures.originals():
        with pytest.raises(IntegrityError, match="another kind"):
            (images / name).read()
    for name in kept.pictures.objects():
        assert (images / name).read()


def test_what_waits_for_a_person_is_refused_at_the_door_of_training_too(camera, tmp_path) -> None:
    folder = make(tmp_path)
    bring(folder, *camera, now=NOW, finders=UNSURE)
    (name, *_) = folder.vault.listed([PENDING])
    with pytest.raises(IntegrityError, match="another kind"):
        (SealedImages(folder.vault) / name).read()


def test_a_changed_file_takes_the_old_original_with_it(kept, camera) -> None:
    source, records = camera
    old = kept.pictures.find(kept.pictures.number_of("ada", "0.jpg")).original
    fresh = jpeg(skin(8))
    (source / "0.jpg").write_bytes(fresh)
    assert bring(kept, source, records, now=NOW).changed_files == 1
    new = kept.pictures.find(kept.pictures.number_of("ada", "0.jpg")).original
    assert kept.vault.read(new, [ORIGINAL]) == fresh
    assert old not in kept.vault.listed([ORIGINAL]) == kept.pictures.originals()


def test_an_original_ends_before_its_picture_and_no_import_brings_it_back(camera, tmp_path) -> None:
    source, records = camera
    rules = f"{{images_days: 30, originals_days: 10, {DAYS}}}"
    folder = make(tmp_path, originals="keep", retention=rules)
    bring(folder, source, records, now=NOW)
    assert retention_due(folder, now=NOW + timedelta(days=10)).nothing
    later = NOW + timedelta(days=11)
    due = retention_due(folder, now=later)
    assert (due.originals, due.pictures, due.fields) == (3, 0, {})
    done = apply_retention(folder, now=later)
    assert folder.vault.listed([ORIGINAL]) == folder.pictures.originals() == set()
    assert done.objects == 3
    assert len(imported_manifest(folder, "research", later.date()).frame) == 3
    assert not any(leaks(content) for content in contents(folder))
    says = verify_certificate(done.certificate.path, folder.identity.public_key)["says"]
    assert (says["removed"]["originals"], says["removed"]["pictures"]) == (3, 0)
    assert bring(folder, source, records, now=later).originals == 0
    (source / "0.jpg").write_bytes(with_gps(9))
    report = bring(folder, source, records, now=later)
    assert (report.changed_files, report.originals) == (1, 0)
    assert folder.vault.listed([ORIGINAL]) == set()


def test_a_policy_that_drops_them_from_now_on_ends_those_that_are_there(kept, camera) -> None:
    text = policy_text(originals="drop")
    change = plan_change(kept, text.encode())
    assert "originals: keep -> drop (stricter)" in change.difference
    assert change.originals_left == 3
    assert plan_change(kept, policy_text(originals="keep").encode()).originals_left == 0
    apply_change(kept, change, now=NOW)
    folder = open_folder(kept.path)
    restrict_patient(
        folder, "bo", restricted=True, now=NOW
    )  # who asks for that wants the data kept
    assert retention_due(folder, now=NOW).originals == 2
    assert retention_due(folder, now=NOW).restricted == 1
    apply_retention(folder, now=NOW)
    owners = {each.patient for each in folder.pictures.pictures().values() if each.original}
    assert owners == {"bo"}
    report = bring(folder, *camera, now=NOW)
    assert (report.originals, report.keeps_originals) == (1, False)
    assert retention_due(folder, now=NOW).restricted == 1  # told each time


def test_evidence_does_not_call_gone_what_a_stricter_policy_has_not_removed_yet(
    kept, tmp_path
) -> None:
    apply_change(kept, plan_change(kept, policy_text(originals="drop").encode()), now=NOW)
    folder = open_folder(kept.path)
    told = {}
    for name in ("there", "gone"):
        write_evidence(folder, tmp_path / name, now=NOW)
        told[name] = {
            each: " ".join((tmp_path / name / f"{each}.md").read_text().split())
            for each in ("impact", "processing", "notice", "articles")
        }
        apply_retention(folder, now=NOW)
    words = "3 from earlier remain until skinml clinic retention --apply"
    for each in ("impact", "processing", "articles"):
        assert words in told["there"][each]
        assert "from earlier" not in told["gone"][each]
    assert "Some from earlier are still here" in told["there"]["notice"]
    assert "from earlier" not in told["gone"]["notice"]
    assert "are not kept here." in told["gone"]["impact"]
    assert "are not kept here." not in told["there"]["impact"]


@pytest.mark.parametrize("every", [9, pytest.param(1, marks=pytest.mark.slow)])
def test_killed_at_any_step_the_end_of_originals_is_ended_by_the_next_command(
    camera, tmp_path, every: int
) -> None:
    place = tmp_path / "made"
    place.mkdir()
    folder = make(place, originals="keep", retention=f"{{images_days: 9, {DAYS}}}")
    bring(folder, *camera, now=NOW - timedelta(days=5))
    text = policy_text(originals="drop", retention=f"{{images_days: 9, {DAYS}}}")
    apply_change(folder, plan_change(folder, text.encode()), now=NOW)
    begun = number = 0
    alive = False
    while not alive:
        number += every
        here = tmp_path / f"try-{number}"
        shutil.copytree(place, here)
        copy = open_folder(here / "north")
        alive = not die_at(number, lambda copy=copy: apply_retention(copy, now=NOW))
        asked = (here / "north" / "retention.sealed").exists()
        begun += asked
        after = open_at_screen(here / "north")
        left = len(after.vault.listed([ORIGINAL]))
        assert left == len(after.pictures.originals())
        assert left == 0 if asked or alive else left in (0, 3)
        assert sum(each.usable for each in after.pictures.pictures().values()) == 3
        shutil.rmtree(here)
    assert begun


def test_an_erased_patients_original_opens_from_no_file_that_remains(kept, tmp_path) -> None:
    names = [each.original for each in kept.pictures.of_patient("ada")]
    places = [kept.path / "vault" / "objects" / name[:2] / name for name in names]
    copies = [place.read_bytes() for place in places]
    erase_patient(kept, "ada", now=NOW)
    assert not any(place.exists() for place in places)
    assert len(kept.vault.listed([ORIGINAL])) == 1
    for place, content in zip(places, copies, strict=True):  # somebody had copied the files
        place.parent.mkdir(exist_ok=True)
        place.write_bytes(content)
    assert dict(open_folder(kept.path).vault.find(names)) == {}
    assert leaks(everywhere(kept)) == []


def test_the_copy_says_that_originals_are_kept_and_has_them_where_asked(
    kept, camera, tmp_path
) -> None:
    done = write_copy(kept, "ada", tmp_path / "usual", now=NOW)
    assert (done.pictures, done.originals) == (2, 0)
    assert not (tmp_path / "usual" / "originals").exists()
    told = json.loads((tmp_path / "usual" / "data.json").read_text())["pictures"]
    assert [each["original"] for each in told] == [{"file": None, "kept_until": None}] * 2
    page = (tmp_path / "usual" / "summary.html").read_text()
    assert "as the camera or the archive wrote it" in page
    assert "not in this copy" in page
    done = write_copy(kept, "ada", tmp_path / "all", now=NOW, originals=True)
    assert done.originals == 2
    found = {path.read_bytes() for path in (tmp_path / "all" / "originals").iterdir()}
    files = files_of(camera)
    assert found == {files["0.jpg"], files["1.jpg"]}
    exports = [e.fields["kind"] for e in kept.audit.entries() if e.event == "export"]
    assert exports == ["records", "records", "originals"]
    page = (tmp_path / "all" / "summary.html").read_text()
    assert "lie in the folder" in page
    assert "copied the original files" in page


def test_a_rejected_pictures_original_goes_with_it_and_comes_back_with_undo(
    camera, tmp_path
) -> None:
    folder = make(tmp_path, originals="keep")
    bring(folder, *camera, now=NOW, finders=UNSURE)
    review = Review(folder)
    first, second, third = [n for n, p in review.pictures().items() if p.state == "to_review"]

    def decide(number: str, step: str, *boxes: Box) -> None:
        seen = version_of(review.find(number))
        review.decide(number, Verdict(step, seen, boxes), now=NOW)

    original = review.find(first).original
    decide(first, "reject")
    assert review.find(first).original is None
    assert review.undo(now=NOW).original == original
    assert folder.vault.read(original, [ORIGINAL])
    decide(first, "reject")
    decide(second, "mask", Box(2, 2, 30, 30, "by hand"))
    assert original not in folder.vault.listed([ORIGINAL])
    decide(third, "accept")
    review.close()
    assert folder.vault.listed([ORIGINAL]) == folder.pictures.originals()
    owners = {n for n, each in folder.pictures.pictures().items() if each.original}
    assert owners == {second, third}


def test_the_evidence_says_what_is_kept_and_asks_why(kept, camera, tmp_path) -> None:
    write_evidence(kept, tmp_path / "with", now=NOW)
    (tmp_path / "plain").mkdir()
    write_evidence(make(tmp_path / "plain"), tmp_path / "without", now=NOW)
    for name in ("notice", "impact", "processing", "articles"):
        with_them = (tmp_path / "with" / f"{name}.md").read_text()
        without = (tmp_path / "without" / f"{name}.md").read_text()
        assert len(with_them) > len(without), name
    assert "as the camera wrote it" in (tmp_path / "with" / "notice.md").read_text()
    assert "camera" not in (tmp_path / "without" / "notice.md").read_text()
    assert "a reason for keeping original files" in (tmp_path / "with" / "articles.md").read_text()


@pytest.mark.parametrize("faces", ["eyes", "review"])
def test_other_choices_look_at_unchanged_files_again(camera, tmp_path, faces: str) -> None:
    source, records = camera
    folder, sure = make(tmp_path), Sighting(Box(2, 2, 20, 20, "face"), 0.9)
    found = Finders(lambda pixels: [sure], lambda pixels: [])
    first = bring(folder, source, records, finders=found)
    assert first.states == {"masked": 3, "rejected": 1}
    before = dict(folder.pictures.pictures())
    terms = _terms(faces)
    report = bring(folder, source, records, finders=found, terms=terms)
    assert (report.changed_choices, report.changed_files, report.new) == (4, 0, 0)
    after = folder.pictures.pictures()
    assert report.states == {"to_review" if faces == "review" else "masked": 3, "rejected": 1}
    objects = [(before[n].object, after[n].object) for n in before if before[n].object]
    assert all(old != new for old, new in objects)
    assert folder.vault.listed([PICTURE, PENDING]) == folder.pictures.objects()
    again = bring(folder, source, records, finders=found, terms=terms)
    assert (again.changed_choices, again.unchanged) == (0, 4)


def test_other_choices_leave_what_a_person_decided(camera, tmp_path) -> None:
    source, records = camera
    folder = make(tmp_path)
    bring(folder, source, records, finders=UNSURE)
    review = Review(folder)
    number = next(n for n, p in review.pictures().items() if p.state == "to_review")
    seen = version_of(review.find(number))
    review.decide(number, Verdict("accept", seen), now=NOW)
    review.close()
    decided = folder.pictures.find(number)
    report = bring(folder, source, records, finders=NOTHING, terms=_terms("eyes"))
    assert (report.changed_choices, report.by_hand, report.unchanged) == (3, 1, 1)
    assert folder.pictures.find(number) == decided


def _terms(faces: str):
    from skinml.clinic.importing_terms import ImportTerms

    return ImportTerms.model_validate({"pictures": {"faces": faces}})
