"""The part of a volume that the slices show: a box around the brain."""

import dataclasses
import types
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from brainjax.preparation.brain_mask import bounds

# Of the largest area of brain on a slice; at the ends there are only specks.
SMALLEST_AREA = 0.05


class Axes(NamedTuple):
  """RAS axes that rows (towards its low end), columns and slices run along."""

  row: int
  column: int
  slice: int


# None: 2-D images, which are stacked along Z.
AXES: Mapping[str | None, Axes] = types.MappingProxyType(
  {
    "axial": Axes(1, 0, 2),
    "coronal": Axes(2, 0, 1),
    "sagittal": Axes(2, 1, 0),
    None: Axes(1, 0, 2),
  }
)


@dataclasses.dataclass(frozen=True)
class Region:
  """A box, as pixels and slices lie in it; in voxels of the RAS+ volume.

  Attributes:
    plane: "axial" | "coronal" | "sagittal"; None for 2-D images.
    height: Rows of a slice.
    width: Columns of a slice.
    row: (offset, step): row r lies at offset + step * r on the row axis.
    column: The same for columns.
    slices: Voxels along the slice axis that slices are chosen from.
    centre: Where the brain has its centre along the slice axis.
  """

  plane: str | None
  height: int
  width: int
  row: tuple[float, float]
  column: tuple[float, float]
  slices: range
  centre: float

  @property
  def axes(self) -> Axes:
    """Which axes rows, columns and slices run along."""
    return AXES[self.plane]


def find_region(
  mask: np.ndarray,
  spacing_mm: np.ndarray,
  *,
  plane: str | None,
  crop: str,
  margin_mm: float,
  height: int,
  width: int,
  pixel_mm: float = 0.0,
  found: np.ndarray | None = None,
  share: float = 0.0,
  least_mm: float = 0.0,
) -> Region:
  """Finds the box, whose pixels are square in millimetres.

  In-plane the box has the aspect ratio of a slice; where that takes it out of
  the volume there is background. Slices with less than a twentieth of the
  largest one's brain are left out at the ends. 2-D images are cropped to what
  all of them need, and none is left out.

  Args:
    mask: bool[X,Y,Z], the brain; not empty.
    spacing_mm: f64[3].
    plane: "axial" | "coronal" | "sagittal"; None for 2-D images.
    crop: "brain" | "region" | "none", the whole volume.
    margin_mm: Kept around the brain in-plane, as far as the volume reaches.
    height: Rows of a slice.
    width: Columns of a slice.
    pixel_mm: Side of a pixel, the same for all scans; what is beyond the slice
      is cut off. 0 for what the box needs.
    found: Of "region", bool[X,Y,Z] to crop to in-plane; the slices are those
      of "brain". Where it is empty, or None, the crop is "brain".
    share: Kept around `found`, fraction of its side.
    least_mm: Sides of the box around `found`, at least.
  """
  axes = AXES[plane]
  whole = tuple(slice(0, n) for n in mask.shape)
  box = whole if crop == "none" else bounds(mask)
  inner = crop == "region" and found is not None and found.any()
  if inner:
    assert found is not None
    box = bounds(found)
  middle, extent_mm = {}, {}
  for axis in (axes.row, axes.column):
    margin = margin_mm / spacing_mm[axis]
    if inner:
      side = box[axis].stop - box[axis].start
      margin = max(share * side, (least_mm / spacing_mm[axis] - side) / 2)
    # Voxel i covers [i - 0.5, i + 0.5].
    low = max(box[axis].start - margin, 0) - 0.5
    high = min(box[axis].stop + margin, mask.shape[axis]) - 0.5
    middle[axis] = (low + high) / 2
    extent_mm[axis] = (high - low) * spacing_mm[axis]
  pixel_mm = pixel_mm or max(
    extent_mm[axes.row] / height, extent_mm[axes.column] / width
  )

  def line(axis: int, count: int, sign: int) -> tuple[float, float]:
    step = sign * pixel_mm / spacing_mm[axis]
    return float(middle[axis] - step * (count - 1) / 2), float(step)

  area = np.count_nonzero(mask, (axes.row, axes.column))
  smallest = 0 if plane is None else SMALLEST_AREA * area.max()
  shown = np.flatnonzero(area >= smallest)
  along = range(int(shown[0]), int(shown[-1]) + 1)
  return Region(
    plane=plane,
    height=height,
    width=width,
    row=line(axes.row, height, -1),
    column=line(axes.column, width, 1),
    slices=range(len(area)) if crop == "none" else along,
    centre=float(shown.mean()),
  )
