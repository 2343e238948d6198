import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage

from brainjax.training import warp

HEIGHT, WIDTH = 12, 10
STILL = {
  "angle": 0.0,
  "shear": (0.0, 0.0),
  "scale": (1.0, 1.0),
  "mirror": 1.0,
  "shift": (0.0, 0.0),
  "tilt": (0.0, 0.0),
  "window_side": 1.0,
  "window_centre": (0.0, 0.0),
}
CHANGES = {
  "rotation": {"angle": 0.4},
  "shear": {"shear": (0.3, -0.1)},
  "scale": {"scale": (1.3, 0.8)},
  "mirror": {"mirror": -1.0},
  "translation": {"shift": (0.2, -0.07)},
  "window": {"window_side": 0.6, "window_centre": (0.1, -0.15)},
  "all affine": {
    "angle": -0.3,
    "shear": (0.1, 0.05),
    "scale": (1.1, 0.9),
    "mirror": -1.0,
    "shift": (0.05, 0.1),
    "window_side": 0.8,
    "window_centre": (0.1, 0.05),
  },
}


def compose(**changes):
  arguments = {**STILL, **changes}
  return warp.compose_map(
    **{name: jnp.array(value) for name, value in arguments.items()}
  )


def random_slices(num_slices=1, channels=2):
  shape = (num_slices, HEIGHT, WIDTH, channels)
  return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def apply(slices, *maps, rows=None, displacement=0.0):
  coordinates = warp.source_coordinates(jnp.stack(maps), HEIGHT, WIDTH)
  coordinates += displacement
  rows = np.zeros(len(slices), int) if rows is None else np.array(rows)
  sampled = warp.sample_slices(jnp.array(slices), coordinates, rows)
  return np.array(sampled), np.array(coordinates)


def by_hand(angle, shear, scale, mirror, shift, tilt, window_side, centre):
  """The 3x3 map, spelt out in the order of the module's documentation."""
  del tilt
  shear = np.tan(shear)
  moved = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
  sheared = [[1, shear[0]], [shear[1], 1]]
  scaled = np.diag([1 / scale[0], mirror / scale[1]])
  linear = np.array(moved) @ sheared @ scaled
  return linear * window_side, linear @ np.array(centre) + np.array(shift)


@pytest.mark.parametrize("name", CHANGES)
def test_affine_maps_agree_with_scipy(name):
  image = random_slices()
  sampled, _ = apply(image, compose(**CHANGES[name]))
  linear, shift = by_hand(*{**STILL, **CHANGES[name]}.values())
  centre = (np.array([HEIGHT, WIDTH]) - 1) / 2
  offset = centre + shift * HEIGHT - linear @ centre
  for channel in range(2):
    expected = scipy.ndimage.affine_transform(
      image[0, ..., channel], linear, offset, order=1, mode="grid-constant"
    )
    np.testing.assert_allclose(sampled[0, ..., channel], expected, atol=2e-5)
  assert np.abs(sampled - image).max() > 0.1


@pytest.mark.parametrize("deform", [False, True])
def test_any_coordinates_agree_with_scipy(deform):
  image = random_slices()
  displacement = np.zeros((1, 2, HEIGHT, WIDTH), np.float32)
  if deform:
    displacement = np.random.default_rng(1).normal(size=displacement.shape)
    displacement = displacement.astype(np.float32)
  sampled, coordinates = apply(
    image, compose(tilt=(0.3, -0.2), angle=0.2), displacement=displacement
  )
  for channel in range(2):
    expected = scipy.ndimage.map_coordinates(
      image[0, ..., channel], coordinates[0], order=1, mode="grid-constant"
    )
    np.testing.assert_allclose(sampled[0, ..., channel], expected, atol=1e-5)


def test_perspective_scales_the_edges_as_said():
  """The lower edge 1.25 times as deep: its pixels lie that much closer."""
  coordinates = warp.source_coordinates(compose(tilt=(0.25, 0.0))[None], 33, 33)
  step = np.diff(np.array(coordinates)[0, 1], axis=1)  # along a row
  edge = 1 + 0.25 * 32 / 33  # of the last pixel's centre
  np.testing.assert_allclose(step[16], 1, rtol=1e-5)
  np.testing.assert_allclose(step[-1], 1 / edge, rtol=1e-5)
  np.testing.assert_allclose(step[0], 1 / (2 - edge), rtol=1e-5)


def test_mirror_and_identity_are_exact():
  slices = random_slices(2)
  slices[:, :4] = 0  # background stays exactly 0 beside the brain
  still, _ = apply(slices, compose())
  np.testing.assert_array_equal(still, slices)
  mirrored, _ = apply(slices, compose(mirror=-1.0))
  np.testing.assert_array_equal(mirrored, slices[:, :, ::-1])


def test_inverse_map_leads_back():
  forward = compose(**CHANGES["all affine"], tilt=(0.1, 0.2))
  smooth = scipy.ndimage.gaussian_filter(
    np.random.default_rng(0).normal(size=(96, 96)), 8
  )
  slices = (smooth / smooth.std()).astype(np.float32)[None, :, :, None]
  for matrix in (forward, jnp.linalg.inv(forward)):
    coordinates = warp.source_coordinates(matrix[None], 96, 96)
    slices = warp.sample_slices(slices, coordinates, np.array([0]))
  middle = np.array(slices)[0, 32:64, 32:64, 0]
  wanted = smooth[32:64, 32:64] / smooth.std()
  np.testing.assert_allclose(middle, wanted, atol=0.05)


def test_each_slice_takes_the_map_of_its_scan():
  slices = random_slices(3)
  maps = compose(angle=0.5), compose(shift=(0.3, 0.0))
  together, _ = apply(slices, *maps, rows=[1, 0, 1])
  for i, row in enumerate([1, 0, 1]):
    alone, _ = apply(slices[i : i + 1], maps[row])
    np.testing.assert_array_equal(together[i], alone[0])


def test_far_outside_is_zero_and_partly_outside_is_covered_in_part():
  ones = np.ones((1, HEIGHT, WIDTH, 1), np.float32)
  for shift in ((5.0, 0.0), (0.0, -5.0), (1e6, 1e6)):
    sampled, _ = apply(ones, compose(shift=shift))
    np.testing.assert_array_equal(sampled, 0)
  sampled, coordinates = apply(
    ones, compose(angle=0.3, shift=(0.113, 0.2), tilt=(0.1, 0.0))
  )
  assert (0 < sampled).any() and (sampled < 1).any()
  covered = warp.coverage(jnp.array(coordinates))
  np.testing.assert_allclose(sampled[..., 0], covered, atol=1e-5)
  _, coordinates = apply(ones, compose())
  np.testing.assert_array_equal(warp.coverage(jnp.array(coordinates)), 1)


def test_smooth_field_is_a_gaussian_filter_of_unit_variance():
  sigma = 2.5
  margin = warp.field_margin(sigma)
  noise = np.random.default_rng(0).normal(size=(50, 40 + 2 * margin, 60))
  noise = noise.astype(np.float32)
  field = np.array(warp.smooth_field(jnp.array(noise), sigma))
  assert field.shape == (50, 40, 60 - 2 * margin)
  inside = slice(margin, -margin)
  expected = scipy.ndimage.gaussian_filter(
    noise, (0, sigma, sigma), radius=(0, margin, margin)
  )[:, inside, inside]
  expected *= 2 * np.sqrt(np.pi) * sigma  # of a Gaussian in two dimensions
  np.testing.assert_allclose(field, expected, atol=0.02)
  edge, middle = field[:, 0].std(), field[:, 20].std()
  assert 0.85 < edge < 1.15 and 0.85 < middle < 1.15


def test_jit_equals_eager():
  slices = jnp.array(random_slices())
  maps = compose(angle=0.5, tilt=(0.1, 0.2))[None]

  def run(slices, maps):
    coordinates = warp.source_coordinates(maps, HEIGHT, WIDTH)
    return warp.sample_slices(slices, coordinates, np.array([0]))

  np.testing.assert_allclose(
    jax.jit(run)(slices, maps), run(slices, maps), atol=2e-5
  )
