"""A permutation test: is the difference of two models more than chance?"""

from collections.abc import Sequence

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

  observed = float(abs(differences(np.zeros(len(codes), np.int64))))
  if not np.isfinite(observed):
    return np.nan
  # Equal up to rounding counts as reached.
  reached = np.sum(np.abs(differences(swapped)) >= observed - 1e-12)
  return float((1 + reached) / (1 + permutations))
