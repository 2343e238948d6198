"""Shortcut probes: how much of the answer needs no anatomy.

A probe predicts the class from a few numbers that say nothing of where a
tumour is. If it does as well as the network, the network may have learnt the
scanner. It is judged like the network: fitted on the training split alone.
"""

import contextlib
import types
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
from sklearn import linear_model, pipeline, preprocessing

from brainjax import InputError, records

_BINS = 32
_RANGE = (-5.0, 5.0)  # standard deviations; intensities beyond fall on the ends


def histogram(record: records.Record) -> np.ndarray:
  """Returns f64[32*C], the histogram of each modality inside the brain.

  What intensity alone says: 32 equal bins of the z-score from -5 to 5 over
  all slices, as fractions of the brain; zeros where there is no brain.
  """
  brain = records.unpack_bits(record.brain_mask, record.slices.shape[2])
  values = np.clip(record.intensities()[brain], *_RANGE)
  channels = [np.histogram(v, _BINS, _RANGE)[0] for v in values.T]
  return np.concatenate(channels) / max(len(values), 1)


def header(record: records.Record) -> np.ndarray:
  """Returns f64[7]: number of slices, shape and spacing (mm) of the file.

  What the acquisition alone says. What the record does not know is zero.
  """
  shape = _first_three(record.geometry.get("file_shape"))
  spacing_mm = _first_three(record.geometry.get("file_spacing_mm"))
  return np.concatenate([[len(record.slices)], shape, spacing_mm])


PROBES: Mapping[str, Callable[[records.Record], np.ndarray]] = (
  types.MappingProxyType({"histogram": histogram, "header": header})
)


def probe_features(
  record_set: records.RecordSet, indices: Iterable[int] | None = None
) -> dict[str, np.ndarray]:
  """Computes the features of every probe, reading each record once.

  Args:
    record_set: The records.
    indices: Records to describe, in this order; all by default.

  Returns:
    f64[R,F] by the name of the probe, a row an index.
  """
  chosen = range(len(record_set)) if indices is None else indices
  rows = {name: [] for name in PROBES}
  for record_index in chosen:
    record = record_set[record_index]
    for name, features in PROBES.items():
      rows[name].append(features(record))
  return {name: np.stack(features) for name, features in rows.items()}


def manifest_features(
  rows: Sequence[Mapping[str, str]], lengths: np.ndarray, train: np.ndarray
) -> dict[str, np.ndarray]:
  """Returns what the manifest says of scans, without a look at an image.

  Args:
    rows: Of the manifest, R of them.
    lengths: i64[R] numbers of slices.
    train: i64[T] rows of the training scans; what does not vary among them is
      left out, since nothing can be learned of it.

  Returns:
    f64[R,F] of "slices", their number; "demographics", age (the median where
    it is missing, and that it is) and sex; "source".
  """
  found = {
    "slices": np.asarray(lengths, np.float64)[:, None],
    "demographics": np.hstack([_ages(rows, train), _one_hot(rows, "sex")]),
    "source": _one_hot(rows, "source"),
  }
  return {
    name: features
    for name, features in found.items()
    if len(train) and np.ptp(features[train], axis=0).any()
  }


def probe_probabilities(
  features: np.ndarray,
  train_indices: np.ndarray,
  test_indices: np.ndarray,
  targets: np.ndarray,
  num_classes: int,
) -> np.ndarray:
  """Fits a probe on the training rows and predicts the test rows.

  Multinomial logistic regression with balanced class weights, on features
  standardised by the training rows.

  Args:
    features: f64[R,F] of one probe.
    train_indices: i64[...] rows to fit on; those of unknown class (-1) are
      left out.
    test_indices: i64[T] rows to predict.
    targets: i64[R] classes.
    num_classes: K.

  Returns:
    f64[T,K] probabilities, in class order; 0 for a class that no training row
    has.

  Raises:
    InputError: The training rows do not hold two classes.
  """
  train_indices = train_indices[targets[train_indices] >= 0]
  fitted_classes = np.unique(targets[train_indices])
  if len(fitted_classes) < 2:
    raise InputError(
      f"training split: {len(train_indices)} scans of {len(fitted_classes)}"
      " class(es); a baseline needs two classes, change the split"
    )
  probe = pipeline.make_pipeline(
    preprocessing.StandardScaler(),
    # A small C: few hundred scans, and bins that are nearly collinear.
    linear_model.LogisticRegression(
      C=0.1, class_weight="balanced", max_iter=1000
    ),
  )
  probe.fit(features[train_indices], targets[train_indices])
  probabilities = np.zeros((len(test_indices), num_classes))
  probabilities[:, fitted_classes] = probe.predict_proba(features[test_indices])
  return probabilities


def _ages(rows: Sequence[Mapping[str, str]], train: np.ndarray) -> np.ndarray:
  """Returns f64[R,2] ages in years, and whether they are missing."""
  ages = np.full(len(rows), np.nan)
  for i, row in enumerate(rows):
    with contextlib.suppress(ValueError):  # "", "n/a", "60-69"
      ages[i] = float(row.get("age", ""))
  missing = ~np.isfinite(ages)
  known = ages[train][~missing[train]]
  ages[missing] = np.median(known) if len(known) else 0
  return np.stack([ages, missing], axis=1)


def _one_hot(rows: Sequence[Mapping[str, str]], column: str) -> np.ndarray:
  """Returns f64[R,F], a column of the manifest as 0 or 1 for each value."""
  values = np.array([row.get(column, "").casefold() for row in rows])
  return (values[:, None] == np.unique(values)).astype(np.float64)


def _first_three(values: list[float] | None) -> np.ndarray:
  """Returns f64[3], padded with zeros."""
  known = (values or [])[:3]
  return np.pad(np.asarray(known, np.float64), (0, 3 - len(known)))
