"""A participant who moved between two images."""

import nibabel as nib
import numpy as np
import pytest
import tiny_head
from scipy import ndimage

from brainjax import records
from brainjax.cohort import manifest
from brainjax.preparation import registration, scan
from brainjax.preparation.volume import aligned, volume_of

SPACING_MM = np.array([4.0, 4.0, 5.0])


def _head():
  """A head that is not symmetric, and its affine."""
  array, brain, tumour = tiny_head.tiny_head(SPACING_MM)
  affine = np.diag([*SPACING_MM, 1.0])
  affine[:3, 3] = -(np.array(array.shape) - 1) / 2 * SPACING_MM
  return array, brain, tumour, affine


def _motion(degrees=5.0, shift_mm=(5.0, -4.0, 6.0)):
  a = np.radians(degrees)
  motion = np.eye(4)
  motion[1:3, 1:3] = [[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]]
  motion[:3, 3] = shift_mm
  return motion


def _moved(array, affine, motion):
  """The same head after a motion, with other contrast."""
  back = np.linalg.inv(affine) @ np.linalg.inv(motion) @ affine
  other = np.sqrt(np.maximum(array, 0)) * 10
  return ndimage.affine_transform(
    other.astype(np.float32), back[:3, :3], back[:3, 3], order=1
  )


def test_the_motion_is_found():
  array, brain, _, affine = _head()
  motion = _motion()
  fixed = volume_of(array, affine)
  moving = volume_of(_moved(array, affine, motion), affine)
  found = registration.register(moving, fixed)
  points = np.argwhere(brain) * SPACING_MM + affine[:3, 3]
  points = np.c_[points, np.ones(len(points))].T
  errors_mm = np.linalg.norm(((found - motion) @ points)[:3], axis=0)
  before_mm = np.linalg.norm(((np.eye(4) - motion) @ points)[:3], axis=0)
  assert errors_mm.max() < 2.0 < before_mm.min()
  np.testing.assert_array_equal(found, registration.register(moving, fixed))
  # And it brings the one onto the other.
  wanted = _moved(array, affine, np.eye(4))[brain]
  straight, _ = aligned(moving, fixed)
  brought, _ = aligned(moving, fixed, found)
  assert np.abs(brought[brain] - wanted).mean() < 0.5 * (
    np.abs(straight[brain] - wanted).mean()
  )


def test_what_nobody_can_have_done_is_not_believed():
  array, _, _, affine = _head()
  fixed = volume_of(array, affine)
  elsewhere = affine.copy()
  elsewhere[:3, 3] += 2000
  assert registration.register(volume_of(array, elsewhere), fixed) is None


@pytest.mark.parametrize("lost", [False, True])
def test_the_record_keeps_it(tmp_path, monkeypatch, lost):
  array, _, tumour, affine = _head()
  motion = _motion(0.0, (12.0, 0.0, 0.0))
  images = {"t1": array, "t2": _moved(array, affine, motion)}
  row = {"participant_id": "p", "label": ""}
  for name, image in images.items():
    nib.save(nib.Nifti1Image(image, affine), tmp_path / f"{name}.nii")
    row[name] = f"{name}.nii"
  manifest.write_manifest(tmp_path / "m.csv", [row], list(row))
  study = manifest.read_manifest(tmp_path / "m.csv")
  if lost:
    monkeypatch.setattr(registration, "register", lambda *_: None)
  settings = tiny_head.settings(
    height=40, width=40, slices="all", registration="rigid"
  )
  prepared = scan.prepare_scan(study, study.rows[0], settings)
  motions = prepared.record.geometry["motions"]
  if lost:
    assert motions == {"t2": None}
    assert "t2 could not be registered to t1" in prepared.warnings[0]
    return
  # Within half a voxel.
  np.testing.assert_allclose(motions["t2"], motion, atol=2.0)
  # The tumour, bright in both, lies on itself.
  z = records.decode(records.encode(prepared.record)).intensities()
  centres = [np.argwhere(z[..., c] > 2.0).mean(0) for c in range(2)]
  assert np.linalg.norm(centres[0] - centres[1]) < 1.5
  assert not prepared.warnings
  settings.registration = "none"
  plain = scan.prepare_scan(study, study.rows[0], settings).record
  assert plain.geometry["motions"] == {}
