"""Where the brain is, from thresholds and morphology alone.

It needs no weights and no template. A skull-stripped volume yields exactly
what was left in it; of a head with its skull, the bridges between brain and
scalp are cut. Heads that defeat it keep part of the scalp, which is why the
mask is stored with every record. Pieces of the base of the skull stay: of the
two scans of TCIA Brain-Tumor-Progression, 3 and 6 % of the mask lie more than
5 mm outside an atlas's brain. A cut that is 1 mm wider halves that, and loses
3 % of the tumour of one of them.
"""

import numpy as np
import skimage.filters
from scipy import ndimage

from brainjax.preparation import intensity
from brainjax.preparation.volume import Volume

STRIPPED_ZEROS = 0.3  # share of exact zeros
STRIPPED_BRAIN = 0.6  # share of the rest that the cut brain then fills
GRID_MM = 2.0  # grid on which heads are cut
BRIDGE_MM = 4.0  # half the width of the bridges that are cut
IMAGE_MM = 240.0  # side of a 2-D image, for want of its spacing
CLOSING_MM = 4.0  # half the width of the sulci that are closed
MAX_STEPS = 10  # voxels that a mask is grown by, shift by shift


def brain_mask(volume: Volume) -> np.ndarray:
  """Finds the brain.

  2-D images are taken one by one, and give the head, not the brain.

  Returns:
    bool[X,Y,Z], not empty unless the volume, or each image, has one value.
  """
  array = volume.array
  if volume.affine is None:
    return np.stack([_head(image) for image in np.moveaxis(array, -1, 0)], -1)
  factors = _shrink_factors(array.shape, volume.spacing_mm)
  small = _block_means(array, factors)
  spacing_mm = volume.spacing_mm * factors
  brain = _cut_brain(small, spacing_mm)
  nonzero = array != 0
  left = np.count_nonzero(nonzero)
  stripped = 1 - left / array.size > STRIPPED_ZEROS
  enough = STRIPPED_BRAIN * left / np.prod(factors)
  # Mostly that is so before the mask is smooth, which takes longer.
  if stripped and np.count_nonzero(brain) > enough:
    return _filled(nonzero)
  brain = _smooth(brain, spacing_mm)
  if stripped and np.count_nonzero(brain) > enough:
    return _filled(nonzero)
  for axis, factor in enumerate(factors):
    brain = brain.repeat(factor, axis)
  return brain[tuple(slice(n) for n in array.shape)]


def _cut_brain(array: np.ndarray, spacing_mm: np.ndarray) -> np.ndarray:
  """Returns the largest thing that thin bridges do not tie to the scalp."""
  tissue = tissue_mask(array)
  if not tissue.any():  # where the means of all blocks are equal
    return ~tissue
  box = bounds(tissue, margin=1)  # what follows is slow
  tissue = np.ascontiguousarray(tissue[box])
  # The scalp of a slice far above the next lies right over the brain there,
  # with no bone in between: such a step is a bridge, as is the volume's end.
  near_mm = np.minimum(spacing_mm, max(GRID_MM, np.median(spacing_mm)))
  ends = [(int(n < s),) * 2 for n, s in zip(near_mm, spacing_mm, strict=True)]
  inner = tuple(
    slice(w, w + n) for (w, _), n in zip(ends, tissue.shape, strict=True)
  )
  core, radius = _core(np.pad(tissue, ends), near_mm, inner)
  near = _reached(core, near_mm, radius)
  brain = np.zeros(array.shape, bool)
  brain[box] = _largest(tissue & near)
  return brain


def _core(
  tissue: np.ndarray, spacing_mm: np.ndarray, inner: tuple[slice, ...]
) -> tuple[np.ndarray, float]:
  """Returns what is deep within tissue and of one piece, and how deep.

  A scalp may have the larger volume, but not the larger depth, so that pieces
  are weighed by it.
  """
  air = ~tissue
  radius, depth = BRIDGE_MM, None
  # How deep every voxel lies takes far longer than which exceed a depth.
  if _reached(air, spacing_mm, 2 * BRIDGE_MM)[inner].all():
    depth = _distance(tissue, spacing_mm)[inner]
    radius = min(BRIDGE_MM, 0.5 * depth.max())
    deep = depth > radius
  else:
    deep = ~_reached(air, spacing_mm, radius)[inner]
  labels = _labels(deep)
  sizes = np.bincount(labels.ravel())
  sizes[0] = 0
  first = sizes.argmax()
  # No voxel is deeper than the diagonal, or less deep than the radius.
  others = np.delete(sizes, first).max(initial=0)
  if (
    others * np.linalg.norm(np.array(tissue.shape) * spacing_mm)
    >= sizes[first] * radius
  ):
    if depth is None:
      depth = _distance(tissue, spacing_mm)[inner]
    return _largest(deep, depth), radius
  return labels == first, radius


def _smooth(brain: np.ndarray, spacing_mm: np.ndarray) -> np.ndarray:
  """Closes sulci and fills what axial slices enclose."""
  if not brain.any():
    return brain
  box = bounds(brain, margin=1)
  smooth = np.zeros_like(brain)
  smooth[box] = _closed(brain[box], spacing_mm)
  return _filled(smooth)


def _head(image: np.ndarray) -> np.ndarray:
  """Returns bool[X,Y], all of the head that a 2-D image shows."""
  spacing_mm = np.full(2, IMAGE_MM / max(image.shape))
  tissue = _closed(tissue_mask(image), spacing_mm)
  # Order matters: filled first, the scalp's ring is the largest, brain and all.
  return _largest(_filled(tissue[..., None])[..., 0])


def tissue_mask(array: np.ndarray) -> np.ndarray:
  """Returns bool[...], what is brighter than air and bone; brain and scalp."""
  return array > _threshold(array)


def _threshold(array: np.ndarray) -> float:
  """Returns what lies between tissue and all that is darker."""
  values = np.sort(array.ravel("K"))
  low, tail = intensity.percentiles(values, (1, 99))
  if low == tail:
    return low
  scaled = values.astype(np.float64)
  scaled -= low
  scaled /= tail - low
  np.clip(scaled, 0, 1, out=scaled)
  ends = np.arange(1, 257) / 256  # where the next bin starts
  counts = np.diff(
    np.searchsorted(scaled, ends[:-1]), prepend=0, append=len(scaled)
  )
  histogram = counts, ends
  # Otsu 1979, IEEE Trans. SMC 9:62. Fat and contrast agent pull it above grey
  # matter, so it only finds tissue, and half of tissue's median decides.
  otsu = skimage.filters.threshold_otsu(hist=histogram)
  # Of ascending values, each class is a stretch.
  threshold = 0.5 * np.median(scaled[np.searchsorted(scaled, otsu) :])
  if np.count_nonzero(counts) > 2:
    # Liao et al. 2001, J. Inf. Sci. Eng. 17:713. Where fat is most of that
    # tissue, the brain is the middle one of three classes.
    lower, upper = skimage.filters.threshold_multiotsu(hist=histogram)
    middle = scaled[slice(*np.searchsorted(scaled, (lower, upper)))]
    threshold = min(threshold, 0.75 * np.median(middle))
  return float(low + threshold * (tail - low))


def _largest(mask: np.ndarray, weight: np.ndarray | None = None) -> np.ndarray:
  """Returns the component with the most voxels, or the most weight."""
  labels = _labels(mask)
  weights = None if weight is None else weight.ravel()
  sizes = np.bincount(labels.ravel(), weights)
  sizes[0] = 0
  return labels == sizes.argmax() if sizes.any() else mask


def _closed(mask: np.ndarray, spacing_mm: np.ndarray) -> np.ndarray:
  # Padded, since a closing must be able to leave the volume on its way.
  widths = [int(np.ceil(CLOSING_MM / s)) + 1 for s in spacing_mm]
  padded = np.pad(mask, [(w, w) for w in widths], mode="edge")
  grown = _reached(padded, spacing_mm, CLOSING_MM)
  closed = ~_reached(~grown, spacing_mm, CLOSING_MM)
  inner = tuple(slice(w, -w) for w in widths)
  return closed[inner] | mask


def _filled(mask: np.ndarray) -> np.ndarray:
  """Fills what each axial slice encloses, such as dark ventricles."""
  if not mask.any():
    return mask
  box = bounds(mask)
  # NIfTI's first axis runs fastest, for which SciPy and NumPy's padding take
  # several times as long.
  inner = mask[box].T
  filled = np.zeros_like(mask)
  _, height, width = inner.shape
  air = np.ones((height + 2, width + 2), bool)
  labels = np.empty(air.shape, np.int32)
  within = slice(1, -1)
  for plane, target in zip(inner, filled[box].T, strict=True):
    np.logical_not(plane, out=air[within, within])
    ndimage.label(air, output=labels)
    # What is not of the padding's component.
    np.not_equal(labels[within, within], labels[0, 0], out=target)
  return filled


def bounds(mask: np.ndarray, margin: int = 0) -> tuple[slice, ...]:
  """Returns the box around a mask, widened but clipped to the array."""
  # Once along the longest steps in memory: the other axes need no more.
  longest = int(np.argmax(mask.strides))
  along = mask.any(tuple(a for a in range(mask.ndim) if a != longest))
  flat = np.expand_dims(mask.any(longest), longest)
  box = []
  for axis in range(mask.ndim):
    others = tuple(other for other in range(mask.ndim) if other != axis)
    inside = np.flatnonzero(along if axis == longest else flat.any(others))
    first, last = int(inside[0]), int(inside[-1])
    box.append(slice(max(first - margin, 0), last + 1 + margin))
  return tuple(box)


def _block_means(array: np.ndarray, factors: tuple[int, ...]) -> np.ndarray:
  """Returns f32[...], means of blocks; beyond its end the array is zero."""
  # The axis whose steps in memory are longest is shrunk first: it takes all
  # of the array, and adds up long rows.
  for axis in np.argsort(np.abs(array.strides))[::-1]:
    factor = factors[axis]
    along = np.moveaxis(array, axis, 0)
    sums = along[::factor].astype(np.float32)
    for start in range(1, factor):
      part = along[start::factor]
      sums[: len(part)] += part
    array = np.moveaxis(sums, 0, axis)
  return array / np.float32(np.prod(factors))


def _shrink_factors(shape, spacing_mm: np.ndarray) -> tuple[int, ...]:
  # A header may lie about the spacing: no axis is shrunk below 64 voxels.
  return tuple(
    int(max(1, min(round(GRID_MM / s), n // 64)))
    for n, s in zip(shape, spacing_mm, strict=True)
  )


def _distance(mask: np.ndarray, spacing_mm: np.ndarray) -> np.ndarray:
  """Returns f64, millimetres to the nearest voxel that is not in the mask."""
  if mask.all():
    return np.full(mask.shape, np.inf)
  distance = np.empty(mask.shape)
  ndimage.distance_transform_edt(mask, spacing_mm, distances=distance)
  return distance


def _reached(
  mask: np.ndarray, spacing_mm: np.ndarray, most_mm: float
) -> np.ndarray:
  """Returns bool[...], what lies within a distance of a mask.

  As `_distance` would, in a tenth of the time while the distance is a few
  voxels: the mask becomes one long whole number, a bit a voxel, that is shifted
  by every step of at most that length.
  """
  if most_mm > MAX_STEPS * min(spacing_mm):
    return _distance(~mask, spacing_mm) <= most_mm
  shape = (1,) * (3 - mask.ndim) + mask.shape
  spacing_mm = np.append(np.ones(3 - mask.ndim), spacing_mm)
  widths = (
    np.minimum(most_mm // spacing_mm, np.array(shape) - 1).astype(int) + 1
  )
  # Gaps, so that no step leads around the end of a row.
  padded = np.pad(mask.reshape(shape), [(0, n) for n in widths])
  packed = np.packbits(padded, bitorder="little")
  voxels = int.from_bytes(packed.tobytes(), "little")
  rows = [voxels]  # grown along the last axis, by so many steps
  for k in range(1, widths[2]):
    rows.append(rows[-1] | voxels << k | voxels >> k)
  squares = [
    (s * np.arange(n)) ** 2 for s, n in zip(spacing_mm, widths, strict=True)
  ]
  _, height, width = padded.shape
  reached = 0
  for i, j in np.ndindex(*widths[:2]):
    square = squares[0][i] + squares[1][j]
    steps = np.count_nonzero(np.sqrt(square + squares[2]) <= most_mm)
    if not steps:
      continue
    row = rows[steps - 1]
    for shift in {(i * height + j) * width, abs(i * height - j) * width}:
      reached |= row << shift | row >> shift
  content = (reached % (1 << padded.size)).to_bytes(len(packed), "little")
  bits = np.unpackbits(
    np.frombuffer(content, np.uint8), count=padded.size, bitorder="little"
  )
  inner = tuple(slice(n) for n in shape)
  return bits.view(bool).reshape(padded.shape)[inner].reshape(mask.shape)


def _labels(mask: np.ndarray) -> np.ndarray:
  """Numbers the connected components of a mask from 1."""
  labels = np.empty(mask.shape, np.int32)
  ndimage.label(mask, output=labels)
  return labels
