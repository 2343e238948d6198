"""What the crop of the config makes of whole scans."""

import nibabel as nib
import numpy as np
import PIL.Image
import pytest
import tiny_head

from brainjax import InputError
from brainjax.cohort import manifest
from brainjax.preparation import scan, slices

SPACING_MM = (4.0, 4.0, 6.0)
NAMES = ("t1c", "flair", "t2")
REGION = {"crop": "region", "height": 32, "width": 32, "slices": "all"}


def _study(folder, *, tumour, names=NAMES):
  """A stripped head, alike in all modalities."""
  array, _, there = tiny_head.tiny_head(SPACING_MM, stripped=True)
  array = np.where(there & (not tumour), 100, array).astype(np.float32)
  row = {"participant_id": "p", "label": ""}
  for name in names:
    image = nib.Nifti1Image(array, np.diag([*SPACING_MM, 1.0]))
    nib.save(image, folder / f"{name}.nii")
    row[name] = f"{name}.nii"
  manifest.write_manifest(folder / "m.csv", [row], list(row))
  return manifest.read_manifest(folder / "m.csv"), there


def _geometry(study, **fields):
  region = {"t1c": 0.6, "area_mm2": 300.0, "length_mm": 20.0, "solidity": 0.5}
  settings = tiny_head.settings(**REGION | fields)
  settings.region.update(region)
  return scan.prepare_scan(study, study.rows[0], settings).record.geometry


def _pixel_mm(geometry):
  return abs(geometry["column"][1]) * SPACING_MM[0]


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
def test_the_crop_shows_the_tumour_with_a_margin(tmp_path, plane):
  study, tumour = _study(tmp_path, tumour=True)
  geometry = _geometry(study, plane=plane)
  assert geometry["region_found"] is True
  for voxel in np.argwhere(tumour):
    _, row, column = slices.file_voxel_to_pixel(geometry, voxel)
    assert 1 < row < 30 and 1 < column < 30
  brain = _geometry(study, plane=plane, crop="brain")
  assert brain["region_found"] is None
  assert _pixel_mm(geometry) < 0.6 * _pixel_mm(brain)
  # The number of slices must not tell where the tumour ends.
  assert geometry["slice_index"] == brain["slice_index"]


def test_a_normal_scan_is_kept_with_the_crop_of_its_brain(tmp_path):
  study, _ = _study(tmp_path, tumour=False)
  geometry = _geometry(study)
  assert geometry["region_found"] is False
  brain = _geometry(study, crop="brain")
  assert geometry | {"region_found": None} == brain


def test_one_modality_has_a_search_of_its_own(tmp_path):
  study, tumour = _study(tmp_path, tumour=True, names=("t1c",))
  geometry = _geometry(study)
  assert geometry["region_found"]
  centre = np.argwhere(tumour).mean(0)
  _, row, column = slices.file_voxel_to_pixel(geometry, centre)
  assert 8 < row < 24 and 8 < column < 24


def test_images_are_cropped_to_the_head(tmp_path):
  image = np.zeros((40, 40), np.uint8)
  image[8:30, 10:30] = 120
  image[12:16, 12:16] = 250
  PIL.Image.fromarray(image).save(tmp_path / "a.png")
  row = {"participant_id": "p", "label": "", "t1": "a.png"}
  manifest.write_manifest(tmp_path / "m.csv", [row], list(row))
  study = manifest.read_manifest(tmp_path / "m.csv")
  found, wanted = (_geometry(study, crop=crop) for crop in ("region", "brain"))
  assert found == wanted


@pytest.mark.parametrize("crop", ["brain", "region", "none"])
def test_pixels_are_as_large_as_asked_for(tmp_path, crop):
  study, _ = _study(tmp_path, tumour=True)
  geometry = _geometry(study, crop=crop, pixel_mm=2.5)
  for key, axis in (("row", 1), ("column", 0)):
    assert abs(geometry[key][1]) * SPACING_MM[axis] == pytest.approx(2.5)
  # Around the same middle as without.
  other = _geometry(study, crop=crop)
  for key in ("row", "column"):
    middle = [g[key][0] + 15.5 * g[key][1] for g in (geometry, other)]
    assert middle[0] == pytest.approx(middle[1])


def test_six_slices_are_equally_spaced(tmp_path):
  study, _ = _study(tmp_path, tumour=True)
  every = _geometry(study)["slice_index"]
  six = _geometry(study, slices="uniform", num_slices=6)["slice_index"]
  count = len(every)
  points = [(k + 0.5) * count / 6 - 0.5 for k in range(6)]
  assert six == [every[int(np.rint(p))] for p in points]


@pytest.mark.parametrize("name", ["pixel_mm", "region.margin"])
def test_negative_lengths_are_refused(name):
  settings = tiny_head.settings()
  settings.update_from_flattened_dict({name: -1.0})
  with pytest.raises(InputError, match=f"{name}: must not be negative"):
    scan.check_config(settings)
