"""Masks of the brain that another tool found, given as files."""

import nibabel as nib
import numpy as np
import pytest
import tiny_head

from brainjax import InputError, records
from brainjax.cohort import manifest
from brainjax.preparation import prepare, scan

SPACING_MM = (6.0, 5.0, 7.0)
SETTINGS = tiny_head.settings(crop="none", height=36, width=30, slices="all")


def _study(folder, brain, *, array=None, shift_mm=0.0, shape=None):
  """A manifest of one head with its skull, and a brain mask."""
  folder.mkdir(parents=True, exist_ok=True)
  if array is None:
    array, _, _ = tiny_head.tiny_head(SPACING_MM)
  affine = np.diag([*SPACING_MM, 1.0])
  nib.save(nib.Nifti1Image(array, affine), folder / "t1.nii")
  affine[0, 3] = shift_mm
  given = nib.Nifti1Image(brain.astype(np.uint8), affine)
  nib.save(given, folder / "brain.nii.gz")
  row = {"participant_id": "p", "label": "", "t1": "t1.nii"}
  row["brain_mask"] = "brain.nii.gz"
  manifest.write_manifest(folder / "m.csv", [row], list(row))
  return manifest.read_manifest(folder / "m.csv")


def _brain():
  _, brain, _ = tiny_head.tiny_head(SPACING_MM)
  return brain


def test_the_given_mask_is_used(tmp_path):
  half = _brain()
  half[: len(half) // 2] = False
  study = _study(tmp_path, half)
  record = scan.prepare_scan(study, study.rows[0], SETTINGS).record
  found = records.unpack_bits(record.brain_mask, 30)
  assert found.any() and not found[:, :, :15].any()
  # Statistics are those of its voxels.
  array, _, _ = tiny_head.tiny_head(SPACING_MM)
  np.testing.assert_allclose(
    record.moments[0, 0], array[half].mean(), rtol=1e-4
  )


@pytest.mark.parametrize(
  ("brain", "kwargs", "said"),
  [
    (np.zeros_like(_brain()), {}, "the brain mask is empty"),
    (_brain()[:-1], {}, "a mask of"),
    (_brain(), {"shift_mm": 20.0}, "20.0 mm off the image"),
    (np.roll(_brain(), 16, 0), {}, "lie on air or bone"),
  ],
)
def test_a_mask_that_cannot_be_is_refused(tmp_path, brain, kwargs, said):
  study = _study(tmp_path, brain, **kwargs)
  with pytest.raises(InputError, match=said) as error:
    scan.prepare_scan(study, study.rows[0], SETTINGS)
  assert "brain.nii.gz" in str(error.value)


def test_a_changed_mask_is_prepared_again_and_its_path_kept(tmp_path):
  out = tmp_path / "out"
  study = _study(tmp_path / "c", _brain())
  prepare.prepare(study.path, out, SETTINGS)
  first = records.RecordSet(out)[0]
  smaller = _brain()
  smaller[:12] = False
  _study(tmp_path / "c", smaller)
  summary = prepare.prepare(study.path, out, SETTINGS)
  assert summary.counts == {"with changed files": 1}
  assert records.RecordSet(out)[0].brain_mask.sum() != first.brain_mask.sum()
  kept = manifest.read_manifest(out / "manifest.csv")
  (file,) = manifest.image_files(kept, kept.rows[0], "brain_mask")
  assert file.samefile(tmp_path / "c" / "brain.nii.gz")
