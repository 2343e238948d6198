"""Intensities on a scale that all scans share, on the device.

A z-score makes mean and deviation of each brain alike, not the rest of its
histogram: the same tissue may still lie elsewhere from scan to scan. Here the
landmarks of a scan, percentiles of its brain, are moved to those of a standard
scale, and what lies between or beyond them in straight lines.

Source: Nyul, Udupa and Zhang 2000, IEEE Trans. Med. Imaging 19:143.
Differs: the standard scale is given in units of z-scores (`intensity.py`), and
  what would lie further from its ends than they are apart is moved there.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np


@dataclasses.dataclass(frozen=True)
class Standard:
  """A standard scale.

  Attributes:
    columns: Which K of a scan's 11 landmarks are moved, in ascending order.
    values: Where to, K ascending numbers for each of C modalities.
    background_code: Code of what is no brain; see `packing.marked_slices`.
  """

  columns: tuple[int, ...]
  values: tuple[tuple[float, ...], ...]
  background_code: int


def standardise(
  z: jax.Array, landmarks: jax.Array, standard: Standard
) -> jax.Array:
  """Moves the landmarks of each scan to the standard ones.

  Args:
    z: f32[...,H,W,C] z-scores.
    landmarks: f32[...,C,11] of the scan of each slice, as z-scores.
    standard: The standard scale. Static.

  Returns:
    f32[...,H,W,C].
  """
  values = np.array(standard.values, np.float32)
  values = values.reshape(*(1,) * (z.ndim - 1), *values.shape)
  knots = landmarks[..., None, None, :, np.array(standard.columns)]
  gaps = jnp.diff(knots, axis=-1)
  slopes = np.diff(values, axis=-1) / jnp.where(gaps > 0, gaps, 1)
  moved = z
  for i in range(len(standard.columns) - 1):
    line = values[..., i] + slopes[..., i] * (z - knots[..., i])
    moved = line if i == 0 else jnp.where(z > knots[..., i], line, moved)
  low, high = values[..., 0], values[..., -1]
  return jnp.clip(moved, 2 * low - high, 2 * high - low)
