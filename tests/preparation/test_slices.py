import json

import nibabel as nib
import numpy as np
import pytest

from brainjax.preparation import slices
from brainjax.preparation.region import Region, find_region
from brainjax.preparation.volume import volume_of, volume_of_images

SHAPE = (9, 11, 13)  # of the file
PLANES = ("axial", "coronal", "sagittal")


def _oblique():
  angles = np.deg2rad([12, -20, 33])
  turn = nib.eulerangles.euler2mat(*angles)
  affine = np.eye(4)
  affine[:3, :3] = turn @ np.diag([0.9, 1.3, 2.0])
  affine[:3, 3] = [5, -70, 12]
  return affine


def _permuted():
  affine = np.zeros((4, 4))
  affine[[2, 0, 1, 3], range(4)] = [-1.5, 1.0, -0.8, 1]
  affine[:3, 3] = [3, 4, 90]
  return affine


AFFINES = {
  "RAS": np.diag([1.0, 1.2, 2.0, 1.0]),
  "LAS": np.diag([-1.0, 1.2, 2.0, 1.0]),
  "permuted": _permuted(),
  "oblique": _oblique(),
}


def _millimetres(affine):
  """f32[3,...] right, front and up of every voxel of the file."""
  voxels = np.indices(SHAPE).reshape(3, -1)
  mm = affine[:3, :3] @ voxels + affine[:3, 3:]
  return mm.reshape(3, *SHAPE).astype(np.float32)


def _cut(affine, plane, height=17, width=15):
  """Slices whose values are their own position, and their geometry."""
  volumes = [volume_of(array, affine) for array in _millimetres(affine)]
  volume = volumes[0]
  mask = np.zeros(volume.array.shape, bool)
  mask[2:-2, 3:-2, 2:-3] = True
  region = find_region(
    mask,
    volume.spacing_mm,
    plane=plane,
    crop="brain",
    margin_mm=0.5,
    height=height,
    width=width,
  )
  index = np.array(region.slices)[::2]
  stacks = [
    slices.resample(slices.take_slices(v.array, region.axes, index), region)
    for v in volumes
  ]
  inside = slices.resample(
    slices.take_slices(np.ones_like(volume.array), region.axes, index), region
  )
  geometry = json.loads(json.dumps(slices.geometry_of(volume, region, index)))
  return np.stack(stacks, -1), inside > 0.999, geometry


@pytest.mark.parametrize("plane", PLANES)
@pytest.mark.parametrize("name", AFFINES)
@pytest.mark.parametrize("size", [(17, 15), (6, 5)])
def test_a_pixel_shows_the_place_that_the_geometry_names(name, plane, size):
  affine = AFFINES[name]
  mm, inside, geometry = _cut(affine, plane, *size)
  assert inside.any()
  # Voxels that a larger pixel cuts shift its mean by up to an eighth of one.
  larger = max(abs(geometry[key][1]) for key in ("row", "column")) > 1
  spacing_mm = max(geometry["file_spacing_mm"])
  atol = spacing_mm / 8 * np.sqrt(3) if larger else 1e-3
  for s, row, column in np.argwhere(inside):
    voxel = slices.pixel_to_file_voxel(geometry, s, row, column)
    expected = affine[:3, :3] @ voxel + affine[:3, 3]
    np.testing.assert_allclose(mm[s, row, column], expected, atol=atol)


@pytest.mark.parametrize("plane", PLANES)
@pytest.mark.parametrize("name", AFFINES)
def test_pixels_and_voxels_round_trip(name, plane):
  _, _, geometry = _cut(AFFINES[name], plane)
  np.testing.assert_allclose(geometry["file_affine"], AFFINES[name])
  np.testing.assert_allclose(
    geometry["file_spacing_mm"], np.linalg.norm(AFFINES[name][:3, :3], axis=0)
  )
  rng = np.random.default_rng(0)
  for s in range(len(geometry["slice_index"])):
    row, column = rng.uniform(-3, 20, 2)
    voxel = slices.pixel_to_file_voxel(geometry, s, row, column)
    pixel = slices.file_voxel_to_pixel(geometry, voxel)
    np.testing.assert_allclose(pixel, (s, row, column), atol=1e-9)


@pytest.mark.parametrize("name", ["RAS", "LAS", "permuted"])
def test_layout_of_each_plane(name):
  # Per plane: what falls down the rows, grows along columns and slices.
  layout = {"axial": (1, 0, 2), "coronal": (2, 0, 1), "sagittal": (2, 1, 0)}
  for plane, (row, column, along) in layout.items():
    mm, inside, _ = _cut(AFFINES[name], plane)
    s, r, c = (np.flatnonzero(inside.any(axes)) for axes in _OTHERS)
    block = mm[np.ix_(s, r, c)]
    assert (np.diff(block[..., along], axis=0) > 0).all()
    assert (np.diff(block[..., row], axis=1) < 0).all()
    assert (np.diff(block[..., column], axis=2) > 0).all()


_OTHERS = ((1, 2), (0, 2), (0, 1))


def test_images_keep_their_rows_and_columns():
  images = [np.random.default_rng(i).random((8, 8)) for i in range(3)]
  volume = volume_of_images([image.astype(np.float32) for image in images])
  region = find_region(
    np.ones(volume.array.shape, bool),
    volume.spacing_mm,
    plane=None,
    crop="none",
    margin_mm=0.0,
    height=8,
    width=8,
  )
  index = np.arange(3)
  stack = slices.take_slices(volume.array, region.axes, index)
  np.testing.assert_allclose(
    slices.resample(stack, region), np.float32(images), rtol=1e-6
  )
  geometry = slices.geometry_of(volume, region, index)
  assert geometry["source"] == "images" and geometry["plane"] is None
  assert geometry["file_affine"] is geometry["file_spacing_mm"] is None
  voxel = slices.pixel_to_file_voxel(geometry, 2, 1, 5)
  np.testing.assert_allclose(voxel, (1, 5, 2), atol=1e-9)


def _region(size, row, column):
  return Region("axial", *size, row, column, range(1), 0.0)


def test_shrinking_takes_the_mean_over_a_pixel():
  stack = np.random.default_rng(0).random((2, 8, 12)).astype(np.float32)
  small = slices.resample(stack, _region((4, 3), (0.5, 2), (1.5, 4)))
  expected = stack.reshape(2, 4, 2, 3, 4).mean((2, 4))
  np.testing.assert_allclose(small, expected, rtol=1e-5)


def test_enlarging_interpolates_linearly():
  stack = np.float32([[[0, 2, 4]]])
  row = slices.resample(stack, _region((1, 5), (0, 1), (0, 0.5)))[0, 0]
  np.testing.assert_allclose(row, [0, 1, 2, 3, 4], rtol=1e-6)


def test_outside_of_the_volume_there_are_zeros():
  stack = np.ones((1, 4, 4), np.float32)
  padded = slices.resample(stack, _region((8, 4), (5, -1), (0, 1)))
  assert (padded[0, 2:6] == 1).all()
  assert padded.sum() == 16


def _choose(extent, spacing_mm=1.0, how="uniform", num_slices=5, every_mm=5.0):
  return slices.choose_slices(
    extent, spacing_mm, how=how, num_slices=num_slices, every_mm=every_mm
  ).tolist()


def test_uniform_slices_follow_the_formula():
  for count in range(1, 60):
    for num in range(1, 30):
      chosen = _choose(range(7, 7 + count), num_slices=num)
      k = np.arange(min(num, count))
      points = (k + 0.5) * count / min(num, count) - 0.5
      assert chosen == (np.rint(points).astype(int) + 7).tolist()
      assert len(set(chosen)) == min(num, count)


def test_every_takes_the_nearest_slices_about_the_middle():
  assert _choose(range(11), how="every") == [0, 5, 10]
  assert _choose(range(10, 23), how="every") == [11, 16, 21]
  assert _choose(range(9), 2.0, how="every") == [0, 3, 5, 8]
  assert _choose(range(3), 9.0, how="every") == [0, 1, 2]


def test_all_takes_all():
  assert _choose(range(3, 9), how="all", num_slices=2) == list(range(3, 9))
