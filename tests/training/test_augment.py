import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage

from brainjax import config
from brainjax.training import augment

OFF = augment.AugmentRanges(**config.get_config("augment=none").augment)
SANE = augment.AugmentRanges(**config.get_config("augment=sane").augment)
ALL = dataclasses.replace(SANE, stretch=0.1, perspective=0.1, crop=0.2)
SIZE = 24, 20
NUM_ROWS, LONGEST = 3, 4


def only(**ranges):
  return dataclasses.replace(OFF, **ranges)


@functools.cache
def draw(ranges, num_scans=2000, size=SIZE, name="map"):
  def draw_all(keys):
    drawn = jax.vmap(lambda key: augment.draw_scan(key, ranges, *size))(keys)
    return drawn[name]

  # The few operations of a map are compiled sooner one by one, for all maps.
  draw_all = jax.jit(draw_all) if ranges.elastic_alpha else draw_all
  keys = jax.random.split(jax.random.key(0), num_scans)
  return np.array(draw_all(keys))


def make_batch(*packs, num_slots=8, channels=1, seed=0):
  """Two packs of {record index: slices}; brains are discs on a ground of 0."""
  packs = (*packs, {})[:2]
  shape = (len(packs), num_slots)
  batch = {
    "owner": np.full(shape, NUM_ROWS, np.int32),
    "position": np.tile(
      LONGEST + np.arange(num_slots, dtype=np.int32), shape[0:1] + (1,)
    ),
    "length": np.zeros((len(packs), NUM_ROWS), np.int32),
    "draw": np.full((len(packs), NUM_ROWS), -1, np.int32),
  }
  slices = np.zeros((*shape, *SIZE, channels), np.float32)
  rows, columns = np.ogrid[: SIZE[0], : SIZE[1]]
  disc = (rows - 11.5) ** 2 + (columns - 9.5) ** 2 < 64
  for pack, scans in enumerate(packs):
    end = 0
    for row, (index, length) in enumerate(scans.items()):
      start, end = end, end + length
      batch["owner"][pack, start:end] = row
      batch["position"][pack, start:end] = np.arange(length)
      batch["length"][pack, row] = length
      batch["draw"][pack, row] = index
      rng = np.random.default_rng([seed, index])
      brain = rng.normal(size=(length, *SIZE, channels))
      slices[pack, start:end] = brain * disc[..., None]
  return jnp.array(slices), batch


def vary(slices, batch, ranges, key=3):
  return np.array(
    jax.jit(augment.vary_batch, static_argnums=3)(
      slices, batch, jax.random.key(key), ranges
    )
  )


def test_nothing_happens_when_all_is_off():
  slices, batch = make_batch({0: 3, 5: 2})
  varied = augment.vary_batch(slices, batch, jax.random.key(0), OFF)
  np.testing.assert_array_equal(varied, slices)
  assert not OFF.changes_anything
  for ranges in (only(flip=True), only(noise=0.1), only(gamma=(0.5, 1.0))):
    assert ranges.changes_anything


def test_a_scan_that_is_drawn_twice_is_varied_twice():
  slices, batch = make_batch({7: 3}, {7: 3})
  once = vary(slices, batch, ALL)
  np.testing.assert_array_equal(once[0], once[1])
  batch["draw"][1, 0] = 7 + 10  # of 10 records
  twice = vary(slices, batch, ALL)
  np.testing.assert_array_equal(twice[0], once[0])
  assert np.abs(twice[1, :3] - once[1, :3]).max() > 0.1


@pytest.mark.parametrize(
  "ranges", [SANE, pytest.param(ALL, marks=pytest.mark.slow)]
)
def test_a_scan_is_varied_alike_wherever_it_stands(ranges):
  """Packs, rows, order and the other scans of the batch change nothing."""
  slices, batch = make_batch({7: 3, 2: 2}, {4: 4})
  varied = vary(slices, batch, ranges)
  for pack, scans in enumerate([{7: 3, 2: 2}, {4: 4}]):
    start = 0
    for index, length in scans.items():
      alone = vary(*make_batch({0: 1, index: length}), ranges)
      alone = alone[0, 1 : 1 + length]
      here = varied[pack, start : start + length]
      np.testing.assert_allclose(here, alone, atol=2e-5)
      start += length
  assert np.abs(vary(slices, batch, ranges, key=4) - varied).max() > 0.5


def test_slices_of_a_scan_get_one_draw_and_noise_of_their_own():
  slices, batch = make_batch({7: 3, 2: 3})
  slices = slices.at[0].set(jnp.tile(slices[0, :1], (8, 1, 1, 1)))
  moved = only(rotation_degrees=20.0, gamma=(0.5, 2.0))
  # A bias field varies along the slices; without it they are the same.
  varied = vary(slices, batch, dataclasses.replace(moved, bias_field=0.3))[0]
  same = vary(slices, batch, moved)[0]
  for start in (0, 3):
    for i in (1, 2):
      np.testing.assert_allclose(same[start], same[start + i], atol=1e-5)
  assert np.abs(same[0] - same[3]).max() > 0.5
  assert 0.01 < np.abs(varied[0] - varied[2]).max() < 1.0
  noisy = vary(slices, batch, only(noise=0.1))[0] - np.array(slices[0])
  assert np.abs(np.corrcoef(noisy[0].ravel(), noisy[1].ravel())[0, 1]) < 0.2


def test_background_filler_and_absent_modalities_stay_zero():
  slices, batch = make_batch({7: 3, 2: 2}, channels=2)
  slices = slices.at[0, 3:, ..., 1].set(0)
  still = only(noise=0.3, gamma=(0.5, 2.0), bias_field=0.5)
  varied = vary(slices, batch, still)
  np.testing.assert_array_equal(varied == 0, slices == 0)
  present = np.zeros((2, NUM_ROWS + 1, 2), np.uint8)
  present[0, :2] = [[1, 1], [1, 0]]
  moved = only(translation=0.3, noise=0.1, fill_value=-2.0)
  varied = vary(slices, batch | {"present": present}, moved)
  assert np.isfinite(varied).all() and (varied == -2).any()
  np.testing.assert_array_equal(varied[0, 5:], 0)
  np.testing.assert_array_equal(varied[0, 3:, ..., 1], 0)


def test_outside_the_image_is_the_fill_value():
  slices, batch = make_batch({7: 3})
  ranges = only(translation=0.6)
  plain = vary(slices, batch, ranges)
  filled = vary(slices, batch, dataclasses.replace(ranges, fill_value=-2.0))
  values, counts = np.unique((filled - plain)[0, :3], return_counts=True)
  assert values.min() == -2 and counts[values == -2] > 60
  assert counts[values == 0] > 60
  np.testing.assert_array_equal((filled - plain)[0, 3:], 0)


@pytest.mark.slow  # its operations are compiled one by one
def test_jit_equals_eager():
  slices, batch = make_batch({7: 2})
  ranges = only(translation=0.1, gamma=(0.5, 2.0))
  eager = augment.vary_batch(slices, batch, jax.random.key(3), ranges)
  np.testing.assert_allclose(vary(slices, batch, ranges), eager, atol=1e-4)


def test_draws_of_earlier_runs_go_on():
  """What the first four ranges draw is what it was before there were more."""
  ranges = augment.AugmentRanges(**config.get_config().augment)
  key = jax.random.key(5)
  keys = jax.random.split(key, 4)
  angle, zoom, shift = (
    jax.random.uniform(k, shape, minval=-1, maxval=1)
    for k, shape in zip(keys[:3], ((), (), (2,)), strict=True)
  )
  angle, zoom = jnp.deg2rad(10.0) * angle, 1 + 0.1 * zoom
  mirror = -1 if jax.random.bernoulli(keys[3]) else 1
  cosine, sine = jnp.cos(angle) / zoom, jnp.sin(angle) / zoom
  expected = [
    [cosine, -sine * mirror, 0.05 * shift[0]],
    [sine, cosine * mirror, 0.05 * shift[1]],
    [0, 0, 1],
  ]
  drawn = augment.draw_scan(key, ranges, *SIZE)
  assert drawn.keys() == {"map"}
  np.testing.assert_allclose(drawn["map"], np.array(expected), atol=1e-6)


def test_mirror_is_left_right_of_half_of_the_scans():
  maps = draw(only(flip=True))
  mirrored = maps[:, 1, 1] < 0
  assert 0.4 < mirrored.mean() < 0.6
  assert (maps[:, 0, 0] == 1).all()


def test_ranges_of_maps_are_kept():
  maps = draw(only(rotation_degrees=20.0, scale=0.2, translation=0.1))
  linear, shift = maps[:, :2, :2], maps[:, :2, 2]
  zoom = 1 / np.sqrt(np.linalg.det(linear))
  angle = np.rad2deg(np.arctan2(linear[:, 1, 0], linear[:, 0, 0]))
  assert_fills(zoom, 0.8, 1.2)
  assert_fills(shift, -0.1, 0.1)
  assert_fills(angle, -20, 20)
  maps = draw(only(stretch=0.3))
  assert_fills(maps[:, 1, 1] / maps[:, 0, 0], 0.7, 1.3)
  np.testing.assert_allclose(np.linalg.det(maps), 1, atol=1e-5)
  maps = draw(only(shear_degrees=30.0))
  lean = np.rad2deg(np.arctan(maps[:, [0, 1], [1, 0]]))
  assert_fills(lean, -30, 30)
  maps = draw(only(perspective=0.4))
  assert_fills(maps[:, 2, :2] / 2, -0.4, 0.4)
  maps = draw(only(crop=0.5))
  assert_fills(maps[:, 0, 0], 0.5, 1.0)
  assert_fills(draw(only(gamma=(0.7, 1.5)), name="gamma"), 0.7, 1.5)
  assert_fills(draw(only(noise=0.2), name="noise"), 0, 0.2)


def assert_fills(values, low, high):
  slack = 0.01 * (high - low)
  assert low - 1e-4 <= values.min() < low + slack
  assert high - slack < values.max() <= high + 1e-4


def test_window_lies_on_the_image():
  maps = draw(only(crop=0.5))
  edges = np.array([SIZE[0], SIZE[1]]) / 2 / max(SIZE)
  for sign in (-1, 1):
    corners = maps[:, [0, 1], [0, 1]] * sign * edges + maps[:, :2, 2]
    assert (np.abs(corners) <= edges + 1e-6).all()
  reached = np.abs(maps[:, :2, 2]).max(0)
  np.testing.assert_allclose(reached, edges / 2, rtol=0.2)


def test_deformation_is_as_large_as_said_and_does_not_fold():
  alpha, side = 0.1, max(SIZE)
  fields = draw(only(elastic_alpha=alpha), 300, name="displacement")
  largest = np.sqrt((fields**2).sum(1)).max((1, 2))
  assert_fills(largest, 0, alpha * side)
  fields = draw(SANE, 20, (128, 128), name="displacement")
  (rr, rc), (cr, cc) = (np.gradient(fields[:, i], axis=(1, 2)) for i in (0, 1))
  assert ((1 + rr) * (1 + cc) - rc * cr).min() > 0


def test_bias_field_keeps_its_range_and_varies_smoothly():
  slices, batch = make_batch({7: 4})
  slices = jnp.where(slices == 0, 0.0, 1.0).at[0, 0, 12, 10].set(-1.0)
  field = np.array(vary(slices, batch, only(bias_field=0.4)))[0, :4, ..., 0]
  inside = np.array(slices[0, :4, ..., 0]) == 1
  log_field = np.log(np.where(inside, (field + 1) / 2, 1))  # darkest is -1
  assert 0.01 < np.abs(log_field).max() <= 0.44
  slopes = np.abs(np.diff(log_field, axis=1))[inside[:, 1:] & inside[:, :-1]]
  assert slopes.max() < 0.1
  assert np.abs(np.diff(log_field, axis=0)).max() > 1e-3


def test_noise_is_normal_and_of_the_drawn_size():
  slices, batch = make_batch({7: 4, 2: 4})
  ranges = only(noise=0.3)
  noise = vary(slices, batch, ranges) - np.array(slices)
  inside = np.array(slices[0, :4]) != 0
  for index, start in ((7, 0), (2, 4)):
    key = jax.random.fold_in(jax.random.key(3), index)
    size = float(augment.draw_scan(key, ranges, *SIZE)["noise"])
    drawn = noise[0, start : start + 4][inside] / size
    assert abs(drawn.mean()) < 0.1
    assert 0.93 < drawn.std() < 1.07
    assert 0.62 < (np.abs(drawn) < 1).mean() < 0.74  # of a normal: 0.683


def test_map_moves_the_brain_as_scipy_does():
  """End to end: the drawn map and field, applied to the slices by scipy."""
  slices, batch = make_batch({7: 2})
  moving = dataclasses.replace(ALL, gamma=(1.0, 1.0), bias_field=0.0, noise=0.0)
  varied = vary(slices, batch, moving)
  key = jax.random.fold_in(jax.random.key(3), 7)
  drawn = augment.draw_scan(key, moving, *SIZE)
  matrix = np.array(drawn["map"], np.float64)
  centre, side = (np.array(SIZE) - 1) / 2, max(SIZE)
  grid = np.indices(SIZE).reshape(2, -1)
  target = np.concatenate(
    [(grid.T - centre).T / side, np.ones((1, grid.shape[1]))]
  )
  source = matrix @ target
  source = (source[:2] / source[2]).T * side + centre
  source = source.T.reshape(2, *SIZE) + np.array(drawn["displacement"])
  for n in range(2):
    expected = scipy.ndimage.map_coordinates(
      np.array(slices)[0, n, ..., 0], source, order=1, mode="grid-constant"
    )
    np.testing.assert_allclose(varied[0, n, ..., 0], expected, atol=1e-4)


@pytest.mark.parametrize("name", config.AUGMENT_PRESETS)
def test_presets_keep_a_brain_on_the_image(name):
  ranges = augment.AugmentRanges(**config.get_config(f"augment={name}").augment)
  slices, batch = make_batch({7: 2, 2: 2, 9: 2})
  varied = vary(slices, batch, ranges)[0, :6]
  before = np.array(slices[0, :6])
  kept = (varied != 0).sum((1, 2, 3)) / (before != 0).sum((1, 2, 3))
  assert (kept > 0.6).all()
