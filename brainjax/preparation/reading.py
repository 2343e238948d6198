"""Scanner files -> volumes; what is no readable scan is refused by name.

A scan is one NIfTI, NRRD or MetaImage file, a folder with a DICOM series, or
several 2-D images in slice order: MATLAB v7.3 as in the figshare brain-tumour
set, PNG or JPEG.
"""

import dataclasses
import pathlib
import warnings
from collections.abc import Sequence

import h5py
import numpy as np
import PIL.Image

from brainjax import records
from brainjax.cohort.dicom_headers import SUFFIXES, files_of, has_magic
from brainjax.cohort.selectors import split_selector
from brainjax.preparation import limits, nifti, nrrd
from brainjax.preparation.dicom import read_dicom
from brainjax.preparation.volume import (
  ScanError,
  Volume,
  volume_of,
  volume_of_images,
)

MAX_INTENSITY = 1e15

_JPEG = (".jpg", ".jpeg")
_PICTURES = (".png", *_JPEG)
_MATLAB_IMAGE = "cjdata/image"
_MATLAB_MASK = "cjdata/tumorMask"
# What the libraries raise when a file is not what its name says.
_DAMAGED = (
  EOFError,
  OSError,  # HDF5, Pillow
  ValueError,
  TypeError,  # HDF5, of a type without a counterpart
  KeyError,
  OverflowError,
  RuntimeError,  # HDF5
  SyntaxError,  # Pillow, for a broken PNG chunk
  PIL.Image.DecompressionBombError,
)


def read_volume(
  files: Sequence[pathlib.Path],
  spacing_mm: Sequence[float] | None = None,
  *,
  modality: str = "",
) -> Volume:
  """Reads a scan.

  Args:
    files: One file or folder with a volume, or 2-D images in slice order.
    spacing_mm: Of the voxels along the file's axes, where its header is wrong.
    modality: What to take from a DICOM folder with several series.

  Raises:
    ScanError: A file is missing, damaged, or no scan of a head.
  """
  kind = _kind(files)
  if kind != "images":
    array, affine, doubts = _read_voxels(files[0], kind, spacing_mm, modality)
    volume = dataclasses.replace(volume_of(array, affine), doubts=doubts)
  elif spacing_mm is not None:
    raise ScanError(files[0], "2-D images take no spacing_mm; leave it empty")
  else:
    images = [_read_image(file, _MATLAB_IMAGE) for file in files]
    volume = volume_of_images(images)
    if not np.ptp(volume.array, (0, 1)).any():
      raise ScanError(files[0], "no image of the scan shows anything")
  low, high = float(volume.array.min()), float(volume.array.max())
  if low == high:
    raise ScanError(files[0], f"every voxel is {low:g}")
  if max(-low, high) > MAX_INTENSITY:
    raise ScanError(files[0], f"voxels from {low:g} to {high:g}: damaged")
  return volume


def read_mask(
  files: Sequence[pathlib.Path],
  volume: Volume,
  spacing_mm: Sequence[float] | None = None,
) -> np.ndarray:
  """Reads a mask of a scan, of the tumour or of the brain.

  Args:
    files: As the scan's files; MATLAB files hold both.
    volume: The scan.
    spacing_mm: As that of the scan.

  Returns:
    bool[X,Y,Z] on the grid of `volume.array`: what is above zero or, of a
    JPEG, whose edges are smeared, above half of its maximum.

  Raises:
    ScanError: As `read_volume`, or the mask lies on another grid.
  """
  file, kind = files[0], _kind(files)
  if kind == "images":
    images = [_read_image(f, _MATLAB_MASK) for f in files]
    shapes = tuple(image.shape for image in images)
    if shapes != volume.image_shapes:
      raise ScanError(file, "the mask's images differ from the scan's in size")
    inside = [
      image > (image.max() / 2 if f.suffix.lower() in _JPEG else 0)
      for f, image in zip(files, images, strict=True)
    ]
    stack = volume_of_images([i.astype(np.float32) for i in inside])
    return stack.array > 0.5
  mask = volume_of(*_read_voxels(file, kind, spacing_mm, "")[:2])
  if volume.affine is None or mask.affine is None:
    raise ScanError(file, "the mask of 2-D images must be 2-D images too")
  if mask.array.shape != volume.array.shape:
    raise ScanError(
      file,
      f"a mask of {mask.array.shape} voxels, the image has"
      f" {volume.array.shape}",
    )
  corners = np.array([[0, 0, 0, 1], [*mask.array.shape, 1]]).T
  shift_mm = np.abs((mask.affine - volume.affine) @ corners).max()
  if shift_mm > volume.spacing_mm.min():
    raise ScanError(file, f"the mask lies {shift_mm:.1f} mm off the image")
  return mask.array > 0


def _kind(files: Sequence[pathlib.Path]) -> str:
  """Returns "nifti", "nrrd" or "dicom", or "images" for 2-D ones."""
  kinds = []
  for path in files:
    file, _ = split_selector(path)
    name = file.name.lower()
    if not file.exists():
      raise ScanError(file, "no such file")
    if file.is_dir() or name.endswith(SUFFIXES):
      kinds.append("dicom")
    elif not file.is_file():
      raise ScanError(file, "no file of voxels")
    elif name.endswith(nifti.NIFTI):
      kinds.append("nifti")
    elif name.endswith(nrrd.SUFFIXES):
      kinds.append("nrrd")
    elif not name.endswith((".mat", *_PICTURES)) and has_magic(file):
      kinds.append("dicom")
    else:
      kinds.append("images")
  volumes = [i for i, kind in enumerate(kinds) if kind != "images"]
  if volumes and len(files) > 1:
    raise ScanError(files[volumes[0]], "only 2-D images can be joined")
  return kinds[0]


def _read_voxels(
  path: pathlib.Path,
  kind: str,
  spacing_mm: Sequence[float] | None,
  modality: str,
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
  """Returns voxels in the file's order, their affine, and what is doubtful."""
  file, selector = split_selector(path)
  if kind == "dicom":
    return read_dicom(file, selector, spacing_mm, modality=modality)
  if kind == "nifti":
    return *nifti.read_nifti(file, selector, spacing_mm), ()
  if selector:
    raise ScanError(path, "only NIfTI files and DICOM folders hold several")
  return *nrrd.read_nrrd(file, spacing_mm), ()


def _read_image(file: pathlib.Path, matlab_field: str) -> np.ndarray:
  """Reads one 2-D image, f32[rows,columns] as it is looked at."""
  suffix = file.suffix.lower()
  if suffix not in (".mat", *_PICTURES):
    known = ", ".join((*nifti.NIFTI, *nrrd.SUFFIXES, ".mat", *_PICTURES))
    raise ScanError(
      file, f"unknown kind of file; {known} and DICOM folders are read"
    )
  try:
    if suffix == ".mat":
      return limits.finite(file, _read_matlab(file, matlab_field))
    return limits.finite(file, _read_picture(file))
  except ScanError:
    raise
  except _DAMAGED as error:
    raise ScanError(file, f"damaged: {error}") from error


def _read_picture(file: pathlib.Path) -> np.ndarray:
  with warnings.catch_warnings():
    warnings.simplefilter("error", PIL.Image.DecompressionBombWarning)
    # By its content alone, a picture could be of a kind that runs programs.
    with PIL.Image.open(file, formats=("PNG", "JPEG")) as picture:
      limits.check_size(file, picture.size, limits.MAX_PIXELS)
      # One channel of 16 or 32 bits would lose them in "L".
      grey = picture.mode[0] in "IF"
      return np.asarray(picture if grey else picture.convert("L"))


def _read_matlab(file: pathlib.Path, field: str) -> np.ndarray:
  with h5py.File(file, "r") as archive:
    _check_links(file, archive, field)
    dataset = archive.get(field)
    if not isinstance(dataset, h5py.Dataset) or len(dataset.shape) != 2:
      raise ScanError(file, f"it holds no 2-D array {field}")
    if dataset.dtype.kind not in "iufb":
      raise ScanError(file, f"{field} is {dataset.dtype}, expected numbers")
    if dataset.external or dataset.is_virtual:
      raise ScanError(file, f"{field} lies in another file")
    limits.check_size(file, dataset.shape, limits.MAX_PIXELS)
    return dataset[()].T  # MATLAB stores columns first


def _check_links(file: pathlib.Path, archive: h5py.File, field: str) -> None:
  """Refuses links to another file, and in a circle; MATLAB writes neither."""
  name = ""
  for part in field.split("/"):
    name = f"{name}/{part}"
    link = archive.get(name, getlink=True)
    if link is not None and not isinstance(link, h5py.HardLink):
      raise ScanError(file, f"{name} is a link, not an array")


def input_sha256(image: pathlib.Path) -> str:
  """Returns what changes when an image of a cell of the manifest does.

  Of a folder, the names of its files do not count. What is not there gives "";
  reading it says so.

  Raises:
    OSError: A file cannot be read.
  """
  file, selector = split_selector(image)
  if file.is_dir():
    content = sorted(records.sha256_of(part) for part in files_of(file))
  elif not file.is_file():
    return ""
  else:
    content = [records.sha256_of(file)]
    for voxels in nrrd.detached(file):
      content.append(records.sha256_of(voxels))
  if len(content) == 1 and not selector:
    return content[0]
  return records.sha256_of_json([*content, selector])
