"""From scans to participants, and from a score to how far it can be trusted."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.special
import scipy.stats

from brainjax.metrics import calibration, classification, multiclass


def aggregate_participants(
  log_probabilities: np.ndarray, participant_ids: Sequence[str]
) -> tuple[list[str], np.ndarray]:
  """Joins the scans of each participant into one prediction.

  >>> p = np.array([[0.9, 0.1], [0.2, 0.8], [0.1, 0.9]])
  >>> ids, joined = aggregate_participants(np.log(p), ["b", "a", "b"])
  >>> ids, joined.round(6).tolist()
  (['b', 'a'], [[0.5, 0.5], [0.2, 0.8]])

  Args:
    log_probabilities: f64[n,K], a row a scan.
    participant_ids: Person of each scan.

  Returns:
    The m participants in order of appearance, and f64[m,K] probabilities: the
    mean of the scans' log-probabilities, renormalised.

  Raises:
    ValueError: A participant's mean is NaN or -inf for every class.
  """
  ids = list(dict.fromkeys(participant_ids))
  row_of = {participant_id: row for row, participant_id in enumerate(ids)}
  rows = np.array(
    [row_of[participant_id] for participant_id in participant_ids]
  )
  sums = np.zeros((len(ids), log_probabilities.shape[1]))
  np.add.at(sums, rows, log_probabilities)
  means = sums / np.bincount(rows, minlength=len(ids))[:, None]
  bad = np.flatnonzero(~np.isfinite(means.max(axis=1)))
  if bad.size:
    raise ValueError(
      f"participant {ids[bad[0]]}: the scans' log-probabilities are not finite"
      " or leave no class possible; give those of a log-softmax"
    )
  return ids, scipy.special.softmax(means, axis=1)


def bootstrap_counts(
  targets: np.ndarray, groups: Sequence[str], *, resamples: int, seed: int
) -> np.ndarray:
  """Resamples groups with replacement, within class.

  The stratum of a group is the set of its rows' classes, so a group of several
  classes is exchanged only for one of the same classes. Each stratum keeps its
  number of groups; the rows of a group are drawn together.

  Args:
    targets: i64[n] true classes.
    groups: Group of each row.
    resamples: R, number of resamples.
    seed: Equal seeds give equal counts.

  Returns:
    i64[R,n], how often each row is drawn.
  """
  _, codes = np.unique(np.asarray(groups), return_inverse=True)
  _, classes = np.unique(targets, return_inverse=True)
  num_groups = codes.max() + 1
  has_class = np.zeros((num_groups, classes.max() + 1), bool)
  has_class[codes, classes] = True
  _, strata = np.unique(has_class, axis=0, return_inverse=True)
  rng = np.random.default_rng(seed)
  group_counts = np.zeros((resamples, num_groups), np.int64)
  for stratum in range(strata.max() + 1):
    members = np.flatnonzero(strata == stratum)
    draws = rng.integers(len(members), size=(resamples, len(members)))
    draws += len(members) * np.arange(resamples)[:, None]
    drawn = np.bincount(draws.ravel(), minlength=draws.size)
    group_counts[:, members] = drawn.reshape(draws.shape)
  return group_counts[:, codes]


def wilson_interval(
  successes: int, trials: int, *, level: float = 0.95
) -> tuple[float, float]:
  """Returns the score interval of a fraction, also of none or all.

  >>> [round(bound, 2) for bound in wilson_interval(37, 39)]
  [0.83, 0.99]

  Raises:
    ValueError: There is no trial, or not 0 to `trials` successes.

  Source: Wilson 1927, Journal of the American Statistical Association 22.
  """
  if trials < 1 or not 0 <= successes <= trials:
    raise ValueError(
      f"{successes} successes of {trials} trials; give 0 to all of at least one"
    )
  z = scipy.stats.norm.ppf((1 + level) / 2)
  centre = (successes + z**2 / 2) / (trials + z**2)
  spread = successes * (trials - successes) / trials + z**2 / 4
  reach = z * np.sqrt(spread) / (trials + z**2)
  return max(0.0, float(centre - reach)), min(1.0, float(centre + reach))


def scores(
  probabilities: np.ndarray,
  targets: np.ndarray,
  *,
  positive: int | None,
  negative: int | None = None,
  counts: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
  """Returns every metric of the report, f64[...] each, NaN if undefined.

  "hand_till_auc" is of more than two classes.

  Args:
    probabilities: f64[n,K], a row a participant.
    targets: i64[n] true classes.
    positive: Index of a binary task's positive class; None = macro.
    negative: Of more classes, the one that screening tells from all others;
      None to leave out "screening_auc".
    counts: i64[...,n] how often each row is drawn. Two models scored on the
      same counts are a paired comparison.

  Raises:
    ValueError: See `classification.checked_counts`; or `positive` is given
      and there are not two classes.
  """
  rows: dict[str, Any] = {"counts": counts}
  of_class: dict[str, Any] = {"positive": positive, "counts": counts}
  data = (probabilities, targets)
  found = {
    "accuracy": classification.accuracy(*data, **rows),
    "balanced_accuracy": classification.balanced_accuracy(*data, **rows),
    "sensitivity": classification.sensitivity(*data, **of_class),
    "specificity": classification.specificity(*data, **of_class),
    "precision": classification.precision(*data, **of_class),
    "f1": classification.f1(*data, **of_class),
    "roc_auc": classification.roc_auc(*data, **of_class),
    "average_precision": classification.average_precision(*data, **of_class),
    "brier": classification.brier(*data, **rows),
    "ece": calibration.ece(*data, **rows),
  }
  if probabilities.shape[1] > 2:
    found["hand_till_auc"] = multiclass.hand_till_auc(*data, **rows)
  if negative is not None:
    healthy = probabilities[:, negative]
    found["screening_auc"] = classification.roc_auc(
      np.stack([healthy, 1 - healthy], axis=1),
      (targets != negative).astype(np.int64),
      positive=0,  # the same area, and 1 - p rounds what is near 1
      counts=counts,
    )
  return found


def score_with_intervals(
  probabilities: np.ndarray,
  targets: np.ndarray,
  groups: Sequence[str],
  *,
  positive: int | None,
  negative: int | None = None,
  resamples: int,
  seed: int,
) -> dict[str, Any]:
  """Scores participants, with 95 % percentile intervals by bootstrap.

  Every resample holds every class, so a metric is defined in all or in none.
  There is no interval (None) where the bootstrap has nothing to say: for any
  metric if the groups of some class cannot vary (there is only one), and for a
  metric that every resample gives the same value, as a perfect score does. A
  width of zero would claim certainty. Nor has "ece" one: resampling adds to it
  what sampling already had, and in simulations of calibrated models (60 to 600
  participants) no percentile interval held the true error.

  Args:
    probabilities: f64[n,K], a row a participant.
    targets: i64[n] true classes.
    groups: The unit that is resampled, of each row.
    positive: Index of a binary task's positive class; None = macro.
    negative: As for `scores`.
    resamples: Number of bootstrap resamples.
    seed: Equal seeds give equal intervals.

  Returns:
    `{metric: {"value", "low", "high"}}` for every metric of `scores`, floats
    or None if undefined; "n", the number of rows; "confusion_matrix", lists
    of integers, a row a true class.

  Raises:
    ValueError: As for `scores`.
  """
  indices: dict[str, Any] = {"positive": positive, "negative": negative}
  values = scores(probabilities, targets, **indices)
  counts = bootstrap_counts(targets, groups, resamples=resamples, seed=seed)
  resampled = scores(probabilities, targets, **indices, counts=counts)
  varies = all((counts[:, targets == k] != 1).any() for k in np.unique(targets))
  result: dict[str, Any] = {}
  for name, value in values.items():
    low = high = None
    if varies and name != "ece":
      low, high = _interval(resampled[name])
    point = None if np.isnan(value) else float(value)
    result[name] = {"value": point, "low": low, "high": high}
  result["n"] = len(targets)
  matrix = classification.confusion_matrix(probabilities, targets)
  result["confusion_matrix"] = matrix.tolist()
  return result


def _interval(values: np.ndarray) -> tuple[float | None, float | None]:
  if not np.ptp(values) > 0:  # all equal, or all NaN
    return None, None
  low, high = np.percentile(values, [2.5, 97.5])
  return float(low), float(high)
