import many_heads
import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from brainjax.audit import describe, fingerprint
from brainjax.preparation.volume import volume_of

AFFINE = np.diag([*many_heads.SPACING_MM, 1.0])


def of_array(array):
  array = np.asarray(array, np.float32)
  tissue = fingerprint.tissue(array)
  return fingerprint.fingerprint(array, tissue, is_volume=True)


HEAD = many_heads.head(0)
COPIES = {
  "finer voxels": ndimage.zoom(HEAD, (1.5, 1.3, 1.2), order=1),
  "coarser voxels": ndimage.zoom(HEAD, (0.8, 0.8, 1.0), order=1),
  "a margin": np.pad(HEAD, ((2, 9), (4, 4), (0, 7))),
  "another scale": np.round(HEAD * 0.31),
  "noise": HEAD + np.random.default_rng(0).normal(0, 2, HEAD.shape),
}


@pytest.mark.parametrize("how", COPIES)
def test_a_copy_keeps_it(how):
  correlation = of_array(HEAD) @ of_array(COPIES[how])
  assert correlation > fingerprint.SAME_SCAN


def test_turned_in_the_file_it_is_the_same():
  turned = nib.as_closest_canonical(
    nib.Nifti1Image(HEAD, AFFINE).slicer[::-1]
  ).get_fdata()
  np.testing.assert_array_equal(turned, HEAD[::-1][::-1])
  swapped = volume_of(
    np.ascontiguousarray(HEAD.transpose(2, 0, 1)[:, ::-1]),
    AFFINE[:, [2, 0, 1, 3]] @ np.diag([1, -1, 1, 1]),
  )
  np.testing.assert_array_equal(swapped.array, HEAD)


def test_other_people_have_another():
  prints = [of_array(many_heads.head(seed)) for seed in range(12)]
  assert list(fingerprint.similar_pairs(prints, 0.75)) == []


def test_pairs_are_found_across_blocks(monkeypatch):
  monkeypatch.setattr(fingerprint, "_BLOCK", 2)
  prints = [of_array(many_heads.head(seed)) for seed in (0, 1, 2, 0, 3, 1)]
  pairs = [(i, j) for i, j, _ in fingerprint.similar_pairs(prints, 0.9)]
  assert pairs == [(0, 3), (1, 5)]


@pytest.mark.parametrize("count", [3, 7, 20])
def test_averages_are_those_of_finer_cells(count):
  array = np.random.default_rng(0).random((2, 11, 3))
  edges = np.linspace(-2.0, 13.0, count + 1)
  fine = np.zeros((2, 15 * 420, 3))
  fine[:, 2 * 420 : 13 * 420] = array.repeat(420, axis=1)
  expected = fine.reshape(2, count, -1, 3).mean(axis=2)
  np.testing.assert_allclose(
    fingerprint.averaged(array, 1, edges), expected, atol=1e-12
  )


def test_an_empty_scan_has_none():
  assert not of_array(np.zeros((8, 8, 8))).any()
  assert describe._digest(HEAD) != describe._digest(HEAD.T)
