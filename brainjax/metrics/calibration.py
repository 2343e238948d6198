"""Whether a classifier's confidence can be believed."""

from typing import NamedTuple

import numpy as np
import scipy.optimize
import scipy.special

from brainjax.metrics import classification

_TEMPERATURES = (0.05, 20.0)  # beyond, something else is wrong


class Reliability(NamedTuple):
  """Bins of a reliability diagram: mean confidence, rows, and those true."""

  confidence: np.ndarray
  rows: np.ndarray
  true: np.ndarray


def ece(
  probabilities: np.ndarray,
  targets: np.ndarray,
  *,
  bins: int = 15,
  counts: np.ndarray | None = None,
) -> np.ndarray:
  """Expected calibration error of the predicted class, bins of equal mass.

  Rows are sorted by confidence and cut into bins of equal mass; the error is
  the mean over bins of |accuracy - mean confidence|. A row on a cut is shared
  between its two bins and rows of equal confidence are spread evenly, so the
  order of the rows does not matter and any number of rows will do. Chance
  alone makes it large when there are few: calibrated two-class models measure
  0.15 on average with 60 rows, 0.05 with 600.

  >>> p = np.array([[0.9, 0.1], [0.3, 0.7], [0.6, 0.4], [0.2, 0.8]])
  >>> round(float(ece(p, np.array([0, 0, 0, 1]), bins=2)), 6)
  0.15

  Args:
    probabilities: f64[n,K], each row sums to 1.
    targets: i64[n] true classes.
    bins: Number of bins.
    counts: i64[...,n] how often each row is drawn; once by default.

  Returns:
    f64[...], NaN where no row is drawn.

  Raises:
    ValueError: See `classification.checked_counts`.

  Source: Guo et al. 2017, arXiv:1706.04599, equation 3.
  Differs: bins of equal mass instead of equal width, which a few hundred
    participants would leave nearly empty (Nixon et al. 2019,
    arXiv:1904.01685).
  """
  counts = classification.checked_counts(probabilities, targets, counts)
  confidence = probabilities.max(1)
  gap = (probabilities.argmax(1) == targets) - confidence
  order = np.argsort(confidence)
  starts = np.flatnonzero(np.diff(confidence[order], prepend=-np.inf))
  drawn = counts.reshape(-1, len(targets))[:, order]
  mass = _cumulative(np.add.reduceat(drawn, starts, axis=1))
  gaps = _cumulative(np.add.reduceat(drawn * gap[order], starts, axis=1))

  errors = np.full(len(drawn), np.nan)
  cuts = np.arange(bins + 1) / bins
  for i in np.flatnonzero(mass[:, -1]):  # numpy.interp takes one row at a time
    gap_at_cuts = np.interp(cuts * mass[i, -1], mass[i], gaps[i])
    errors[i] = np.abs(np.diff(gap_at_cuts)).sum() / mass[i, -1]
  return errors.reshape(counts.shape[:-1])


def ece_equal_width(
  probabilities: np.ndarray,
  targets: np.ndarray,
  *,
  bins: int = 15,
  counts: np.ndarray | None = None,
) -> np.ndarray:
  """Expected calibration error with bins of equal width, as often published.

  A bin holds what lies above its lower edge, up to its upper edge. With a few
  hundred rows most bins are nearly empty and the error is mostly chance:
  `ece` is the one to read, this one to compare with papers.

  Args:
    probabilities: f64[n,K], each row sums to 1.
    targets: i64[n] true classes.
    bins: Number of bins.
    counts: i64[...,n] how often each row is drawn; once by default.

  Returns:
    f64[...], NaN where no row is drawn.

  Raises:
    ValueError: See `classification.checked_counts`.

  Source: Guo et al. 2017, arXiv:1706.04599, equation 3.
  """
  counts = classification.checked_counts(probabilities, targets, counts)
  confidence = probabilities.max(1)
  gap = (probabilities.argmax(1) == targets) - confidence
  of_row = np.ceil(confidence * bins).astype(int) - 1
  in_bin = of_row[:, None] == np.arange(bins)
  totals = np.asarray(counts.sum(-1), np.float64)
  errors = np.abs(counts @ (gap[:, None] * in_bin)).sum(-1)
  return np.divide(
    errors, totals, out=np.full(totals.shape, np.nan), where=totals > 0
  )


def negative_log_likelihood(
  log_probabilities: np.ndarray, targets: np.ndarray
) -> float:
  """Mean of minus the log-probability of the true class, in nats."""
  return float(-log_probabilities[np.arange(len(targets)), targets].mean())


def reliability(
  confidence: np.ndarray, came_true: np.ndarray, *, bins: int = 10
) -> Reliability:
  """Holds what was promised against what came true, in bins of equal mass.

  Args:
    confidence: f64[n] probabilities of something.
    came_true: bool[n], whether it was so.
    bins: At most this many; fewer rows than bins give a bin each.
  """
  order = np.argsort(confidence, kind="stable")
  parts = np.array_split(order, min(bins, len(order)))
  return Reliability(
    np.array([confidence[part].mean() for part in parts]),
    np.array([len(part) for part in parts]),
    np.array([came_true[part].sum() for part in parts]),
  )


def fit_temperature(
  log_probabilities: np.ndarray, targets: np.ndarray
) -> float:
  """Finds the temperature that makes probabilities fit what came true.

  Above 1 the model was too sure of itself. It changes no order and no answer.

  Args:
    log_probabilities: f64[n,K] of rows that the model was not fitted on.
    targets: i64[n] true classes.

  Returns:
    The temperature, from 0.05 to 20.

  Source: Guo et al. 2017, arXiv:1706.04599, section 4.2.
  Differs: A true class counts as (n + 1) / (n + 2), n rows being of its class,
    as in Platt 1999, section 2.2. Else rows without a mistake, which are common
    among few, would ask for certainty.
  """
  num_rows, num_classes = log_probabilities.shape
  of_class = np.bincount(targets, minlength=num_classes)[targets]
  rest = 1 / (of_class + 2)
  wanted = np.repeat(rest[:, None] / (num_classes - 1), num_classes, axis=1)
  wanted[np.arange(num_rows), targets] = 1 - rest

  def loss(log_temperature):
    scaled = apply_temperature(log_probabilities, np.exp(log_temperature))
    return -(wanted * scaled).sum() / num_rows

  # Convex in 1 / T, so there is one minimum in log T as well.
  found = scipy.optimize.minimize_scalar(
    loss, bounds=np.log(_TEMPERATURES), method="bounded"
  )
  return float(np.exp(found.x))


def apply_temperature(
  log_probabilities: np.ndarray, temperature: float
) -> np.ndarray:
  """Returns f64[...,K] log-probabilities at another temperature.

  To scale scans and then join them is to join them and then scale.
  """
  return scipy.special.log_softmax(log_probabilities / temperature, axis=-1)


def operating_point(
  scores: np.ndarray, is_positive: np.ndarray, *, least_sensitivity: float = 0.0
) -> float:
  """Chooses the score from which on a row is called positive.

  It lies half-way between two scores, so that it hangs on no single row.

  >>> scores = np.array([0.1, 0.2, 0.4, 0.6, 0.7])
  >>> round(operating_point(scores, np.array([0, 0, 1, 0, 1]) > 0), 6)
  0.3

  Args:
    scores: f64[n], from 0 to 1, larger for positives.
    is_positive: bool[n]; both kinds occur.
    least_sensitivity: 0: the highest sum of sensitivity and specificity, of
      equals the more sensitive. Else the highest specificity of those with at
      least this sensitivity.

  Raises:
    ValueError: There is no positive or no negative.

  Source: Youden 1950, Cancer 3(1).
  """
  if is_positive.all() or not is_positive.any():
    raise ValueError(
      f"{is_positive.sum()} positives of {len(is_positive)} rows; an operating"
      " point needs both kinds"
    )
  found = np.unique(scores)
  # The lowest calls every row positive, also those that are rounded elsewhere.
  cuts = np.concatenate([found[:1] / 2, (found[:-1] + found[1:]) / 2])
  called = scores >= cuts[:, None]
  found_positive = called[:, is_positive].sum(1)
  found_negative = (~called[:, ~is_positive]).sum(1)
  positives = int(is_positive.sum())
  negatives = len(scores) - positives
  if least_sensitivity:
    # 0.55 of 100 is 55.000000000000007 in floats.
    enough = found_positive >= least_sensitivity * positives - 1e-9
    merit = np.where(enough, found_negative, -1)
  else:  # in integers, so that equals are equal
    merit = found_positive * negatives + found_negative * positives
  return float(cuts[np.argmax(merit)])


def _cumulative(values: np.ndarray) -> np.ndarray:
  """Returns f64[R,U+1] cumulative sums, from 0."""
  return np.pad(np.cumsum(values, axis=1, dtype=np.float64), ((0, 0), (1, 0)))
