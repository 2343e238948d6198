"""The curves of the comparators beside that of the run.

It answers to figure 7 of the source paper: a picture for each kind of features.
"""

from collections.abc import Mapping
from typing import Any

import matplotlib
import numpy as np
from matplotlib import figure as mpl_figure

from brainjax.evaluation import exhibits, figures, run_files, verdict
from brainjax.evaluation.run_files import Run

Curve = tuple[np.ndarray, np.ndarray]  # false positive rate, sensitivity

# Of unlike number, so that a colour comes again with another line.
_COLOURS = figures.COLOURS[1:]
_LINES = ("--", "-.", ":", (0, (6, 1)))


def baseline_scores(run: Run, split: str) -> dict[str, Any]:
  """Returns the scores of the comparators; none if of other parameters."""
  kept = run.metrics.get("baselines", {}).get(split)
  if not kept or kept["step"] != run.metrics[split].get("step"):
    return {}
  return kept["scores"]


def baselines_exhibits(run: Run, split: str) -> list[exhibits.Exhibit]:
  """Shows the comparators' curves, a picture a kind of features.

  Two classes give the curve of the positive one, more the mean of the curves
  of each class against the rest. There is none if no comparator was scored.
  """
  scores = baseline_scores(run, split)
  if not scores:
    return []
  rows = run_files.read_csv(run.path / f"baselines_{split}.csv")
  people = [row for row in run.participants if row["split"] == split]

  def text(name, score):
    return f"{name} {verdict.score_text(score['roc_auc'])}"

  own = {text("this run", run.metrics[split]): _curve(run, people)}
  panels: dict[str, dict[str, Curve]] = {}
  for name, score in scores.items():
    comparator, _, kind = name.partition(", ")
    curve = _curve(run, [row for row in rows if row["model"] == name])
    panels.setdefault(kind, dict(own))[text(comparator, score)] = curve
  return [
    exhibits.Exhibit(
      f"roc_baselines_{number}.png",
      f"Receiver operating characteristic on the {split} split, n ="
      f" {len(people)} participants, of this run and of comparators on {kind},"
      f" AUC: {'; '.join(curves)}.",
      draw_curves(curves, title=f"{kind} (n = {len(people)})"),
    )
    for number, (kind, curves) in enumerate(panels.items(), start=1)
  ]


def draw_curves(
  curves: Mapping[str, Curve], *, title: str
) -> mpl_figure.Figure:
  """Draws curves by name, the first, which is the run's, above the others."""
  with matplotlib.rc_context(figures.STYLE):
    figure = mpl_figure.Figure(
      (4.6, 5.1 + 0.22 * len(curves)), layout="constrained"
    )
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="#888888", linewidth=1)
    for i, (name, curve) in enumerate(curves.items()):
      axes.plot(
        *curve,
        color=_COLOURS[(i - 1) % len(_COLOURS)] if i else figures.COLOURS[0],
        linestyle=_LINES[(i - 1) % len(_LINES)] if i else "-",
        linewidth=1.2 if i else 2.4,
        zorder=2 if i else 3,
        label=name,
      )
    axes.set(
      xlim=(0, 1),
      ylim=(0, 1.005),
      aspect="equal",
      title=title,
      xlabel="1 \N{MINUS SIGN} specificity",
      ylabel="sensitivity",
    )
    figure.legend(loc="outside lower center")
  return figure


def _curve(run: Run, rows: list[dict[str, str]]) -> Curve:
  answers = run_files.answers(rows, run.model["classes"])
  none = np.full(1, np.nan)
  return figures.roc_curve(*answers, run.shown) or (none, none)
