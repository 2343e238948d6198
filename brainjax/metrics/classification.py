"""How right a classifier's probabilities are: the metrics of the report.

Every metric takes optional `counts`, i64[...,n]: how often each row is drawn.
Its leading axes lead the result, so thousands of bootstrap resamples are
scored at once, and without `counts` each row is drawn once.

A binary task (two classes and a `positive` one) scores the positive class;
any other is the unweighted mean over classes, each against the rest ("macro").
What does not exist is NaN and makes the mean NaN: scikit-learn leaves out or
sets to 0 the classes that no row has, which makes a set of tumours alone look
like a screening result. Predicted is the most probable class, the first of
equals.
"""

import numpy as np


def accuracy(
  probabilities: np.ndarray,
  targets: np.ndarray,
  *,
  counts: np.ndarray | None = None,
) -> np.ndarray:
  """Fraction of rows whose predicted class is true; f64[...]."""
  matrix = confusion_matrix(probabilities, targets, counts=counts)
  return _ratio(np.einsum("...kk->...", matrix), matrix.sum((-2, -1)))


def balanced_accuracy(
  probabilities: np.ndarray,
  targets: np.ndarray,
  *,
  counts: np.ndarray | None = None,
) -> np.ndarray:
  """Mean of the classes' sensitivities; f64[...], NaN if a class has no row."""
  return sensitivity(probabilities, targets, counts=counts)


def sensitivity(
  probabilities: np.ndarray,
  targets: np.ndarray,
  *,
  positive: int | None = None,
  counts: np.ndarray | None = None,
) -> np.ndarray:
  """Fraction of positives predicted positive; f64[...].

  >>> p = np.array([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3]])
  >>> float(sensitivity(p, np.array([0, 1, 1]), positive=1))
  0.5
  """
  true_positives, _, positives, _ = _outcomes(probabilities, targets, counts)
  return _mean_of(_ratio(true_positives, positives), positive)


def specificity(
  probabilities: np.ndarray,
  targets: np.ndarray,
  *,
  positive: int | None = None,
  counts: np.ndarray | None = None,
) -> np.ndarray:
  """Fraction of negatives predicted negative; f64[...]."""
  true_positives, predicted, positives, rows = _outcomes(
    probabilities, targets, counts
  )
  negatives = rows - positives
  false_positives = predicted - true_positives
  return _mean_of(_ratio(negatives - false_positives, negatives), positive)


def precision(
  probabilities: np.ndarray,
  targets: np.ndarray,
  *,
  positive: int | None = None,
  counts: np.ndarray | None = None,
) -> np.ndarray:
  """Fraction of those predicted positive that are; f64[...].

  It is 0 where there are positives and none is predicted, as in scikit-learn
  (all were missed, and F1 is 0 too), and NaN where there are no positives.
  """
  true_positives, predicted, positives, _ = _outcomes(
    probabilities, targets, counts
  )
  values = true_positives / np.maximum(predicted, 1)
  return _mean_of(np.where(positives > 0, values, np.nan), positive)


def f1(
  probabilities: np.ndarray,
  targets: np.ndarray,
  *,
  positive: int | None = None,
  counts: np.ndarray | None = None,
) -> np.ndarray:
  """Harmonic mean of precision and sensitivity; f64[...].

  NaN where there are no positives.
  """
  true_positives, predicted, positives, _ = _outcomes(
    probabilities, targets, counts
  )
  values = 2 * true_positives / np.maximum(predicted + positives, 1)
  return _mean_of(np.where(positives > 0, values, np.nan), positive)


def roc_auc(
  probabilities: np.ndarray,
  targets: np.ndarray,
  *,
  positive: int | None = None,
  counts: np.ndarray | None = None,
) -> np.ndarray:
  """Area under the receiver operating characteristic; f64[...].

  The chance that a positive scores above a negative, ties counting one half.
  NaN without a positive or without a negative.

  >>> p = np.array([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3], [0.6, 0.4]])
  >>> float(roc_auc(p, np.array([0, 1, 1, 0]), positive=1))
  0.75
  """
  counts = checked_counts(probabilities, targets, counts)
  values = []
  for k in _classes(probabilities.shape[1], positive):
    positives, negatives = _by_score(probabilities[:, k], targets == k, counts)
    below = np.cumsum(negatives, axis=-1) - negatives
    twice_won = (positives * (2 * below + negatives)).sum(-1)
    twice_pairs = 2 * positives.sum(-1) * negatives.sum(-1)
    values.append(_ratio(twice_won, twice_pairs))
  return np.mean(values, axis=0)


def average_precision(
  probabilities: np.ndarray,
  targets: np.ndarray,
  *,
  positive: int | None = None,
  counts: np.ndarray | None = None,
) -> np.ndarray:
  """Precision at each threshold, weighted by the sensitivity it adds; f64[...].

  The step-wise area under the precision-recall curve, without interpolation,
  as in scikit-learn. NaN where there are no positives.
  """
  counts = checked_counts(probabilities, targets, counts)
  values = []
  for k in _classes(probabilities.shape[1], positive):
    positives, negatives = _by_score(-probabilities[:, k], targets == k, counts)
    found = np.cumsum(positives, axis=-1)
    predicted = found + np.cumsum(negatives, axis=-1)
    area = (positives * found / np.maximum(predicted, 1)).sum(-1)
    values.append(_ratio(area, positives.sum(-1)))
  return np.mean(values, axis=0)


def brier(
  probabilities: np.ndarray,
  targets: np.ndarray,
  *,
  counts: np.ndarray | None = None,
) -> np.ndarray:
  """Mean squared error of the probabilities; f64[...].

  Of one class with two classes (it is the same for both, in [0, 1]), summed
  over classes with more (in [0, 2]).

  Source: Brier 1950, Monthly Weather Review 78(1).
  """
  counts = checked_counts(probabilities, targets, counts)
  num_classes = probabilities.shape[1]
  error = (probabilities - np.eye(num_classes)[targets]) ** 2
  row_error = error[:, 1] if num_classes == 2 else error.sum(1)
  return _ratio(counts @ row_error, counts.sum(-1))


def confusion_matrix(
  probabilities: np.ndarray,
  targets: np.ndarray,
  *,
  counts: np.ndarray | None = None,
) -> np.ndarray:
  """Counts rows by true and predicted class.

  Args:
    probabilities: f64[n,K], each row sums to 1.
    targets: i64[n] true classes.
    counts: i64[...,n] how often each row is drawn; once by default.

  Returns:
    i64[...,K,K]; a row is a true class, a column a predicted one.

  Raises:
    ValueError: See `checked_counts`.
  """
  counts = checked_counts(probabilities, targets, counts)
  num_classes = probabilities.shape[1]
  cells = targets * num_classes + probabilities.argmax(1)
  # In float64, exact up to 2**53: integer products do not go through BLAS.
  cell_counts = counts.astype(np.float64) @ np.eye(num_classes**2)[cells]
  shape = (*counts.shape[:-1], num_classes, num_classes)
  return cell_counts.astype(np.int64).reshape(shape)


def checked_counts(
  probabilities: np.ndarray, targets: np.ndarray, counts: np.ndarray | None
) -> np.ndarray:
  """Checks a metric's arguments and returns i64[...,n] counts, default ones.

  Raises:
    ValueError: Shapes do not fit, a target is no class, a row of
      probabilities does not sum to 1, or a count is negative or no integer.
  """
  if probabilities.ndim != 2 or probabilities.shape[1] < 2:
    raise ValueError(
      f"probabilities of shape {probabilities.shape}; give [rows, classes]"
      " with at least two classes"
    )
  num_rows, num_classes = probabilities.shape
  if num_rows == 0 or targets.shape != (num_rows,):
    raise ValueError(
      f"{num_rows} rows of probabilities and targets of shape"
      f" {targets.shape}; give one target a row, and at least one row"
    )
  if targets.min() < 0 or targets.max() >= num_classes:
    raise ValueError(
      f"targets from {targets.min()} to {targets.max()}, expected 0 to"
      f" {num_classes - 1}; leave out rows of unknown class"
    )
  # Negated, so that NaN is caught too.
  if not (
    probabilities.min() >= 0 and np.abs(probabilities.sum(1) - 1).max() < 1e-3
  ):
    raise ValueError(
      "a row of probabilities is negative, not finite or does not sum to 1;"
      " give the softmax of the logits"
    )
  if counts is None:
    return np.ones(num_rows, np.int64)
  if counts.dtype.kind not in "iu" or counts.shape[-1:] != (num_rows,):
    raise ValueError(
      f"counts are {counts.dtype}{list(counts.shape)}, expected integers"
      f" [..., {num_rows}]"
    )
  if counts.size and counts.min() < 0:
    raise ValueError("counts are negative; a row is drawn 0 or more times")
  return counts.astype(np.int64, copy=False)


def _outcomes(probabilities, targets, counts):
  """Returns i64[...,K] true positives, predicted, positives and all rows."""
  matrix = confusion_matrix(probabilities, targets, counts=counts)
  true_positives = np.einsum("...kk->...k", matrix)
  predicted, positives = matrix.sum(-2), matrix.sum(-1)
  return true_positives, predicted, positives, positives.sum(-1, keepdims=True)


def _by_score(scores, is_positive, counts):
  """Returns i64[...,U] positives and negatives at each score, ascending."""
  order = np.argsort(scores)
  starts = np.flatnonzero(np.diff(scores[order], prepend=-np.inf))
  drawn = counts[..., order]
  rows = np.add.reduceat(drawn, starts, axis=-1)
  positives = np.add.reduceat(drawn * is_positive[order], starts, axis=-1)
  return positives, rows - positives


def _classes(num_classes: int, positive: int | None) -> list[int]:
  if positive is None:
    return list(range(num_classes))
  if num_classes != 2 or positive not in (0, 1):
    raise ValueError(
      f"positive class {positive} among {num_classes} classes; only a task of"
      " two classes has one, 0 or 1"
    )
  return [positive]


def _mean_of(values, positive):
  """Reduces f64[...,K] to the positive class or the mean over classes."""
  return values[..., _classes(values.shape[-1], positive)].mean(-1)


def _ratio(numerator, denominator):
  """Divides, 0 / 0 being NaN."""
  shape = np.broadcast_shapes(numerator.shape, denominator.shape)
  ratio = np.full(shape, np.nan)
  np.divide(numerator, denominator, out=ratio, where=denominator > 0)
  return ratio
