"""The area under the ROC curve when there are more than two classes.

`classification.roc_auc` gives the mean of every class against the rest, which
depends on how many each class has; what is here takes classes one by one.
"""

import itertools

import numpy as np

from brainjax.metrics import classification


def one_vs_rest_auc(
  probabilities: np.ndarray,
  targets: np.ndarray,
  *,
  counts: np.ndarray | None = None,
) -> np.ndarray:
  """Returns f64[...,K], the area of each class against all others.

  Args:
    probabilities: f64[n,K], each row sums to 1.
    targets: i64[n] true classes.
    counts: i64[...,n] how often each row is drawn; once by default.

  Raises:
    ValueError: See `classification.checked_counts`.
  """
  counts = classification.checked_counts(probabilities, targets, counts)
  areas = [
    _auc(probabilities[:, k], targets == k, counts)
    for k in range(probabilities.shape[1])
  ]
  return np.stack(areas, axis=-1)


def hand_till_auc(
  probabilities: np.ndarray,
  targets: np.ndarray,
  *,
  counts: np.ndarray | None = None,
) -> np.ndarray:
  """Mean over pairs of classes of how well they are told apart; f64[...].

  Of a pair (i, j), only its own rows count, once ordered by the probability
  of i and once by that of j. It does not change with how frequent classes
  are. NaN if a class has no row.

  Args:
    probabilities: f64[n,K], each row sums to 1.
    targets: i64[n] true classes.
    counts: i64[...,n] how often each row is drawn; once by default.

  Raises:
    ValueError: See `classification.checked_counts`.

  Source: Hand and Till 2001, Machine Learning 45, equation 7.
  """
  counts = classification.checked_counts(probabilities, targets, counts)
  areas = []
  for pair in itertools.combinations(range(probabilities.shape[1]), 2):
    of_pair = counts * np.isin(targets, pair)
    areas += [_auc(probabilities[:, k], targets == k, of_pair) for k in pair]
  return np.mean(areas, axis=0)


def _auc(scores, is_positive, counts):
  return classification.roc_auc(
    np.stack([1 - scores, scores], axis=1),
    is_positive.astype(np.int64),
    positive=1,
    counts=counts,
  )
