"""A folder a class: `ROOT/<label>/<participant>.nii.gz`.

Instead of the file there may be a folder, `ROOT/<label>/<participant>/`, with
one NIfTI file in it. Files that are not NIfTI are passed over.
"""

import os
import pathlib
import re

from brainjax import InputError
from brainjax.cohort import manifest

_NIFTI = re.compile(r"\.nii(\.gz)?$", re.IGNORECASE)
_EXPECTED = (
  "ROOT/<label>/<participant>.nii[.gz], or a folder with one such file"
)


def read_folders(
  root: str | os.PathLike[str], *, modality: str = "t1"
) -> tuple[list[dict[str, str]], tuple[str, ...]]:
  """Reads class folders into manifest rows.

  Args:
    root: The folder that holds a folder a class; its name is the `source`.
    modality: What the images are; one of `manifest.MODALITIES`.

  Returns:
    Rows, a scan each and one scan a participant, and their columns.

  Raises:
    InputError: The layout is another one, or two files give one participant.
  """
  if modality not in manifest.MODALITIES:
    raise InputError(
      f"modality {modality!r}: choose one of {', '.join(manifest.MODALITIES)}"
    )
  top = pathlib.Path(os.path.abspath(root))
  if not top.is_dir():
    raise InputError(f"{root}: no such folder; expected {_EXPECTED}")
  classes = [path for path in visible(top) if path.is_dir()]
  if not classes:
    raise InputError(
      f"{root}: holds {found(top)} and no class folder; expected {_EXPECTED}"
    )
  image_of: dict[str, pathlib.Path] = {}
  rows = []
  for folder in classes:
    images = _images(folder)
    if not images:
      raise InputError(
        f"{folder}: no NIfTI file, but {found(folder)}; expected {_EXPECTED}"
      )
    for participant, image in images:
      other = image_of.setdefault(participant, image)
      if other != image:
        raise InputError(
          f"{image}: participant {participant!r} is {other} already; rename"
          " one, or write a manifest by hand with a session_id a scan"
        )
      rows.append(
        {
          "participant_id": participant,
          "label": folder.name,
          modality: str(image),
          "source": top.name,
        }
      )
  return rows, ("participant_id", "label", modality, "source")


def _images(folder: pathlib.Path) -> list[tuple[str, pathlib.Path]]:
  """Returns (participant_id, file) of each scan of a class."""
  images = []
  for path in visible(folder):
    if path.is_dir():
      inside = [file for file in visible(path) if _is_nifti(file)]
      if len(inside) != 1:
        raise InputError(
          f"{path}: {len(inside)} NIfTI files, among {found(path)}; a"
          " participant's folder must hold one"
        )
      images.append((path.name, inside[0]))
    elif _is_nifti(path):
      images.append((_NIFTI.sub("", path.name), path))
  return images


def _is_nifti(path: pathlib.Path) -> bool:
  return path.is_file() and _NIFTI.search(path.name) is not None


def visible(folder: pathlib.Path, prefix: str = "") -> list[pathlib.Path]:
  """Returns what is in a folder, sorted, without hidden and system entries.

  Args:
    folder: The folder.
    prefix: Of the names wanted.
  """
  return [
    path
    for path in sorted(folder.iterdir())
    if path.name.startswith(prefix)
    and not path.name.startswith((".", "__MACOSX"))
  ]


def found(folder: pathlib.Path) -> str:
  """Says in a few words what is in a folder."""
  names = [path.name for path in visible(folder)]
  if len(names) > 3:
    names[3:] = [f"... ({len(names)} in all)"]
  return ", ".join(names) or "nothing"
