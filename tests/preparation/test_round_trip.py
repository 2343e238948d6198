"""A voxel marked in the scanner's file is found in the record, and back."""

import itertools

import nibabel as nib
import numpy as np
import pydicom
import pytest
import tiny_head

import dicom_files
from brainjax.cohort import manifest
from brainjax.preparation import scan, slices

SPACING_MM = (9.0, 8.0, 10.0)
MARKED = (9, 13, 8)  # of the head in RAS order
PLANES = ("axial", "coronal", "sagittal")
TURN = {"straight": (0, 0), "oblique": (17, -12)}


def _head(codes, degrees):
  """The head in the order that the letters say, its affine, and the mark."""
  array, _, _ = tiny_head.tiny_head(SPACING_MM, stripped=True)
  array[MARKED] = 2000
  a, b = np.deg2rad(degrees)
  about_x = [[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]]
  about_z = [[np.cos(b), -np.sin(b), 0], [np.sin(b), np.cos(b), 0], [0, 0, 1]]
  affine = np.eye(4)
  affine[:3, :3] = np.array(about_x) @ about_z @ np.diag(SPACING_MM)
  affine[:3, 3] = [-70.5, -101, 33.25]
  ras = [[0, 1], [1, 1], [2, 1]]
  ornt = nib.orientations.axcodes2ornt(codes)
  turn = nib.orientations.ornt_transform(ras, ornt)
  back = nib.orientations.inv_ornt_aff(turn, array.shape)
  turned = nib.orientations.apply_orientation(array, turn).round().clip(0)
  return turned.astype(np.int16), affine @ back, affine


def _record(tmp_path, name, plane):
  row = {"participant_id": "p", "label": "glioma", "t1": name}
  manifest.write_manifest(tmp_path / "m.csv", [row], list(row))
  study = manifest.read_manifest(tmp_path / "m.csv")
  # Pixels smaller than voxels, so that the brightest shows the very place.
  settings = tiny_head.settings(
    height=64, width=64, slices="all", plane=plane, dtype="i16"
  )
  return scan.prepare_scan(study, study.rows[0], settings).record


CODES = ("RAS", "LPS", "LPI", "SRP", "PIL", "ASL")
QUICK = {
  ("RAS", "straight", "axial"),
  ("LPI", "oblique", "axial"),
  ("SRP", "oblique", "coronal"),
  ("PIL", "straight", "sagittal"),
  ("ASL", "oblique", "sagittal"),
}
CASES = [
  pytest.param(*case, marks=() if case in QUICK else pytest.mark.slow)
  for case in itertools.product(CODES, TURN, PLANES)
]


@pytest.mark.parametrize(("codes", "turn", "plane"), CASES)
@pytest.mark.parametrize("kind", ["nifti", "dicom"])
def test_within_half_a_voxel(tmp_path, kind, codes, turn, plane):
  array, file_affine, affine = _head(codes, TURN[turn])
  voxel = np.argwhere(array == 2000)[0]
  place_mm = (affine @ [*MARKED, 1])[:3]
  if kind == "nifti":
    nib.save(nib.Nifti1Image(array, file_affine), tmp_path / "scan.nii")
    name = "scan.nii"
  else:
    files = dicom_files.write_series(tmp_path / "scan", array, file_affine)
    header = pydicom.dcmread(files[voxel[2]])
    name = "scan"
    # The mark lies where the header of its own image says.
    axes = np.reshape(header.ImageOrientationPatient, (2, 3)).astype(float)
    along = voxel[:2] * np.array(header.PixelSpacing[::-1], float)
    lps_mm = np.array(header.ImagePositionPatient, float) + along @ axes
    np.testing.assert_allclose(lps_mm * [-1, -1, 1], place_mm, atol=1e-3)
  record = _record(tmp_path, name, plane)
  z = record.intensities()[..., 0]
  found = np.unravel_index(z.argmax(), z.shape)

  back = slices.pixel_to_file_voxel(record.geometry, *found)
  back_mm = (np.array(record.geometry["file_affine"]) @ [*back, 1])[:3]
  off = np.linalg.solve(affine[:3, :3], back_mm - place_mm)  # voxels
  assert np.abs(off).max() < 0.5
  if kind == "nifti":
    assert np.abs(back - voxel).max() < 0.5

  true_voxel = np.linalg.solve(record.geometry["file_affine"], [*place_mm, 1])
  there = slices.file_voxel_to_pixel(record.geometry, true_voxel[:3])
  assert round(there[0]) == found[0]
  pixel_voxels = [record.geometry[key][1] for key in ("row", "column")]
  shift = np.subtract(there[1:], found[1:]) * pixel_voxels
  assert np.abs(shift).max() < 0.5
