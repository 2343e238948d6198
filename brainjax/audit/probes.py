"""A probe: can the label be told from a few numbers that are not the brain?

Ridge regression on the classes, cross-validated by group. Its answer is linear
in the labels, so that a thousand permutations of them cost one matrix product,
and no settings are tuned. What is reported is the area under the receiver
operating characteristic (AUC) of the class that is told best from the others;
the permutations choose their best class, too.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
import scipy.stats

from brainjax.metrics import classification, statistics

FOLDS = 5
LEAST_UNITS = 5  # of a class, to be asked about
PERMUTATIONS = 999
RESAMPLES = 1000
MOST_UNITS = 1000  # more are drawn at random, evenly over the classes
_RIDGE = 1.0  # features have variance 1 on average
_SMALLEST_DEVIATION = 0.2  # so that a rare category does not weigh most
_DECIMALS = 9  # what rounds apart is equal


@dataclasses.dataclass(frozen=True)
class Probe:
  """What a probe found.

  Attributes:
    auc: Of the class told best; 0.5 is chance.
    low: Of its 95 % interval, by bootstrap over groups; None if none varies.
    high: Likewise.
    p_value: Of permuted labels, how many did as well; at least
      1 / (PERMUTATIONS + 1).
    best_class: Index of the class.
    num_units: Rows it was asked on.
  """

  auc: float
  low: float | None
  high: float | None
  p_value: float
  best_class: int
  num_units: int


def run_probe(
  features: np.ndarray,
  targets: np.ndarray,
  groups: Sequence[str],
  *,
  seed: int = 0,
) -> Probe | None:
  """Asks how well features tell the class, out of the fold they were fitted on.

  Args:
    features: f64[n,F], finite; columns of any scale.
    targets: i64[n] classes.
    groups: Of each row; a group never lies in two folds.
    seed: Of the folds, the permutations and the bootstrap.

  Returns:
    None if fewer than two classes have `LEAST_UNITS` rows.
  """
  rng = np.random.default_rng(seed)
  kept = _drawn(targets, rng)
  features, targets = features[kept], targets[kept]
  units = [groups[int(i)] for i in kept]
  counts = np.bincount(targets)
  asked = np.flatnonzero(counts >= LEAST_UNITS)
  if len(asked) < 2:
    return None
  folds = _folds(targets, units, rng)
  one_hot = targets[:, None] == asked
  shuffled = np.moveaxis(one_hot[_permuted(folds, rng)], 0, 1)
  scores = _cross_validated(_standardised(features), shuffled, folds)
  aucs = _areas(scores, shuffled)
  best = aucs.max(axis=1)
  chosen = int(aucs[0].argmax())
  # A perfect answer to permuted labels is one, too.
  p_value = np.mean(best >= best[0] - 1e-9)
  low, high = _interval(scores[:, 0, chosen], one_hot[:, chosen], units, seed)
  return Probe(
    auc=float(best[0]),
    low=low,
    high=high,
    p_value=float(p_value),
    best_class=int(asked[chosen]),
    num_units=len(targets),
  )


def holm(p_values: Sequence[float]) -> np.ndarray:
  """Corrects p values for their number; Holm 1979, Scand. J. Stat. 6:65.

  >>> holm([0.01, 0.04, 0.03]).tolist()
  [0.03, 0.06, 0.06]
  """
  values = np.asarray(p_values, float)
  order = np.argsort(values, kind="stable")
  factors = np.arange(len(values), 0, -1)
  corrected = np.empty(len(values))
  corrected[order] = np.maximum.accumulate(values[order] * factors)
  return np.minimum(corrected, 1)


def _drawn(targets: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  """Returns the rows to ask on, ascending."""
  if len(targets) <= MOST_UNITS:
    return np.arange(len(targets))
  # A random order within each class, and the first places of all classes.
  order = rng.permutation(len(targets))
  places = np.empty(len(targets))
  for k in np.unique(targets):
    rows = order[targets[order] == k]
    places[rows] = (np.arange(len(rows)) + 0.5) / len(rows)
  return np.sort(np.argsort(places, kind="stable")[:MOST_UNITS])


def _folds(
  targets: np.ndarray, groups: Sequence[str], rng: np.random.Generator
) -> np.ndarray:
  """Deals the groups of each class to the folds in turn; i64[n]."""
  fold_of: dict[str, int] = {}
  for k in np.unique(targets):
    rows = rng.permutation(np.flatnonzero(targets == k))
    for i in rows:
      fold_of.setdefault(groups[int(i)], len(fold_of) % FOLDS)
  return np.array([fold_of[group] for group in groups])


def _permuted(folds: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  """Returns i64[P,n], rows permuted inside their fold, which keeps its classes.

  The first is the identity.
  """
  by_fold = np.argsort(folds, kind="stable")
  orders = np.tile(np.arange(len(folds)), (PERMUTATIONS + 1, 1))
  keys = folds + rng.random((PERMUTATIONS, len(folds)))
  orders[1:, by_fold] = np.argsort(keys, axis=1)
  return orders


def _standardised(features: np.ndarray) -> np.ndarray:
  centred = features - features.mean(axis=0)
  deviation = np.maximum(centred.std(axis=0), _SMALLEST_DEVIATION)
  return centred / deviation / np.sqrt(features.shape[1])


def _cross_validated(
  features: np.ndarray, one_hot: np.ndarray, folds: np.ndarray
) -> np.ndarray:
  """Returns f64[n,P,K], each row answered by those of the other folds.

  Without the intercept, which in each fold leans against the fold's own share
  of the classes and would order the folds.
  """
  scores = np.zeros(one_hot.shape)
  kernel = features @ features.T
  for fold in np.unique(folds):
    asked = folds == fold
    fitted = ~asked
    truth = one_hot[fitted] - one_hot[fitted, 0].mean(axis=0)
    inner = kernel[np.ix_(fitted, fitted)] + _RIDGE * np.eye(fitted.sum())
    weights = np.linalg.solve(inner, kernel[np.ix_(fitted, asked)])
    answer = weights.T @ truth.reshape(len(truth), -1)
    scores[asked] = answer.reshape(-1, *one_hot.shape[1:])
  return np.round(scores, _DECIMALS)


def _areas(scores: np.ndarray, one_hot: np.ndarray) -> np.ndarray:
  """Returns f64[P,K], the AUC of each class by the ranks of its cases."""
  ranks = scipy.stats.rankdata(scores, axis=0)
  positives = one_hot.sum(axis=0)
  won = np.sum(ranks * one_hot, axis=0) - positives * (positives + 1) / 2
  return won / (positives * (len(one_hot) - positives))


def _interval(
  scores: np.ndarray, truth: np.ndarray, groups: Sequence[str], seed: int
) -> tuple[float | None, float | None]:
  """Returns the 95 % interval of an AUC; None where no resample differs."""
  share = scipy.stats.rankdata(scores) / len(scores)
  targets = truth.astype(int)
  counts = statistics.bootstrap_counts(
    targets, groups, resamples=RESAMPLES, seed=seed
  )
  aucs = classification.roc_auc(
    np.stack([1 - share, share], axis=1), targets, positive=1, counts=counts
  )
  if not np.ptp(aucs) > 0:
    return None, None
  low, high = np.percentile(aucs, [2.5, 97.5])
  return float(low), float(high)
