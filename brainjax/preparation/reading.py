"""Scanner files -> volumes in RAS+ order.

A scan is one NIfTI file, or several 2-D images in slice order (MATLAB v7.3 as
in the figshare brain-tumour set, PNG or JPEG). The 2-D images become a volume
too, whose spacing nobody knows: their rows run against Y, their columns along
X, and slices are stacked along Z.
"""

import dataclasses
import gzip
import pathlib
import warnings
import zlib
from collections.abc import Sequence

import h5py
import nibabel as nib
import numpy as np
import PIL.Image
import skimage.transform
from nibabel import orientations
from nibabel.arrayproxy import ArrayProxy
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError

from brainjax import InputError

MAX_VOXELS = 2**29  # 2 GiB as f32; a head at 0.3 mm has a fifth of that
SPACING_LIMITS_MM = (0.05, 50.0)

_NIFTI = (".nii", ".nii.gz")
_PICTURES = (".png", ".jpg", ".jpeg")
_MATLAB_IMAGE, _MATLAB_MASK = "cjdata/image", "cjdata/tumorMask"
_MAX_DEFLATE = 1032  # what a byte of gzip can hold at most, in bytes
_IMAGES_RAS_FROM_FILE = ((1, -1), (0, 1), (2, 1))
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


class ScanError(InputError):
  """A scan cannot be prepared: `FILE: reason`, in one line.

  Attributes:
    file: The file.
    reason: What is wrong with it.
  """

  def __init__(self, file: pathlib.Path, reason: str):
    self.file = str(file)
    self.reason = " ".join(reason.split())
    super().__init__(f"{self.file}: {self.reason}")


@dataclasses.dataclass(frozen=True)
class Volume:
  """A scan in RAS+ order: axes run to the right, to the front and up.

  Attributes:
    array: f32[X,Y,Z] intensities, scaled as the file says.
    affine: f64[4,4], voxel of `array` -> millimetres; None for 2-D images.
    spacing_mm: f64[3]; a nominal 1 mm for 2-D images.
    file_shape: Shape of the file's array; of 2-D images rows, columns, count.
    file_affine: f64[4,4] as in the file; None for 2-D images.
    ras_from_file: i64[3,2], nibabel's orientation: file axis i is RAS axis
      `[i,0]`, reversed where `[i,1]` is -1.
    image_shapes: Rows and columns of each 2-D image as it was, before those of
      another size were resized to the first's; empty for a volume.
  """

  array: np.ndarray
  affine: np.ndarray | None
  spacing_mm: np.ndarray
  file_shape: tuple[int, ...]
  file_affine: np.ndarray | None
  ras_from_file: np.ndarray
  image_shapes: tuple[tuple[int, ...], ...] = ()


def read_volume(files: Sequence[pathlib.Path]) -> Volume:
  """Reads a scan.

  Args:
    files: One NIfTI file, or 2-D images in slice order.

  Raises:
    ScanError: A file is missing, damaged, or no scan of a head.
  """
  if _is_nifti(files):
    array, affine = _read_nifti(files[0])
    volume = _oriented(array, affine)
  else:
    images = [_read_image(file, _MATLAB_IMAGE) for file in files]
    volume = _stacked(images)
  low, high = volume.array.min(), volume.array.max()
  if low == high:
    raise ScanError(files[0], f"every voxel is {low:g}")
  return volume


def read_mask(files: Sequence[pathlib.Path], volume: Volume) -> np.ndarray:
  """Reads the tumour mask of a scan.

  Args:
    files: As the scan's files; MATLAB files hold both.
    volume: The scan.

  Returns:
    bool[X,Y,Z] where the file is above zero, on the grid of `volume.array`.

  Raises:
    ScanError: As `read_volume`, or the mask lies on another grid.
  """
  file = files[0]
  if _is_nifti(files):
    array, affine = _read_nifti(file)
    mask = _oriented(array, affine)
    _check_same(file, "shape", mask.array.shape, volume.array.shape)
    if volume.affine is not None:
      corners = np.array([[0, 0, 0, 1], [*mask.array.shape, 1]]).T
      shift_mm = np.abs((mask.affine - volume.affine) @ corners).max()
      if shift_mm > volume.spacing_mm.min():
        raise ScanError(
          file, f"the mask's affine is {shift_mm:.1f} mm off the image's"
        )
  else:
    images = [_read_image(f, _MATLAB_MASK) for f in files]
    shapes = tuple(image.shape for image in images)
    _check_same(file, "slice shapes", shapes, volume.image_shapes)
    mask = _stacked([(image > 0).astype(np.float32) for image in images])
  return mask.array > 0.5


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


def _read_nifti(file: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
  """Reads f32 voxels in the file's order, and the file's affine."""
  try:
    image = nib.load(file)  # the header only
  except _DAMAGED as error:
    raise ScanError(file, f"no NIfTI header: {error}") from error
  if not isinstance(image, nib.Nifti1Image):
    raise ScanError(file, f"a {type(image).__name__}, not a NIfTI volume")
  shape, dtype, proxy = (
    image.shape,
    np.dtype(image.get_data_dtype()),
    image.dataobj,
  )
  assert isinstance(proxy, ArrayProxy)
  if len(shape) < 3 or any(n != 1 for n in shape[3:]):
    raise ScanError(
      file, f"{len(shape)} axes {shape}, expected 3; split a series first"
    )
  if dtype.kind not in "iuf":
    raise ScanError(file, f"voxels are {dtype}, expected one real number")
  _check_size(file, shape)
  # Before anything of that size is allocated: a damaged header may ask for
  # far more than the file can hold.
  packing = _MAX_DEFLATE if file.name.lower().endswith(".gz") else 1
  declared = proxy.offset + int(np.prod(shape)) * dtype.itemsize
  if declared > file.stat().st_size * packing:
    raise ScanError(
      file, f"truncated: the header declares {shape} voxels of {dtype}"
    )
  spec = (shape, dtype, proxy.offset, proxy.slope, proxy.inter)
  opener = gzip.open if packing > 1 else open
  try:
    with opener(file, "rb") as stream, np.errstate(over="ignore"):
      array = np.asarray(ArrayProxy(stream, spec, mmap=False), np.float32)
      # To the end: only there does gzip compare its checksum.
      while stream.read(1 << 20):
        pass
  except _DAMAGED as error:
    raise ScanError(file, f"damaged: {error}") from error
  affine = np.array(image.affine, np.float64)
  _check_affine(file, affine)
  return _finite(file, array.reshape(shape[:3])), affine


def _read_image(file: pathlib.Path, matlab_field: str) -> np.ndarray:
  """Reads one 2-D image, f32[rows,columns] as it is looked at."""
  suffix = file.suffix.lower()
  try:
    if suffix in _PICTURES:
      array = _read_picture(file)
    elif suffix == ".mat":
      array = _read_matlab(file, matlab_field)
    else:
      known = ", ".join((*_NIFTI, ".mat", *_PICTURES))
      raise ScanError(file, f"unknown kind of file; one of {known} is read")
  except ScanError:
    raise
  except _DAMAGED as error:
    raise ScanError(file, f"damaged: {error}") from error
  return _finite(file, array)


def _read_picture(file: pathlib.Path) -> np.ndarray:
  with warnings.catch_warnings():
    warnings.simplefilter("error", PIL.Image.DecompressionBombWarning)
    with PIL.Image.open(file) as picture:
      # Modes of one channel and 16 or 32 bits would lose them in "L".
      if picture.mode[0] not in "IF":
        picture = picture.convert("L")
      return np.asarray(picture)


def _read_matlab(file: pathlib.Path, field: str) -> np.ndarray:
  with h5py.File(file, "r") as archive:
    dataset = archive.get(field)
    if not isinstance(dataset, h5py.Dataset) or len(dataset.shape) != 2:
      raise ScanError(file, f"it holds no 2-D array {field}")
    if dataset.dtype.kind not in "iufb":
      raise ScanError(file, f"{field} is {dataset.dtype}, expected numbers")
    _check_size(file, dataset.shape)
    return dataset[()].T  # MATLAB stores columns first


def _stacked(images: Sequence[np.ndarray]) -> Volume:
  """Stacks 2-D images into a volume without known spacing."""
  shape = images[0].shape
  resized = [
    image
    if image.shape == shape
    else np.asarray(skimage.transform.resize(image, shape, preserve_range=True))
    for image in images
  ]
  array = np.stack(resized, axis=-1)
  ornt = np.array(_IMAGES_RAS_FROM_FILE)
  return Volume(
    array=orientations.apply_orientation(array, ornt).astype(np.float32),
    affine=None,
    spacing_mm=np.ones(3),
    file_shape=array.shape,
    file_affine=None,
    ras_from_file=ornt,
    image_shapes=tuple(image.shape for image in images),
  )


def _oriented(array: np.ndarray, affine: np.ndarray) -> Volume:
  """Brings a volume into RAS+ order."""
  ornt = orientations.io_orientation(affine)
  to_file = orientations.inv_ornt_aff(ornt, array.shape)
  affine_ras = affine @ to_file
  return Volume(
    array=orientations.apply_orientation(array, ornt),
    affine=affine_ras,
    spacing_mm=np.sqrt((affine_ras[:3, :3] ** 2).sum(0)),
    file_shape=array.shape,
    file_affine=affine,
    ras_from_file=ornt.astype(int),
  )


def _finite(file: pathlib.Path, array: np.ndarray) -> np.ndarray:
  """Returns the array as f32; refuses what is not a finite number."""
  with np.errstate(over="ignore"):  # f64 beyond f32 becomes inf
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
  spacing = np.sqrt((affine[:3, :3] ** 2).sum(0))
  # Also False for NaN.
  if not np.all((spacing >= low) & (spacing <= high)):
    raise ScanError(
      file, f"voxels of {spacing.round(3).tolist()} mm; mend the header"
    )
  volume = abs(np.linalg.det(affine[:3, :3] / spacing))
  if not volume > 1e-3 or not np.isfinite(affine).all():
    raise ScanError(file, "its affine is singular; mend the header")


def _check_same(file: pathlib.Path, what: str, mask, image) -> None:
  if mask != image:
    raise ScanError(
      file, f"the mask's {what} {mask} differ from the image's {image}"
    )
