"""NIfTI files -> voxels."""

import io
import pathlib
import warnings
from collections.abc import Sequence
from typing import BinaryIO

import nibabel as nib
import numpy as np
from nibabel import orientations
from nibabel.arrayproxy import ArrayProxy
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from nibabel.volumeutils import apply_read_scaling
from zlib_ng import gzip_ng, zlib_ng

from brainjax.preparation import limits
from brainjax.preparation.volume import ScanError

NIFTI = (".nii", ".nii.gz")
_MAX_HEADER = 2**24  # bytes in front of the voxels, extensions included
SLACK = 2**24  # bytes behind the voxels that nobody declared
_PIECE = 2**18  # bytes of voxels to read at once
NOT_DEFLATE: type[Exception] = zlib_ng.error  # type: ignore
# What the libraries raise when a file is not what its name says.
_DAMAGED = (
  ImageFileError,
  HeaderDataError,
  EOFError,
  OSError,  # short reads, gzip's checksum
  NOT_DEFLATE,
  ValueError,
  OverflowError,
)


def read_nifti(
  file: pathlib.Path,
  selector: str = "",
  spacing_mm: Sequence[float] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
  """Reads voxels in the file's order, and their affine.

  Args:
    file: The file.
    selector: Index from 0 along the fourth axis; "" if there is none.
    spacing_mm: Of the voxels along the file's axes, in place of the header's.

  Returns:
    f32[...] with three axes, and f64[4,4] file voxel -> millimetres (RAS+).

  Raises:
    ScanError: The file is damaged, or no scan.
  """
  zipped = file.name.lower().endswith(".gz")
  image = _open(file, zipped)
  shape, proxy = image.shape, image.dataobj
  assert isinstance(proxy, ArrayProxy)
  dtype = np.dtype(image.get_data_dtype())
  if dtype.kind not in "iuf":
    raise ScanError(file, f"voxels are {dtype}, expected one real number")
  limits.check_size(file, shape)
  index, count = _index_of(file, shape, selector)
  # Before anything of that size is allocated: a damaged header may ask for
  # far more than the file can hold.
  one = int(np.prod(shape[:3])) * dtype.itemsize
  limits.check_unpacked(
    file,
    proxy.offset + count * one,
    zipped=zipped,
    what=f"{shape} voxels of {dtype}",
  )
  affine = np.array(image.affine, np.float64)
  try:
    with _opened(file, zipped) as stream:
      with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # As written: nibabel turns a spacing of 0 into 1.
        header = type(image.header).from_fileobj(stream, check=False)
      if spacing_mm is not None:
        affine = limits.respaced(affine, shape[:3], np.array(spacing_mm))
      elif header["sform_code"] == 0 and not header["pixdim"][1:4].all():
        raise ScanError(file, f"a spacing of 0 mm; {limits.MEND_SPACING}")
      limits.check_affine(file, affine)
      array = empty_for(affine, shape[:3])
      stream.seek(proxy.offset + index * one)
      fill(array, stream, dtype, proxy.slope, proxy.inter)
      read_to_end(file, stream, count * one + SLACK)
  except ScanError:
    raise
  except _DAMAGED as error:
    raise ScanError(file, f"damaged: {error}") from error
  return limits.finite(file, array), affine


def _open(file: pathlib.Path, zipped: bool) -> nib.Nifti1Image:
  """Reads the header alone."""
  try:
    with _opened(file, zipped) as stream:
      start = stream.read(_HEADER_2.itemsize)
    _check_offset(file, start)
    with np.errstate(all="ignore"), warnings.catch_warnings():
      warnings.simplefilter("ignore")  # of odd extensions
      image = nib.load(file)
  except _DAMAGED as error:
    raise ScanError(file, f"no NIfTI header: {error}") from error
  if not isinstance(image, nib.Nifti1Image):
    raise ScanError(file, f"a {type(image).__name__}, not a NIfTI volume")
  if len(image.shape) < 3:
    raise ScanError(file, f"{len(image.shape)} axes {image.shape}, expected 3")
  return image


_HEADER_1 = nib.Nifti1Header.template_dtype
_HEADER_2 = nib.Nifti2Header.template_dtype


def _check_offset(file: pathlib.Path, start: bytes) -> None:
  """Refuses a header that asks for gigabytes of extensions before the voxels.

  nibabel would read them all, and a zipped file can hold them.
  """
  for dtype in (_HEADER_1, _HEADER_2):
    for order in ("<", ">"):
      if len(start) < dtype.itemsize:
        continue
      header = np.frombuffer(start, dtype.newbyteorder(order), 1)[0]
      if header["sizeof_hdr"] == dtype.itemsize and not (
        header["vox_offset"] <= _MAX_HEADER
      ):
        raise ScanError(
          file,
          f"its voxels begin at byte {header['vox_offset']:.3g}: damaged",
        )


def _index_of(
  file: pathlib.Path, shape: Sequence[int], selector: str
) -> tuple[int, int]:
  """Returns which volume is meant, and how many there are."""
  count = int(np.prod(shape[3:])) if len(shape) > 3 else 1
  if not selector:
    if count != 1:
      raise ScanError(
        file,
        f"{len(shape)} axes {tuple(shape)}, expected 3; name one of its"
        f" {count} volumes as {file.name}#0",
      )
    return 0, count
  if not selector.isdecimal() or int(selector) >= count:
    raise ScanError(
      file, f"no volume #{selector}; it holds {count}, counted from 0"
    )
  return int(selector), count


def empty_for(affine: np.ndarray, shape: Sequence[int]) -> np.ndarray:
  """Returns f32[X,Y,Z] to be filled, in the file's order.

  In memory its axes run the way that RAS+ has them, so that `volume_of` need
  not copy it.

  Args:
    affine: f64[4,4], voxel -> millimetres (RAS+), invertible.
    shape: X, Y and Z.
  """
  _, signs = orientations.io_orientation(affine).T
  backwards = tuple(slice(None, None, int(sign)) for sign in signs)
  return np.empty(shape, np.float32, order="F")[backwards]


def fill(
  array: np.ndarray,
  stream: BinaryIO | io.RawIOBase,
  dtype: np.dtype,
  slope: float = 1.0,
  inter: float = 0.0,
) -> None:
  """Reads voxels, scales them and turns them to f32, a few slices at a time.

  What is read is thus still in the processor's cache when it is turned; and
  gzip makes an object of all that it is asked for at once.

  Args:
    array: f32[X,Y,Z], written to.
    stream: At the first voxel; the first axis runs fastest.
    dtype: Of the voxels in it.
    slope: Each voxel is multiplied by it.
    inter: And this is added.

  Raises:
    EOFError: The stream ends before the array is full.
  """
  row_bytes = array.shape[0] * array.shape[1] * dtype.itemsize
  step = max(1, _PIECE // row_bytes)
  buffer = np.empty(min(step, array.shape[2]) * row_bytes, np.uint8)
  for start in range(0, array.shape[2], step):
    part = array[:, :, start : start + step]
    content = buffer[: part.size * dtype.itemsize]
    left = content.data
    while len(left):
      count = stream.readinto(left)  # type: ignore
      if not count:
        raise EOFError(f"slice {start} of {array.shape[2]} is not all there")
      left = left[count:]
    voxels = content.view(dtype).reshape(part.shape, order="F")
    with np.errstate(over="ignore", invalid="ignore"):  # beyond f32: inf
      part[...] = apply_read_scaling(voxels, slope, inter)


def _opened(file: pathlib.Path, zipped: bool) -> BinaryIO:
  return gzip_ng.open(file, "rb") if zipped else open(file, "rb")  # type: ignore


def read_to_end(
  file: pathlib.Path, stream: BinaryIO | io.RawIOBase, most: int
) -> None:
  """Reads what is left: only there does gzip compare its checksum."""
  left = 0
  while piece := stream.read(1 << 20):
    left += len(piece)
    if left > most:
      raise ScanError(
        file, "a bomb: far more behind the voxels than the header declares"
      )
