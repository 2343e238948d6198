"""The intervals are drawn where they are, and all of them are there."""

import pytest
from tiny_run import score

from brainjax.evaluation import forest

ESTIMATES = [
  forest.Estimate("lstm", "run", score(0.8, 0.7, 0.9), 40),
  forest.Estimate("gru", "compared", score(0.75, 0.6, 0.85), 40),
  forest.Estimate("image header alone", "shortcut", score(0.5, 0.22, 0.6), 39),
  forest.Estimate("histogram", "shortcut", score(0.4), 39),
  forest.Estimate("nothing", "shortcut", score(None), 1),
]


def draw(estimates=ESTIMATES, chance=0.5):
  metric = "balanced accuracy on the validation split"
  figure = forest.draw_forest(estimates, metric=metric, chance=chance)
  figure.draw_without_rendering()  # which lays it out
  return figure.axes[0]


def test_every_score_has_its_interval_marker_and_numbers():
  axes = draw()
  chance = [line.get_segments()[0] for line in axes.collections]
  assert len(chance) == len(ESTIMATES)
  assert all((ends[:, 0] == 0.5).all() for ends in chance)
  drawn = [
    (list(line.get_xdata()), list(line.get_ydata()))
    for line in axes.get_lines()
  ]
  assert drawn == [
    ([0.7, 0.9], [0, 0]),
    ([0.8], [0]),
    ([0.6, 0.85], [1, 1]),
    ([0.75], [1]),
    ([0.22, 0.6], [2, 2]),
    ([0.5], [2]),
    ([0.4], [3]),
  ]
  assert [text.get_text() for text in axes.texts] == [
    " chance 0.50",
    *("0.80 [0.70, 0.90], n = 40", "lstm"),
    *("0.75 [0.60, 0.85], n = 40", "gru"),
    *("0.50 [0.22, 0.60], n = 39", "image header alone"),
    *("0.40, n = 39", "histogram"),
    *("undefined, n = 1", "nothing"),
  ]
  assert axes.get_xlim() == (0.2, 1.0)
  first, last = axes.get_ylim()
  assert first > last  # the first estimate is on top
  # The run's interval goes through all rows.
  (band,) = axes.patches
  assert (band.get_x(), band.get_width()) == pytest.approx((0.7, 0.2))


def test_a_score_without_a_level_of_chance_has_no_line_of_it():
  axes = draw(chance=None)
  assert not axes.collections
  assert axes.texts[0].get_text() == "0.80 [0.70, 0.90], n = 40"


def test_kinds_differ_by_more_than_colour():
  lines = draw().get_lines()
  markers = [lines[i].get_marker() for i in (1, 3, 5)]
  assert len(set(markers)) == 3
  assert lines[0].get_linestyle() != lines[4].get_linestyle()


def test_a_long_name_keeps_its_ends_and_the_numbers_their_room():
  name = "densenet1d on densenet121 (" + "very-" * 20 + "long)"
  estimates = [forest.Estimate(name, "run", score(0.8, 0.7, 0.9), 40)]
  axes = draw(estimates)
  _, numbers, label = axes.texts
  assert label.get_text().startswith("densenet1d on")
  assert label.get_text().endswith("very-long)")
  figure = axes.get_figure()
  assert axes.xaxis.label.get_window_extent().x0 >= figure.bbox.x0
  for text in (numbers, label, axes.xaxis.label):
    assert text.get_window_extent().x1 <= figure.bbox.x1
  wide = draw([estimates[0]._replace(name="W" * 60)])
  assert axes.get_window_extent().width == wide.get_window_extent().width
  assert axes.get_window_extent().width > 0.5 * figure.bbox.width


def test_nothing_but_undefined_scores():
  axes = draw([forest.Estimate("lstm", "run", score(None), 3)], chance=1 / 3)
  assert not axes.get_lines()
  assert axes.get_xlim() == (0.3, 1.0)
