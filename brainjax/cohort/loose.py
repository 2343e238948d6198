"""Scans that are in no manifest, as a manifest in memory alone."""

import os
import pathlib
import re
from collections.abc import Mapping, Sequence

from brainjax.cohort.manifest import Manifest


def manifest_of_files(
  scans: Sequence[Mapping[str, pathlib.Path]], modalities: Sequence[str]
) -> Manifest:
  """Returns a manifest of scans given by their files.

  A scan is named after its first file and, where that is not enough to tell
  all scans apart, after folders of the file.

  Args:
    scans: Files by modality of each, at least one.
    modalities: The image columns.
  """
  names = _distinct_names([next(iter(files.values())) for files in scans])
  rows = [
    {
      "participant_id": name,
      "session_id": "",
      "group_id": name,
      "label": "",
      **{modality: os.path.abspath(file) for modality, file in files.items()},
    }
    for name, files in zip(names, scans, strict=True)
  ]
  return Manifest(
    path=pathlib.Path("scans.csv").absolute(),
    columns=("participant_id", "session_id", "group_id", "label", *modalities),
    rows=tuple(rows),
    modalities=tuple(modalities),
  )


def _distinct_names(files: Sequence[pathlib.Path]) -> list[str]:
  """Names files by as few of their folders as tell them apart."""
  paths = [pathlib.Path(os.path.abspath(file)) for file in files]
  parts = [
    # The name of a folder, of a DICOM series say, has no suffix.
    path.parts[1:]
    if path.is_dir()
    else (*path.parts[1:-1], re.sub(r"(\.nii)?(\.\w+)?$", "", path.name))
    for path in paths
  ]
  for depth in range(1, max(map(len, parts)) + 1):
    names = ["_".join(part[-depth:]) for part in parts]
    if len(set(names)) == len(set(paths)):
      return names
  return [part[-1] for part in parts]
