"""The region search, on blobs of known size."""

import numpy as np
import pytest
import tiny_head

from brainjax import config
from brainjax.preparation import region, search

AXES = region.AXES["axial"]
FIELDS = {
  name: value
  for name, value in config.get_config().preparation.region.items()
  if name != "margin"
}


def _rules(**changes):
  return search.Rules(**FIELDS | changes)


def _disc(shape, centre, radii):
  grid = np.stack(np.indices(shape), -1)
  return (((grid - centre) / radii) ** 2).sum(-1) < 1


def _three(tumour, brain, *, also=None):
  """FLAIR, T2 and T1 with contrast; `also` is bright in the last alone."""
  rng = np.random.default_rng(0)
  volumes = {}
  for name in search.MODALITIES:
    bright = tumour if also is None or name != "t1c" else tumour | also
    array = rng.normal(100, 3, brain.shape) + 100 * bright
    volumes[name] = np.where(brain, array, 0).astype(np.float32)
  return volumes


BRAIN = _disc((120, 150, 5), (60, 75, 2), (55, 70, 9))
# 48 x 30 mm, and 20 x 20 mm.
LARGE = _disc(BRAIN.shape, (40, 90, 2), (15, 24, 1.5)) & BRAIN
SMALL = _disc(BRAIN.shape, (85, 50, 2), (10, 10, 1.5)) & BRAIN


def _found(volumes, spacing=(1.0, 1.0, 3.0), **changes):
  return search.search(
    volumes, BRAIN, np.array(spacing), AXES, _rules(**changes)
  )


def test_what_is_bright_in_all_and_large_is_found():
  found = _found(_three(LARGE, BRAIN), t1c=0.6)
  dice = 2 * (found & LARGE).sum() / (found.sum() + LARGE.sum())
  assert dice > 0.9


@pytest.mark.parametrize(
  ("changes", "spacing"),
  [
    ({"area_mm2": 2000.0}, (1.0, 1.0, 3.0)),
    ({"length_mm": 60.0}, (1.0, 1.0, 3.0)),
    ({"solidity": 0.999}, (1.0, 1.0, 3.0)),
    ({"overlap_mm2": 2000.0}, (1.0, 1.0, 3.0)),
    ({"relative": False, "t1c": 99.0}, (1.0, 1.0, 3.0)),
    ({}, (0.3, 0.3, 3.0)),  # the same pixels are a small thing there
  ],
)
def test_each_rule_can_refuse(changes, spacing):
  changes = {"t1c": 0.6} | changes
  assert not _found(_three(LARGE, BRAIN), spacing, **changes).any()


def test_small_things_and_those_of_one_modality_are_not_found():
  assert not _found(_three(SMALL, BRAIN), t1c=0.6).any()
  nothing = np.zeros_like(LARGE)
  assert not _found(_three(nothing, BRAIN, also=LARGE), t1c=0.6).any()
  # Beside one that counts, as the largest z-score may be anywhere.
  found = _found(_three(LARGE, BRAIN, also=SMALL), t1c=0.6)
  assert (found & LARGE).any() and not (found & SMALL).any()


def test_absolute_thresholds_are_z_scores():
  found = _found(_three(LARGE, BRAIN), relative=False)
  assert (found & LARGE).sum() > 0.9 * LARGE.sum()


@pytest.mark.parametrize("plane", ["coronal", "sagittal"])
def test_slices_of_any_plane_are_searched(plane):
  brain = _disc((90, 100, 80), (45, 50, 40), (42, 47, 38))
  tumour = _disc(brain.shape, (30, 60, 40), (22, 22, 22)) & brain
  axes = region.AXES[plane]
  found = search.search(
    _three(tumour, brain), brain, np.ones(3), axes, _rules(t1c=0.6)
  )
  assert (found & tumour).sum() > 0.6 * tumour.sum()
  assert not (found & ~tumour).sum() > 0.1 * tumour.sum()


@pytest.mark.parametrize("side", [1, -1])
def test_one_modality_shows_the_side_that_differs(side):
  array, brain, tumour = tiny_head.tiny_head((3.0, 3.0, 3.0), stripped=True)
  array, tumour = array[::side], tumour[::side]
  found = search.search({"t1": array}, brain, np.full(3, 3.0), AXES, _rules())
  assert (found & tumour).sum() > 0.7 * tumour.sum()
  assert (found & ~tumour).sum() < 0.5 * tumour.sum()


def test_scalp_that_the_mask_kept_on_one_side_is_not_taken_for_it():
  array, brain, tumour = tiny_head.tiny_head((3.0, 3.0, 3.0), stripped=True)
  strip = np.zeros_like(brain)
  # 9 mm thick, larger than the tumour and brighter, along the right side.
  strip[-11:-8, 12:-12, 8:-8] = True
  assert strip.sum() > 1.5 * tumour.sum()
  found = search.search(
    {"t1": np.where(strip, 400, array).astype(np.float32)},
    brain | strip,
    np.full(3, 3.0),
    AXES,
    _rules(),
  )
  assert (found & tumour).sum() > 0.5 * tumour.sum()
  assert not (found & strip).any()


def test_two_equal_sides_show_nothing():
  brain = _disc((31, 31, 31), (15, 15, 15), (12, 14, 10))
  array = np.where(brain, 100, 0).astype(np.float32)
  assert not search.search(
    {"t1": array}, brain, np.ones(3), AXES, _rules()
  ).any()
