"""What a model's score costs: the metric of the verdict against training time.

Source: the comparison of recurrent and convolutional models by accuracy and
training time in the source paper, table 3; here with intervals.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib
from matplotlib import figure as mpl_figure

from brainjax import config as config_lib
from brainjax.evaluation import exhibits, figures, tables, verdict

# Colour and marker of each kind of head.
_FAMILIES = {
  "recurrent": (figures.COLOURS[0], "o"),
  "convolutional": (figures.COLOURS[1], "s"),
  "pooling or attention": (figures.COLOURS[2], "^"),
}
_RECURRENT = ("lstm", "gru", "mingru", "minlstm", "lru")
_CONVOLUTIONAL = (
  "densenet1d",
  "image2d",
  "seqconv",
  "tcn",
  *config_lib.NETWORKS,
)


class Point(NamedTuple):
  """One run; the score as in metrics.json."""

  name: str
  head: str
  seconds: float
  score: Mapping[str, float | None]


def cost_exhibit(
  comparison: Sequence[Mapping[str, Any]],
  metric: str,
  split: str,
) -> exhibits.Exhibit | None:
  """Shows runs that can be compared; None if there are fewer than two.

  Args:
    comparison: Rows of `tables.comparison`.
    metric: Of `verdict.METRICS`.
    split: Whose scores.
  """
  points = []
  for row in comparison:
    if row["run"] is None or row["note"]:
      continue
    seconds = tables.training_seconds(row["run"].log)
    score = row["scores"][metric]
    if seconds and score["value"] is not None:
      model = row["run"].config["model"]
      head = config_lib.network_of(model) or model["head"]["name"]
      points.append(Point(row["name"], head, seconds, score))
  if len(points) < 2:
    return None
  said = "; ".join(
    f"{p.name}, {p.seconds:.0f} s, {verdict.score_text(p.score)}"
    for p in points
  )
  name = verdict.METRICS[metric]
  return exhibits.Exhibit(
    "training_time.png",
    f"{name} on the {split} split against training time: {said}.",
    draw_costs(points, f"{name} on the {split} split"),
  )


def family(head: str) -> str:
  """Returns which kind of sequence model a head, or a network, is.

  >>> family("gru"), family("tcn"), family("mean")
  ('recurrent', 'convolutional', 'pooling or attention')
  """
  if head in _RECURRENT:
    return "recurrent"
  return "convolutional" if head in _CONVOLUTIONAL else "pooling or attention"


def draw_costs(points: Sequence[Point], metric: str) -> mpl_figure.Figure:
  """Draws each run as a point with its interval, named beside it."""
  with matplotlib.rc_context(figures.STYLE):
    figure = mpl_figure.Figure((5.4, 3.4), layout="constrained")
    axes = figure.subplots()
    for kind, (colour, marker) in _FAMILIES.items():
      shown = [p for p in points if family(p.head) == kind]
      for i, point in enumerate(shown):
        value = point.score["value"] or 0.0
        low, high = point.score["low"], point.score["high"]
        axes.plot(
          point.seconds,
          value,
          marker,
          color=colour,
          label=None if i else kind,
        )
        if low is not None and high is not None:
          axes.plot([point.seconds] * 2, [low, high], color=colour)
        axes.annotate(
          point.head,
          (point.seconds, value),
          xytext=(5, 4),
          textcoords="offset points",
          fontsize=8,
        )
    axes.set_xlim(0, 1.15 * max(point.seconds for point in points))
    axes.set_xlabel("training time, seconds")
    axes.set_ylabel(metric)
    axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 1), ncols=3)
  return figure
