"""Who is frequent and who is rare: counts, sampling and validation weights."""

from collections.abc import Mapping, Sequence

import numpy as np

from brainjax.input.sampling import Sampling, balanced_sampling

# What an epoch makes alike, by `data.sampling`.
SAMPLING: Mapping[str, tuple[str, ...]] = {
  "natural": (),
  "class": ("class",),
  "source": ("source", "class"),
}


def count_participants(
  scans: Sequence[Mapping[str, str]], classes: Sequence[str]
) -> np.ndarray:
  """Returns i64[K], the participants of each class.

  Args:
    scans: Rows of `splits.csv`, of the training split.
    classes: Names of the classes.
  """
  class_of = {
    scan["participant_id"]: scan["class"] for scan in scans if scan["class"]
  }
  labels = list(class_of.values())
  return np.array([labels.count(name) for name in classes], np.int64)


def make_sampling(
  kind: str, scans: Sequence[Mapping[str, str]], lengths: np.ndarray
) -> Sampling | None:
  """Returns how an epoch draws scans; None to see each once.

  With "class", the classes count alike. With "source", the pairs of a source
  and a class do: a source then says nothing of which of its classes a scan is,
  but a class of more sources is drawn more often. Scans of unknown label are
  drawn once.

  Args:
    kind: One of `SAMPLING`.
    scans: Rows of `splits.csv`, of the training split.
    lengths: i32[T] slices of each.
  """
  columns = SAMPLING[kind]
  if not columns:
    return None
  keys = [
    tuple(scan[column] for column in columns) if scan["class"] else None
    for scan in scans
  ]
  names = sorted({key for key in keys if key is not None})
  cells = [-1 if key is None else names.index(key) for key in keys]
  people = [scan["participant_id"] for scan in scans]
  return balanced_sampling(lengths, np.array(cells), people)


def validation_weights(
  kind: str,
  scans: Sequence[Mapping[str, str]],
  classes: Sequence[str],
  strength: float,
) -> tuple[float, ...]:
  """Weights of classes under which validation asks what training taught.

  Training that draws classes alike, or adjusts logits, teaches probabilities
  for other shares of the classes than those of the validation split; without
  weights, the best step would be the one that has learnt this least.

  Args:
    kind: One of `SAMPLING`.
    scans: Rows of `splits.csv`, of the training split.
    classes: Names of the K classes.
    strength: Of the logit adjustment.

  Returns:
    K floats, whose mean over the training participants is 1.
  """
  counts = count_participants(scans, classes)
  shares = counts / counts.sum()
  taught = shares ** (1 - strength)
  columns = SAMPLING[kind]
  if columns:
    cells = {tuple(scan[c] for c in columns) for scan in scans if scan["class"]}
    owners = [cell[-1] for cell in cells]
    taught = np.array([owners.count(name) for name in classes])
  taught = taught / taught.sum()
  return tuple(float(weight) for weight in taught / shares)
