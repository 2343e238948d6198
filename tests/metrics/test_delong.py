import numpy as np
import pytest
import sklearn.metrics

from brainjax.metrics import delong

# Ratings of 109 CT images from 1 (definitely normal) to 5, Hanley and McNeil
# 1982, Radiology 143; areas and errors as published in Stata's manual, roctab.
NORMAL, ABNORMAL = (33, 6, 6, 11, 2), (3, 2, 2, 11, 33)


def hanley():
  ratings = np.tile(np.arange(1.0, 6), 2)
  scores = np.repeat(ratings, NORMAL + ABNORMAL)
  return scores, np.arange(109) >= sum(NORMAL)


def by_definition(scores, is_positive):
  """Areas and covariance from every pair, as DeLong et al. write them."""
  components = []
  for row in scores:
    x, y = row[is_positive][:, None], row[~is_positive][None]
    psi = (x > y) + 0.5 * (x == y)
    components.append((psi.mean(1), psi.mean(0), psi.mean()))
  v10, v01, areas = (np.array(part) for part in zip(*components, strict=True))
  m, n = v10.shape[1], v01.shape[1]
  s10 = (v10 - areas[:, None]) @ (v10 - areas[:, None]).T / (m - 1)
  s01 = (v01 - areas[:, None]) @ (v01 - areas[:, None]).T / (n - 1)
  return areas, s10 / m + s01 / n


def test_published_area_and_error():
  scores, is_positive = hanley()
  areas, covariance = delong.auc_covariance(scores[None], is_positive)
  assert areas[0] == pytest.approx(0.8932, abs=5e-5)
  assert np.sqrt(covariance[0, 0]) == pytest.approx(0.0307, abs=5e-5)


@pytest.mark.parametrize("seed", range(4))
def test_midranks_are_the_definition(seed):
  rng = np.random.default_rng(seed)
  is_positive = rng.random(50) < 0.3
  scores = rng.integers(8, size=(3, 50)) + is_positive  # many ties
  areas, covariance = delong.auc_covariance(scores, is_positive)
  expected = by_definition(scores, is_positive)
  np.testing.assert_allclose(areas, expected[0], atol=1e-12)
  np.testing.assert_allclose(covariance, expected[1], atol=1e-12)
  for area, row in zip(areas, scores, strict=True):
    peer = sklearn.metrics.roc_auc_score(is_positive, row)
    assert area == pytest.approx(peer, abs=1e-12)


def test_comparison_uses_the_covariance():
  rng = np.random.default_rng(0)
  is_positive = rng.random(80) < 0.5
  first = rng.normal(size=80) + is_positive
  second = first + 0.3 * rng.normal(size=80)
  test = delong.compare_aucs(first, second, is_positive)
  areas, covariance = by_definition(np.stack([first, second]), is_positive)
  variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
  assert test.difference == pytest.approx(areas[0] - areas[1])
  assert test.standard_error == pytest.approx(np.sqrt(variance))
  assert test.z == pytest.approx(test.difference / test.standard_error)
  back = delong.compare_aucs(second, first, is_positive)
  assert (back.z, back.p) == pytest.approx((-test.z, test.p))


def test_comparison_without_variance():
  scores, is_positive = np.arange(10.0), np.arange(10) >= 6
  same = delong.compare_aucs(scores, 2 * scores, is_positive)
  assert (same.difference, same.p) == (0, 1)
  other = delong.compare_aucs(scores, np.zeros(10), is_positive)
  assert other.difference == 0.5
  assert np.isnan(other.p)


@pytest.mark.parametrize("positives", [1, 9])
def test_one_of_a_kind_is_refused(positives):
  with pytest.raises(ValueError, match="needs two of each"):
    delong.auc_covariance(np.zeros((1, 10)), np.arange(10) < positives)


@pytest.mark.parametrize(
  ("repeats", "fewest", "most"),
  [(200, 3, 19), pytest.param(1000, 35, 65, marks=pytest.mark.soak)],
)
def test_errors_are_as_rare_as_said(repeats, fewest, most):
  """Two unlike, correlated models of equal area, many times."""
  rng = np.random.default_rng(0)
  is_positive = np.arange(120) < 50
  found = 0
  for _ in range(repeats):
    common = rng.normal(size=120)
    first, second = (
      common + rng.normal(size=(2, 120)) + np.sqrt(2) * is_positive
    )
    found += delong.compare_aucs(first, np.exp(second), is_positive).p < 0.05
  assert fewest <= found <= most
