import csv
import json
import shutil

import many_heads
import numpy as np
import PIL.Image
import pytest
from scipy import ndimage

import helpers
from brainjax import InputError, cli
from brainjax.audit import audit, describe
from brainjax.cohort import manifest


def checks(folder, rows, **options):
  """The findings by check and severity, and the page."""
  path = many_heads.write_manifest(folder, rows)
  found = audit.audit(path, **options)
  return sorted((f.check, f.severity) for f in found.findings), found


@pytest.fixture
def cohort(tmp_path):
  return tmp_path, many_heads.write_cohort(tmp_path)


def add(folder, rows, name, array, **kwargs):
  many_heads.write_head(folder / f"{name}.nii.gz", array, **kwargs)
  rows.append(many_heads.row(name, "normal") | {"t1": f"{name}.nii.gz"})


def test_a_clean_cohort_passes(cohort):
  found, result = checks(*cohort)
  assert found == []
  assert result.passed
  content = json.loads((cohort[0] / "audit" / "audit.json").read_text())
  assert content["verdict"] == "The audit found no failure."
  assert content["scans"] == 6
  assert "found no failure" in result.page.read_text()


def test_a_renamed_copy_is_caught(cohort):
  folder, rows = cohort
  shutil.copy(folder / "p0.nii", folder / "stranger.nii")
  rows.append(many_heads.row("stranger", "normal") | {"t1": "stranger.nii"})
  found, result = checks(folder, rows)
  assert found == [("copies", "fail")]
  assert result.findings[0].ids == (("p0", "stranger"),)


def test_a_copy_that_was_turned_is_equal(cohort):
  folder, rows = cohort
  affine = np.diag([*many_heads.SPACING_MM, 1.0])
  turned = np.ascontiguousarray(many_heads.head(1).transpose(2, 0, 1)[::-1])
  affine = affine[:, [2, 0, 1, 3]] @ np.diag([-1, 1, 1, 1])
  add(folder, rows, "stranger", turned, affine=affine)
  found, result = checks(folder, rows)
  assert found == [("copies", "fail")]
  assert "voxel for voxel" in result.findings[0].title


def test_a_resampled_copy_is_caught(cohort):
  folder, rows = cohort
  zoomed = ndimage.zoom(many_heads.head(2), (1.2, 1.5, 1.3), order=1)
  spacing = np.array(many_heads.SPACING_MM) / (1.2, 1.5, 1.3)
  add(folder, rows, "stranger", np.round(3 * zoomed), spacing_mm=spacing)
  found, result = checks(folder, rows)
  assert found == [("copies", "fail")]
  assert "p2 = stranger (correlation 0.9" in result.findings[0].evidence


def test_2d_images_are_compared_one_by_one_but_not_black_ones(tmp_path):
  rng = np.random.default_rng(0)
  shared = rng.integers(1, 255, (40, 40), np.uint8)
  rows = []
  for i in range(4):
    names = [f"p{i}_{j}.png" for j in range(3)]
    images = [np.zeros_like(shared), rng.integers(1, 255, (40, 40), np.uint8)]
    images.append(shared if i in (1, 3) else images[1][::-1])
    for name, image in zip(names, images, strict=True):
      PIL.Image.fromarray(image).save(tmp_path / name)
    rows.append(many_heads.row(f"p{i}") | {"t1": ";".join(names)})
  found, result = checks(tmp_path, rows)
  assert found == [("copies", "fail")]
  assert result.findings[0].ids == (("p1", "p3"),)


def test_a_shared_subject_is_caught(cohort):
  folder, rows = cohort
  rows[0]["group_id"] = rows[2]["group_id"] = "one"
  for row, split in zip(rows, ("train", "test") * 3, strict=True):
    row["split"] = split
  rows[2]["split"] = "test"
  found, _ = checks(folder, rows)
  assert found == [("split", "fail")]


def test_the_splits_of_a_run_count(cohort, tmp_path):
  folder, rows = cohort
  splits = tmp_path / "splits.csv"

  def write(split_rows):
    with open(splits, "w", newline="") as file:
      writer = csv.DictWriter(file, list(split_rows[0]))
      writer.writeheader()
      writer.writerows(split_rows)

  # Slices of each person on both sides, in groups of their own.
  write(
    [
      many_heads.row(row["participant_id"], session_id=f"slice-{split}")
      | {"group_id": f"{row['participant_id']}-{split}", "split": split}
      for row in rows
      for split in ("train", "test")
    ]
  )
  found, _ = checks(folder, rows, splits=splits)
  assert found == [("split", "fail")]
  write([many_heads.row("nobody", split="test")])
  with pytest.raises(InputError, match="none of its participants"):
    checks(folder, rows, splits=splits)
  write([{"participant_id": "p0"}])
  with pytest.raises(InputError, match="no column group_id"):
    checks(folder, rows, splits=splits)
  splits.write_bytes(b"\xff\xfe")
  with pytest.raises(InputError, match="not UTF-8; give the splits.csv"):
    checks(folder, rows, splits=splits)


def test_impossible_voxels_are_caught(cohort):
  folder, rows = cohort
  many_heads.write_head(
    folder / "flat.nii", many_heads.head(9), spacing_mm=(6, 6, 1)
  )
  rows.append(many_heads.row("flat") | {"t1": "flat.nii", "spacing_mm": ""})
  found, result = checks(folder, rows)
  assert found == [("header", "fail")]
  assert "voxels of 6 x 6 x 1 mm" in result.findings[0].evidence
  # Whoever states the voxels takes them for true.
  rows[-1]["spacing_mm"] = "6;6;6"
  assert checks(folder, rows)[0] == []


def test_a_header_that_contradicts_itself_is_caught(cohort):
  folder, rows = cohort
  data = bytearray((folder / "p0.nii").read_bytes())
  data[88:92] = np.float32(3).tobytes()  # pixdim[3], which saving would mend
  (folder / "p0.nii").write_bytes(data)
  found, result = checks(folder, rows)
  assert found == [("header", "fail")]
  assert "pixdim says 6 x 6 x 3 mm" in result.findings[0].evidence


def test_a_damaged_file_is_named(cohort):
  folder, rows = cohort
  (folder / "p3.nii").write_bytes(b"nothing")
  found, result = checks(folder, rows)
  assert found == [("reading", "warn")]
  assert "p3.nii" in result.findings[0].evidence


def test_a_brain_mask_that_is_given_counts(cohort):
  folder, rows = cohort
  array = many_heads.head(1)
  tumour = np.zeros(array.shape, np.uint8)
  tumour[12:16, 15:19, 11:15] = 1
  brain = (array > 0).astype(np.uint8)
  many_heads.write_head(folder / "tumour.nii", tumour)
  many_heads.write_head(folder / "brain.nii", brain)
  rows[1] |= {"mask": "tumour.nii", "brain_mask": "brain.nii"}
  assert checks(folder, rows)[0] == []
  brain[13:] = 0
  many_heads.write_head(folder / "half.nii", brain)
  rows[1]["brain_mask"] = "half.nii"
  found, result = checks(folder, rows)
  assert ("lesion", "warn") in found
  assert "p1 (7" in " ".join(f.evidence for f in result.findings)


def test_a_brain_mask_of_few_voxels_does_not_end_the_audit(cohort):
  folder, rows = cohort
  voxel = np.zeros((96, 96, 96), np.uint8)
  voxel[48, 48, 48] = 1
  fine = np.kron(many_heads.head(1), np.ones((4, 4, 4)))[:96, :96, :96]
  many_heads.write_head(folder / "p1.nii", fine, (1.5,) * 3)
  many_heads.write_head(folder / "brain.nii", voxel, (1.5,) * 3)
  rows[1] |= {"t1": "p1.nii", "brain_mask": "brain.nii"}
  scans = manifest.read_manifest(many_heads.write_manifest(folder, rows))
  assert describe.describe_file(scans, scans.rows[1]).digest


def test_the_command_says_what_it_found(cohort, capsys):
  folder, rows = cohort
  rows[1]["participant_id"] = rows[1]["group_id"] = "p0B"
  path = many_heads.write_manifest(folder, rows)
  assert cli.main(["audit", str(path), "--workers=1"]) == 3
  said = capsys.readouterr().out
  assert "fail: Ids that look like one person" in said
  assert "p0 = p0B" in said
  assert cli.main(["audit", str(folder / "no.csv")]) == 2
  # Before hours are spent on reading.
  assert cli.main(["audit", str(path), "--out", str(path / "page")]) == 2
  assert "choose another --out" in capsys.readouterr().err


def test_records_are_audited_too(tmp_path, capsys):
  helpers.write_cohort(tmp_path / "records", participants=8)
  found = audit.audit(tmp_path / "records", out=tmp_path / "out")
  assert not [f for f in found.findings if f.severity == "fail"]
  content = json.loads((tmp_path / "out" / "audit.json").read_text())
  assert content["kind"] == "records"
  assert len(content["records_sha256"]) == 64


def test_a_copied_record_is_caught(tmp_path):
  rng = np.random.default_rng(0)
  scans = [helpers.random_record(rng, participant_id=f"p{i}") for i in range(4)]
  again = helpers.random_record(np.random.default_rng(0), participant_id="q")
  helpers.write_records(tmp_path / "records", [*scans, again])
  found = audit.audit(tmp_path / "records")
  assert found.findings[0].ids == (("p0", "q"),)


def test_the_page_names_nothing_as_markup(cohort):
  folder, rows = cohort
  for row in rows[:2]:
    row["group_id"] = row["participant_id"]
  rows[0]["participant_id"] = rows[0]["group_id"] = "<b>1"
  rows[1]["participant_id"] = rows[1]["group_id"] = "<b>1B"
  _, result = checks(folder, rows)
  text = result.page.read_text()
  assert "&lt;b&gt;1B" in text
  assert "<b>" not in text
