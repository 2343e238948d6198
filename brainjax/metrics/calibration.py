"""Whether a classifier's confidence can be believed."""

import numpy as np

from brainjax.metrics import classification


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


def _cumulative(values: np.ndarray) -> np.ndarray:
  """Returns f64[R,U+1] cumulative sums, from 0."""
  return np.pad(np.cumsum(values, axis=1, dtype=np.float64), ((0, 0), (1, 0)))
