"""Manifests that somebody wrote, one or several, as the rows of a new one."""

import collections
import pathlib
from collections.abc import Sequence

from brainjax import InputError
from brainjax.cohort import manifest

Rows = list[dict[str, str]]


def read_manifests(
  paths: Sequence[pathlib.Path], *, prefix_ids: bool = False
) -> tuple[Rows, tuple[str, ...]]:
  """Reads manifests, to be written as one and at another place.

  Of several, each scan keeps its `source`; where it has none, that is the
  name of its file without the suffix. A `group_id` that two of them share
  joins their scans into one group, as it should where sets overlap.

  Args:
    paths: The manifests.
    prefix_ids: Put `<source>-` in front of every participant, and of a group
      that is named as its only participant; other groups stay.

  Returns:
    Rows with absolute paths, and all columns in the order they come.

  Raises:
    InputError: Something is wrong with one; or a participant is in two.
  """
  rows: Rows = []
  members_of = collections.defaultdict(set)  # the participants of each group
  columns: dict[str, None] = {}
  file_of: dict[str, pathlib.Path] = {}
  for path in paths:
    given = manifest.read_manifest(path)
    columns |= dict.fromkeys(given.columns)
    for row in given.rows:
      files = {
        name: ";".join(map(str, manifest.image_files(given, row, name)))
        for name in row.keys() & {*given.modalities, *manifest.MASKS}
      }
      row = row | files
      if len(paths) > 1:
        columns["source"] = None
        row["source"] = row.get("source") or path.stem
      members_of[row["group_id"]].add(row["participant_id"])
      if prefix_ids:
        row |= {"participant_id": _prefixed(row)}
      person = row["participant_id"]
      other = file_of.setdefault(person, path)
      if other != path:
        raise InputError(
          f"{path}: participant {person!r} is in {other} as well; if that is"
          " another person, --prefix-ids puts the source before each id; if"
          " it is the same, write both into one of the files"
        )
      rows.append(row)
  if prefix_ids:
    for row in rows:
      members = members_of[row["group_id"]]
      # A prefix on one of several members would tear their group apart.
      if len(members) == 1 and row["group_id"] in members:
        row["group_id"] = row["participant_id"]
  return rows, tuple(columns)


def _prefixed(row: dict[str, str]) -> str:
  """Returns the participant of a row with its source before it."""
  source = row.get("source")
  if not source:
    raise InputError(
      f"--prefix-ids: participant {row['participant_id']!r} has no source; add"
      " a column source"
    )
  return f"{source}-{row['participant_id']}"
