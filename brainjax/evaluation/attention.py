"""What a model's attention weighs in the scans of a split, written to files.

    attention.csv          a row a slice
    attention_<split>.npz  f32[S,h,w] of each scan, by its record index: what
                           each place of the feature map was multiplied by

Columns of the first, those that the model has:

    slice                   its number, from 1
    position_mm             0 = brain centre; empty where nobody knows
    in_plane_max            the largest factor of a place
    in_plane_offset_row,    pixels from the brain's centre to the centre of
    in_plane_offset_column  attention, downwards and to the right
    slice_axis              what the slice was multiplied by; 1 = unchanged
    head                    its weight in the head; those of a scan add up to 1
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from brainjax import records
from brainjax.records import RecordSet

_IDS = ("participant_id", "session_id", "split")


def attention_rows(
  scans: Sequence[Mapping[str, str]],
  weights: Sequence[Mapping[str, np.ndarray]],
  record_set: RecordSet,
) -> list[dict[str, Any]]:
  """Returns the rows of `attention.csv`.

  Args:
    scans: Rows of `splits.csv`.
    weights: Of each scan, by name; see `Runner.attention`.
    record_set: The records of the run.
  """
  rows = []
  for scan, found in zip(scans, weights, strict=True):
    record = record_set[int(scan["record_index"])]
    columns = _columns(found)
    for s, position in enumerate(record.positions_mm):
      rows.append(
        {
          **{name: scan[name] for name in _IDS},
          "slice": s + 1,
          "position_mm": f"{position:.6g}" if record.positions_known else "",
          **{name: f"{value[s]:.6g}" for name, value in columns.items()},
        }
      )
  return rows


def maps_file(workdir: pathlib.Path, split: str) -> pathlib.Path:
  """Returns where the maps of a split are, if the model has any."""
  return workdir / f"attention_{split}.npz"


def write_maps(
  path: pathlib.Path,
  scans: Sequence[Mapping[str, str]],
  weights: Sequence[Mapping[str, np.ndarray]],
) -> None:
  """Writes the factors of places, f32[S,h,w] a scan, if there are any."""
  maps: dict[str, Any] = {
    scan["record_index"]: found["in_plane"]
    for scan, found in zip(scans, weights, strict=True)
    if "in_plane" in found
  }
  if maps:
    with records.replacing(path) as partial, open(partial, "wb") as file:
      np.savez_compressed(file, **maps)


def _columns(found: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Returns f[S] by the name of the column."""
  columns = {}
  if "in_plane" in found:
    columns["in_plane_max"] = found["in_plane"].max((1, 2))
  if "in_plane_offset" in found:
    for axis, name in enumerate(("row", "column")):
      columns[f"in_plane_offset_{name}"] = found["in_plane_offset"][:, axis]
  slice_level = ("slice_axis", "head")
  return columns | {name: found[name] for name in slice_level if name in found}
