"""The pictures of an ablation: ranks, and what a score costs."""

import math
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib import figure as mpl_figure

from brainjax.evaluation import figures

_QUIET = "#666666"


def draw_ranks(
  ranks: Mapping[str, float], cliques: Sequence[Sequence[str]]
) -> mpl_figure.Figure:
  """Draws a critical-difference diagram.

  The axis is the mean rank over folds, 1 at the left; a bar joins heads of
  which no two are shown to differ.

  Args:
    ranks: Mean rank of each head, best first.
    cliques: What `ablation_scores.cliques` returned.

  Source: Demsar 2006, JMLR 7, figure 1.
  """
  names, count = list(ranks), len(ranks)
  half = math.ceil(count / 2)
  with matplotlib.rc_context(figures.STYLE):
    height = 0.9 + 0.16 * len(cliques) + 0.34 * half
    figure = mpl_figure.Figure((5.4, height), layout="constrained")
    axes = figure.subplots()
    axes.hlines(0, 1, count, colors="black", linewidth=1.2)
    for rank in range(1, count + 1):
      axes.vlines(rank, -0.12, 0, colors="black", linewidth=1.2)
      axes.text(rank, -0.2, str(rank), ha="center", va="bottom", fontsize=9)
    for level, clique in enumerate(cliques, start=1):
      places = [ranks[name] for name in clique]
      axes.hlines(
        0.38 * level,
        min(places) - 0.06,
        max(places) + 0.06,
        colors=figures.COLOURS[0],
        linewidth=4,
      )
    below = 0.38 * (len(cliques) + 1) + 0.25
    for place, name in enumerate(names):
      left = place < half
      y = below + 0.8 * (place if left else count - 1 - place)
      x = 0.6 if left else count + 0.4
      axes.plot(
        [ranks[name], ranks[name], x], [0, y, y], color=_QUIET, linewidth=0.9
      )
      axes.text(
        x,
        y,
        f"{name}  {ranks[name]:.1f} "
        if left
        else f" {ranks[name]:.1f}  {name}",
        ha="right" if left else "left",
        va="center",
        fontsize=9,
      )
    reach = 0.35 * count
    axes.set(
      xlim=(1 - reach, count + reach), ylim=(below + 0.8 * (half - 0.4), -0.9)
    )
    axes.set_title("mean rank over folds, 1 = best", fontsize=9)
    axes.axis("off")
  return figure


def draw_costs(
  points: Mapping[str, tuple[float, Mapping[str, float | None]]],
  *,
  metric: str,
  what: str,
) -> mpl_figure.Figure:
  """Draws the score of each head, with its interval, against what it costs.

  Args:
    points: Of each head, the cost and `{"value", "low", "high"}`.
    metric: Name of the score.
    what: Name of the cost, with its unit.
  """
  with matplotlib.rc_context(figures.STYLE):
    figure = mpl_figure.Figure((5.4, 3.6), layout="constrained")
    axes = figure.subplots()
    for number, (name, (cost, score)) in enumerate(points.items()):
      colour = figures.COLOURS[number % len(figures.COLOURS)]
      if score["low"] is not None and score["high"] is not None:
        axes.vlines(
          cost, score["low"], score["high"], colors=colour, linewidth=1.2
        )
      value = np.nan if score["value"] is None else score["value"]
      axes.plot(cost, value, "o", color=colour, markersize=6)
      axes.annotate(
        name,
        (cost, value),
        (5, 4 if number % 2 else -10),
        textcoords="offset points",
        fontsize=8.5,
      )
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda value, place: f"{value:g}")
    axes.xaxis.set_minor_formatter(lambda value, place: "")
    axes.margins(x=0.2)
    axes.set(xlabel=what, ylabel=f"{metric}, 95 % intervals")
  return figure
