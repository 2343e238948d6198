"""Scanner files -> volumes; what is no readable scan is refused by name.

A scan is one NIfTI file, or several 2-D images in slice order: MATLAB v7.3 as
in the figshare brain-tumour set, PNG or JPEG.
"""

import gzip
import pathlib
import warnings
import zlib
from collections.abc import Sequence

import h5py
import nibabel as nib
import numpy as np
import PIL.Image
from nibabel import affines
from nibabel.arrayproxy import ArrayProxy
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError

from brainjax.preparation.volume import (
  ScanError,
  Volume,
  volume_of,
  volume_of_images,
)

MAX_VOXELS = 2**29  # 2 GiB as f32; a head at 0.3 mm has a fifth of that
MAX_INTENSITY = 1e15
SPACING_LIMITS_MM = (0.05, 50.0)

_NIFTI = (".nii", ".nii.gz")
_JPEG = (".jpg", ".jpeg")
_PICTURES = (".png", *_JPEG)
_MATLAB_IMAGE = "cjdata/image"
_MATLAB_MASK = "cjdata/tumorMask"
_MEND_SPACING = "mend the header, or give the manifest's spacing_mm"
_MAX_DEFLATE = 1032  # what a byte of gzip can hold at most, in bytes
# What the libraries raise when a file is not what its name says.
_DAMAGED = (
  ImageFileError,
  HeaderDataError,
  EOFError,
  OSError,  # short reads, gzip's checksum, HDF5, Pillow
  zlib.error,
  ValueError,
  OverflowError,
  RuntimeError,  # HDF5
  SyntaxError,  # Pillow, for a broken PNG chunk
  PIL.Image.DecompressionBombError,
)


def read_volume(
  files: Sequence[pathlib.Path], spacing_mm: Sequence[float] | None = None
) -> Volume:
  """Reads a scan.

  Args:
    files: One NIfTI file, or 2-D images in slice order.
    spacing_mm: Of the voxels along the file's axes, where its header is wrong.

  Raises:
    ScanError: A file is missing, damaged, or no scan of a head.
  """
  if _is_nifti(files):
    volume = volume_of(*_read_nifti(files[0], spacing_mm))
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
  """Reads the tumour mask of a scan.

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
  file = files[0]
  if not _is_nifti(files):
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
  mask = volume_of(*_read_nifti(file, spacing_mm))
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


def _is_nifti(files: Sequence[pathlib.Path]) -> bool:
  for file in files:
    if file.is_dir():
      raise ScanError(
        file, "a folder; convert the DICOM series in it to NIfTI (dcm2niix)"
      )
    if not file.is_file():
      raise ScanError(file, "no such file")
  nifti = [file.name.lower().endswith(_NIFTI) for file in files]
  if any(nifti) and len(files) > 1:
    raise ScanError(files[nifti.index(True)], "only 2-D images can be joined")
  return any(nifti)


def _read_nifti(
  file: pathlib.Path, spacing_mm: Sequence[float] | None
) -> tuple[np.ndarray, np.ndarray]:
  """Reads f32 voxels in the file's order, and their affine."""
  try:
    image = nib.load(file)  # the header only
  except _DAMAGED as error:
    raise ScanError(file, f"no NIfTI header: {error}") from error
  if not isinstance(image, nib.Nifti1Image):
    raise ScanError(file, f"a {type(image).__name__}, not a NIfTI volume")
  shape, proxy = image.shape, image.dataobj
  assert isinstance(proxy, ArrayProxy)
  dtype = np.dtype(image.get_data_dtype())
  if len(shape) < 3 or any(n != 1 for n in shape[3:]):
    raise ScanError(file, f"{len(shape)} axes {shape}, expected 3")
  if dtype.kind not in "iuf":
    raise ScanError(file, f"voxels are {dtype}, expected one real number")
  _check_size(file, shape)
  # Before anything of that size is allocated: a damaged header may ask for
  # far more than the file can hold.
  zipped = file.name.lower().endswith(".gz")
  declared = proxy.offset + int(np.prod(shape)) * dtype.itemsize
  if declared > file.stat().st_size * (_MAX_DEFLATE if zipped else 1):
    raise ScanError(
      file, f"truncated: the header declares {shape} voxels of {dtype}"
    )
  spec = (shape, dtype, proxy.offset, proxy.slope, proxy.inter)
  try:
    with (gzip.open if zipped else open)(file, "rb") as stream:
      # As written: nibabel turns a spacing of 0 into 1.
      header = type(image.header).from_fileobj(stream, check=False)
      with np.errstate(over="ignore"):  # f64 beyond f32 becomes inf
        array = np.asarray(ArrayProxy(stream, spec, mmap=False), np.float32)
      # To the end: only there does gzip compare its checksum.
      while stream.read(1 << 20):
        pass
  except _DAMAGED as error:
    raise ScanError(file, f"damaged: {error}") from error
  affine = np.array(image.affine, np.float64)
  if spacing_mm is not None:
    affine = _respaced(affine, shape[:3], np.array(spacing_mm))
  elif header["sform_code"] == 0 and not header["pixdim"][1:4].all():
    raise ScanError(file, f"a spacing of 0 mm; {_MEND_SPACING}")
  _check_affine(file, affine)
  return _finite(file, array.reshape(shape[:3])), affine


def _respaced(
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
  respaced = np.eye(4)
  respaced[:3, :3] = directions * spacing_mm
  respaced[:3, 3] = np.nan_to_num(centre) - respaced[:3, :3] @ middle
  return respaced


def _read_image(file: pathlib.Path, matlab_field: str) -> np.ndarray:
  """Reads one 2-D image, f32[rows,columns] as it is looked at."""
  suffix = file.suffix.lower()
  if suffix not in (".mat", *_PICTURES):
    known = ", ".join((*_NIFTI, ".mat", *_PICTURES))
    raise ScanError(file, f"unknown kind of file; {known} are read")
  try:
    if suffix == ".mat":
      return _finite(file, _read_matlab(file, matlab_field))
    return _finite(file, _read_picture(file))
  except ScanError:
    raise
  except _DAMAGED as error:
    raise ScanError(file, f"damaged: {error}") from error


def _read_picture(file: pathlib.Path) -> np.ndarray:
  with warnings.catch_warnings():
    warnings.simplefilter("error", PIL.Image.DecompressionBombWarning)
    with PIL.Image.open(file) as picture:
      # One channel of 16 or 32 bits would lose them in "L".
      grey = picture.mode[0] in "IF"
      return np.asarray(picture if grey else picture.convert("L"))


def _read_matlab(file: pathlib.Path, field: str) -> np.ndarray:
  with h5py.File(file, "r") as archive:
    dataset = archive.get(field)
    if not isinstance(dataset, h5py.Dataset) or len(dataset.shape) != 2:
      raise ScanError(file, f"it holds no 2-D array {field}")
    if dataset.dtype.kind not in "iufb":
      raise ScanError(file, f"{field} is {dataset.dtype}, expected numbers")
    _check_size(file, dataset.shape)
    return dataset[()].T  # MATLAB stores columns first


def _finite(file: pathlib.Path, array: np.ndarray) -> np.ndarray:
  """Returns the array as f32; refuses what is not a finite number."""
  with np.errstate(over="ignore"):
    array = array.astype(np.float32, copy=False)
  bad = array.size - np.count_nonzero(np.isfinite(array))
  if bad:
    raise ScanError(file, f"{bad} voxels are NaN or infinite")
  return array


def _check_size(file: pathlib.Path, shape: Sequence[int]) -> None:
  size = np.prod([float(n) for n in shape])
  if min(shape) < 1 or size > MAX_VOXELS:
    raise ScanError(file, f"{tuple(shape)} voxels are no scan of a head")


def _check_affine(file: pathlib.Path, affine: np.ndarray) -> None:
  low, high = SPACING_LIMITS_MM
  spacing = affines.voxel_sizes(affine)
  # Also False for NaN.
  if not np.all((spacing >= low) & (spacing <= high)):
    raise ScanError(
      file, f"voxels of {spacing.round(3).tolist()} mm; {_MEND_SPACING}"
    )
  volume = abs(np.linalg.det(affine[:3, :3] / spacing))
  if not volume > 1e-3 or not np.isfinite(affine).all():
    raise ScanError(file, "its affine is singular; mend the header")
