"""Real scans, from their files to records."""

import pathlib
import shutil

import numpy as np
import pytest
import tiny_head

from brainjax import records
from brainjax.cohort import manifest
from brainjax.cohort.layouts import LAYOUTS
from brainjax.preparation import prepare, slices

GBM = pathlib.Path(__file__).parent.parent / "cohort" / "gbm_progression.csv"
SIZE = {"height": 64, "width": 64, "slices": "all"}


def _gbm(data_root, folder, **cells):
  """The hand-written manifest beside its scans, some of its cells changed."""
  folder.mkdir()
  (folder / "01").symlink_to(data_root / "gbm_progression" / "01")
  shutil.copy(GBM, folder / GBM.name)
  study = manifest.read_manifest(folder / GBM.name)
  rows = [{**row, **cells} for row in study.rows]
  manifest.write_manifest(folder / GBM.name, rows, study.columns)
  return folder / GBM.name


def test_tumour_mask_lies_on_the_tumour(data_root, tmp_path):
  path = _gbm(data_root, tmp_path / "gbm")
  summary = prepare.prepare(path, tmp_path / "out", tiny_head.settings(**SIZE))
  assert summary.num_records == 2
  assert not summary.warnings
  for record in records.RecordSet(tmp_path / "out"):
    mask = records.unpack_bits(record.mask, 64)
    brain = records.unpack_bits(record.brain_mask, 64)
    z = record.intensities()[..., 0]
    assert mask.any()
    assert (mask & brain).sum() > 0.9 * mask.sum()
    # It takes up the contrast agent, and the brain around it does not. (The
    # scalp that the mask of the brain keeps would be brighter still.)
    middle = np.abs(record.positions_mm) < 45
    around = brain & ~mask & middle[:, None, None]
    assert np.median(z[mask]) > np.median(z[around]) + 0.3
    # In front, where the radiologist drew it, and above the centre.
    s, row, _ = np.argwhere(mask).mean(0)
    assert row < 32 and record.positions_mm[int(s)] > 0


def test_false_spacing_is_reported(data_root, tmp_path):
  path = _gbm(data_root, tmp_path / "gbm", spacing_mm="")
  summary = prepare.prepare(path, tmp_path / "out", tiny_head.settings(**SIZE))
  assert [row["session_id"] for row in summary.warnings] == ["pre", "post"]
  for row in summary.warnings:
    assert "mm from bottom to top" in row["warning"]
    assert "1 x 1 x 1 mm" in row["warning"]


def test_healthy_brains_are_whole(data_root, tmp_path):
  rows, columns = LAYOUTS["bids"](data_root / "bids")
  manifest.write_manifest(tmp_path / "bids.csv", rows, columns)
  settings = tiny_head.settings(height=64, width=64, num_slices=12)
  summary = prepare.prepare(tmp_path / "bids.csv", tmp_path / "out", settings)
  assert summary.num_records == 2 and not summary.warnings
  for record in records.RecordSet(tmp_path / "out"):
    brain = records.unpack_bits(record.brain_mask, 64)
    geometry = record.geometry
    corners = [
      slices.pixel_to_file_voxel(geometry, s, r, c)
      for s, r, c in np.argwhere(brain)
    ]
    extent_mm = np.ptp(corners, axis=0) * geometry["file_spacing_mm"]
    # Width, length and height of an adult's brain.
    assert np.all(extent_mm > [115, 145, 100])
    assert np.all(extent_mm < [165, 200, 150])


@pytest.mark.slow
def test_bias_field_of_real_scans_is_kept(data_root, tmp_path):
  path, out = _gbm(data_root, tmp_path / "gbm"), tmp_path / "out"
  n4 = {"method": "sitk", "iterations": (5, 5), "grid_mm": 8.0}
  for height in (64, 48):
    settings = tiny_head.settings(**{**SIZE, "height": height}, bias_field=n4)
    prepare.prepare(path, out, settings)
    files = {f: f.stat().st_mtime_ns for f in (out / "bias_fields").iterdir()}
    if height == 64:
      before = files
  assert len(files) == 2 and files == before
