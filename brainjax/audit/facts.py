"""The facts of a scan that should not tell its label, as columns of numbers."""

import dataclasses
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from brainjax.audit.describe import Scan
from brainjax.cohort.layouts.folders import PARTITIONS

_CATEGORIES = 12  # numbers of so few values are categories as well
_BINS = 6
_FEW_COLUMNS = 4  # of numbers, to be binned as well


@dataclasses.dataclass(frozen=True)
class Fact:
  """Something known of a scan that should not tell its label.

  Attributes:
    name: In `audit.json`.
    title: In a sentence: "the ... tells".
    values: Of a scan: a word, or f64[...] numbers.
    grave: Whether it can know the label only through a confound.
    mend: What to do if it does.
  """

  name: str
  title: str
  values: Callable[[Scan], Any]
  grave: bool
  mend: str


def _cell(column: str) -> Callable[[Scan], str]:
  return lambda scan: scan.row.get(column, "")


def _numbers(name: str) -> Callable[[Scan], np.ndarray]:
  return lambda scan: scan.numbers.get(name, np.full(1, np.nan))


_MEND_SPREAD = (
  "Take scans of every class from each of them, or leave out those that have"
  " one class alone; else report scores within each."
)
_MEND_GRID = (
  "Prepare all scans onto one grid (config.preparation.slices=uniform, one"
  " plane, one size), and audit the records; or match the classes on it."
)
_MEND_PERSON = (
  "Match the classes on it, and report the score beside a baseline of it alone."
)
_MEND_LOOK = (
  "It may be the tumour itself. Hold the model against this probe; a model that"
  " is no better has shown nothing more."
)
FACTS = (
  Fact("source", "source", _cell("source"), True, _MEND_SPREAD),
  Fact("site", "site", _cell("site"), True, _MEND_SPREAD),
  Fact("scanner", "scanner", _cell("scanner"), True, _MEND_SPREAD),
  Fact(
    "age", "age", lambda scan: number(scan.row.get("age")), True, _MEND_PERSON
  ),
  Fact("sex", "sex", lambda scan: scan.row.get("sex", ""), True, _MEND_PERSON),
  Fact(
    "id_prefix",
    "form of the participant's id",
    lambda scan: id_form(scan.row["participant_id"], scan.row["label"]),
    True,
    "Ids of one form (#6 stands for six digits) are of one hospital or one"
    " time. Take every class from each, or report scores within each.",
  ),
  Fact("slices", "number of slices", _numbers("slices"), True, _MEND_GRID),
  Fact("spacing", "voxel spacing", _numbers("spacing"), True, _MEND_GRID),
  Fact("matrix", "size of the images", _numbers("matrix"), True, _MEND_GRID),
  Fact(
    "layout",
    "orientation and type of the files",
    lambda scan: scan.layout,
    True,
    "Export all scans in the same way, and take every class from each source.",
  ),
  Fact("band", "border of the images", _numbers("band"), False, _MEND_LOOK),
  Fact(
    "brain_shape",
    "shape of the brain mask",
    _numbers("brain_shape"),
    False,
    _MEND_LOOK,
  ),
  Fact(
    "moments",
    "moments of the brain's intensities",
    _numbers("moments"),
    False,
    _MEND_LOOK,
  ),
  Fact(
    "thumbnail",
    "brain in 8 x 8 x 8 cells",
    _numbers("thumbnail"),
    False,
    _MEND_LOOK,
  ),
)


def id_form(participant_id: str, label: str = "") -> str:
  """Returns an id with its digits counted: how its hospital writes ids.

  >>> id_form("MR040240B"), id_form("phantom-00012")
  ('MR#6A', 'phantom-#5')

  Args:
    participant_id: The id.
    label: Left out of it where it stands as a word: who named files after
      their class did not thereby take them from another hospital.
  """
  name = participant_id
  if label:
    # What `layouts/folders.py` puts in front is of no hospital.
    parts = rf"((?:{'|'.join(PARTITIONS)})-)?{re.escape(label)}-"
    name = re.sub(rf"^{parts}", "", name, flags=re.IGNORECASE)
  # Digits or a letter or two would be found in many an id by chance.
  if len(label) >= 3 and not label.isdecimal():
    edge = r"[^\W_]" if re.search(r"\d", label) else r"[^\W\d_]"
    word = rf"(?<!{edge}){re.escape(label)}(?!{edge})"
    name = re.sub(word, "", name, flags=re.IGNORECASE)
  form = re.sub(r"\d+", lambda found: f"#{len(found[0])}", name)
  return re.sub(r"(#\d+)[A-Z]$", r"\1A", form)


def number(cell: str | None) -> np.ndarray:
  """Returns f64[1], NaN for a cell that is empty or no number."""
  try:
    return np.array([float(cell or "nan")])
  except ValueError:
    return np.array([np.nan])


def features_of(values: Sequence[Any]) -> np.ndarray | None:
  """Turns words or numbers into columns; None if all are equal.

  Numbers become their ranks, for they need not be linear, and those of few
  values, or few of them, categories as well. What is missing is one, too.
  """
  if not values:
    return None
  if isinstance(values[0], str):
    columns = _one_hot(np.array(values))
    return columns if columns.shape[1] > 1 else None
  table = np.array(values, float)
  columns = []
  for column in table.T:
    missing = ~np.isfinite(column)
    filled = np.where(
      missing, 0 if missing.all() else np.median(column[~missing]), column
    )
    distinct, codes = np.unique(filled, return_inverse=True)
    if len(distinct) == 1 and (missing.all() or not missing.any()):
      continue
    ranks = np.argsort(np.argsort(filled, kind="stable"), kind="stable")
    # Equal values have equal ranks.
    ranks = np.bincount(codes, ranks)[codes] / np.bincount(codes)[codes]
    columns.append((ranks / len(ranks))[:, None])
    if missing.any():
      columns.append(missing[:, None].astype(float))
    if table.shape[1] <= _FEW_COLUMNS:
      binned = codes
      if len(distinct) > _CATEGORIES:
        binned = np.minimum(ranks * _BINS // len(ranks), _BINS - 1)
      columns.append(_one_hot(binned))
  return np.concatenate(columns, axis=1) if columns else None


def _one_hot(values: np.ndarray) -> np.ndarray:
  """Returns f64[n,C], a column a value."""
  return (values[:, None] == np.unique(values)).astype(float)
