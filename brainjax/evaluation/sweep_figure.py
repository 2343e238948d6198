"""The picture of a sweep: the criterion against every field, and the time."""

import math
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib import figure as mpl_figure
from matplotlib import ticker

from brainjax.evaluation import figures, verdict
from brainjax.training import search

_WIDE_RATIO = 10  # of the largest value to the smallest: a logarithmic axis
_MOST_GROUPS = 8  # values of several runs each, drawn side by side
_SPREAD = 0.25  # of runs with the same value, to either side; 1 = to the next


def sweep_figure(
  rows: Sequence[dict[str, Any]], fields: Sequence[str], best: str
) -> mpl_figure.Figure:
  """Draws a panel a field, and one of the training time.

  Args:
    rows: Of `sweep.csv`; those without a value are left out and counted.
    fields: Dotted names of the fields that vary.
    best: Name of the run to point out.

  Returns:
    Panels in two columns, with one scale of the criterion.
  """
  done = [row for row in rows if row["value"] is not None]
  metric = verdict.METRICS[done[0]["metric"]]
  shorts = search.short_names(fields)
  panels = [*fields, "seconds"]
  lines = math.ceil(len(panels) / 2)
  with matplotlib.rc_context(figures.STYLE):
    figure = mpl_figure.Figure((5.4, 0.7 + 2.1 * lines), layout="constrained")
    axes = figure.subplots(lines, 2, sharey=True, squeeze=False)
    for axis, panel in zip(axes.flat, panels, strict=False):
      _draw(axis, done, panel, best)
      axis.set_xlabel(shorts.get(panel, "training seconds"))
    for axis in axes.flat[len(panels) :]:
      axis.remove()
    figure.supylabel(f"validation {metric}", fontsize="medium")
    left_out = len(rows) - len(done)
    title = f"{len(done)} runs, 95 % intervals; orange: the best"
    if left_out:
      title += f"\n{left_out} of {len(rows)} have no value and are not shown"
    figure.suptitle(title, fontsize="medium")
  return figure


def _draw(
  axis: Any, rows: Sequence[dict[str, Any]], panel: str, best: str
) -> None:
  values = [row[panel] for row in rows]
  places = _place(axis, values, measured=panel == "seconds")
  for row, place in zip(rows, places, strict=True):
    chosen = row["run"] == best
    colour = figures.COLOURS[1] if chosen else "#888888"
    if row["low"] is not None:
      axis.plot(
        [place, place],
        [row["low"], row["high"]],
        color=colour,
        linewidth=1.4 if chosen else 0.6,
        alpha=1.0 if chosen else 0.5,
      )
    face = colour if chosen else figures.COLOURS[0]
    axis.plot(place, row["value"], "o", color=face, markersize=5, zorder=3)


def _place(axis: Any, values: Sequence[Any], *, measured: bool) -> np.ndarray:
  """Sets the axis up for the values and returns where each one stands."""
  numbers = all(
    isinstance(value, int | float) and not isinstance(value, bool)
    for value in values
  )
  distinct = sorted(set(values), key=None if numbers else str)
  alone = len(distinct) == len(values) or len(distinct) > _MOST_GROUPS
  if numbers and (measured or alone):
    if distinct[0] > 0 and distinct[-1] >= _WIDE_RATIO * distinct[0]:
      axis.set_xscale("log")
      axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
      axis.xaxis.set_minor_formatter(ticker.NullFormatter())
    return np.array(values, float)
  # A few values, each of several runs, which stand side by side.
  axis.set_xticks(range(len(distinct)), [str(value) for value in distinct])
  axis.set_xlim(-0.5, len(distinct) - 0.5)
  axis.grid(visible=False, axis="x")
  places = np.array([distinct.index(value) for value in values], float)
  for k in range(len(distinct)):
    here = np.flatnonzero(places == k)
    places[here] += np.linspace(-_SPREAD, _SPREAD, len(here) + 2)[1:-1]
  return places
