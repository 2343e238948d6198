import pytest
import tiny_run

from brainjax.evaluation import cost_figure, run_files, tables


def read(folder, name, **options):
  return run_files.read_run(tiny_run.write_workdir(folder / name, **options))


def with_time(run, seconds):
  run.log[2]["perf/step_seconds_p50"] = seconds
  return run


def test_points_are_runs_that_compare(tmp_path):
  runs = [
    with_time(read(tmp_path, "a"), 0.5),
    with_time(
      read(tmp_path, "b", head="densenet1d", auc=(0.7, 0.6, 0.8)), 0.25
    ),
    read(tmp_path, "c", head="mean"),  # without times
  ]
  rows = tables.comparison(runs[0], runs[1:], "test")
  exhibit = cost_figure.cost_exhibit(rows, "roc_auc", "test")
  assert "(a), 2 s, 0.87 [0.78, 0.94]" in exhibit.alt  # 4 steps
  assert "(b), 1 s, 0.70 [0.60, 0.80]" in exhibit.alt
  assert "(c)" not in exhibit.alt
  (axes,) = exhibit.figure.axes
  marks = {tuple(line.get_xydata()[0]) for line in axes.lines}
  assert marks == {(2, 0.87), (2, 0.78), (1, 0.7), (1, 0.6)}
  legend = [text.get_text() for text in axes.get_legend().get_texts()]
  assert legend == ["recurrent", "convolutional"]


def test_a_comparator_is_named_and_is_convolutional(tmp_path):
  runs = [
    with_time(read(tmp_path, name, head="mean"), 0.5) for name in ("a", "b")
  ]
  runs[1].config["model"]["encoder"]["preset"] = "small_3d"
  rows = tables.comparison(runs[0], runs[1:], "test")
  (axes,) = cost_figure.cost_exhibit(rows, "roc_auc", "test").figure.axes
  assert {text.get_text() for text in axes.texts} == {"mean", "densenet3d"}
  assert cost_figure.family("densenet3d") == cost_figure.family("cnn2d")
  assert cost_figure.family("cnn2d") == "convolutional"


def test_one_run_is_no_comparison(tmp_path):
  rows = tables.comparison(with_time(read(tmp_path, "a"), 0.5), [], "test")
  assert cost_figure.cost_exhibit(rows, "roc_auc", "test") is None


@pytest.mark.parametrize("seconds", [None, 0.5])
def test_time_is_the_steps_at_their_median(tmp_path, seconds):
  run = read(tmp_path, "a")
  if seconds:
    with_time(run, seconds)
  assert tables.training_seconds(run.log) == (seconds and 4 * seconds)
