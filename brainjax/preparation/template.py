"""A template head, and a scan laid upon it.

The scan is turned and shifted, its size stays: lengths are the participant's.
"""

import dataclasses
import functools
import hashlib
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from brainjax import InputError
from brainjax.preparation import brain_mask, reading, registration
from brainjax.preparation.volume import ScanError, Volume, aligned, volume_of

BUILT_IN = "mni152"  # with 1 mm voxels, as it ships with nilearn


def pinned(config: Any) -> Any:
  """Returns the section `preparation`, with the template's hash.

  Raises:
    InputError: The template cannot be read, or is another than it was.
  """
  if not config.template:
    return config
  found = config.copy_and_resolve_references()
  with found.unlocked():
    found.template_sha256 = _load(config.template)[1]
  _check(config, found.template_sha256)
  return found


def place(
  volume: Volume, brain: np.ndarray, config: Any, file: pathlib.Path
) -> tuple[Volume, np.ndarray]:
  """Lays a scan upon the template, brain upon brain.

  Args:
    volume: The scan; not of 2-D images.
    brain: bool[X,Y,Z] of it.
    config: The section `preparation`, with a template.
    file: To name in an error.

  Returns:
    The scan on the template's grid, and f64[4,4], millimetres of the template
    to millimetres of the scan.

  Raises:
    InputError: The template is another than it was.
    ScanError: It cannot be laid there.
  """
  template, sha256 = _load(config.template)
  _check(config, sha256)
  bare = dataclasses.replace(volume, array=np.where(brain, volume.array, 0))
  motion = registration.register(bare, template, centred=True)
  if motion is None:
    raise ScanError(file, f"it cannot be laid upon {config.template}")
  array, _ = aligned(volume, template, motion)
  assert volume.affine is not None and template.affine is not None
  placed = dataclasses.replace(
    volume,
    array=array,
    affine=template.affine,
    spacing_mm=template.spacing_mm,
    file_from_voxel=np.linalg.solve(_file_affine(volume), motion)
    @ template.affine,
  )
  return placed, motion


def moved_mask(
  mask: np.ndarray, volume: Volume, placed: Volume, motion: np.ndarray
) -> np.ndarray:
  """Returns bool[X,Y,Z], a mask of a scan on the grid of the template."""
  image = dataclasses.replace(volume, array=mask.astype(np.float32))
  return aligned(image, placed, motion)[0] >= 0.5


def through(
  motions: Mapping[str, np.ndarray | None],
  names: Iterable[str],
  motion: np.ndarray,
) -> dict[str, np.ndarray]:
  """Returns f64[4,4], millimetres of the template to those of each modality."""
  found = {}
  for name in names:
    further = motions.get(name)
    found[name] = motion if further is None else further @ motion
  return found


def _file_affine(volume: Volume) -> np.ndarray:
  assert volume.file_affine is not None
  return volume.file_affine


@functools.lru_cache(1)
def _load(name: str) -> tuple[Volume, str]:
  """Returns the brain of a template, and the hash of all of it."""
  if name == BUILT_IN:
    from nilearn import datasets  # takes seconds

    image = datasets.load_mni152_template(resolution=1)
    volume = volume_of(np.asarray(image.dataobj, np.float32), image.affine)
    content = np.ascontiguousarray(volume.array)
    sha256 = hashlib.sha256(content.data).hexdigest()
  else:
    path = pathlib.Path(name)
    try:
      sha256 = reading.input_sha256(path)
    except OSError as error:
      raise InputError(f"{path}: {error.strerror}") from error
    if not sha256:
      raise InputError(
        f"config.preparation.template={name}: no such file; name a NIfTI file,"
        f" or {BUILT_IN}"
      )
    volume = reading.read_volume([path], None)
    if volume.affine is None:
      raise InputError(f"{path}: a template is a volume, not 2-D images")
  brain = brain_mask.brain_mask(volume)
  stripped = np.where(brain, volume.array, 0).astype(np.float32)
  return dataclasses.replace(volume, array=stripped), sha256


def _check(config: Any, sha256: str) -> None:
  if config.template_sha256 not in ("", sha256):
    raise InputError(
      f"config.preparation.template={config.template}: it is not the one that"
      " the records were prepared with"
    )
