"""The files that say what a model's attention weighs, and their picture."""

import csv
import dataclasses
import io

import ml_collections
import numpy as np
import pytest
import rich.console

import helpers
from brainjax import records
from brainjax.evaluation import (
  attention,
  attention_figure,
  evaluate,
  figures,
  report,
  run_files,
)
from brainjax.training import train
from evaluation import tiny_run

GATED = {"name": "attention", "projection": 0, "attention_size": 4}
COLUMNS = ["participant_id", "session_id", "split", "slice", "position_mm"]


@pytest.fixture
def coarse_pictures(monkeypatch):
  monkeypatch.setattr(figures, "_DPI", 20)


def read(path):
  with open(path, newline="") as file:
    return list(csv.DictReader(file))


def weigh(num_slices, seed=0):
  rng = np.random.default_rng(seed)
  head = rng.random(num_slices)
  return {
    "in_plane": rng.normal(1, 0.2, (num_slices, 2, 3)).astype("f"),
    "in_plane_offset": rng.normal(size=(num_slices, 2)),
    "slice_axis": rng.random(num_slices),
    "head": head / head.sum(),
  }


def test_a_row_says_all_of_a_slice():
  record = helpers.random_record(np.random.default_rng(0), num_slices=3)
  nominal = dataclasses.replace(record, positions_known=False)
  scans = [
    {"participant_id": f"p{i}", "session_id": "s1", "split": "test"}
    | {"record_index": str(i)}
    for i in range(2)
  ]
  weights = [weigh(3, seed) for seed in range(2)]
  rows = attention.attention_rows(scans, weights, [record, nominal])
  assert [row["position_mm"] for row in rows] == ["0", "5", "10", "", "", ""]
  assert [row["slice"] for row in rows] == [1, 2, 3, 1, 2, 3]
  row, found = rows[4], weights[1]
  assert (row["participant_id"], row["session_id"]) == ("p1", "s1")
  assert list(row)[5:] == [
    "in_plane_max",
    "in_plane_offset_row",
    "in_plane_offset_column",
    "slice_axis",
    "head",
  ]
  expected = [found["in_plane"][1].max(), *found["in_plane_offset"][1]]
  expected += [found["slice_axis"][1], found["head"][1]]
  given = [float(value) for value in list(row.values())[5:]]
  assert given == pytest.approx(expected, rel=1e-5)


def test_columns_are_those_the_model_has():
  record = helpers.random_record(np.random.default_rng(0))
  scan = {"participant_id": "p", "session_id": "", "split": "test"}
  scan["record_index"] = "0"
  rows = attention.attention_rows([scan], [{"head": np.ones(3) / 3}], [record])
  assert list(rows[0]) == [*COLUMNS, "head"]


def attend(workdir, names, split="test"):
  """Writes what `evaluate` writes of attention into the tiny run."""
  scans = [
    scan for scan in read(workdir / "splits.csv") if scan["split"] == split
  ]
  record_set = records.RecordSet(workdir / "records")
  weights = [
    {name: value for name, value in weigh(3, i).items() if name in names}
    for i in range(len(scans))
  ]
  rows = attention.attention_rows(scans, weights, record_set)
  records.write_csv(workdir / "attention.csv", list(rows[0]), rows)
  file = attention.maps_file(workdir, split)
  attention.write_maps(file, scans, weights)
  return weights, record_set


def test_maps_are_kept_by_record(tmp_path):
  workdir = tiny_run.write_workdir(tmp_path / "run")
  weights, _ = attend(workdir, ["in_plane", "head"])
  with np.load(workdir / "attention_test.npz", allow_pickle=False) as maps:
    assert set(maps) == {str(i) for i in range(8, 16)}
    np.testing.assert_array_equal(maps["9"], weights[1]["in_plane"])
  attend(workdir, ["head"], split="train")
  assert not (workdir / "attention_train.npz").exists()


@pytest.mark.parametrize("names", [["in_plane"], ["head"], list(weigh(1))])
def test_picture_shows_a_scan_of_each_class(tmp_path, names):
  workdir = tiny_run.write_workdir(tmp_path / "run", classes=tiny_run.TYPING)
  weights, record_set = attend(workdir, names)
  run = run_files.read_run(workdir)
  exhibit = attention_figure.attention_exhibit(run, "test", record_set)
  for number, name in zip((12, 16, 20), tiny_run.TYPING, strict=True):
    assert f"p{number} s1 ({name})" in exhibit.alt
  head = weights[0]["head"] if "head" in names else np.zeros(1)
  said = (
    f"weight in the head up to {head.max():.2f} at {5 * head.argmax():+} mm"
  )
  assert (said in exhibit.alt) == ("head" in names)
  strips = sum(name in names for name in attention_figure.STRIPS)
  bar = "in_plane" in names
  assert len(exhibit.figure.axes) == 3 * (1 + strips) + bar
  images = [len(axes.images) for axes in exhibit.figure.axes]
  assert images.count(2) == 3 * bar


def test_colour_lies_over_the_place_it_is_of():
  record = helpers.random_record(
    np.random.default_rng(0), num_slices=2, height=8, width=12
  )
  in_plane = np.ones((2, 2, 3), np.float32)
  in_plane[1, 0, 2] = 1.5
  example = attention_figure.Example(record, "p0", in_plane, {})
  axes = attention_figure.draw_attention([example]).axes[0]
  _, colours = axes.images
  image = np.ma.filled(colours.get_array(), np.nan)
  found = np.argwhere(image == 1.5)
  # The second tile begins at column 14; every tile has a margin of a pixel.
  assert (found.min(0) == [1, 14 + 1 + 8]).all()
  assert (found.max(0) == [4, 14 + 12]).all()
  assert colours.norm.vmin == 0.5 and colours.norm.vmax == 1.5
  assert colours.cmap(0.5)[3] < 0.01 < 0.5 < colours.cmap(1.0)[3]


def test_no_attention_no_picture(tmp_path):
  workdir = tiny_run.write_workdir(tmp_path / "run")
  run = run_files.read_run(workdir)
  record_set = records.RecordSet(workdir / "records")
  assert attention_figure.attention_exhibit(run, "test", record_set) is None
  attend(workdir, ["head"], split="train")
  assert attention_figure.attention_exhibit(run, "test", record_set) is None


@pytest.mark.slow
@pytest.mark.usefixtures("coarse_pictures")
def test_run_with_attention_from_training_to_the_page(tmp_path):
  helpers.write_cohort(tmp_path / "records", participants=20)
  config = helpers.micro_config(
    tmp_path / "records",
    "train.epochs=1",
    "eval.resamples=20",
    "model.attention.in_plane=distance",
    "model.attention.slice_axis=distance",
  )
  with config.unlocked():
    config.model.head = ml_collections.ConfigDict({"budget": None} | GATED)
  workdir = tmp_path / "run"
  train.train(config, workdir, console=rich.console.Console(file=io.StringIO()))
  assert not (workdir / "attention.csv").exists()
  evaluate.evaluate(workdir, "test")
  rows = read(workdir / "attention.csv")
  record_set = records.RecordSet(tmp_path / "records")
  scans = [s for s in read(workdir / "splits.csv") if s["split"] == "test"]
  places = [
    (scan["participant_id"], f"{s + 1}")
    for scan in scans
    for s in range(record_set.lengths[int(scan["record_index"])])
  ]
  assert [(row["participant_id"], row["slice"]) for row in rows] == places
  total = sum(float(row["head"]) for row in rows)
  assert total == pytest.approx(len(scans), abs=1e-4)
  with np.load(workdir / "attention_test.npz") as maps:
    assert set(maps) == {scan["record_index"] for scan in scans}
  page = report.write_report([workdir]).read_text()
  assert page.index("<h3>Where it looks</h3>") < page.index("Cohort and splits")
  assert (workdir / "figures" / "attention.png").is_file()
