import jax.numpy as jnp
import numpy as np

from brainjax.training import appearance

NUM_TERMS = len(appearance.EXPONENTS)


def test_terms_are_those_of_a_cubic_without_its_constant():
  terms = {tuple(powers) for powers in appearance.EXPONENTS.tolist()}
  assert len(terms) == NUM_TERMS == 19  # 20 monomials of a cubic, less one
  assert (0, 0, 0) not in terms
  assert {(3, 0, 0), (1, 1, 1), (0, 2, 1)} <= terms


def test_bias_field_is_the_polynomial():
  rng = np.random.default_rng(0)
  coefficients = rng.normal(size=(2, NUM_TERMS)).astype(np.float32)
  places = np.array([-1.0, 0.4], np.float32)
  field = appearance.log_bias_fields(
    jnp.array(coefficients), jnp.array(places), 5, 7
  )
  assert field.shape == (2, 5, 7, 1)
  rows, columns = np.linspace(-1, 1, 5), np.linspace(-1, 1, 7)
  for n, place in enumerate(places):
    for h, row in enumerate(rows):
      for w, column in enumerate(columns):
        terms = [
          row**i * column**j * place**k for i, j, k in appearance.EXPONENTS
        ]
        expected = np.dot(coefficients[n], terms)
        np.testing.assert_allclose(field[n, h, w, 0], expected, atol=1e-5)


def test_normalised_polynomial_reaches_about_one():
  rng = np.random.default_rng(0)
  drawn = rng.uniform(-1, 1, (30, NUM_TERMS)).astype(np.float32)
  coefficients = appearance.normalise_polynomial(jnp.array(drawn))
  places = np.linspace(-1, 1, 21, dtype=np.float32)
  for row in coefficients:
    field = appearance.log_bias_fields(
      jnp.tile(row, (21, 1)), jnp.array(places), 21, 21
    )
    assert 0.999 < np.abs(field).max() < 1.1
  ratio = np.array(coefficients) / drawn
  np.testing.assert_allclose(
    ratio, np.tile(ratio[:, :1], (1, NUM_TERMS)), rtol=1e-4
  )


def test_ranges_are_of_each_scan_and_modality():
  rng = np.random.default_rng(0)
  slices = rng.normal(size=(5, 4, 4, 2)).astype(np.float32)
  slices[4] = 0
  owner = np.array([0, 0, 2, 2, 3])  # row 1 is empty, 3 is filler
  low, high = appearance.intensity_ranges(jnp.array(slices), owner, 3)
  np.testing.assert_array_equal(low[0], slices[:2].min((0, 1, 2)))
  np.testing.assert_array_equal(high[2], slices[2:4].max((0, 1, 2)))
  np.testing.assert_array_equal(low[1], 0)
  np.testing.assert_array_equal(high[1], 0)


def test_background_is_zeros_that_touch_another():
  slices = np.ones((1, 5, 6, 1), np.float32)
  slices[0, 2, 2] = 0  # the brain's mean
  slices[0, 4, 0] = 0  # what lies beyond the edge is background
  slices[0, :2, 4:] = 0
  found = appearance.background(jnp.array(slices))[0, ..., 0]
  expected = slices[0, ..., 0] == 0
  expected[2, 2] = False
  np.testing.assert_array_equal(found, expected)


def reshade(slices, **kwargs):
  low, high = slices.min((0, 1, 2)), slices.max((0, 1, 2))
  rows = (len(slices), 1)
  shaded = appearance.reshade(
    jnp.array(slices),
    jnp.tile(low, rows),
    jnp.tile(high, rows),
    **{"log_bias": None, "gamma": None, **kwargs},
  )
  return np.array(shaded), low, high


def test_gamma_bends_the_range_and_keeps_zero():
  rng = np.random.default_rng(0)
  slices = rng.normal(size=(2, 6, 5, 2)).astype(np.float32)
  slices[0, 0] = 0
  gamma = np.array([0.7, 1.5], np.float32)
  shaded, low, high = reshade(slices, gamma=jnp.array(gamma))
  span = high - low
  for n, g in enumerate(gamma):
    unit = np.clip((slices[n] - low) / span, 0, 1)
    expected = span * (unit**g - (-low / span) ** g)
    np.testing.assert_allclose(shaded[n], expected, atol=1e-5)
  np.testing.assert_allclose(shaded[0, 0], 0, atol=1e-6)
  order = np.argsort(slices[0, ..., 0], axis=None)
  assert (np.diff(shaded[0, ..., 0].ravel()[order]) >= -1e-6).all()


def test_bias_multiplies_what_lies_above_the_darkest():
  rng = np.random.default_rng(0)
  slices = rng.normal(size=(2, 6, 5, 1)).astype(np.float32)
  log_bias = rng.normal(0, 0.2, (2, 6, 5, 1)).astype(np.float32)
  shaded, low, _ = reshade(slices, log_bias=jnp.array(log_bias))
  expected = (slices - low) * np.exp(log_bias) + low
  np.testing.assert_allclose(shaded, expected, atol=1e-5)


def test_a_scan_without_a_range_stays_finite():
  zeros = np.zeros((1, 3, 3, 1), np.float32)
  shaded, *_ = reshade(zeros, gamma=jnp.array([0.5]))
  np.testing.assert_array_equal(shaded, 0)
