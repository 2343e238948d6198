"""What a preparation would do, said before it does it."""

import numpy as np
import pytest
import tiny_head

from brainjax import InputError, cli
from brainjax.cohort import manifest
from brainjax.preparation import prepare

SETTINGS = tiny_head.settings(shard_scans=2)


def _tree(folder):
  return {
    file: (file.stat().st_mtime_ns, file.stat().st_size)
    for file in sorted(folder.rglob("*"))
  }


def test_it_is_what_then_happens(tmp_path):
  path, out = tiny_head.write_scans(tmp_path / "c", count=4), tmp_path / "out"
  found = prepare.forecast(path, out, SETTINGS)
  assert not out.exists() and found.num_kept == 0 and not found.changes
  assert found.redone == tuple((f"p{i}", "", "new") for i in range(4))
  prepare.prepare(path, out, SETTINGS)
  before = _tree(tmp_path)
  assert prepare.forecast(path, out, SETTINGS) == prepare.Forecast((), (), 4)
  # One with another file, one with another spacing, a new one.
  study = manifest.read_manifest(path)
  (tmp_path / "c" / "p1.nii").write_bytes(
    (tmp_path / "c" / "p2.nii").read_bytes()
  )
  rows = [dict(row) for row in study.rows]
  rows[2]["spacing_mm"] = "12;12;11"
  (tmp_path / "c" / "p9.nii").write_bytes(
    (tmp_path / "c" / "p0.nii").read_bytes()
  )
  ids = {name: "p9" for name in ("participant_id", "group_id")}
  rows.append(rows[0] | ids | {"t1": "p9.nii"})
  manifest.write_manifest(path, rows, [*study.columns, "spacing_mm"])
  found = prepare.forecast(path, out, SETTINGS, num_workers=2)
  assert found.redone == (
    ("p1", "", "with changed files"),
    ("p2", "", "with another spacing_mm"),
    ("p9", "", "new"),
  )
  assert found.num_kept == 2
  (change,) = found.changes
  assert "manifest.csv changed" in change
  after = _tree(tmp_path)
  written = {file for file in after if before.get(file) != after[file]}
  by_this_test = {path, *(tmp_path / "c" / f"p{i}.nii" for i in (1, 9))}
  assert written <= by_this_test | {tmp_path / "c"}
  summary = prepare.prepare(path, out, SETTINGS)
  reasons = {why: summary.counts[why] for _, _, why in found.redone}
  assert summary.counts == {"kept": 2} | reasons


def test_changed_settings_are_said(tmp_path, capsys):
  path, out = tiny_head.write_scans(tmp_path / "c", count=3), tmp_path / "out"
  prepare.prepare(path, out, tiny_head.settings())
  arguments = [
    *("prepare", str(path), f"--out={out}", "--workers=1", "--dry-run"),
    *(f"--config.preparation.{name}=16" for name in ("height", "width")),
    "--config.preparation.bias_field.method=none",
    "--config.preparation.num_slices=3",
  ]
  before = _tree(out)
  assert cli.main(arguments) == 0
  assert capsys.readouterr().out.splitlines() == [
    "config.preparation.num_slices was 4, is 3: every scan is prepared again,"
    " its bias field is kept",
    *(f"p{i}: with changed settings" for i in range(3)),
    "would prepare 3 scans and keep 0; nothing was written",
  ]
  assert _tree(out) == before


def test_a_spacing_that_stayed_is_no_reason(tmp_path):
  path, out = tiny_head.write_scans(tmp_path / "c", count=1), tmp_path / "out"
  study = manifest.read_manifest(path)
  rows = [{**row, "spacing_mm": "12;12;11"} for row in study.rows]
  manifest.write_manifest(path, rows, [*study.columns, "spacing_mm"])
  prepare.prepare(path, out, SETTINGS)
  found = prepare.forecast(path, out, tiny_head.settings(num_slices=3))
  assert found.redone == (("p0", "", "with changed settings"),)


def test_a_folder_of_something_else_is_refused(tmp_path):
  path = tiny_head.write_scans(tmp_path / "c", count=1)
  (tmp_path / "other").mkdir()
  np.save(tmp_path / "other" / "a.npy", np.zeros(1))
  with pytest.raises(InputError, match="was not made by"):
    prepare.forecast(path, tmp_path / "other", SETTINGS)
