import dataclasses

import numpy as np
import pytest

import helpers
from brainjax import records
from brainjax.evaluation import classical


def record(slices):
  """A record of these values, f[S,H,W], all of it brain."""
  scan = helpers.random_record(
    np.random.default_rng(0),
    num_slices=len(slices),
    height=slices.shape[1],
    width=slices.shape[2],
  )
  codes = np.round(slices / scan.scale).astype(int) + scan.zero_code
  codes = np.clip(codes, 0, 255).astype(np.uint8)
  return dataclasses.replace(scan, slices=codes[..., None])


def stripes(width):
  """Stripes of a width in pixels, between -1 and 1."""
  row = np.where(np.arange(64) // width % 2, 1.0, -1.0)
  return np.tile(row, (2, 64, 1))


def test_energies_say_how_fine_an_image_is():
  fine = classical.wavelet_energies(stripes(1))
  coarse = classical.wavelet_energies(stripes(32))
  assert len(fine) == 10
  # In order: approximation, then details from coarse to fine.
  assert np.argmax(fine) in (7, 8, 9)
  assert np.argmax(coarse) == 0


def test_small_images_have_fewer_levels():
  energies = classical.wavelet_energies(np.ones((2, 8, 8)))
  assert len(energies) == 10
  assert (energies[4:] == np.log(1e-6)).all()


def test_textures_by_hand():
  brain = np.ones((1, 4, 4), bool)
  flat = classical.textures(np.zeros((1, 4, 4)), brain)
  np.testing.assert_allclose(flat, [0, 0, 1, 1, 1])
  # Two grey levels side by side, from end to end of the range.
  image = np.tile([-2.4, 2.4], (1, 4, 2))
  contrast, dissimilarity, *_ = classical.textures(image, brain)
  # Neighbours in a row and on diagonals differ by 15 levels, in a column by 0.
  assert contrast == pytest.approx(15**2 * 3 / 4)
  assert dissimilarity == pytest.approx(15 * 3 / 4)


def test_textures_are_of_the_brain_alone():
  rng = np.random.default_rng(0)
  image = rng.normal(size=(2, 16, 16))
  brain = np.zeros(image.shape, bool)
  brain[:, 4:12, 4:12] = True
  inside = classical.textures(image, brain)
  other = np.where(brain, image, 5 * rng.normal(size=image.shape))
  np.testing.assert_array_equal(classical.textures(other, brain), inside)
  none = classical.textures(image, np.zeros_like(brain))
  assert none.tolist() == [0] * 5


def test_features_of_a_scan_have_a_part_for_each_modality():
  one = record(np.random.default_rng(0).normal(size=(3, 32, 32)))
  assert classical.classical_features(one).shape == (47,)
  pair = dataclasses.replace(
    one,
    slices=np.concatenate([one.slices, one.slices], -1),
    present=np.ones(2, np.uint8),
    landmarks=np.zeros((2, 11), np.float32),
  )
  features = classical.classical_features(pair)
  assert features.shape == (94,)
  np.testing.assert_array_equal(features[:10], features[10:20])
  empty = dataclasses.replace(
    one, brain_mask=records.pack_bits(np.zeros((3, 32, 32), bool))
  )
  assert np.isfinite(classical.classical_features(empty)).all()
