import dataclasses
import json

import numpy as np
import pytest

import helpers
from brainjax import config, records
from brainjax.cohort import loose, phantom
from brainjax.preparation.scan import prepare_scan
from brainjax.training import reference

T1 = ("t1",)
SPACING = (1.0, 1.0, 5.0)
PERCENTILES = np.array([10, 20, 26, 32, 38, 42, 46, 50, 56, 64, 90.0])


def scan(
  spacing=SPACING, shape=(200, 240, 30), landmarks=PERCENTILES, **fields
):
  """A record of a file in LAS, whose brain fills its eight slices."""
  record = helpers.random_record(np.random.default_rng(0), num_slices=8)
  geometry = {
    "plane": "axial",
    "file_shape": list(shape),
    "file_spacing_mm": None if spacing is None else list(spacing),
    "ras_from_file": [[0, -1], [1, 1], [2, 1]],
    "slice_index": list(range(2, 26, 3)),
    "row": [180.0, -10.0],
    "column": [20.0, 10.0],
  }
  landmarks = np.float32(landmarks)[None]
  fields = {"geometry": geometry, "landmarks": landmarks} | fields
  return dataclasses.replace(record, **fields)


def drawn(rng):
  """A scan of a cohort that varies."""
  spacing = rng.normal((1, 1, 5), (0.02, 0.02, 0.5))
  landmarks = np.sort(PERCENTILES + rng.normal(0, 2, 11)) * rng.uniform(1, 9)
  return scan(spacing=spacing, landmarks=landmarks)


def test_numbers_are_in_millimetres_along_the_axes_of_the_head():
  brain = np.zeros((8, 16, 16), bool)
  brain[2:6, 3:13, 5:9] = True
  record = scan(spacing=(0.5, 2.0, 5.0), brain_mask=records.pack_bits(brain))
  # The file's axes in the order S, R, A.
  geometry = record.geometry | {
    "ras_from_file": [[2, 1], [0, -1], [1, 1]],
    "file_shape": [30, 200, 240],
    "file_spacing_mm": [5.0, 0.5, 2.0],
  }
  for given in (record, dataclasses.replace(record, geometry=geometry)):
    numbers = reference.describe(given, T1)
    assert numbers["spacing/left to right"] == 0.5
    assert numbers["spacing/bottom to top"] == 5.0
    assert numbers["view/left to right"] == 100.0
    assert numbers["view/back to front"] == 480.0
    assert numbers["view/bottom to top"] == 150.0
    assert numbers["brain/left to right"] == 4 * 10 * 0.5
    assert numbers["brain/back to front"] == 10 * 10 * 2.0
    assert numbers["brain/bottom to top"] == 4 * 3 * 5.0
    assert numbers["brain_share"] == 4 * 10 * 4 / (8 * 16 * 16)
    assert numbers["slices"] == 8


def test_intensities_have_no_unit():
  numbers = reference.describe(scan(), T1)
  other = reference.describe(scan(landmarks=7 * PERCENTILES - 300), T1)
  assert numbers == pytest.approx(other, abs=1e-6)
  assert numbers["intensity/percentile 1 of t1"] == pytest.approx(-32 / 80)
  assert numbers["intensity/percentile 90 of t1"] == pytest.approx(22 / 80)


def test_scans_of_the_same_distribution_are_not_unlike():
  rng = np.random.default_rng(0)
  fitted = reference.fit_reference((drawn(rng) for _ in range(120)), T1)
  assert fitted["num_scans"] == 120
  assert json.loads(json.dumps(fitted)) == fitted
  found = [reference.unlikeness(fitted, drawn(rng), T1) for _ in range(100)]
  assert found == [{}] * 100


def test_says_the_unlikest_number_of_each_group():
  fitted = reference.fit_reference([scan()], T1)
  other = scan(
    spacing=(0.87, 0.94, 5.0),
    shape=(320, 240, 30),
    landmarks=[10, 20, 26, 32, 38, 42, 46, 50, 56, 78, 90],
  )
  assert reference.unlikeness(fitted, other, T1) == {
    "spacing": (
      "voxels 0.87 mm apart left to right; the training set had 1.00 to 1.00 mm"
    ),
    "field of view": (
      "the image spans 278 mm left to right; the training set had 200 to 200 mm"
    ),
    "intensity": (
      "percentile 90 of t1 lies +0.45 of the intensity range from the median;"
      " the training set had +0.28 to +0.28"
    ),
  }


@pytest.mark.parametrize(
  "spacing, unlike",
  [(1.15, False), (1.17, True), (0.92, False), (0.90, True)],
)
def test_half_the_range_and_five_percent_are_allowed(spacing, unlike):
  training = [scan(spacing=(x, 1.0, 5.0)) for x in (1.0, 1.02, 1.07)]
  fitted = reference.fit_reference(training, T1)
  # 0.07 / 2 + 0.05 * 1.07: from 0.911 to 1.159.
  found = reference.unlikeness(fitted, scan(spacing=(spacing, 1.0, 5.0)), T1)
  assert ("spacing" in found) == unlike


def test_what_is_absent_is_unlike_only_if_it_never_was():
  always = reference.fit_reference([scan(), scan()], T1)
  absent = scan(present=np.zeros(1, np.uint8), landmarks=np.zeros(11))
  assert reference.unlikeness(always, absent, T1) == {
    "intensity": "no t1, unlike the scans of the training set"
  }
  assert reference.unlikeness(always, scan(spacing=None), T1) == {
    "spacing": "no voxel spacing, unlike the scans of the training set"
  }
  never = reference.fit_reference([scan(spacing=None)], T1)
  assert set(reference.unlikeness(never, scan(), T1)) == {"spacing"}
  some = reference.fit_reference([scan(), absent, scan(spacing=None)], T1)
  for record in (scan(), absent, scan(spacing=None)):
    assert reference.unlikeness(some, record, T1) == {}


def test_a_real_scan_is_unlike_phantoms(data_root):
  phantoms = [
    scan(spacing=scanner.spacing_mm, shape=scanner.shape)
    for scanner in phantom.SCANNERS.values()
  ]
  section = config.get_config().preparation
  config.set_field(section, "bias_field.method=none")
  file = data_root / "bids" / "sub-52" / "anat" / "sub-52_T1w.nii.gz"
  manifest = loose.manifest_of_files([{"t1": file}], T1)
  real = prepare_scan(manifest, manifest.rows[0], section).record
  fitted = reference.fit_reference(phantoms, T1)
  found = reference.unlikeness(fitted, real, T1)
  assert found["spacing"].startswith("voxels 0.87 mm apart")
  assert "field of view" in found
