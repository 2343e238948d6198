import jax
import jax.numpy as jnp
import numpy as np
import scipy.ndimage

from brainjax.training import augment

OFF = augment.AugmentRanges(
  flip=False, rotation_degrees=0.0, scale=0.0, translation=0.0
)
ON = augment.AugmentRanges(
  flip=True, rotation_degrees=20.0, scale=0.2, translation=0.1
)
IDENTITY = np.array([[1.0, 0, 0], [0, 1, 0]], np.float32)


def random_slices(shape=(3, 12, 10, 2)):
  return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def test_without_ranges_the_map_is_the_identity():
  maps = augment.draw_maps(jax.random.key(0), jnp.arange(4), OFF)
  np.testing.assert_array_equal(maps, np.tile(IDENTITY, (4, 1, 1)))
  slices = random_slices()
  warped = augment.warp_slices(jnp.array(slices), maps[:3])
  np.testing.assert_allclose(warped, slices, atol=1e-5)


def test_draw_depends_on_the_scan_and_on_nothing_beside_it():
  key = jax.random.key(3)
  together = augment.draw_maps(key, jnp.array([[7, 2], [9, 7]]), ON)
  alone = augment.draw_maps(key, jnp.array([7]), ON)
  np.testing.assert_array_equal(together[0, 0], alone[0])
  np.testing.assert_array_equal(together[1, 1], alone[0])
  assert np.abs(together[0, 0] - together[0, 1]).max() > 1e-3
  other = augment.draw_maps(jax.random.key(4), jnp.array([7]), ON)
  assert np.abs(other - alone).max() > 1e-3


def test_mirror_is_left_right_of_half_of_the_scans():
  ranges = augment.AugmentRanges(
    flip=True, rotation_degrees=0.0, scale=0.0, translation=0.0
  )
  maps = augment.draw_maps(jax.random.key(0), jnp.arange(400), ranges)
  mirrored = np.array(maps[:, 1, 1]) < 0
  assert 0.4 < mirrored.mean() < 0.6
  slices = random_slices()
  one = int(np.flatnonzero(mirrored)[0])
  warped = augment.warp_slices(
    jnp.array(slices), jnp.tile(maps[one], (3, 1, 1))
  )
  np.testing.assert_allclose(warped, slices[:, :, ::-1], atol=1e-5)


def test_warp_agrees_with_scipy():
  slices = random_slices()
  maps = np.array(augment.draw_maps(jax.random.key(1), jnp.arange(3), ON))
  warped = augment.warp_slices(jnp.array(slices), jnp.array(maps))
  centre = (np.array(slices.shape[1:3]) - 1) / 2
  side = max(slices.shape[1:3])
  for i, (matrix, image) in enumerate(zip(maps, slices, strict=True)):
    linear = matrix[:, :2]
    offset = centre + matrix[:, 2] * side - linear @ centre
    for channel in range(image.shape[-1]):
      expected = scipy.ndimage.affine_transform(
        image[..., channel],
        linear,
        offset,
        order=1,
        mode="grid-constant",
      )
      np.testing.assert_allclose(warped[i, ..., channel], expected, atol=1e-4)


def test_ranges_are_kept():
  maps = augment.draw_maps(jax.random.key(0), jnp.arange(2000), ON)
  linear = np.array(maps[:, :, :2])
  zoom = 1 / np.sqrt(np.abs(np.linalg.det(linear)))
  assert 0.8 <= zoom.min() < 0.81 and 1.19 < zoom.max() <= 1.2
  shift = np.array(maps[:, :, 2])
  assert -0.1 <= shift.min() < -0.099 and 0.099 < shift.max() <= 0.1
  angle = np.rad2deg(np.arctan2(linear[:, 1, 0], linear[:, 0, 0]))
  assert -20.001 <= angle.min() < -19.5 and 19.5 < angle.max() <= 20.001
