"""The area under the ROC curve: its variance, and how two compare.

Valid on one fixed test set. Scores pooled over the folds of a cross-validation
differ in scale from fold to fold: prefer the bootstrap of `comparison.py`.
"""

from typing import NamedTuple

import numpy as np
import scipy.stats


class AucComparison(NamedTuple):
  """Two areas on the same rows: their difference and what it is worth."""

  difference: float
  standard_error: float
  z: float
  p: float


def auc_covariance(
  scores: np.ndarray, is_positive: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Estimates the areas of several models on the same rows, and how they vary.

  >>> scores = np.array([[0.1, 0.4, 0.4, 0.6, 0.9]])
  >>> areas, covariance = auc_covariance(scores, np.array([0, 0, 1, 0, 1]) > 0)
  >>> areas.tolist()
  [0.75]

  Args:
    scores: f64[M,n], a row a model; larger for positives.
    is_positive: bool[n].

  Returns:
    f64[M] areas, and the f64[M,M] covariance of their estimates.

  Raises:
    ValueError: There are fewer than two positives or two negatives.

  Source: DeLong et al. 1988, Biometrics 44(3), equation 5; by midranks as in
    Sun and Xu 2014, IEEE Signal Processing Letters 21(11), Algorithm 2.
  """
  positives, negatives = scores[:, is_positive], scores[:, ~is_positive]
  m, n = positives.shape[1], negatives.shape[1]
  if min(m, n) < 2:
    raise ValueError(
      f"{m} positives and {n} negatives; the variance of an AUC needs two of"
      " each"
    )
  ranks = scipy.stats.rankdata(np.hstack([positives, negatives]), axis=1)
  above = (ranks[:, :m] - scipy.stats.rankdata(positives, axis=1)) / n
  below = 1 - (ranks[:, m:] - scipy.stats.rankdata(negatives, axis=1)) / m
  covariance = np.cov(above) / m + np.cov(below) / n
  return above.mean(1), np.reshape(covariance, (len(scores), len(scores)))


def compare_aucs(
  first: np.ndarray, second: np.ndarray, is_positive: np.ndarray
) -> AucComparison:
  """Tests whether two models have equal areas, on the same rows.

  Args:
    first: f64[n] scores of a model, larger for positives.
    second: f64[n] those of another.
    is_positive: bool[n].

  Returns:
    The first area minus the second, and a two-sided p; 1 if both models order
    all pairs alike, NaN if they differ but nothing varies.

  Raises:
    ValueError: As for `auc_covariance`.
  """
  areas, covariance = auc_covariance(np.stack([first, second]), is_positive)
  difference = float(areas[0] - areas[1])
  contrast = np.array([1, -1])
  variance = max(float(contrast @ covariance @ contrast), 0.0)
  standard_error = np.sqrt(variance)
  if standard_error < 1e-12:  # rounding of what is 0
    p = 1.0 if abs(difference) < 1e-12 else np.nan
    return AucComparison(difference, 0.0, 0.0 if p == 1 else np.nan, p)
  z = difference / standard_error
  p = 2 * scipy.stats.norm.sf(abs(z))
  return AucComparison(difference, float(standard_error), float(z), float(p))
