"""Faults planted into the synthetic cohort, each found, and none without."""

import dataclasses

import many_heads
import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from brainjax.audit import confounds, copies, headers, identity
from brainjax.audit.describe import describe_file
from brainjax.cohort import manifest, phantom

pytestmark = pytest.mark.slow
PARTICIPANTS = 60


def described(folder, **options):
  rows, columns = phantom.write_phantom_cohort(
    folder, participants=PARTICIPANTS, **options
  )
  manifest.write_manifest(folder / "manifest.csv", rows, columns)
  read = manifest.read_manifest(folder / "manifest.csv")
  return read, [describe_file(read, row) for row in read.rows]


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
  return described(tmp_path_factory.mktemp("clean"))


def failures(scans):
  rows = [scan.row for scan in scans]
  found = [
    *identity.check_splits(rows),
    *identity.check_ids(rows),
    *copies.check_copies(scans),
    *confounds.check_sources(rows),
    *confounds.check_facts(confounds.ask(scans), scans),
    *headers.check_headers(scans),
  ]
  return {f.check for f in found if f.severity == "fail"}


def test_the_clean_cohort_has_none(clean):
  assert failures(clean[1]) == set()


def test_an_age_that_follows_the_label(clean):
  scans = [
    dataclasses.replace(
      scan,
      row=scan.row
      | {"age": str(30 + i % 9 + 20 * (scan.row["label"] != "normal"))},
    )
    for i, scan in enumerate(clean[1])
  ]
  assert failures(scans) == {"age"}


def test_a_scanner_that_follows_the_label(tmp_path):
  _, scans = described(tmp_path, confounded=True)
  assert failures(scans) >= {"scanner", "site", "spacing", "slices", "layout"}


def resampled(read, row, path, zoom):
  """Writes the scan of a row with other voxels; returns its description."""
  image = nib.as_closest_canonical(nib.load(read.path.parent / row["t1"]))
  voxels = ndimage.zoom(image.get_fdata(), zoom, order=1)
  many_heads.write_head(
    path,
    np.round(voxels).astype(np.int16),
    spacing_mm=np.array(image.header.get_zooms()[:3]) / zoom,
  )
  return describe_file(read, row | {"t1": str(path), "mask": ""})


def test_a_spacing_that_follows_the_label(clean, tmp_path):
  read, scans = clean
  scans = [
    scan
    if scan.row["label"] != "normal"
    else resampled(read, scan.row, tmp_path / f"{i}.nii", (1, 1, 0.8))
    for i, scan in enumerate(scans)
  ]
  assert failures(scans) >= {"spacing"}


@pytest.mark.parametrize("index", range(0, PARTICIPANTS, 10))
def test_a_renamed_and_a_resampled_copy(clean, tmp_path, index):
  read, scans = clean
  row = read.rows[index] | {"participant_id": "stranger", "group_id": "other"}
  renamed = dataclasses.replace(scans[index], row=row)
  assert failures([*scans, renamed]) == {"copies"}
  copy = resampled(read, row, tmp_path / "copy.nii", (1.3, 1.2, 0.9))
  assert failures([*scans, copy]) == {"copies"}


def test_a_shared_subject(clean):
  _, scans = clean
  split = [
    dataclasses.replace(
      scan, row=scan.row | {"split": ("train", "test")[i % 2]}
    )
    for i, scan in enumerate(scans)
  ]
  assert failures(split) == set()
  shared = {"participant_id": scans[1].row["participant_id"], "session_id": "2"}
  split[2] = dataclasses.replace(split[2], row=split[2].row | shared)
  assert "split" in failures(split)
