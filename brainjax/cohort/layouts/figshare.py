"""The figshare set: T1 slices after contrast of three tumour types.

Cheng et al. 2015, doi:10.1371/journal.pone.0140381; data
doi:10.6084/m9.figshare.1512427. `brainTumorDataPublic_*/<number>.mat` are
MATLAB v7.3 files, that is HDF5, with one struct `cjdata` each. Slices are
about 7 mm apart, three planes are mixed, and every one shows a tumour.
"""

import itertools
import os
import pathlib
import re

import h5py
import numpy as np

from brainjax import InputError
from brainjax.cohort.layouts.files import folder_of, found

LABELS = {1: "meningioma", 2: "glioma", 3: "pituitary"}
UNITS = ("patient", "run", "slice")
_EXPECTED = (
  "brainTumorDataPublic_*/<number>.mat, from the unpacked archives of"
  " doi:10.6084/m9.figshare.1512427"
)
_COLUMNS = (
  "participant_id",
  "session_id",
  "group_id",
  "label",
  "t1c",
  "mask",
  "source",
)


def read_figshare(
  root: str | os.PathLike[str], *, unit: str = "patient"
) -> tuple[list[dict[str, str]], tuple[str, ...]]:
  """Reads the ids and labels of the release into manifest rows.

  Ids that differ by trailing letters (MR040240, MR040240B) are probably one
  person, so the group is the id without them.

  Args:
    root: Folder with the unpacked `.mat` files, at any depth.
    unit: What a row is: "patient", all files of one id in the order of their
      numbers; "run", a stretch of consecutive numbers with one id, which is
      mostly one series in one plane; "slice", a file.

  Returns:
    Rows in the order of the files' numbers, and their columns. `mask` names
    the same files, which hold the tumour mask as well.

  Raises:
    InputError: The folder or a file is not of the release.
  """
  if unit not in UNITS:
    raise InputError(f"unit {unit!r}: choose one of {', '.join(UNITS)}")
  files = _numbered_files(folder_of(root, _EXPECTED))
  facts = {number: _read_facts(files[number]) for number in files}
  label_of: dict[str, str] = {}
  for number, (pid, label) in facts.items():
    if label_of.setdefault(pid, label) != label:
      raise InputError(
        f"{files[number]}: {label}, but an earlier file of PID {pid} is"
        f" {label_of[pid]}; get the release again"
      )
  rows = []
  for session, numbers in _scans(facts, unit):
    pid, label = facts[numbers[0]]
    cell = ";".join(str(files[number]) for number in numbers)
    group = re.sub(r"[A-Z]+$", "", pid)
    values = (pid, session, group, label, cell, cell, "figshare")
    rows.append(dict(zip(_COLUMNS, values, strict=True)))
  return rows, _COLUMNS


def _numbered_files(root: pathlib.Path) -> dict[int, pathlib.Path]:
  """Returns the slices' files by number; `cvind.mat` has none."""
  files: dict[int, pathlib.Path] = {}
  for path in sorted(root.rglob("*.mat")):
    if not path.stem.isdecimal():
      continue
    other = files.setdefault(int(path.stem), path)
    if other != path:
      raise InputError(
        f"{path}: slice {path.stem} is {other} already; remove one of them"
      )
  if not files:
    raise InputError(
      f"{root}: it holds {found(root)}, but no slices; expected {_EXPECTED}"
    )
  return dict(sorted(files.items()))


def _read_facts(path: pathlib.Path) -> tuple[str, str]:
  """Returns (PID, label) of a file, without reading its image."""
  try:
    with h5py.File(path) as file:
      fields = [np.asarray(file[f"cjdata/{name}"]) for name in ("PID", "label")]
    pid = "".join(map(chr, fields[0].ravel())).strip()
    number = int(fields[1].item())
  except (OSError, KeyError, TypeError, ValueError) as error:
    raise InputError(
      f"{path}: not a slice of the release ({error}); get the file again"
    ) from error
  if not pid or number not in LABELS:
    raise InputError(
      f"{path}: PID {pid!r}, label {number}; expected an id and one of"
      f" {LABELS}; get the file again"
    )
  return pid, LABELS[number]


def _scans(
  facts: dict[int, tuple[str, str]], unit: str
) -> list[tuple[str, list[int]]]:
  """Returns (session_id, files' numbers) of each scan."""
  if unit == "patient":
    numbers_of: dict[str, list[int]] = {}
    for number, (pid, _) in facts.items():
      numbers_of.setdefault(pid, []).append(number)
    return [("", numbers) for numbers in numbers_of.values()]
  if unit == "slice":
    return [(f"slice-{number}", [number]) for number in facts]
  # Along a run, number minus index stays the same.
  runs = itertools.groupby(
    enumerate(facts), key=lambda pair: (pair[1] - pair[0], facts[pair[1]])
  )
  numbers_of_runs = [[number for _, number in run] for _, run in runs]
  return [(f"run-{numbers[0]}", numbers) for numbers in numbers_of_runs]
