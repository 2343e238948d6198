"""What was measured of an image before networks: texture, scale, intensity.

Per modality, the mean over slices of the energies of a wavelet transform and of
the grey-level co-occurrence inside the brain, and the histogram of the brain.
"""

import numpy as np
import pywt
from skimage import feature

from brainjax import records
from brainjax.evaluation import baselines

_WAVELET, _LEVELS = "db2", 3
_GREY_LEVELS = 16  # inside the brain; 0 is what lies outside
_GREY_RANGE = 2.5  # standard deviations, either side
_ANGLES = (0, np.pi / 4, np.pi / 2, 3 * np.pi / 4)
_TEXTURES = (
  "contrast",
  "dissimilarity",
  "homogeneity",
  "energy",
  "correlation",
)


def classical_features(record: records.Record) -> np.ndarray:
  """Returns f64[C*47] of a scan: 10 wavelet, 5 texture, 32 histogram numbers.

  Source: Mallat 1989, IEEE PAMI 11(7); Haralick et al. 1973, IEEE SMC 3(6).
  """
  slices = record.intensities()
  brain = records.unpack_bits(record.brain_mask, slices.shape[2])
  channels = np.moveaxis(slices, -1, 0)
  return np.concatenate(
    [
      *(wavelet_energies(channel) for channel in channels),
      *(textures(channel, brain) for channel in channels),
      baselines.histogram(record),
    ]
  )


def wavelet_energies(slices: np.ndarray) -> np.ndarray:
  """Returns f64[10] logarithms of the mean squares of each sub-band.

  Args:
    slices: f[S,H,W], one modality.
  """
  # No more levels than small images have; what is missing is as good as zero.
  levels = min(_LEVELS, pywt.dwtn_max_level(slices.shape[1:], _WAVELET))
  energies = np.zeros(1 + 3 * _LEVELS)
  approximation, *details = pywt.wavedec2(
    slices, _WAVELET, level=levels, axes=(1, 2)
  )
  bands = [approximation, *(band for level in details for band in level)]
  energies[: len(bands)] = [np.mean(np.square(band)) for band in bands]
  return np.log(energies + 1e-6)


def textures(slices: np.ndarray, brain: np.ndarray) -> np.ndarray:
  """Returns f64[5]: what neighbouring pixels of the brain have in common.

  Zeros where there is no brain.

  Args:
    slices: f[S,H,W] of one modality, in standard deviations.
    brain: bool[S,H,W].
  """
  scaled = (slices / _GREY_RANGE + 1) / 2 * _GREY_LEVELS
  grey = np.clip(np.floor(scaled), 0, _GREY_LEVELS - 1).astype(np.uint8) + 1
  grey = np.where(brain, grey, 0).astype(np.uint8)
  total = np.zeros((_GREY_LEVELS, _GREY_LEVELS, 1, len(_ANGLES)))
  for image in grey:
    pairs = feature.graycomatrix(
      image, [1], _ANGLES, levels=_GREY_LEVELS + 1, symmetric=True
    )
    total += pairs[1:, 1:]  # pairs inside the brain
  if not total.any():
    return np.zeros(len(_TEXTURES))
  return np.array(
    [feature.graycoprops(total, name).mean() for name in _TEXTURES]
  )
