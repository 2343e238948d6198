"""The picture of the verdict: scores with their intervals, and chance."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import matplotlib
from matplotlib import figure as mpl_figure

from brainjax.evaluation import figures
from brainjax.evaluation.verdict import score_text

_QUIET = "#666666"
# Colour, marker and line of what a score was made by.
_KINDS = {
  "run": (figures.COLOURS[0], "o", "-"),
  "compared": (figures.COLOURS[6], "s", "-"),
  "shortcut": (figures.COLOURS[1], "D", (0, (3, 1.5))),
}
_NAME_CHARACTERS = 52


class Estimate(NamedTuple):
  """A score of something: of what, by what kind of model, over how many."""

  name: str
  kind: str  # "run" | "compared" | "shortcut"
  score: Mapping[str, float | None]
  n: int


def draw_forest(
  estimates: Sequence[Estimate], *, metric: str, chance: float | None
) -> mpl_figure.Figure:
  """Draws scores with their intervals below each other, and chance.

  The interval of the first one goes through as a band, so that an overlap
  shows.

  Args:
    estimates: From top to bottom; the first is what the picture is about.
    metric: Name of the score.
    chance: Its level without any skill; None if it has none of its own.
  """
  rows = len(estimates)
  values = [v for e in estimates for v in e.score.values()] + [chance]
  lowest = min((v for v in values if v is not None), default=0.5)
  lowest = math.floor(10 * (lowest - 0.02)) / 10
  with matplotlib.rc_context(figures.STYLE):
    figure = mpl_figure.Figure((5.0, 0.75 + 0.52 * rows), layout="constrained")
    axes = figure.subplots()
    if chance is not None:
      axes.text(
        chance, rows - 0.45, f" chance {chance:.2f}", color=_QUIET, fontsize=8.5
      )
    for y, (name, kind, score, n) in enumerate(estimates):
      colour, marker, line = _KINDS[kind]
      if chance is not None:
        # Beside the interval alone: through the names it would hide letters.
        ends = y - 0.22, y + 0.42
        axes.vlines(chance, *ends, colors=_QUIET, linestyles=":", linewidth=1.4)
      low, high = score["low"], score["high"]
      if low is not None and high is not None:
        if y == 0:
          axes.axvspan(low, high, color=colour, alpha=0.1, linewidth=0)
        axes.plot(
          [low, high], [y, y], color=colour, linestyle=line, linewidth=2.2
        )
      if score["value"] is not None:
        axes.plot(score["value"], y, marker, color=colour, markersize=7)
      style = {
        "transform": axes.get_yaxis_transform(),
        "fontsize": 9,
        "weight": "bold" if kind == "run" else "normal",
      }
      text = f"{score_text(score)}, n = {n}"
      axes.text(1.03, y, text, va="center", **style)
      # A long one reaches beyond the axes, which must not give way.
      axes.text(0, y - 0.3, _shortened(name), in_layout=False, **style)
    axes.set(
      xlim=(lowest, 1.0),
      ylim=(rows - 0.3, -0.75),
      yticks=[],
    )
    axes.set_xlabel(f"{metric}, 95 % intervals", loc="left", fontsize=9)
    axes.spines["left"].set_visible(False)
    axes.grid(visible=False)
  return figure


def _shortened(name: str) -> str:
  """Leaves out the middle of a long name."""
  if len(name) <= _NAME_CHARACTERS:
    return name
  half = (_NAME_CHARACTERS - 1) // 2
  return f"{name[:half]}\N{HORIZONTAL ELLIPSIS}{name[-half:]}"
