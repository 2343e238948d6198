"""Task01_BrainTumour of the Medical Segmentation Decathlon.

Antonelli et al. 2022, doi:10.1038/s41467-022-30695-9; CC BY-SA 4.0. An image
has four axes; `dataset.json` says the modality of each volume, and a cell of
the manifest names it as in `BRATS_457.nii.gz#2`.

Traps: the cases are those of BraTS 2016 and 2017 under other names, so this
set must not be joined with BraTS; the values of its masks are in another order.
"""

import json
import os
import pathlib
from typing import Any

from brainjax import InputError
from brainjax.cohort.layouts import files

_MODALITIES = {"flair": "flair", "t1w": "t1", "t1gd": "t1c", "t2w": "t2"}
_EXPECTED = "dataset.json, imagesTr/BRATS_457.nii.gz, labelsTr/BRATS_457.nii.gz"
_COLUMNS = (
  *("participant_id", "session_id", "group_id", "label"),
  *("t1", "t1c", "t2", "flair", "mask"),
  *("mask_values", "source"),
)


def read_msd(
  root: str | os.PathLike[str],
) -> tuple[files.Rows, tuple[str, ...]]:
  """Reads Task01_BrainTumour into manifest rows.

  Args:
    root: The folder of `dataset.json`.

  Returns:
    Rows, a case each, first those with a mask, and their columns; every label
    is "glioma".

  Raises:
    InputError: It is another task, or an entry of `dataset.json` names what is
      not there or lies outside the folder, or the same as another.
  """
  top = files.folder_of(root, _EXPECTED)
  file = top / "dataset.json"
  if not file.is_file():
    raise InputError(
      f"{top}: holds {files.found(top)} and no dataset.json; expected"
      f" {_EXPECTED}"
    )
  content = _read(file)
  indices: dict[str, str] = {}
  for index, name in content["modality"].items():
    column = _MODALITIES.get(str(name).lower())
    if column is None or not str(index).isdecimal() or column in indices:
      raise InputError(
        f"{file}: modality {index!r} is {name!r}; expected those of"
        f" Task01_BrainTumour, {', '.join(_MODALITIES)}, once each"
      )
    indices[column] = str(index)
  values = ";".join(
    f"{value}={' '.join(str(name).split())}"
    for value, name in content["labels"].items()
    if str(value) != "0"
  )
  rows = []
  entries = [(entry, True) for entry in content["training"]]
  entries += [({"image": name}, False) for name in content["test"]]
  for entry, has_mask in entries:
    try:
      image = _inside(file, top, entry["image"])
      mask = str(_inside(file, top, entry["label"])) if has_mask else ""
    except (KeyError, TypeError):
      raise InputError(
        f"{file}: {entry!r} is no case; expected an image and a label"
      ) from None
    case = image.name.removesuffix(".gz").removesuffix(".nii")
    if any(row["participant_id"] == case for row in rows):
      raise InputError(f"{file}: {case} stands in it twice; remove one of them")
    rows.append(
      {
        "participant_id": case,
        "session_id": "",
        "group_id": case,
        "label": "glioma",
        "mask": mask,
        "mask_values": values if has_mask else "",
        "source": "MSD",
      }
      | {column: f"{image}#{index}" for column, index in indices.items()}
    )
  if not rows:
    raise InputError(f"{file}: it names no case; expected {_EXPECTED}")
  return files.filled(rows, _COLUMNS)


def _read(file: pathlib.Path) -> dict[str, Any]:
  try:
    content = json.loads(file.read_text("utf-8-sig"))
  except (ValueError, RecursionError) as error:
    raise InputError(f"{file}: not JSON ({error}); mend it") from None
  kinds = {"modality": dict, "labels": dict, "training": list, "test": list}
  for name, kind in kinds.items():
    there = isinstance(content, dict) and content.get(name)
    if not isinstance(there, kind):
      raise InputError(
        f"{file}: no {name} in it; expected the dataset.json of"
        " Task01_BrainTumour"
      )
  return content


def _inside(file: pathlib.Path, top: pathlib.Path, name: str) -> pathlib.Path:
  """Returns a file that `dataset.json` names, if it is in the set."""
  path = pathlib.Path(os.path.normpath(top / name))
  if not path.is_relative_to(top):
    raise InputError(
      f"{file}: {name} lies outside {top}; get the release again"
    )
  if not path.is_file():
    raise InputError(f"{file}: {name} is not there; unpack the whole archive")
  return path
