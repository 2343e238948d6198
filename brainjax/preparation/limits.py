"""What no scan of a head exceeds; checked before memory is taken for it."""

import pathlib
from collections.abc import Sequence

import numpy as np
from nibabel import affines

from brainjax.preparation.volume import ScanError

MAX_VOXELS = 2**29  # 2 GiB as f32; a head at 0.3 mm has a fifth of that
MAX_PIXELS = 2**25  # of a 2-D image; 128 MiB as f32
MAX_DEFLATE = 1032  # what a byte of gzip can hold at most, in bytes
# Noise does not compress so far; what does so and is large is no scan.
LARGE_BYTES = 2**28
LARGE_DEFLATE = 100
SPACING_LIMITS_MM = (0.05, 50.0)
MEND_SPACING = "mend the header, or give the manifest's spacing_mm"


def check_size(
  file: pathlib.Path, shape: Sequence[int], most: int = MAX_VOXELS
) -> None:
  """Raises `ScanError` if the axes are none, or too many voxels long."""
  size = np.prod([float(n) for n in shape])
  if min(shape) < 1 or size > most:
    raise ScanError(file, f"{tuple(shape)} voxels are no scan of a head")


def check_unpacked(
  file: pathlib.Path, declared_bytes: int, *, zipped: bool, what: str
) -> None:
  """Raises `ScanError` if a file cannot hold, or hides, what it declares.

  Args:
    file: The file.
    declared_bytes: What its header says it holds.
    zipped: Is it compressed by deflate?
    what: That, in words.
  """
  size = file.stat().st_size
  if declared_bytes > size * (MAX_DEFLATE if zipped else 1):
    raise ScanError(file, f"truncated: the header declares {what}")
  if zipped:
    check_bomb(file, size, declared_bytes)


def check_bomb(
  file: pathlib.Path, stored_bytes: int, declared_bytes: int
) -> None:
  """Raises `ScanError` if little is to unpack to very much."""
  if declared_bytes > max(LARGE_BYTES, LARGE_DEFLATE * stored_bytes):
    raise ScanError(
      file,
      f"a bomb: {stored_bytes} bytes that unpack to {declared_bytes}; if it is"
      " a scan, unpack it",
    )


def check_affine(file: pathlib.Path, affine: np.ndarray) -> None:
  """Raises `ScanError` if an affine is that of no scanner."""
  low, high = SPACING_LIMITS_MM
  with np.errstate(over="ignore", invalid="ignore"):
    spacing = affines.voxel_sizes(affine)
    # Also False for NaN.
    if not np.all((spacing >= low) & (spacing <= high)):
      raise ScanError(
        file, f"voxels of {spacing.round(3).tolist()} mm; {MEND_SPACING}"
      )
    volume = abs(np.linalg.det(affine[:3, :3] / spacing))
  if not volume > 1e-3 or not np.isfinite(affine).all():
    raise ScanError(file, "its affine is singular; mend the header")


def finite(file: pathlib.Path, array: np.ndarray) -> np.ndarray:
  """Returns the array as f32; refuses what is not a finite number."""
  with np.errstate(over="ignore"):
    array = array.astype(np.float32, copy=False)
  bad = array.size - np.count_nonzero(np.isfinite(array))
  if bad:
    raise ScanError(file, f"{bad} voxels are NaN or infinite")
  return array


def respaced(
  affine: np.ndarray, shape: Sequence[int], spacing_mm: np.ndarray
) -> np.ndarray:
  """Returns the affine with other voxel sizes, around the volume's centre."""
  lengths = affines.voxel_sizes(affine)
  # Of an axis that the header gives no direction, the file's order is all
  # there is to know.
  known = np.isfinite(lengths) & (lengths > 0)
  directions = np.where(known, affine[:3, :3] / np.where(known, lengths, 1), 0)
  directions = np.where(known, directions, np.eye(3))
  middle = (np.array(shape) - 1) / 2
  centre = affine[:3, :3] @ middle + affine[:3, 3]
  result = np.eye(4)
  result[:3, :3] = directions * spacing_mm
  result[:3, 3] = np.nan_to_num(centre) - result[:3, :3] @ middle
  return result
