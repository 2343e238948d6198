"""Splits: which groups train, which validate, which test.

The unit is the group (`group_id`), never the scan: slices or visits of one
person on both sides of a split inflate accuracy by tens of points (Yagis et
al. 2021, doi:10.1038/s41598-021-01681-w). Strata are label and source, so
that no split lacks a class and none is of one hospital alone.
"""

import collections
import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from brainjax import InputError

SPLITS = ("train", "validation", "test")


def assign_splits(
  rows: Sequence[Mapping[str, str]],
  *,
  fractions: Sequence[float],
  folds: int,
  fold: int,
  seed: int,
  source: str = "",
) -> list[tuple[str, int]]:
  """Gives every scan its split; a group is never on two sides.

  The manifest's own column wins: `fold` with cross-validation, else `split`.
  With `source`, the scans of that source test, and groups of all others train
  or validate, in the proportion of the fractions.
  Otherwise groups are drawn inside each stratum, which depends on the seed
  and the rows but not on their order.

  Args:
    rows: Manifest rows, with `participant_id`, `session_id`, `group_id`,
      `label` and perhaps `source`, `split`, `fold`.
    fractions: Share of the groups in each of `SPLITS`; used if `folds` is 0.
    folds: 0, or the number of folds (at least 3) of a cross-validation.
    fold: The test fold; the next one, cyclically, is the validation fold.
    seed: Of the draw.
    source: The source that is left out for testing; "" = none.

  Returns:
    (split, fold) of each row; the fold is the one the row lies in, or -1
    without cross-validation.

  Raises:
    InputError: A field of `config.split` is wrong, or the manifest's column
      is filled for some rows only or does not fit the fields.
  """
  _check_fields(fractions, folds, fold, seed)
  if source:
    return _leave_out(rows, source, fractions, folds, seed)
  if not folds:
    splits = _given(rows, "split")
    if not splits:
      drawn = _draw_splits(_strata(rows, seed), fractions)
      splits = [drawn[row["group_id"]] for row in rows]
    return [(split, -1) for split in splits]

  given = _given(rows, "fold")
  if given:
    row_folds = [int(value) for value in given]
    if set(row_folds) != set(range(folds)):
      raise InputError(
        f"manifest column fold: holds {sorted(set(row_folds))}, but"
        f" config.split.folds is {folds}; the column must hold 0 to"
        f" {folds - 1}, or be removed"
      )
  elif _given(rows, "split"):
    # Drawing folds would put the manifest's own test scans into training.
    raise InputError(
      f"manifest column split: cannot be kept with config.split.folds={folds};"
      " set config.split.folds=0, give a column fold, or remove the column"
    )
  else:
    drawn = _draw_folds(_strata(rows, seed), folds)
    row_folds = [drawn[row["group_id"]] for row in rows]
  role = {fold: "test", (fold + 1) % folds: "validation"}
  return [(role.get(number, "train"), number) for number in row_folds]


def _leave_out(
  rows: Sequence[Mapping[str, str]],
  source: str,
  fractions: Sequence[float],
  folds: int,
  seed: int,
) -> list[tuple[str, int]]:
  said = f"config.split.source={source!r}"
  if folds:
    raise InputError(
      f"{said} and config.split.folds={folds}: either a source is left out, or"
      " a fold; set the other to nothing"
    )
  for column in ("split", "fold"):
    if _given(rows, column):
      raise InputError(
        f"manifest column {column}: cannot be kept with {said}; remove the"
        " column, or leave the source empty"
      )
  sources = {row.get("source", "") for row in rows}
  if source not in sources or len(sources) < 2:
    raise InputError(
      f"{said}: the scans are of {sorted(sources)}; name one of two or more"
    )
  of_group = collections.defaultdict(set)
  for row in rows:
    of_group[row["group_id"]].add(row.get("source", ""))
  for group, found in of_group.items():
    if source in found and len(found) > 1:
      raise InputError(
        f"{said}: group {group} has scans of {sorted(found)}, and would be on"
        " both sides; give its scans one source"
      )
  train, validation, _ = fractions
  if not train or not validation:
    raise InputError(
      f"config.split.fractions: {tuple(fractions)} must leave groups for"
      f" training and validation with {said}"
    )
  others = [row for row in rows if row.get("source", "") != source]
  both = train + validation
  drawn = _draw_splits(
    _strata(others, seed), (train / both, validation / both, 0.0)
  )
  return [(drawn.get(row["group_id"], "test"), -1) for row in rows]


def _check_fields(
  fractions: Sequence[float], folds: int, fold: int, seed: int
) -> None:
  valid = (
    len(fractions) == len(SPLITS)
    and all(fraction >= 0 for fraction in fractions)
    and math.isclose(sum(fractions), 1, abs_tol=1e-6)
  )
  if not valid:
    raise InputError(
      f"config.split.fractions: {tuple(fractions)} must be three numbers, for"
      f" {', '.join(SPLITS)}, none negative, that sum to 1"
    )
  if folds < 0 or folds in (1, 2):
    raise InputError(
      f"config.split.folds: {folds} must be 0, or at least 3 so that training,"
      " validation and test each have a fold"
    )
  if folds and fold not in range(folds):
    raise InputError(
      f"config.split.fold: {fold} must be from 0 to {folds - 1}, since"
      f" config.split.folds is {folds}"
    )
  if seed < 0:
    raise InputError(f"config.split.seed: {seed} must not be negative")


def _given(rows: Sequence[Mapping[str, str]], column: str) -> list[str]:
  """Returns the manifest's column, or nothing if no row fills it."""
  values = [row.get(column, "") for row in rows]
  if not any(values):
    return []
  if not all(values):
    first = rows[values.index("")]["participant_id"]
    raise InputError(
      f"manifest column {column}: empty for {values.count('')} of"
      f" {len(values)} scans (first: participant {first}); fill it for every"
      " scan, or remove it"
    )
  return values


def _strata(rows: Iterable[Mapping[str, str]], seed: int) -> list[list[str]]:
  """Returns the permuted groups of each stratum, whatever the row order."""
  stratum_of: dict[str, tuple[str, str]] = {}
  for row in sorted(rows, key=lambda r: (r["participant_id"], r["session_id"])):
    stratum = (row["label"], row.get("source", ""))
    stratum_of.setdefault(row["group_id"], stratum)
  strata = collections.defaultdict(list)
  for group, stratum in stratum_of.items():
    strata[stratum].append(group)
  rng = np.random.default_rng(seed)
  return [rng.permutation(groups).tolist() for groups in strata.values()]


def _draw_splits(
  strata: Iterable[list[str]], fractions: Sequence[float]
) -> dict[str, str]:
  """Apportions each stratum by largest remainders.

  What rounding leaves over is carried to the next stratum, so that many small
  strata together still keep the fractions.
  """
  wanted = np.asarray(fractions) > 0
  carried = np.zeros(len(SPLITS))
  drawn: dict[str, str] = {}
  for groups in strata:
    quota = len(groups) * np.asarray(fractions) + carried
    counts = np.zeros(len(SPLITS), int)
    for _ in groups:
      counts[np.argmax(quota - counts)] += 1
    carried = quota - counts
    if len(groups) >= wanted.sum():
      for missing in np.flatnonzero(wanted & (counts == 0)):
        counts[np.argmax(counts)] -= 1
        counts[missing] += 1
    drawn.update(zip(groups, np.repeat(SPLITS, counts).tolist(), strict=True))
  return drawn


def _draw_folds(strata: Iterable[list[str]], folds: int) -> dict[str, int]:
  """Deals the groups of all strata, one after another, to the folds in turn."""
  groups = [group for stratum in strata for group in stratum]
  return {group: i % folds for i, group in enumerate(groups)}
