"""The standard scale of intensities, fitted on the training scans alone.

Each training scan's landmarks are mapped in a straight line so that the first
and the last lie at 1 and 100, and the standard scale is their mean. Its ends
are then laid where the first and the last landmark of training scans are on
average, as z-scores: what the model sees has about mean 0 and deviation 1.

Source: Nyul, Udupa and Zhang 2000, IEEE Trans. Med. Imaging 19:143.
"""

import types
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from brainjax import InputError, records
from brainjax.preparation.intensity import LANDMARK_PERCENTILES
from brainjax.training.standardise import Standard

# By `config.data.intensity`, the percentiles that are moved to the standard.
PERCENTILES: Mapping[str, tuple[int, ...]] = types.MappingProxyType(
  {
    "zscore": (),
    "nyul": LANDMARK_PERCENTILES,
    "percentile": (LANDMARK_PERCENTILES[0], LANDMARK_PERCENTILES[-1]),
  }
)


def fit_scale(
  method: str, scans: Iterable[records.Record], modalities: Sequence[str]
) -> dict[str, Any] | None:
  """Fits the standard scale; JSON, to be kept in `model.json`.

  Args:
    method: One of `PERCENTILES`.
    scans: The training scans, and no others.
    modalities: Names of their channels, in order.

  Returns:
    `{"method", "percentiles": K of them, "values": {modality: K z-scores}}`;
    None for "zscore", which fits nothing.

  Raises:
    InputError: No training scan has one of the modalities.
  """
  percentiles = PERCENTILES[method]
  if not percentiles:
    return None
  found = [(scan.present, scan.z_landmarks()) for scan in scans]
  values = {}
  for channel, name in enumerate(modalities):
    landmarks = [rows[channel] for present, rows in found if present[channel]]
    if not landmarks:
      raise InputError(
        f"config.data.intensity={method!r}: no training scan has a {name}, so"
        " nothing is known of its scale; prepare the records without it"
      )
    scale = _fit(np.array(landmarks, np.float64))
    values[name] = scale[_columns(percentiles)].tolist()
  return {"method": method, "percentiles": percentiles, "values": values}


def standard_of(
  scale: Mapping[str, Any] | None, modalities: Sequence[str], dtype: np.dtype
) -> Standard | None:
  """Returns what the step is compiled for.

  Args:
    scale: Of `fit_scale`.
    modalities: Names of the channels, in order.
    dtype: Of the slices.
  """
  if scale is None:
    return None
  return Standard(
    columns=tuple(_columns(scale["percentiles"])),
    values=tuple(tuple(scale["values"][name]) for name in modalities),
    background_code=records.BACKGROUND_CODES[np.dtype(dtype)],
  )


def _fit(landmarks: np.ndarray) -> np.ndarray:
  """Returns f64[11], the standard scale of f64[T,11] landmarks."""
  low, high = landmarks[:, :1], landmarks[:, -1:]
  # A scan whose ends coincide says nothing of what lies between them.
  spread = (high > low)[:, 0]
  if not spread.any():
    return landmarks.mean(axis=0)
  mapped = 1 + 99 * ((landmarks - low) / np.where(high > low, high - low, 1))
  standard = mapped[spread].mean(axis=0)
  first, last = low.mean(), high.mean()
  return first + (last - first) * (standard - 1) / 99


def _columns(percentiles: Sequence[int]) -> list[int]:
  return [LANDMARK_PERCENTILES.index(percentile) for percentile in percentiles]
