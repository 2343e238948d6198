import numpy as np
import pytest

from brainjax import records
from brainjax.preparation import intensity


@pytest.mark.parametrize(("dtype", "steps"), [("u8", 127), ("i16", 32767)])
@pytest.mark.parametrize("limit", [5.0, 3.0])
def test_codes_are_off_by_half_a_step_at_most(dtype, steps, limit):
  z = np.linspace(-limit, limit, 100_001, dtype=np.float32)
  codes, step = intensity.quantise(z, dtype, limit)
  zero_code = records.ZERO_CODES[codes.dtype]
  assert step == limit / steps
  restored = (codes.astype(np.float64) - zero_code) * step
  assert np.abs(restored - z).max() <= step / 2 * 1.01
  assert (codes[np.abs(z) < step / 3] == zero_code).all()
  assert int(codes.max()) - zero_code == steps == zero_code - int(codes.min())


def test_standardised_brain_has_mean_0_and_deviation_1():
  values = np.random.default_rng(0).normal(700, 30, 10_000).astype(np.float32)
  mean, deviation = intensity.brain_statistics(values)
  z = intensity.standardise(values, mean, deviation, limit=5.0)
  assert abs(z.mean(dtype=np.float64)) < 1e-5
  assert abs(z.std(dtype=np.float64) - 1) < 1e-3
  assert z.dtype == np.float32


def test_statistics_hold_far_from_zero():
  values = np.float32(1e6) + np.tile(np.float32([0, 1]), 1_000_000)
  mean, deviation = intensity.brain_statistics(values)
  assert mean == pytest.approx(1e6 + 0.5, abs=1e-3)
  assert deviation == pytest.approx(0.5, rel=1e-6)


def test_outliers_are_clipped():
  z = intensity.standardise(np.float32([-1e4, 0, 1e4]), 0.0, 1.0, limit=5.0)
  np.testing.assert_array_equal(z, [-5, 0, 5])


def test_landmarks_are_percentiles_of_the_file():
  values = np.arange(101, dtype=np.float32)[::-1] * 10
  np.testing.assert_allclose(
    intensity.landmarks(values),
    [10, 100, 200, 300, 400, 500, 600, 700, 800, 900, 990],
  )


def test_percentiles_are_numpys():
  values = np.random.default_rng(0).normal(size=1001)
  for count in (1, 2, 12, 1001):
    found = intensity.percentiles(np.sort(values[:count]), (0, 1, 37, 99, 100))
    wanted = np.percentile(values[:count], (0, 1, 37, 99, 100))
    np.testing.assert_allclose(found, wanted, rtol=1e-12)
