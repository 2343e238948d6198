"""Who is frequent and who is rare, and what may be done about it."""

from collections.abc import Mapping, Sequence

import ml_collections
import numpy as np

from brainjax import InputError
from brainjax import config as config_lib
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


def check_balance(config: ml_collections.ConfigDict) -> None:
  """Checks that what is done about rare classes goes together.

  Raises:
    InputError: It does not, or there is nothing to classify.
  """
  train = config.train
  if train.label_smoothing >= 1:
    raise InputError(
      f"config.train.label_smoothing={train.label_smoothing}: less than 1"
    )
  fields = config_lib.leaf_fields(config)
  defaults = config_lib.leaf_fields(config_lib.get_config())
  remedies = {
    "train.class_weights": "none",
    "data.sampling": "natural",
    "train.logit_adjustment": 0,
    "train.hard_negatives": 0,
  }
  if train.objective == "reconstruct":
    labelled = (
      *("train.loss", "train.label_smoothing", "train.mixup"),
      "model.output",
    )
    for name in (*remedies, *labelled):
      if fields[name] != defaults[name]:
        raise InputError(
          f"config.{name}={fields[name]!r}: is of classes, and"
          " config.train.objective='reconstruct' has none; leave it at"
          f" {defaults[name]!r}"
        )
    return
  used = [name for name, off in remedies.items() if fields[name] != off]
  if len(used) > 1:
    raise InputError(
      f"config.{used[0]}={fields[used[0]]!r} and"
      f" config.{used[1]}={fields[used[1]]!r}: both make up for rare classes,"
      f" and together too much; set config.{used[0]} to"
      f" {remedies[used[0]]!r}"
    )
  for first, second, why in (
    ("train.mixup", "train.hard_negatives", "a mix has no one class"),
    ("train.mixup", "model.output", "only a linear classifier mixes"),
    (
      "train.label_smoothing",
      "train.loss",
      "focal loss is of one class, and smoothing of all",
    ),
  ):
    if fields[first] and fields[second] != defaults[second]:
      raise InputError(
        f"config.{first}={fields[first]} and"
        f" config.{second}={fields[second]!r}: {why}; leave one out"
      )


def check_output(
  config: ml_collections.ConfigDict, classes: Sequence[str]
) -> None:
  """Checks that the class without a tumour is one, and is there if needed.

  Raises:
    InputError: It is not.
  """
  negative = config.task.negative
  if negative and (negative not in classes or len(classes) < 3):
    raise InputError(
      f"config.task.negative={negative!r}: name one of at least three classes,"
      f" of {list(classes)}; leave it empty if none is without a tumour, or if"
      " there are only two"
    )
  if config.model.output == "hierarchical" and not negative:
    raise InputError(
      "config.model.output='hierarchical': screens for tumours and types them;"
      " set config.task.negative to the class without a tumour"
    )
