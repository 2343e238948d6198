"""Pictures of a run: curves and a confusion matrix.

Every function returns a matplotlib `Figure` that no global state knows of.
Figures are drawn narrow, so that their text stays readable on a phone.
"""

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
import sklearn.metrics
from matplotlib import figure as mpl_figure

from brainjax import records
from brainjax.metrics import multiclass

# Told apart by colour-blind readers: Okabe and Ito, "Color Universal Design",
# 2008. Yellow is left out: it is too light for a line on white.
COLOURS = (
  "#0072B2",
  "#D55E00",
  "#009E73",
  "#CC79A7",
  "#E69F00",
  "#56B4E9",
  "#000000",
)
_RATES = np.linspace(0, 1, 201)  # at which curves of several classes are joined
_LINES = ("-", "--", "-.", ":")  # a second sign, for print without colour
STYLE: dict[Any, Any] = {
  "font.family": "DejaVu Sans",  # comes with matplotlib
  "font.size": 10.0,
  "axes.titlesize": 10.0,
  "axes.spines.top": False,
  "axes.spines.right": False,
  "axes.grid": True,
  "grid.color": "#e4e4e4",
  "lines.linewidth": 1.8,
  "legend.frameon": False,
  "text.parse_math": False,  # an id may hold a dollar sign
}
_DPI = 160


def learning_curves(
  log_lines: Sequence[Mapping[str, Any]],
) -> mpl_figure.Figure:
  """Draws loss, and below it validation accuracy and AUC, against the epoch.

  Args:
    log_lines: The lines of `metrics.jsonl`; each has its "epoch", other keys
      may be absent, values None or not finite.

  Returns:
    One panel, or two if any validation accuracy or AUC was logged.
  """
  scores = [
    ("validation/accuracy", "validation accuracy", "-", COLOURS[2]),
    ("validation/roc_auc", "validation AUC", "--", COLOURS[3]),
  ]
  has_scores = any(series(log_lines, key)[0] for key, *_ in scores)
  with matplotlib.rc_context(STYLE):
    figure = mpl_figure.Figure(
      (5.4, 4.6 if has_scores else 3.0), layout="constrained"
    )
    panels = figure.subplots(
      1 + has_scores,
      1,
      sharex=True,
      squeeze=False,
      height_ratios=[3, 2][: 1 + has_scores],
    )[:, 0]
    epochs, losses = series(log_lines, "train/loss")
    panels[0].plot(epochs, losses, color=COLOURS[0], label="training")
    epochs, losses = series(log_lines, "validation/loss")
    panels[0].plot(epochs, losses, "--", color=COLOURS[1], label="validation")
    if losses:
      best = lowest(losses)
      label = f"lowest, epoch {epochs[best]:g}"
      panels[0].plot(
        epochs[best], losses[best], "o", color=COLOURS[1], label=label
      )
    panels[0].set_ylabel("loss")
    if has_scores:
      for key, label, line, colour in scores:
        panels[1].plot(*series(log_lines, key), line, color=colour, label=label)
      panels[1].set_ylabel("score")
      panels[1].set_ylim(top=1.02)
    for panel in panels:
      panel.legend(loc="lower left", bbox_to_anchor=(-0.02, 1), ncols=3)
    panels[-1].set_xlabel("epoch")
  return figure


def roc_curves(
  curves: Mapping[str, tuple[np.ndarray, np.ndarray]],
  classes: Sequence[str],
  positive: str,
) -> mpl_figure.Figure:
  """Draws receiver operating characteristics.

  Two classes give one curve a model. More give one curve a class, against
  the rest, of a single model; of several models the mean of those. A class
  without, or with nothing but, its own cases has no curve.

  Args:
    curves: Legend text (title, of a single model with more than two classes)
      to f[N,K] probabilities and i[N] class indices.
    classes: K names.
    positive: The positive one of two classes; else not looked at.
  """
  if len(classes) > 2 and len(curves) == 1:
    ((title, (probabilities, targets)),) = curves.items()
    areas = multiclass.one_vs_rest_auc(probabilities, targets)
    lines = [
      (
        f"{name} (n = {np.sum(targets == k)}) AUC {areas[k]:.2f}",
        roc_curve(probabilities, targets, [k]),
      )
      for k, name in enumerate(classes)
    ]
  else:
    title, shown = "mean of each class against the rest", range(len(classes))
    if len(classes) == 2:
      title, shown = f"positive: {positive}", [classes.index(positive)]
    lines = [
      (name, roc_curve(*answers, shown)) for name, answers in curves.items()
    ]
  with matplotlib.rc_context(STYLE):
    # Too low a figure and the layout lays the legend over the axis.
    texts = [title, "chance", *(name for name, _ in lines)]
    rows = sum(1 + text.count("\n") for text in texts)
    figure = mpl_figure.Figure((4.6, 4.9 + 0.22 * rows), layout="constrained")
    axes = figure.subplots()
    for i, (name, curve) in enumerate(lines):
      if curve is None:
        continue
      axes.plot(
        *curve,
        color=COLOURS[i % len(COLOURS)],
        linestyle=_LINES[i % len(_LINES)],
        label=name,
        clip_on=False,
      )
    axes.plot([0, 1], [0, 1], color="#888888", linewidth=1, label="chance")
    axes.set(
      xlim=(0, 1),
      ylim=(0, 1),
      aspect="equal",
      title=title,
      xlabel="1 \N{MINUS SIGN} specificity",
      ylabel="sensitivity",
    )
    figure.legend(loc="outside lower center")
  return figure


def roc_curve(
  probabilities: np.ndarray, targets: np.ndarray, shown: Sequence[int]
) -> tuple[np.ndarray, np.ndarray] | None:
  """Returns false positive rates and sensitivities, f[R] each.

  Args:
    probabilities: f[N,K].
    targets: i[N] class indices.
    shown: Of these classes, each against the rest, it is the mean; classes
      without, or with nothing but, their own cases are left out.

  Returns:
    The curve; None if every class is left out.
  """
  curves = []
  for k in shown:
    truth, scores = targets == k, probabilities[:, k]
    if probabilities.shape[1] == 2:
      # Files round to 1 what is near, which would tie it.
      scores = scores - probabilities[:, 1 - k]
    if truth.any() and not truth.all():
      curves.append(sklearn.metrics.roc_curve(truth, scores)[:2])
  if len(curves) < 2:
    return curves[0] if curves else None
  return _RATES, np.mean([np.interp(_RATES, *c) for c in curves], axis=0)


def confusion_matrix(
  matrix: Sequence[Sequence[int]] | np.ndarray, classes: Sequence[str]
) -> mpl_figure.Figure:
  """Draws counts, and the percentage of each true class.

  Args:
    matrix: i[K,K] counts; rows are the true class, columns the predicted.
    classes: K names.
  """
  counts = np.asarray(matrix)
  share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
  with matplotlib.rc_context({**STYLE, "axes.grid": False}):
    figure = mpl_figure.Figure((4.6, 4.4), layout="constrained")
    axes = figure.subplots()
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for (i, j), count in np.ndenumerate(counts):
      axes.text(
        j,
        i,
        f"{count}\n{share[i, j]:.0%}",
        ha="center",
        va="center",
        color="white" if share[i, j] > 0.55 else "black",
      )
    axes.set_xticks(range(len(classes)), classes)
    axes.set_yticks(range(len(classes)), classes, rotation=90, va="center")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set(xlabel="predicted class", ylabel="true class")
  return figure


def save_png(figure: mpl_figure.Figure, path: str | os.PathLike[str]) -> None:
  """Writes a PNG, whole or not at all; a figure gives the same bytes twice."""
  with records.replacing(path) as partial, matplotlib.rc_context(STYLE):
    figure.savefig(partial, format="png", dpi=_DPI, metadata={"Software": None})


def series(
  log_lines: Sequence[Mapping[str, Any]], key: str
) -> tuple[list[float], list[float]]:
  """Returns epochs and values of the lines where the key is finite."""
  values = [
    (line["epoch"], line[key])
    for line in log_lines
    if line.get(key) is not None and math.isfinite(line[key])
  ]
  return [epoch for epoch, _ in values], [value for _, value in values]


def lowest(losses: Sequence[float]) -> int:
  """Returns the index of the model that is kept: of equal ones the later.

  >>> lowest([0.7, 0.5, 0.5, 0.6])
  2
  """
  return len(losses) - 1 - int(np.argmin(losses[::-1]))
