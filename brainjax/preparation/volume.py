"""A scan in memory: a volume in RAS+ order, and where it comes from."""

import dataclasses
import pathlib
from collections.abc import Sequence

import numpy as np
import skimage.transform
from nibabel import affines, orientations
from scipy import ndimage

from brainjax import InputError

_IMAGES_RAS_FROM_FILE = ((1, -1), (0, 1), (2, 1))


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
    doubts: What is suspicious in the file, a sentence each.
    file_from_voxel: f64[4,4], voxel of `array` to voxel of the file, of a scan
      on another grid than its own; None if `ras_from_file` says it all.
  """

  array: np.ndarray
  affine: np.ndarray | None
  spacing_mm: np.ndarray
  file_shape: tuple[int, ...]
  file_affine: np.ndarray | None
  ras_from_file: np.ndarray
  image_shapes: tuple[tuple[int, ...], ...] = ()
  doubts: tuple[str, ...] = ()
  file_from_voxel: np.ndarray | None = None


def volume_of(array: np.ndarray, affine: np.ndarray) -> Volume:
  """Brings a volume into RAS+ order.

  Args:
    array: f32[...], three axes as in the file.
    affine: f64[4,4], file voxel -> millimetres; not singular.
  """
  ornt = orientations.io_orientation(affine)
  to_file = orientations.inv_ornt_aff(ornt, array.shape)
  oriented = orientations.apply_orientation(array, ornt)
  if min(oriented.strides) < 0:
    # NumPy takes several times as long where an axis runs backwards.
    oriented = np.copy(oriented)
  return Volume(
    array=oriented,
    affine=affine @ to_file,
    spacing_mm=affines.voxel_sizes(affine @ to_file),
    file_shape=array.shape,
    file_affine=affine,
    ras_from_file=ornt.astype(int),
  )


def volume_of_images(images: Sequence[np.ndarray]) -> Volume:
  """Stacks 2-D images into a volume whose spacing nobody knows.

  Their rows run against Y, their columns along X, and they are stacked along
  Z. Images of another size are resized to the first's.

  Args:
    images: f32[rows,columns] each, in slice order.
  """
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


def aligned(
  volume: Volume, reference: Volume, motion: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray | None]:
  """Brings a volume onto the grid of another by their scanner coordinates.

  Nothing is registered: without a motion, the participant must not have moved
  in between.

  Args:
    volume: Of the same participant and session.
    reference: The grid; like `volume` a volume, or 2-D images of one size.
    motion: f64[4,4], millimetres in `reference` to those in `volume`.

  Returns:
    f32[X,Y,Z] on the grid of `reference`, by linear interpolation, and
    bool[X,Y,Z], where the volume reaches; None if it reaches everywhere.
  """
  if volume.affine is None or reference.affine is None:
    return volume.array, None
  shape = reference.array.shape
  if volume.array.shape == shape and motion is None:
    corners = np.array([[0, 0, 0, 1], [*shape, 1]]).T
    shift_mm = np.abs((volume.affine - reference.affine) @ corners).max()
    if shift_mm < 0.1 * reference.spacing_mm.min():
      return volume.array, None
  moved = reference.affine if motion is None else motion @ reference.affine
  to_volume = np.linalg.solve(volume.affine, moved)

  def sample(array: np.ndarray) -> np.ndarray:
    sampled = np.empty(shape, np.float32)
    ndimage.affine_transform(
      array, to_volume[:3, :3], to_volume[:3, 3], output=sampled, order=1
    )
    return sampled

  reached = sample(np.ones(volume.array.shape, np.float32)) > 0.999
  return sample(volume.array), reached
