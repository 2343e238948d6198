"""How a scan looks without looking at the brain's inside, or only dimly."""

import numpy as np
import scipy.stats
import skimage.transform

from brainjax.audit import fingerprint
from brainjax.preparation import brain_mask

_THUMBNAIL = 8
_PREVIEW = 96  # pixels at most, along an edge
_BAND = 0.05  # of an axis, at each of its ends


def appearance(array: np.ndarray, brain: np.ndarray) -> dict[str, np.ndarray]:
  """Describes a scan by what a shortcut could be learned from.

  Args:
    array: f32[X,Y,Z].
    brain: bool[X,Y,Z], the brain mask.

  Returns:
    f64[...] by name: "band", the border of the slices; "brain_shape", of the
    mask; "moments" of the brain's intensities; "thumbnail", its box in 8^3
    cells.
  """
  values = array[brain] if brain.any() else array.ravel()
  mean, deviation = values.mean(), max(values.std(), 1e-6)
  z = (array - mean) / deviation
  band = _border(array.shape)
  inside = (values - mean) / deviation
  return {
    "band": np.array(
      [z[band].mean(), z[band].std(), np.mean(array[band] == 0)]
    ),
    "brain_shape": _shape_of(brain),
    "moments": np.array(
      [
        np.log(max(abs(mean), 1e-6)),
        np.log(deviation),
        scipy.stats.skew(inside),
        scipy.stats.kurtosis(inside),
      ]
    ),
    "thumbnail": _thumbnail(z, brain),
  }


def _border(shape: tuple[int, ...]) -> np.ndarray:
  """Returns bool of `shape`, the outermost twentieth of X and of Y."""
  border = np.ones(shape, bool)
  wide = [int(np.ceil(n * _BAND)) for n in shape[:2]]
  border[tuple(slice(w, n - w) for w, n in zip(wide, shape, strict=False))] = 0
  return border


def _shape_of(brain: np.ndarray) -> np.ndarray:
  """Returns f64[8]: size, box and spread of the brain mask in its volume."""
  if not brain.any():
    return np.zeros(8)
  box = brain_mask.bounds(brain)
  extents = np.array([side.stop - side.start for side in box])
  places = np.argwhere(brain)
  return np.concatenate(
    [
      [brain.mean(), brain.sum() / extents.prod()],
      extents / brain.shape,
      places.std(axis=0) / extents,
    ]
  )


def _thumbnail(z: np.ndarray, brain: np.ndarray) -> np.ndarray:
  """Returns f64[512], the mean of the box around the brain in 8^3 cells."""
  if brain.any():
    z = np.where(brain, z, 0)[brain_mask.bounds(brain)]
  for axis, size in enumerate(z.shape):
    z = fingerprint.averaged(z, axis, np.linspace(0, size, _THUMBNAIL + 1))
  return z.ravel()


def preview(array: np.ndarray) -> np.ndarray:
  """Returns u8[H,W], the middle slice along Z with the front at the top."""
  middle = array[:, ::-1, array.shape[2] // 2].T
  small = skimage.transform.downscale_local_mean(
    middle, (-(-middle.shape[0] // _PREVIEW), -(-middle.shape[1] // _PREVIEW))
  )
  low, high = np.percentile(small, (1, 99))
  scaled = (small - low) / max(high - low, 1e-6)
  return np.round(255 * np.clip(scaled, 0, 1)).astype(np.uint8)
