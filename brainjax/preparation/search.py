"""Where a tumour may be, by thresholds: the source paper's region search.

With FLAIR, T2 and contrast-enhanced T1, each slice by itself: what is bright
in T1 and large, compact and long enough counts, if FLAIR and T2 are both bright
there. With less than these three, in the whole volume: the thickest part that
differs from the other side of the brain, away from its rim.

It finds what it finds: in a healthy brain perhaps nothing, and perhaps
something. Nobody is left out for that, see `region.find_region`, or the crop
itself would tell the label.

Source: Ranjbarzadeh et al. 2021, Sci. Rep. 11:10930, as two re-implementations
  read it; its equations could not be read.
Differs: sizes are in millimetres, a pixel of theirs being one; the search in a
  single modality is our own.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np
import skimage.filters
import skimage.measure
from scipy import ndimage

from brainjax.preparation.brain_mask import bounds
from brainjax.preparation.region import Axes

MODALITIES = ("flair", "t2", "t1c")
SMOOTHING_MM = 2.0  # of the differences between the sides
# Of the brain mask, left out of those: where there is scalp in it, it is here,
# and it is seldom the same on both sides. Chosen on two scans of one patient.
RIM_MM = 10.0


@dataclasses.dataclass(frozen=True)
class Rules:
  """What counts; `config.preparation.region`.

  Attributes:
    relative: Thresholds are fractions of a slice's largest z-score; else they
      are z-scores.
    flair: Threshold of FLAIR.
    t2: Threshold of T2.
    t1c: Threshold of T1 with contrast agent.
    solidity: Least area of an object as a fraction of its convex hull's.
    area_mm2: Least area.
    length_mm: Least length of its major axis.
    overlap_mm2: Least area in which FLAIR and T2 are both bright.
  """

  relative: bool
  flair: float
  t2: float
  t1c: float
  solidity: float
  area_mm2: float
  length_mm: float
  overlap_mm2: float


def search(
  volumes: Mapping[str, np.ndarray],
  brain: np.ndarray,
  spacing_mm: np.ndarray,
  axes: Axes,
  rules: Rules,
) -> np.ndarray:
  """Finds what may be a tumour; perhaps nothing.

  Args:
    volumes: f32[X,Y,Z] of each modality that is there, at least one.
    brain: bool[X,Y,Z].
    spacing_mm: f64[3].
    axes: Which of them slices are cut along.
    rules: What counts.

  Returns:
    bool[X,Y,Z].
  """
  if not set(MODALITIES) <= volumes.keys():
    first = next(iter(volumes.values()))
    return _asymmetric_part(first, brain, spacing_mm)
  order = (axes.slice, axes.row, axes.column)
  inside = brain.transpose(order)
  stacks = [volumes[name].transpose(order) for name in MODALITIES]
  in_plane_mm = spacing_mm[[axes.row, axes.column]]
  found = np.zeros(inside.shape, bool)
  for s in np.flatnonzero(inside.any((1, 2))):
    flair, t2, t1c = (
      _bright(stack[s], inside[s], getattr(rules, name), rules.relative)
      for name, stack in zip(MODALITIES, stacks, strict=True)
    )
    found[s] = _objects(t1c, flair & t2, in_plane_mm, rules)
  return found.transpose(np.argsort(order))


def _bright(
  image: np.ndarray, inside: np.ndarray, threshold: float, relative: bool
) -> np.ndarray:
  """Returns bool[R,C], what is above a threshold of z-scores."""
  values = image[inside]
  deviation = values.std()
  if deviation == 0:
    return np.zeros(image.shape, bool)
  z = (image - values.mean()) / deviation
  if relative:
    threshold = threshold * float(z[inside].max())
  return inside & (z > threshold)


def _objects(
  candidates: np.ndarray,
  bright: np.ndarray,
  spacing_mm: np.ndarray,
  rules: Rules,
) -> np.ndarray:
  """Returns bool[R,C], the candidates that keep all rules."""
  labels = skimage.measure.label(candidates)
  kept = np.zeros(candidates.shape, bool)
  pixel_mm2 = float(np.prod(spacing_mm))
  for found in skimage.measure.regionprops(labels, spacing=spacing_mm):
    own = labels == found.label
    # In this order: a hull of few pixels is none.
    if (
      found.area > rules.area_mm2
      and np.count_nonzero(own & bright) * pixel_mm2 > rules.overlap_mm2
      and found.axis_major_length > rules.length_mm
      and found.solidity > rules.solidity
    ):
      kept |= own
  return kept


def _asymmetric_part(
  array: np.ndarray, brain: np.ndarray, spacing_mm: np.ndarray
) -> np.ndarray:
  """Returns bool[X,Y,Z], the thickest part unlike the other side."""
  found = np.zeros(brain.shape, bool)
  box = bounds(brain)  # its middle is taken for that of the head
  both = brain[box] & brain[box][::-1]
  inside = _depth_mm(both, spacing_mm) > RIM_MM
  if not inside.any():
    return found
  values = np.where(inside, array[box], 0)
  differences = np.abs(values - values[::-1])
  smooth = ndimage.gaussian_filter(differences, SMOOTHING_MM / spacing_mm)
  low, high = smooth[inside].min(), smooth[inside].max()
  if low == high:
    return found
  threshold = skimage.filters.threshold_otsu(smooth[inside])
  # Of the two sides, the one further from the brain's median.
  far = np.abs(values - np.median(values[inside]))
  far = ndimage.gaussian_filter(far, SMOOTHING_MM / spacing_mm)
  candidates = inside & (smooth > threshold) & (far >= far[::-1])
  labels, _ = ndimage.label(candidates)
  # The thickest, not the one of most voxels: scalp and folds are thin.
  deepest = np.argmax(_depth_mm(candidates, spacing_mm))
  found[box] = candidates & (labels == labels.ravel()[deepest])
  return found


def _depth_mm(mask: np.ndarray, spacing_mm: np.ndarray) -> np.ndarray:
  """Returns f64[X,Y,Z], how deep each voxel lies in a mask; 0 outside."""
  depth = ndimage.distance_transform_edt(np.pad(mask, 1), spacing_mm)
  return np.asarray(depth)[1:-1, 1:-1, 1:-1]
