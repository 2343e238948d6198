"""Intensities -> z-scores inside the brain -> integer codes.

MRI intensities have no unit, so each scan is brought to mean 0 and standard
deviation 1 over its own brain, never with statistics of the data set. What
lies outside the brain is exactly 0.
"""

from collections.abc import Sequence

import numpy as np

from brainjax import records

LANDMARK_PERCENTILES = (1, 10, 20, 30, 40, 50, 60, 70, 80, 90, 99)

_DTYPES = {"u8": np.dtype(np.uint8), "i16": np.dtype(np.int16)}
_STEPS = {"u8": 127, "i16": 32767}  # codes from 0 to the limit


def brain_statistics(values: np.ndarray) -> tuple[float, float]:
  """Returns mean and standard deviation of the brain's voxels, f32[V]."""
  return float(values.mean(dtype=np.float64)), float(
    values.std(dtype=np.float64)
  )


def landmarks(values: np.ndarray) -> np.ndarray:
  """Returns f32[11], the percentiles of the brain's voxels, f32[V].

  Nyul standardisation is fitted on them when training, inside a fold.

  Source: Nyul, Udupa and Zhang 2000, IEEE Trans. Med. Imaging 19:143.
  """
  found = percentiles(np.sort(values), LANDMARK_PERCENTILES)
  return found.astype(np.float32)


def percentiles(ordered: np.ndarray, shares: Sequence[float]) -> np.ndarray:
  """Returns f64, percentiles of ascending values, between ranks linearly.

  To sort them takes a fraction of what `numpy.percentile` does.

  >>> percentiles(np.array([1.0, 2.0, 4.0]), (0, 25, 75)).tolist()
  [1.0, 1.5, 3.0]
  """
  rank = np.asarray(shares) / 100 * (len(ordered) - 1)
  low = rank.astype(int)
  high = np.minimum(low + 1, len(ordered) - 1)
  below, above = (ordered[i].astype(np.float64) for i in (low, high))
  return below + (rank - low) * (above - below)


def standardise(
  array: np.ndarray, mean: float, deviation: float, limit: float
) -> np.ndarray:
  """Returns f32 z-scores, clipped to +-limit standard deviations."""
  z = (array.astype(np.float32) - np.float32(mean)) / np.float32(deviation)
  return np.clip(z, -limit, limit)


def quantise(
  z: np.ndarray, dtype: str, limit: float
) -> tuple[np.ndarray, float]:
  """Rounds z-scores to integer codes; 0 has a code of its own.

  Args:
    z: f32 z-scores within +-limit.
    dtype: "u8" or "i16".
    limit: The z-score of the highest code.

  Returns:
    The codes, of the shape of `z`, and the standard deviations a code step;
    z = (code - zero_code) * step, off by half a step at most.

  >>> quantise(np.array([-5.0, 0.0, 5.0], np.float32), "u8", 5.0)[0].tolist()
  [0, 127, 254]
  """
  step = limit / _STEPS[dtype]
  zero_code = records.ZERO_CODES[_DTYPES[dtype]]
  return (np.rint(z / step) + zero_code).astype(_DTYPES[dtype]), step
