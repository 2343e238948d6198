"""Permutation tests: is a difference, or a score, more than chance?"""

from collections.abc import Callable, Sequence

import numpy as np

from brainjax.metrics.comparison import Metric


def permutation_p(
  first: np.ndarray,
  second: np.ndarray,
  targets: np.ndarray,
  groups: Sequence[str],
  metric: Metric,
  *,
  permutations: int,
  seed: int,
) -> float:
  """Tests two models by exchanging their answers, group by group, at random.

  The hypothesis is that it does not matter which of the models answered. Two
  models of equal merit but unlike scale of probabilities are not that, so for
  the AUC give ranks, or use `delong.compare_aucs`.

  Args:
    first: f64[n,K] probabilities of a model.
    second: f64[n,K] those of another.
    targets: i64[n] true classes.
    groups: The unit that is exchanged, of each row.
    metric: Of `classification.py`, with `positive` bound if it takes one.
    permutations: Number of random exchanges.
    seed: Equal seeds give an equal p.

  Returns:
    The two-sided p, never 0: what is seen counts as one of the exchanges. NaN
    where the metric is undefined.

  Source: Phipson and Smyth 2010, Statistical Applications in Genetics and
    Molecular Biology 9(1):39.
  """
  _, codes = np.unique(np.asarray(groups), return_inverse=True)
  rng = np.random.default_rng(seed)
  swapped = rng.integers(2, size=(permutations, codes.max() + 1))[:, codes]
  # The rows of both models lie end to end, and each side draws its own.
  answers = np.concatenate([first, second])
  both = np.concatenate([targets, targets])

  def differences(swapped):
    kept = 1 - swapped
    one, other = (
      metric(answers, both, counts=np.concatenate(sides, axis=-1))
      for sides in ((kept, swapped), (swapped, kept))
    )
    return one - other

  observed = differences(np.zeros(len(codes), np.int64))
  return _share_as_extreme(np.abs(differences(swapped)), float(abs(observed)))


def label_permutation_p(
  probabilities: np.ndarray,
  targets: np.ndarray,
  groups: Sequence[str],
  metric: Callable[[np.ndarray, np.ndarray], np.ndarray],
  *,
  permutations: int,
  seed: int,
) -> float:
  """Tests whether a model is better than chance, by dealing labels anew.

  Labels are dealt among groups of equally many rows, all rows of a group
  together, so that a family stays a family.

  Args:
    probabilities: f64[n,K].
    targets: i64[n] true classes.
    groups: The unit whose labels stay together, of each row.
    metric: Of `classification.py`, of which more is better.
    permutations: Number of random deals.
    seed: Equal seeds give an equal p.

  Returns:
    The one-sided p, never 0; NaN where the metric is undefined.
  """
  _, codes, sizes = np.unique(
    np.asarray(groups), return_inverse=True, return_counts=True
  )
  rows_of = np.split(np.argsort(codes, kind="stable"), np.cumsum(sizes)[:-1])
  blocks = [
    np.stack([rows for rows in rows_of if len(rows) == size])
    for size in np.unique(sizes)
  ]
  rng = np.random.default_rng(seed)
  found = np.empty(permutations)
  for i in range(permutations):
    dealt = targets.copy()
    for block in blocks:
      dealt[block] = targets[rng.permutation(block)]
    found[i] = metric(probabilities, dealt)
  return _share_as_extreme(found, float(metric(probabilities, targets)))


def _share_as_extreme(found: np.ndarray, observed: float) -> float:
  """Returns the p of what is seen; equal up to rounding counts as reached."""
  if not np.isfinite(observed):
    return np.nan
  reached = np.sum(found >= observed - 1e-12)
  return float((1 + reached) / (1 + len(found)))
