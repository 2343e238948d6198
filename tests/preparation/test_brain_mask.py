import dataclasses

import numpy as np
import pytest
import skimage.transform
import tiny_head

from brainjax.preparation import brain_mask
from brainjax.preparation.volume import volume_of, volume_of_images


def _dice(a, b):
  return 2 * (a & b).sum() / (a.sum() + b.sum())


def _volume(array, spacing_mm=(6.0, 6.0, 6.0)):
  return volume_of(array, np.diag([*spacing_mm, 1.0]))


@pytest.mark.parametrize("spacing_mm", [(4.0, 4.0, 4.0), (3.0, 4.0, 7.0)])
def test_skull_and_scalp_fall_away(spacing_mm):
  array, brain, tumour = tiny_head.tiny_head(spacing_mm)
  mask = brain_mask.brain_mask(_volume(array, spacing_mm))
  assert _dice(mask, brain) > 0.95
  assert mask[tumour].all()


def test_a_bridge_to_the_scalp_is_cut():
  array, brain, _ = tiny_head.tiny_head((4.0, 4.0, 4.0))
  x, y, z = (n // 2 for n in array.shape)
  array[x, y:, z] = 100  # through skull and scalp, out of the head
  mask = brain_mask.brain_mask(_volume(array, (4.0, 4.0, 4.0)))
  assert _dice(mask, brain) > 0.95


def test_dark_holes_in_the_brain_are_filled():
  array, brain, _ = tiny_head.tiny_head((4.0, 4.0, 4.0))
  x, y, z = (n // 2 for n in array.shape)
  ventricle = (slice(x - 3, x + 3), slice(y - 4, y + 4), slice(z - 3, z + 3))
  array[ventricle] = 5
  mask = brain_mask.brain_mask(_volume(array, (4.0, 4.0, 4.0)))
  assert mask[ventricle].all()


def test_stripped_volume_keeps_exactly_what_was_left_in_it():
  array, brain, _ = tiny_head.tiny_head(stripped=True)
  x, y, z = (n // 2 for n in array.shape)
  array[x, y, z] = 0  # a hole inside is brain
  dark = array.copy()
  dark[brain & (array > 0)] = np.linspace(1, 200, (array > 0).sum())
  for stripped in (array, dark):
    mask = brain_mask.brain_mask(_volume(stripped))
    np.testing.assert_array_equal(mask, brain)


def test_zero_air_does_not_make_a_head_a_stripped_brain():
  array, brain, _ = tiny_head.tiny_head((4.0, 4.0, 4.0))
  padded = np.pad(np.where(array < 30, 0, array), 8)
  assert (padded == 0).mean() > brain_mask.STRIPPED_ZEROS
  mask = brain_mask.brain_mask(_volume(padded, (4.0, 4.0, 4.0)))
  assert _dice(mask, np.pad(brain, 8)) > 0.95


def test_fine_grids_are_masked_on_a_coarse_one():
  array, brain, _ = tiny_head.tiny_head((5.0, 5.0, 5.0))
  fine = array.repeat(5, 0).repeat(5, 1).repeat(5, 2)[:-1]
  volume = _volume(fine, (1.0, 1.0, 1.0))
  mask = brain_mask.brain_mask(volume)
  assert mask.shape == fine.shape
  expected = brain.repeat(5, 0).repeat(5, 1).repeat(5, 2)[:-1]
  assert _dice(mask, expected) > 0.93


def test_the_compact_thing_is_the_brain_not_the_largest():
  ball = ((np.indices((60, 60, 60)) - 35) ** 2).sum(0) < 15**2
  slab = np.zeros(ball.shape, bool)
  slab[:, :, 1:7] = True
  assert slab.sum() > 1.4 * ball.sum()
  array = np.where(ball | slab, 100, 1).astype(np.float32)
  mask = brain_mask.brain_mask(_volume(array, (3.0, 3.0, 3.0)))
  assert _dice(mask, ball) > 0.95


def test_a_brain_larger_than_the_volume_is_all_of_it():
  array = np.full((8, 8, 8), 100, np.float32)
  array[3:5, 3:5, 3:5] = 1
  assert brain_mask.brain_mask(_volume(array, (2.0, 2.0, 2.0))).all()


def test_distance_without_a_background_is_infinite():
  everywhere = np.ones((3, 3, 3), bool)
  assert np.isinf(brain_mask._distance(everywhere, np.ones(3))).all()


@pytest.mark.parametrize(
  ("shape", "spacing_mm"),
  [
    ((30, 25, 20), (2.0, 2.0, 2.0)),
    ((30, 25, 20), (4 / 3, 1.0, 4.0)),  # three voxels are just 4 mm
    ((20, 3, 9), (0.9, 0.8, 7.0)),
    ((30, 2, 20), (0.3, 2.0, 2.0)),  # too many steps
    ((40, 50), (0.9, 1.1)),
  ],
)
def test_reached_is_what_lies_within_the_distance(shape, spacing_mm):
  spacing_mm = np.array(spacing_mm)
  points = np.random.default_rng(0).random(shape) < 0.003
  points[0, -1] = points[-1, 0] = True  # beside the ends of rows
  for mask in (points, ~points, points.T.copy().T):
    for most_mm in (4.0, 8.0):
      found = brain_mask._reached(mask, spacing_mm, most_mm)
      wanted = brain_mask._distance(~mask, spacing_mm) <= most_mm
      np.testing.assert_array_equal(found, wanted)
  assert not brain_mask._reached(points & False, spacing_mm, 4.0).any()


def test_a_mask_does_not_depend_on_the_order_in_memory():
  array, _, _ = tiny_head.tiny_head((4.0, 4.0, 4.0))
  volume = _volume(array, (4.0, 4.0, 4.0))
  turned = dataclasses.replace(volume, array=np.asfortranarray(volume.array))
  np.testing.assert_array_equal(
    brain_mask.brain_mask(turned), brain_mask.brain_mask(volume)
  )


def test_no_axis_is_shrunk_to_a_few_voxels():
  # 24 slices that the header falsely says are 1 mm apart.
  factors = brain_mask._shrink_factors((256, 256, 24), np.ones(3))
  assert factors == (2, 2, 1)


@pytest.mark.parametrize("offset", [0, 1e6, -1000])
@pytest.mark.parametrize(
  "shape", [(1, 1, 2), (3, 4, 5), (200, 3, 4), (20, 20, 20)]
)
def test_never_empty(shape, offset):
  checks = (np.indices(shape).sum(0) % 2).astype(np.float32)
  spike = np.zeros(shape, np.float32)
  spike[-1, -1, -1] = 1
  for array in (checks, spike, 1 - spike):
    assert brain_mask.brain_mask(_volume(array + offset, (1.0,) * 3)).any()


def test_images_are_masked_one_by_one():
  array, _, _ = tiny_head.tiny_head((3.0, 3.0, 6.0))
  depth = array.shape[2]
  images = [array[:, :, z].T for z in (depth // 2, depth // 2 + 4)]
  # Ten times brighter, and a blank one: each has a threshold of its own.
  images = [images[0], images[1] * 10, images[0] * 0]
  volume = volume_of_images(images)
  mask = brain_mask.brain_mask(volume)
  assert not mask[..., 2].any()
  for s in (0, 1):
    image = volume.array[..., s]
    head = image > 60 * (1, 10)[s]
    rows = np.flatnonzero(head.any(1))
    assert mask[..., s].any(1).sum() == len(rows)
    assert mask[..., s][head].all()
    assert mask[..., s].mean() < 0.9
  alone = dataclasses.replace(volume, array=volume.array[..., :1])
  np.testing.assert_array_equal(
    brain_mask.brain_mask(alone)[..., 0], mask[..., 0]
  )


def test_a_face_apart_from_the_brain_belongs_to_the_head():
  image = np.random.default_rng(0).normal(0, 2, (120, 120))
  image[20:70, 30:90] = 100
  image[73:100, 30:90] = 120  # two dark rows below the brain
  mask = brain_mask.brain_mask(volume_of_images([image]))
  assert mask[30:90, 20:47].all()  # rows run against Y


def test_bounds_are_clipped_to_the_array():
  mask = np.zeros((5, 6, 7), bool)
  mask[1, 2:4, 6] = True
  assert brain_mask.bounds(mask, 2) == (
    slice(0, 4),
    slice(0, 6),
    slice(4, 9),
  )
  assert mask[brain_mask.bounds(mask)].shape == (1, 2, 1)


@pytest.mark.parametrize("factors", [(2, 2, 2), (1, 2, 3)])
def test_block_means_are_those_of_scikit_image(factors):
  array = np.random.default_rng(0).normal(size=(7, 8, 10)).astype("f")
  expected = skimage.transform.downscale_local_mean(array, factors)
  found = brain_mask._block_means(array, factors)
  np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_bounds_do_not_hang_on_the_order_in_memory(axes):
  mask = np.zeros((5, 6, 7), bool)
  mask[1, 2, 5] = mask[3, 2, 4] = True
  laid = np.ascontiguousarray(mask.transpose(axes)).transpose(np.argsort(axes))
  wanted = (slice(1, 4), slice(2, 3), slice(4, 6))
  assert brain_mask.bounds(laid) == wanted
  assert brain_mask.bounds(laid[::-1]) == wanted
  assert brain_mask.bounds(laid[1]) == (slice(2, 3), slice(5, 6))


def test_bounds_hold_all_of_the_mask_and_stop_at_the_start():
  mask = np.zeros((5, 6, 7), bool)
  mask[1, 2, 6] = mask[3, 4, 6] = True
  assert mask[brain_mask.bounds(mask)].shape == (3, 3, 1)
  assert mask[brain_mask.bounds(mask, margin=2)].shape == (5, 6, 3)
