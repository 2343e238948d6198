"""The curves of the comparators beside that of the run, in one picture.

It answers to figure 7 of the source paper: one panel for each kind of features.
"""

from collections.abc import Mapping
from typing import Any

import matplotlib
import numpy as np
import sklearn.metrics
from matplotlib import figure as mpl_figure

from brainjax.evaluation import exhibits, figures, run_files, verdict
from brainjax.evaluation.run_files import Run

_STEPS = np.linspace(0, 1, 201)  # of the false positive rate
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
  panels: dict[str, dict[str, np.ndarray]] = {}
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
  own: np.ndarray, panels: Mapping[str, Mapping[str, np.ndarray]], *, n: int
) -> mpl_figure.Figure:
  """Draws f64[201] sensitivities by panel and name, and the run's in each."""
  with matplotlib.rc_context(figures.STYLE):
    figure = mpl_figure.Figure((4.6, 6.4 * len(panels)), layout="constrained")
    parts = figure.subfigures(len(panels), 1, squeeze=False)[:, 0]
    for part, (kind, curves) in zip(parts, panels.items(), strict=True):
      axes = part.subplots()
      axes.plot([0, 1], [0, 1], color="#888888", linewidth=1)
      for i, (name, curve) in enumerate(curves.items()):
        axes.plot(
          _STEPS,
          curve,
          color=figures.COLOURS[(i + 1) % len(figures.COLOURS)],
          linestyle=_LINES[i % len(_LINES)],
          linewidth=1.2,
          label=name,
        )
      axes.plot(
        _STEPS, own, color=figures.COLOURS[0], linewidth=2.4, label="this run"
      )
      axes.set(
        xlim=(0, 1),
        ylim=(0, 1.005),
        aspect="equal",
        title=f"{kind} (n = {n})",
        xlabel="1 \N{MINUS SIGN} specificity",
        ylabel="sensitivity",
      )
      part.legend(loc="outside lower center")
  return figure


def _curve(run: Run, rows: list[dict[str, str]]) -> np.ndarray:
  """Returns f64[201] sensitivities at `_STEPS`."""
  classes = run.model["classes"]
  shown = [run.model["positive"]] if len(classes) == 2 else classes
  curves = []
  for name in shown:
    truth = np.array([row["true_label"] == name for row in rows])
    if truth.all() or not truth.any():
      continue
    scores = [float(row[f"proba_{name}"]) for row in rows]
    # Steps, as the curve of few rows has them: the best reached so far.
    rates, sensitivity, _ = sklearn.metrics.roc_curve(truth, scores)
    curves.append(sensitivity[np.searchsorted(rates, _STEPS, "right") - 1])
  return np.mean(curves, axis=0) if curves else np.full(len(_STEPS), np.nan)
