"""Who takes part in a run, and on which side: the rows of `splits.csv`."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import ml_collections

from brainjax import InputError, records
from brainjax import config as config_lib
from brainjax.cohort import splits as splits_lib
from brainjax.training import workdir as workdir_lib


def assign_scans(
  config: ml_collections.ConfigDict, record_set: records.RecordSet
) -> tuple[dict[str, str], ...]:
  """Returns the rows of `splits.csv`: every scan whose label has a class.

  Scans of unknown label take part as well if slices are to be reconstructed.

  Raises:
    InputError: A label is named neither by a class nor by `task.ignore`.
  """
  classes = config_lib.parse_classes(config.task.classes)
  class_of = {
    label: name for name, labels in classes.items() for label in labels
  }
  rows = []
  for record_index, row in enumerate(record_set.rows):
    label = row["label"]
    if label in config.task.ignore:
      continue
    if not label and config.train.objective == "classify":
      continue
    if label and label not in class_of:
      raise InputError(
        f"config.task.classes: label {label!r} of"
        f" {row['participant_id']} is in no class; name it in a class or in"
        " config.task.ignore"
      )
    rows.append({**row, "record_index": str(record_index)})
  assigned = _assign(rows, config.split)
  return tuple(
    {
      **{name: row.get(name, "") for name in workdir_lib.SPLIT_COLUMNS},
      "class": class_of.get(row["label"], ""),
      "split": split,
      "fold": str(fold),
    }
    for row, (split, fold) in zip(rows, assigned, strict=True)
  )


def check_splits(
  scans: Iterable[Mapping[str, str]], classes: Sequence[str], objective: str
) -> None:
  """Checks that splits are apart, and have what the objective needs of them.

  Args:
    scans: Rows of `splits.csv`.
    classes: Names of the classes.
    objective: One of `step.OBJECTIVES`.

  Raises:
    InputError: A participant or a group lies in two splits, or a split has no
      scan; or, if classes are learned, a class has no group in it.
  """
  scans = list(scans)
  for unit in ("participant_id", "group_id"):
    side: dict[str, str] = {}
    for scan in scans:
      earlier = side.setdefault(scan[unit], scan["split"])
      if earlier != scan["split"]:
        raise InputError(
          f"config.split: {unit} {scan[unit]!r} lies in the {earlier} and the"
          f" {scan['split']} split; give all its scans one group_id and one"
          " split in the manifest, and prepare again"
        )
  if objective == "reconstruct":
    empty = set(splits_lib.SPLITS) - {scan["split"] for scan in scans}
    if empty:
      raise InputError(
        f"config.split: no scan in the {min(empty)} split; add scans, or change"
        " config.split"
      )
    return
  groups = {
    (name, split): set() for name in classes for split in splits_lib.SPLITS
  }
  for scan in scans:
    if scan["class"]:
      groups[scan["class"], scan["split"]].add(scan["group_id"])
  for (name, split), members in groups.items():
    if not members:
      total = sum(len(groups[name, other]) for other in splits_lib.SPLITS)
      raise InputError(
        f"config.split: class {name!r} has no group in the {split} split"
        f" ({total} in all); every class needs one in each of train,"
        " validation and test: add scans, or change config.split or"
        " config.task"
      )


def refuse_seen_groups(
  scans: Iterable[Mapping[str, str]],
  fitted: Iterable[str],
  selected: Iterable[str],
  what: str,
) -> None:
  """Refuses to evaluate on groups that weights have seen before.

  Args:
    scans: Rows of `splits.csv`.
    fitted: Groups that they were fitted on; empty if they come from outside
      the cohort.
    selected: Groups that they were chosen by, from several checkpoints.
    what: Whose weights, for the message.

  Raises:
    InputError: The validation or the test split holds one of the first, or
      the test split one of the second.
  """
  held_out = {
    scan["group_id"]: scan["split"]
    for scan in scans
    if scan["split"] != "train"
  }
  test = {group for group, split in held_out.items() if split == "test"}
  seen = sorted(held_out.keys() & set(fitted) | test & set(selected))
  if seen:
    raise InputError(
      f"{what}: was fitted on, or chosen by, {len(seen)} of the"
      f" {len(held_out)} groups of the validation and test splits, e.g."
      f" {seen[0]} ({held_out[seen[0]]}); set config.split as that run had it,"
      " or take weights that have not seen them"
    )


def _assign(
  rows: Sequence[Mapping[str, str]], fields: ml_collections.ConfigDict
) -> list[tuple[str, int]]:
  """Splits the labelled rows, and the others without moving any of those."""
  if any(row.get("fold") or row.get("split") for row in rows):
    return splits_lib.assign_splits(rows, **fields)  # as the manifest has it
  labelled = [row for row in rows if row["label"]]
  found = {}
  if labelled:
    drawn = splits_lib.assign_splits(labelled, **fields)
    found = {
      row["group_id"]: given for row, given in zip(labelled, drawn, strict=True)
    }
  others = [row for row in rows if row["group_id"] not in found]
  if others:
    chosen = _for_others(others, fields) if labelled else fields
    drawn = splits_lib.assign_splits(others, **chosen)
    found |= {
      row["group_id"]: given for row, given in zip(others, drawn, strict=True)
    }
  return [found[row["group_id"]] for row in rows]


def _for_others(
  others: Sequence[Mapping[str, str]], fields: ml_collections.ConfigDict
) -> dict[str, Any]:
  """Returns the fields of a draw; of one source alone there is none to leave.

  Scans of the source that tests do so; without any, the others train or
  validate in the same proportion.
  """
  found = fields.to_dict()
  sources = {row.get("source", "") for row in others}
  if found["source"] and found["source"] not in sources:
    train, validation, _ = found["fractions"]
    both = train + validation
    found |= {"source": "", "fractions": (train / both, validation / both, 0.0)}
  elif found["source"] and len(sources) == 1:
    found |= {"source": "", "fractions": (0.0, 0.0, 1.0)}
  return found
