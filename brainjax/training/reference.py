"""Whether a new scan is like those that a model was trained on.

A scan is described by a few numbers: the spacing of its voxels, its field of
view, and the shape of its intensity distribution. A number is unlike the
training set if it lies outside the range of the training scans by more than
half the width of that range, plus 5 % of its larger end (at least 0.02).

The range of a hundred normal draws reaches 2.5 standard deviations to either
side, so that it takes five for a warning: scans like the training scans hardly
ever get one. What the numbers do not describe goes unseen; no warning does not
mean that a scan is like the training set.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from brainjax.preparation.intensity import LANDMARK_PERCENTILES
from brainjax.preparation.region import AXES
from brainjax.records import Record, unpack_bits

_WIDENED = 0.5  # of the range's width
_TOLERANCE = 0.05  # of the range's larger end
_LEAST_TOLERANCE = 0.02
_GROUPS = ("spacing", "field of view", "intensity")
_DIRECTIONS = ("left to right", "back to front", "bottom to top")
# A number's name is its kind, then "/" and what it is of. By kind: the group,
# which gives one warning at most, the sentence, how a value is written, unit.
_KINDS = {
  "spacing": ("spacing", "voxels {value} apart {of}", ".2f", " mm"),
  "view": ("field of view", "the image spans {value} {of}", ".0f", " mm"),
  "brain": ("field of view", "the brain spans {value} {of}", ".0f", " mm"),
  "slices": ("field of view", "{value}", ".0f", " slices"),
  "brain_share": ("field of view", "the brain fills {value} of it", ".0%", ""),
  "intensity": (
    "intensity",
    "{of} lies {value} of the intensity range from the median",
    "+.2f",
    "",
  ),
}
# Numbers that are 0 or 1: the group and a sentence for either.
_FLAGS = {
  "spacing_known": ("spacing", "no voxel spacing", "a known voxel spacing"),
  "present": ("intensity", "no {of}", "a {of}"),
}


def describe(record: Record, modalities: Sequence[str]) -> dict[str, float]:
  """Describes a scan by numbers that say little of its content.

  Lengths are in millimetres, and absent where the file knows of none.
  Intensities are percentiles of the brain's, as distances from the median in
  units of the range from the 1st to the 99th percentile.

  Args:
    record: The scan.
    modalities: Names of its channels, in order.
  """
  brain = unpack_bits(record.brain_mask, record.slices.shape[2])
  spacing = record.geometry.get("file_spacing_mm")
  numbers = {
    "slices": float(len(brain)),
    "brain_share": float(brain.mean()),
    "spacing_known": float(spacing is not None),
  }
  if spacing is not None:
    numbers |= _lengths(record.geometry, brain)
  for name, present, landmarks in zip(
    modalities, record.present, record.landmarks.astype(float), strict=True
  ):
    numbers[f"present/{name}"] = float(present)
    low, high = landmarks[[0, -1]]
    if present and high > low:
      shape = (landmarks - np.median(landmarks)) / (high - low)
      numbers |= {
        f"intensity/percentile {percentile} of {name}": float(value)
        for percentile, value in zip(LANDMARK_PERCENTILES, shape, strict=True)
      }
  return numbers


def fit_reference(
  records: Iterable[Record], modalities: Sequence[str]
) -> dict[str, Any]:
  """Summarises the training scans; JSON.

  Args:
    records: The training scans.
    modalities: Names of their channels, in order.

  Returns:
    `{"num_scans": int, "ranges": {number: [lowest, highest]}}`.
  """
  described = [describe(record, modalities) for record in records]
  values: dict[str, list[float]] = {}
  for numbers in described:
    for name, value in numbers.items():
      values.setdefault(name, []).append(value)
  return {
    "num_scans": len(described),
    "ranges": {name: [min(v), max(v)] for name, v in sorted(values.items())},
  }


def unlikeness(
  reference: Mapping[str, Any], record: Record, modalities: Sequence[str]
) -> dict[str, str]:
  """Says in what a scan is unlike the training scans.

  Args:
    reference: What `fit_reference` returned.
    record: The scan, prepared as the training scans were.
    modalities: Names of its channels, in order.

  Returns:
    A plain sentence for each of "spacing", "field of view" and "intensity"
    that has a number unlike the training set, about the unlikest.
  """
  worst: dict[str, tuple[float, str]] = {}
  for name, value in describe(record, modalities).items():
    if name not in reference["ranges"]:
      continue
    low, high = reference["ranges"][name]
    tolerance = max(_TOLERANCE * max(-low, high), _LEAST_TOLERANCE)
    allowed = _WIDENED * (high - low) + tolerance
    excess = max(low - value, value - high) / allowed
    kind, _, of = name.partition("/")
    group = (_FLAGS[kind] if kind in _FLAGS else _KINDS[kind])[0]
    if excess > max(1.0, worst.get(group, (0.0, ""))[0]):
      worst[group] = excess, _sentence(kind, of, value, low, high)
  return {group: worst[group][1] for group in _GROUPS if group in worst}


def _lengths(
  geometry: Mapping[str, Any], brain: np.ndarray
) -> dict[str, float]:
  """Returns spacing, field of view and extent of the brain along RAS axes."""
  axes = AXES[geometry["plane"]]
  axis_of_file = [axis for axis, _ in geometry["ras_from_file"]]
  voxels = dict(zip(axis_of_file, geometry["file_shape"], strict=True))
  spacing = dict(zip(axis_of_file, geometry["file_spacing_mm"], strict=True))
  # Slices need not be neighbours: the last one reaches as far as the others.
  index = geometry["slice_index"]
  step = (index[-1] - index[0]) / max(len(index) - 1, 1)
  # Pixels of the record in voxels, along the axis they lie on.
  pixels = {
    axes.slice: (0, step),
    axes.row: (1, abs(geometry["row"][1])),
    axes.column: (2, abs(geometry["column"][1])),
  }
  numbers = {}
  template = geometry.get("template")
  for axis, direction in enumerate(_DIRECTIONS):
    mm = float(spacing[axis])
    numbers[f"spacing/{direction}"] = mm
    numbers[f"view/{direction}"] = mm * voxels[axis]
    if template:
      mm = template["spacing_mm"][axis]
    array_axis, size = pixels[axis]
    others = tuple({0, 1, 2} - {array_axis})
    inside = np.flatnonzero(brain.any(others))
    if len(inside):
      pixels_across = float(inside[-1] - inside[0] + 1)
      numbers[f"brain/{direction}"] = mm * size * pixels_across
  return numbers


def _sentence(kind: str, of: str, value: float, low: float, high: float) -> str:
  if kind in _FLAGS:
    sentence = _FLAGS[kind][1 + int(value)].format(of=of)
    return f"{sentence}, unlike the scans of the training set"
  _, sentence, form, unit = _KINDS[kind]
  said = sentence.format(of=of, value=f"{value:{form}}{unit}")
  return f"{said}; the training set had {low:{form}} to {high:{form}}{unit}"
