"""NIfTI files, and NRRD and MetaImage files through SimpleITK -> voxels."""

import pathlib
import re
import warnings
from collections.abc import Sequence
from typing import BinaryIO

import nibabel as nib
import numpy as np
import SimpleITK as sitk
from nibabel import orientations
from nibabel.arrayproxy import ArrayProxy
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from nibabel.volumeutils import apply_read_scaling
from zlib_ng import gzip_ng, zlib_ng

from brainjax.preparation import limits
from brainjax.preparation.volume import ScanError

NIFTI = (".nii", ".nii.gz")
ITK = (".nrrd", ".mha", ".mhd")
_MAX_HEADER = 2**24  # bytes in front of the voxels, extensions included
_SLACK = 2**24  # bytes behind the voxels that nobody declared
_PIECE = 2**18  # bytes of voxels to read at once
_MAX_LINES = 1000  # of a header in text
_RAS_FROM_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
_NOT_DEFLATE: type[Exception] = zlib_ng.error  # type: ignore
# What the libraries raise when a file is not what its name says.
_DAMAGED = (
  ImageFileError,
  HeaderDataError,
  EOFError,
  OSError,  # short reads, gzip's checksum
  _NOT_DEFLATE,
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
      array = _empty_for(affine, shape[:3])
      stream.seek(proxy.offset + index * one)
      _fill(array, stream, dtype, proxy)
      _read_to_end(file, stream, count * one + _SLACK)
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


def _empty_for(affine: np.ndarray, shape: Sequence[int]) -> np.ndarray:
  """Returns f32[...] to be filled, in the file's order.

  In memory its axes run the way that RAS+ has them, so that `volume_of` need
  not copy it.
  """
  _, signs = orientations.io_orientation(affine).T
  backwards = tuple(slice(None, None, int(sign)) for sign in signs)
  return np.empty(shape, np.float32, order="F")[backwards]


def _fill(
  array: np.ndarray, stream: BinaryIO, dtype: np.dtype, proxy: ArrayProxy
) -> None:
  """Reads voxels, scales them and turns them to f32, a few slices at a time.

  What is read is thus still in the processor's cache when it is turned; and
  gzip makes an object of all that it is asked for at once.
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
      part[...] = apply_read_scaling(voxels, proxy.slope, proxy.inter)


def _opened(file: pathlib.Path, zipped: bool) -> BinaryIO:
  return gzip_ng.open(file, "rb") if zipped else open(file, "rb")  # type: ignore


def _read_to_end(file: pathlib.Path, stream: BinaryIO, most: int) -> None:
  """Reads what is left: only there does gzip compare its checksum."""
  left = 0
  while piece := stream.read(1 << 20):
    left += len(piece)
    if left > most:
      raise ScanError(
        file, "a bomb: far more behind the voxels than the header declares"
      )


def read_itk(
  file: pathlib.Path, spacing_mm: Sequence[float] | None = None
) -> tuple[np.ndarray, np.ndarray]:
  """Reads a NRRD or MetaImage file, as `read_nifti` does a NIfTI file."""
  voxels = _voxel_file(file)
  if not voxels.is_file():
    raise ScanError(file, f"its voxels are in {voxels.name}, which is not here")
  reader = sitk.ImageFileReader()
  reader.SetFileName(str(file))
  sitk.ProcessObject.SetGlobalWarningDisplay(False)
  try:
    reader.ReadImageInformation()
    shape = reader.GetSize()
    if reader.GetDimension() != 3 or reader.GetNumberOfComponents() != 1:
      raise ScanError(
        file, f"{shape} x {reader.GetNumberOfComponents()}, expected 3 axes"
      )
    limits.check_size(file, shape)
    limits.check_unpacked(
      voxels,
      int(np.prod(shape)) * _bytes_of(reader.GetPixelID()),
      zipped=True,
      what=f"{shape} voxels",
    )
    image = reader.Execute()
  except RuntimeError as error:
    reason = str(error).strip().splitlines()[-1]
    raise ScanError(file, f"damaged: {reason}") from error
  array = sitk.GetArrayFromImage(image).T
  if array.dtype.kind not in "iuf":
    raise ScanError(file, f"voxels are {array.dtype}, expected one real number")
  affine = np.eye(4)
  direction = np.array(image.GetDirection()).reshape(3, 3)
  affine[:3, :3] = direction * np.array(image.GetSpacing())
  affine[:3, 3] = image.GetOrigin()
  affine = _RAS_FROM_LPS @ affine
  if spacing_mm is not None:
    affine = limits.respaced(affine, shape, np.array(spacing_mm))
  limits.check_affine(file, affine)
  return limits.finite(file, array), affine


def _bytes_of(pixel_id: int) -> int:
  """Returns the size of a voxel, which SimpleITK names but does not say."""
  bits = re.search(r"\d+", sitk.GetPixelIDValueAsString(pixel_id))
  return int(bits[0]) // 8 if bits else 8


def detached(file: pathlib.Path) -> tuple[pathlib.Path, ...]:
  """Returns the file beside a header of NRRD or MetaImage, if it has one."""
  if not file.name.lower().endswith(ITK):
    return ()
  try:
    voxels = _voxel_file(file)
  except ScanError:  # which reading the file raises again
    return ()
  return (voxels,) if voxels != file and voxels.is_file() else ()


def _voxel_file(file: pathlib.Path) -> pathlib.Path:
  """Returns the file that a header of NRRD or MetaImage says holds the voxels.

  Raises:
    ScanError: It lies in another folder, or there are several.
  """
  key = "datafile" if file.suffix.lower() == ".nrrd" else "elementdatafile"
  value = "LOCAL"
  try:
    with open(file, "rb") as stream:
      for _ in range(_MAX_LINES):
        line = stream.readline(4096).decode("latin-1").strip()
        name, _, said = line.replace("=", ":", 1).partition(":")
        if not line:
          break
        if name.replace(" ", "").lower() == key:
          value = said.strip()
          break
  except OSError as error:
    raise ScanError(file, f"damaged: {error}") from error
  if value.upper() == "LOCAL":
    return file
  if not value or pathlib.PurePath(value).name != value or " " in value:
    raise ScanError(
      file, f"its voxels are in {value!r}; they must be in one file beside it"
    )
  return file.with_name(value)
