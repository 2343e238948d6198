"""A folder a class: `ROOT/<label>/<participant>.nii.gz`.

Instead of the file there may be a folder, `ROOT/<label>/<participant>/`, with
one volume in it, or DICOM files, or PNG or JPEG slices that are taken in the
order of the numbers in their names. NRRD and MetaImage files count as volumes;
other files are passed over.

PNG or JPEG files that lie in a class folder themselves, as in the collections
of slices on Kaggle, are a scan each, and nobody knows whose: their column
`patient_id_known` is "false", so that no result claims to be one of patients.
A level of `Training` and `Testing` above the classes is passed through; it is
no split to keep, since slices of one person may lie on both sides. Where two
such files have one name, all of them are named after their folders as well, as
in `Testing-glioma-image(1)`.
"""

import collections
import os
import pathlib
import re

from brainjax import InputError
from brainjax.cohort import manifest
from brainjax.cohort.layouts.files import folder_of, found, visible, walk

_VOLUME = re.compile(r"\.(nii(\.gz)?|nrrd|mha|mhd)$", re.IGNORECASE)
_PICTURE = re.compile(r"\.(png|jpe?g)$", re.IGNORECASE)
PARTITIONS = ("training", "testing", "train", "test", "val", "validation")
_EXPECTED = (
  "ROOT/<label>/<participant>.nii[.gz] (or .png, .jpg, .nrrd, .mha), or a"
  " folder with one such volume, a DICOM series or PNG or JPEG slices"
)


def read_folders(
  root: str | os.PathLike[str], *, modality: str = "t1"
) -> tuple[list[dict[str, str]], tuple[str, ...]]:
  """Reads class folders into manifest rows.

  Args:
    root: The folder that holds a folder a class; its name is the `source`.
    modality: What the images are; one of `manifest.MODALITIES`.

  Returns:
    Rows, a scan each and one scan a participant, and their columns;
    `patient_id_known` among them if there are single pictures.

  Raises:
    InputError: The layout is another one, or two files give one participant.
  """
  if modality not in manifest.MODALITIES:
    raise InputError(
      f"modality {modality!r}: choose one of {', '.join(manifest.MODALITIES)}"
    )
  top = folder_of(root, _EXPECTED)
  classes = [path for path in visible(top) if path.is_dir()]
  if classes and all(path.name.casefold() in PARTITIONS for path in classes):
    classes = [
      path for part in classes for path in visible(part) if path.is_dir()
    ]
  if not classes:
    raise InputError(
      f"{root}: holds {found(top)} and no class folder; expected {_EXPECTED}"
    )
  images_of = {folder: _images(folder) for folder in classes}
  for folder, images in images_of.items():
    if not images:
      raise InputError(
        f"{folder}: no NIfTI file, but {found(folder)}; expected {_EXPECTED}"
      )
  counts = collections.Counter(
    participant
    for images in images_of.values()
    for participant, _, known in images
    if not known
  )
  image_of: dict[str, str] = {}
  rows = []
  for folder, images in images_of.items():
    for participant, image, known in images:
      if not known and max(counts.values()) > 1:
        # All of them, or to have such a name would tell something.
        parts = (*folder.relative_to(top).parts, participant)
        participant = "-".join(parts)
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
          modality: image,
          "source": top.name,
          "patient_id_known": str(known).lower(),
        }
      )
  columns = ("participant_id", "label", modality, "source")
  if all(row["patient_id_known"] == "true" for row in rows):
    rows = [{name: row[name] for name in columns} for row in rows]
    return rows, columns
  return rows, (*columns, "patient_id_known")


def _images(folder: pathlib.Path) -> list[tuple[str, str, bool]]:
  """Returns (participant_id, image cell, is it known whose) of a class."""
  images = []
  for path in visible(folder):
    if path.is_dir():
      images.append((path.name, _image_of_folder(path), True))
    elif path.is_file() and _VOLUME.search(path.name):
      images.append((_VOLUME.sub("", path.name), str(path), True))
    elif path.is_file() and _PICTURE.search(path.name):
      images.append((_PICTURE.sub("", path.name), str(path), False))
  return images


def _image_of_folder(folder: pathlib.Path) -> str:
  """Returns the image cell of a participant's folder."""
  inside = [path for path in visible(folder) if path.is_file()]
  volumes = [path for path in inside if _VOLUME.search(path.name)]
  if len(volumes) == 1:
    return str(volumes[0])
  pictures = [path for path in inside if _PICTURE.search(path.name)]
  if not volumes and pictures:
    return ";".join(map(str, sorted(pictures, key=_natural)))
  if not volumes and any(map(_is_dicom, walk(folder))):
    return str(folder)
  raise InputError(
    f"{folder}: {len(volumes)} NIfTI files, among {found(folder)}; a"
    " participant's folder must hold one"
  )


def _natural(path: pathlib.Path) -> list[tuple[int, str]]:
  """Returns a key that sorts `slice-10` behind `slice-9`."""
  return [
    (int(digits or 0), text.casefold())
    for text, digits in re.findall(r"(\D*)(\d*)", path.name)
  ]


def _is_dicom(file: pathlib.Path) -> bool:
  with open(file, "rb") as stream:
    return stream.read(132)[128:] == b"DICM"
