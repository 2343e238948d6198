"""The reliability diagram: what was promised against what came true."""

import matplotlib
import numpy as np
from matplotlib import figure as mpl_figure

from brainjax.evaluation import exhibits, figures, run_files
from brainjax.evaluation.run_files import Run
from brainjax.metrics import calibration, statistics

_MOST_BINS, _FEWEST_ROWS = 10, 8  # bins, and rows in one of them


def reliability_exhibit(run: Run, split: str) -> exhibits.Exhibit:
  """Shows how often participants were what the run said, by how sure it was.

  Of a binary task that is the positive class; of more classes the answer,
  whichever it is.
  """
  people = [row for row in run.participants if row["split"] == split]
  classes, positive = run.model["classes"], run.model["positive"]
  probabilities, targets = run_files.answers(people, classes)
  if len(classes) == 2:
    index, what = classes.index(positive), f"are {positive}"
    confidence, came_true = probabilities[:, index], targets == index
  else:
    what, confidence = "are the class predicted", probabilities.max(1)
    came_true = probabilities.argmax(1) == targets
  num_bins = min(_MOST_BINS, max(2, len(people) // _FEWEST_ROWS))
  bins = calibration.reliability(confidence, came_true, bins=num_bins)
  said = "; ".join(
    f"{true} of {rows} where {mean:.2f} was said"
    for mean, rows, true in zip(*bins, strict=True)
  )
  return exhibits.Exhibit(
    "reliability.png",
    f"Reliability on the {split} split, n = {len(people)} participants, in"
    f" {len(bins.rows)} bins of equal mass: how many {what}. {said}.",
    draw_reliability(bins, what),
  )


def draw_reliability(
  bins: calibration.Reliability, what: str
) -> mpl_figure.Figure:
  """Draws the fraction that came true, with Wilson intervals, by bin."""
  fraction = bins.true / bins.rows
  low, high = np.transpose(
    [
      statistics.wilson_interval(int(true), int(rows))
      for true, rows in zip(bins.true, bins.rows, strict=True)
    ]
  )
  reach = np.maximum([fraction - low, high - fraction], 0)  # of rounding
  with matplotlib.rc_context(figures.STYLE):
    figure = mpl_figure.Figure((4.6, 4.6), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="#888888", linewidth=1, label="calibrated")
    axes.errorbar(
      bins.confidence,
      fraction,
      yerr=reach,
      fmt="o-",
      color=figures.COLOURS[0],
      elinewidth=1,
      capsize=2,
      label="this run",
      clip_on=False,
    )
    axes.set(
      xlim=(0, 1),
      ylim=(0, 1),
      aspect="equal",
      xlabel="mean probability given",
      ylabel=f"fraction that {what}",
    )
    figure.legend(loc="outside lower center", ncols=2)
  return figure
