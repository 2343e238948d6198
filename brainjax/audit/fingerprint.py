"""A fingerprint that a scan keeps when it is copied under another name.

The head is found by a threshold, and a box of two standard deviations of its
tissue to each side is averaged into few cells: neither voxel size nor empty
margins change it, and in RAS+ order nor does the order of the axes. Of the
cells only what differs from their neighbourhood counts, since all heads share
the rest, and two scans are compared by correlation.

Measured: copies that were resampled to other voxels, to 5 mm, padded, or
rescaled with noise correlate at 0.92 and more, of two people at 0.57 at most
(3,160 pairs of the synthetic cohort), 0.73 in the figshare set (15,931 pairs),
and two visits of one patient at 0.82.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import skimage.filters
from scipy import ndimage

VOLUME_CELLS = (24, 24, 24)
IMAGE_CELLS = (48, 48, 6)  # 2-D images: more in the plane, few along the stack
SMOOTHING = 1.5  # cells; what is smoother than this is common to all heads
SAME_SCAN = 0.9  # correlation from which two scans are one
SAME_PERSON = 0.8  # and from which they may be one person's
_REACH = 2.0  # standard deviations of the tissue, to each side
_BLOCK = 512  # rows compared at once


def tissue(array: np.ndarray) -> np.ndarray:
  """Returns bool[X,Y,Z], what is brighter than air; Otsu 1979."""
  low, high = np.percentile(array, (1, 99))
  if low == high:
    return array > low
  scaled = np.clip((array - low) / (high - low), 0, 1)
  counts, edges = np.histogram(scaled, bins=256, range=(0, 1))
  threshold = skimage.filters.threshold_otsu(hist=(counts, edges[1:]))
  found = scaled > threshold
  return found if found.any() else scaled > 0


def fingerprint(
  array: np.ndarray, inside: np.ndarray, *, is_volume: bool
) -> np.ndarray:
  """Describes a scan by its cells.

  Args:
    array: f32[X,Y,Z] in RAS+ order; X, Y and Z need not have equal spacing.
    inside: bool[X,Y,Z], the tissue that places the box.
    is_volume: Whether Z is a length; of 2-D images it is a mere order, and the
      box then has all of them.

  Returns:
    f32[F] of mean 0 and length 1; zeros of a scan that shows nothing.
  """
  cells = VOLUME_CELLS if is_volume else IMAGE_CELLS
  low, high = np.percentile(array, (1, 99))
  values = np.clip(array, low, high)
  for axis, count in enumerate(cells):
    start, stop = 0.0, float(array.shape[axis])
    if is_volume or axis < 2:
      start, stop = _reach(inside, axis)
    values = averaged(values, axis, np.linspace(start, stop, count + 1))
  smoothing = [SMOOTHING, SMOOTHING, SMOOTHING if is_volume else 0]
  detail = (values - ndimage.gaussian_filter(values, smoothing)).ravel()
  detail -= detail.mean()
  length = np.linalg.norm(detail)
  return (detail / length if length > 0 else detail).astype(np.float32)


def averaged(array: np.ndarray, axis: int, edges: np.ndarray) -> np.ndarray:
  """Averages along one axis between edges, in voxels; outside is 0.

  >>> averaged(np.array([2.0, 4.0, 6.0]), 0, np.array([0.0, 1.5, 3.0]))
  array([2.66666667, 5.33333333])
  """
  along = np.moveaxis(array, axis, 0)
  sums = np.zeros((len(along) + 1, *along.shape[1:]))
  np.cumsum(along, axis=0, dtype=np.float64, out=sums[1:])
  places = np.clip(edges, 0, len(along))
  lower = np.minimum(places.astype(int), len(along) - 1)
  part = (places - lower).reshape(-1, *[1] * (along.ndim - 1))
  at_edges = sums[lower] * (1 - part) + sums[lower + 1] * part
  widths = np.diff(edges).reshape(-1, *[1] * (along.ndim - 1))
  return np.moveaxis(np.diff(at_edges, axis=0) / widths, 0, axis)


def similar_pairs(
  fingerprints: Sequence[np.ndarray], at_least: float
) -> Iterator[tuple[int, int, float]]:
  """Yields (i, j, correlation) of pairs that correlate, i < j.

  Args:
    fingerprints: f32[F] each.
    at_least: Correlation of the pairs wanted.
  """
  if not fingerprints:
    return
  matrix = np.stack(fingerprints)
  for first in range(0, len(matrix), _BLOCK):
    found = matrix[first : first + _BLOCK] @ matrix[first:].T
    for i, j in np.argwhere(found >= at_least):
      if i < j:
        yield first + int(i), first + int(j), float(min(found[i, j], 1))


def _reach(inside: np.ndarray, axis: int) -> tuple[float, float]:
  """Returns where the box starts and ends on an axis, in voxels."""
  others = tuple(i for i in range(inside.ndim) if i != axis)
  weights = np.count_nonzero(inside, others).astype(float)
  places = np.arange(len(weights)) + 0.5
  if not weights.any():
    return 0.0, float(len(weights))
  middle = np.average(places, weights=weights)
  spread = np.sqrt(np.average((places - middle) ** 2, weights=weights))
  # A single voxel has a width, too.
  half = _REACH * max(spread, 0.5)
  return float(middle - half), float(middle + half)
