"""The curves of the comparators beside that of the run, in one picture.

It answers to figure 7 of the source paper: one panel for each kind of features.
"""

from collections.abc import Mapping
from typing import Any

import matplotlib
import numpy as np
from matplotlib import figure as mpl_figure

from brainjax.evaluation import exhibits, figures, run_files, verdict
from brainjax.evaluation.run_files import Run

Curve = tuple[np.ndarray, np.ndarray]  # false positive rate, sensitivity

_LINES = ("--", "-.", ":")


def baseline_scores(run: Run, split: str) -> dict[str, Any]:
  """Returns the scores of the comparators; none if of other parameters."""
  kept = run.metrics.get("baselines", {}).get(split)
  if not kept or kept["step"] != run.metrics[split].get("step"):
    return {}
  return kept["scores"]


def baselines_exhibit(run: Run, split: str) -> exhibits.Exhibit | None:
  """Shows the comparators' curves; None if none were scored.

  Two classes give the curve of the positive one, more the mean of the curves
  of each class against the rest.
  """
  scores = baseline_scores(run, split)
  if not scores:
    return None
  rows = run_files.read_csv(run.path / f"baselines_{split}.csv")
  people = [row for row in run.participants if row["split"] == split]
  own = _curve(run, people)
  panels: dict[str, dict[str, Curve]] = {}
  said = [f"this run {verdict.score_text(run.metrics[split]['roc_auc'])}"]
  for name, score in scores.items():
    comparator, _, kind = name.partition(", ")
    curve = _curve(run, [row for row in rows if row["model"] == name])
    text = f"{comparator} {verdict.score_text(score['roc_auc'])}"
    panels.setdefault(kind, {})[text] = curve
    said.append(f"{name} {verdict.score_text(score['roc_auc'])}")
  return exhibits.Exhibit(
    "roc_baselines.png",
    f"Receiver operating characteristic on the {split} split, n = {len(people)}"
    f" participants, of this run and of comparators, AUC: {'; '.join(said)}.",
    draw_panels(own, panels, n=len(people)),
  )


def draw_panels(
  own: Curve, panels: Mapping[str, Mapping[str, Curve]], *, n: int
) -> mpl_figure.Figure:
  """Draws curves by panel and name, and the run's own in each."""
  with matplotlib.rc_context(figures.STYLE):
    figure = mpl_figure.Figure((4.6, 7.3 * len(panels)), layout="constrained")
    places = figure.subplots(len(panels), 1, squeeze=False)[:, 0]
    for axes, (kind, curves) in zip(places, panels.items(), strict=True):
      axes.plot([0, 1], [0, 1], color="#888888", linewidth=1)
      for i, (name, curve) in enumerate(curves.items()):
        axes.plot(
          *curve,
          color=figures.COLOURS[(i + 1) % len(figures.COLOURS)],
          linestyle=_LINES[i % len(_LINES)],
          linewidth=1.2,
          label=name,
        )
      axes.plot(*own, color=figures.COLOURS[0], linewidth=2.4, label="this run")
      axes.set(
        xlim=(0, 1),
        ylim=(0, 1.005),
        aspect="equal",
        title=f"{kind} (n = {n})",
        xlabel="1 \N{MINUS SIGN} specificity",
        ylabel="sensitivity",
      )
      axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12))
  return figure


def _curve(run: Run, rows: list[dict[str, str]]) -> Curve:
  answers = run_files.answers(rows, run.model["classes"])
  none = np.full(1, np.nan)
  return figures.roc_curve(*answers, run.shown) or (none, none)
