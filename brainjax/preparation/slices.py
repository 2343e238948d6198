"""A volume -> slices of one size, and the way back to the scanner file.

How a slice lies in the RAS+ volume, and what it shows to whom looks at it:

    plane      row 0      last row    column 0    last column   slices grow
    axial      anterior   posterior   left        right         upwards
    coronal    superior   inferior    left        right         forwards
    sagittal   superior   inferior    posterior   anterior      to the right

"Left" is the participant's. 2-D images are taken as they are: a row of the
slice is a row of the image.

A record's geometry, in JSON:

    source           "volume" | "images"
    plane            "axial" | "coronal" | "sagittal"; null for images
    file_shape       of the file's array; rows, columns, count for images (all
                     of the first's size); of a DICOM series columns, rows,
                     images in the order of their positions
    file_spacing_mm  along the file's axes; null for images
    file_affine      file voxel -> millimetres; null for images
    ras_from_file    nibabel's orientation, [RAS axis, 1 | -1] a file axis
    slice_index      RAS voxel of each slice along the slice axis
    row, column      [offset, step] of `region.Region`
    region_found     whether there was a region to crop to; null if none was
                     looked for
    template         of a scan laid upon one, null else: `shape` and
                     `spacing_mm` of its grid, whose voxels stand for the RAS
                     voxels above, and `file_from_voxel`, f64[4,4]
    motions          of other modalities that were registered, by name: from
                     millimetres of this file to theirs; null if none was found
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from nibabel import affines
from scipy import sparse

from brainjax.preparation.region import AXES, Axes, Region
from brainjax.preparation.volume import Volume


def choose_slices(
  extent: range,
  spacing_mm: float,
  *,
  how: str,
  num_slices: int,
  every_mm: float,
) -> np.ndarray:
  """Chooses slices along one axis.

  Args:
    extent: The voxels to choose from.
    spacing_mm: Between them.
    how: "all" | "uniform", `num_slices` equally spaced ones or all if there
      are fewer | "every", the nearest ones to points `every_mm` apart.
    num_slices: Of "uniform".
    every_mm: Of "every".

  Returns:
    i64[S], ascending.

  >>> choose_slices(range(10, 19), 1, how="uniform", num_slices=3, every_mm=0)
  array([11, 14, 17])
  """
  count = len(extent)
  if how == "all" or (how == "uniform" and num_slices >= count):
    return np.arange(extent.start, extent.stop)
  if how == "uniform":
    points = (np.arange(num_slices) + 0.5) * count / num_slices - 0.5
  else:
    step = every_mm / spacing_mm
    fitting = int((count - 1) / step) + 1
    points = (count - 1) / 2 + step * (np.arange(fitting) - (fitting - 1) / 2)
  return np.unique(np.rint(points).astype(int)) + extent.start


def take_slices(
  array: np.ndarray, axes: Axes, slice_index: np.ndarray
) -> np.ndarray:
  """Returns [S,Y,X], slices with their rows and columns in voxel order."""
  return array.transpose(axes.slice, axes.row, axes.column)[slice_index]


def resample(stack: np.ndarray, region: Region) -> np.ndarray:
  """Resamples slices in-plane to the pixels of a region.

  A pixel is the mean over its area where pixels are larger than voxels, and
  linear interpolation where they are smaller; outside there are zeros.

  Args:
    stack: f32[S,Y,X].
    region: The region.

  Returns:
    f32[S,H,W].
  """
  for axis, line, count in (
    (1, region.row, region.height),
    (2, region.column, region.width),
  ):
    along = np.moveaxis(stack, axis, 0)
    weights = _weights(len(along), *line, count)
    result = weights @ along.reshape(len(along), -1)
    stack = np.moveaxis(result.reshape(count, *along.shape[1:]), 0, axis)
  return np.ascontiguousarray(stack)


def _weights(
  size: int, offset: float, step: float, count: int
) -> sparse.csr_array:
  """Returns f32[count,size], the share of each voxel in each pixel."""
  centre = (offset + step * np.arange(count))[:, None]
  # A window of at least a voxel: its overlap with the voxels then is linear
  # interpolation.
  half = max(abs(step), 1.0) / 2
  voxel = np.arange(size)
  overlap = np.minimum(centre + half, voxel + 0.5) - np.maximum(
    centre - half, voxel - 0.5
  )
  shares = np.maximum(overlap, 0) / (2 * half)
  # Sparse for speed; and unlike BLAS it rounds alike with any thread count.
  return sparse.csr_array(shares.astype(np.float32))


def geometry_of(
  volume: Volume,
  region: Region,
  slice_index: np.ndarray,
  found: np.ndarray | None = None,
  motions: Mapping[str, np.ndarray | None] | None = None,
) -> dict[str, Any]:
  """Returns the geometry of a record, as this module describes it."""
  spacing = affine = None
  if volume.file_affine is not None:
    spacing = affines.voxel_sizes(volume.file_affine).tolist()
    affine = volume.file_affine.tolist()
  return {
    "source": "images" if affine is None else "volume",
    "plane": region.plane,
    "file_shape": [int(n) for n in volume.file_shape],
    "file_spacing_mm": spacing,
    "file_affine": affine,
    "ras_from_file": volume.ras_from_file.tolist(),
    "slice_index": slice_index.tolist(),
    "row": list(region.row),
    "column": list(region.column),
    "template": _template_of(volume),
    "region_found": None if found is None else bool(found.any()),
    "motions": {
      name: None if motion is None else motion.tolist()
      for name, motion in (motions or {}).items()
    },
  }


def _template_of(volume: Volume) -> dict[str, Any] | None:
  if volume.file_from_voxel is None:
    return None
  return {
    "shape": [int(n) for n in volume.array.shape],
    "spacing_mm": volume.spacing_mm.tolist(),
    "file_from_voxel": volume.file_from_voxel.tolist(),
  }


def pixel_to_file_voxel(
  geometry: Mapping[str, Any], s: int, row: float, column: float
) -> np.ndarray:
  """Returns f64[3], where a pixel lies in the scanner file's array.

  Args:
    geometry: Of the record.
    s: Slice of the record.
    row: Row, fractions included; 0 is the centre of the first.
    column: Column, likewise.
  """
  axes = AXES[geometry["plane"]]
  ras = np.empty(3)
  ras[axes.slice] = geometry["slice_index"][s]
  for axis, key, pixel in (
    (axes.row, "row", row),
    (axes.column, "column", column),
  ):
    offset, step = geometry[key]
    ras[axis] = offset + step * pixel
  if geometry.get("template"):
    matrix = geometry["template"]["file_from_voxel"]
    return affines.apply_affine(np.array(matrix), ras)
  file_axis, flip = np.array(geometry["ras_from_file"]).T
  last = np.array(geometry["file_shape"]) - 1
  return np.where(flip > 0, ras[file_axis], last - ras[file_axis])


def file_voxel_to_pixel(
  geometry: Mapping[str, Any], voxel: np.ndarray
) -> tuple[float, float, float]:
  """Returns (s, row, column) of a voxel of the scanner file.

  The slice is interpolated between the record's slices; before the first and
  behind the last it is those.
  """
  axes = AXES[geometry["plane"]]
  file_axis, flip = np.array(geometry["ras_from_file"]).T
  last = np.array(geometry["file_shape"]) - 1
  ras = np.empty(3)
  ras[file_axis] = np.where(flip > 0, voxel, last - np.asarray(voxel))
  if geometry.get("template"):
    matrix = np.linalg.inv(geometry["template"]["file_from_voxel"])
    ras = affines.apply_affine(matrix, np.asarray(voxel))
  index = geometry["slice_index"]
  s = np.interp(ras[axes.slice], index, np.arange(len(index)))
  row, column = (
    (ras[axis] - geometry[key][0]) / geometry[key][1]
    for axis, key in ((axes.row, "row"), (axes.column, "column"))
  )
  return float(s), float(row), float(column)
