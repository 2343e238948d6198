"""Pictures of a run: curves, a confusion matrix and slices of a scan.

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
from matplotlib import patheffects

from brainjax import records

# Told apart by colour-blind readers: Okabe and Ito, "Color Universal Design",
# 2008. Yellow is left out: it is too light for a line on white.
_COLOURS = (
  "#0072B2",
  "#D55E00",
  "#009E73",
  "#CC79A7",
  "#E69F00",
  "#56B4E9",
  "#000000",
)
_LINES = ("-", "--", "-.", ":")  # a second sign, for print without colour
_STYLE: dict[Any, Any] = {
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
_WINDOW = 2.5  # standard deviations shown from black to white, either side
_MONTAGE_ROWS = 3


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
    ("validation/accuracy", "validation accuracy", "-", _COLOURS[2]),
    ("validation/roc_auc", "validation AUC", "--", _COLOURS[3]),
  ]
  has_scores = any(_series(log_lines, key)[0] for key, *_ in scores)
  with matplotlib.rc_context(_STYLE):
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
    epochs, losses = _series(log_lines, "train/loss")
    panels[0].plot(epochs, losses, color=_COLOURS[0], label="training")
    epochs, losses = _series(log_lines, "validation/loss")
    panels[0].plot(epochs, losses, color=_COLOURS[1], label="validation")
    if losses:
      # The model that is kept; of equal ones it is the later.
      best = len(losses) - 1 - int(np.argmin(losses[::-1]))
      label = f"lowest, epoch {epochs[best]:g}"
      panels[0].plot(
        epochs[best], losses[best], "o", color=_COLOURS[1], label=label
      )
    panels[0].set_ylabel("loss")
    if has_scores:
      for key, label, line, colour in scores:
        panels[1].plot(
          *_series(log_lines, key), line, color=colour, label=label
        )
      panels[1].set_ylabel("score")
      panels[1].set_ylim(top=1.02)
    for panel in panels:
      panel.legend()
    panels[-1].set_xlabel("epoch")
  return figure


def roc_curves(
  curves: Mapping[str, tuple[np.ndarray, np.ndarray]],
  classes: Sequence[str],
  positive: str,
) -> mpl_figure.Figure:
  """Draws receiver operating characteristics.

  Two classes give one curve a model; more give one curve a class, against
  the rest, of a single model. A class without, or with nothing but, its own
  cases has no curve.

  Args:
    curves: Legend text (title, with more than two classes) to f[N,K]
      probabilities and i[N] class indices.
    classes: K names.
    positive: The positive one of two classes; else not looked at.

  Returns:
    The figure.

  Raises:
    ValueError: More than one model with more than two classes.
  """
  if len(classes) == 2:
    lines = [
      (name, probabilities, targets, classes.index(positive))
      for name, (probabilities, targets) in curves.items()
    ]
    title = f"positive: {positive}"
  else:
    if len(curves) != 1:
      raise ValueError(
        f"{len(curves)} models with {len(classes)} classes; draw one model"
      )
    ((title, (probabilities, targets)),) = curves.items()
    lines = [
      (f"{name} (n = {np.sum(targets == k)})", probabilities, targets, k)
      for k, name in enumerate(classes)
    ]
  with matplotlib.rc_context(_STYLE):
    figure = mpl_figure.Figure(
      (4.6, 4.6 + 0.2 * len(lines)), layout="constrained"
    )
    axes = figure.subplots()
    for i, (name, probabilities, targets, k) in enumerate(lines):
      truth = targets == k
      if truth.all() or not truth.any():
        continue
      false_positive_rate, sensitivity, _ = sklearn.metrics.roc_curve(
        truth, probabilities[:, k]
      )
      axes.plot(
        false_positive_rate,
        sensitivity,
        color=_COLOURS[i % len(_COLOURS)],
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
      xlabel="1 - specificity",
      ylabel="sensitivity",
    )
    figure.legend(loc="outside lower center")
  return figure


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
  with matplotlib.rc_context({**_STYLE, "axes.grid": False}):
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


def slice_montage(
  record: records.Record, *, title: str, columns: int
) -> mpl_figure.Figure:
  """Draws slices of a record in grey, and the outline of its tumour mask.

  The first modality that is there is shown, from -2.5 to 2.5 standard
  deviations of the brain. What does not fit in three rows is thinned out
  evenly. An L marks the participant's left.

  Args:
    record: The scan.
    title: Text above the slices.
    columns: Slices side by side.
  """
  num_slices, height, width, _ = record.slices.shape
  num_shown = min(num_slices, columns * _MONTAGE_ROWS)
  shown = np.linspace(0, num_slices - 1, num_shown).round().astype(int)
  channel = int(np.argmax(record.present))
  values = record.intensities()[shown, :, :, channel]
  brain = records.unpack_bits(record.brain_mask[shown], width)
  # Zero is the brain's mean: left as it is, the background would be grey.
  values[~brain & (values == 0)] = -_WINDOW
  image = _tile(values, columns, -_WINDOW)
  image_inches = 8 * image.shape[0] / image.shape[1]
  title_inches = 0.3
  figure_inches = image_inches + title_inches
  with matplotlib.rc_context({**_STYLE, "axes.grid": False}):
    figure = mpl_figure.Figure((8, figure_inches))
    axes = figure.add_axes((0, 0, 1, image_inches / figure_inches))
    axes.imshow(image, cmap="gray", vmin=-_WINDOW, vmax=_WINDOW)
    if record.mask is not None:
      mask = records.unpack_bits(record.mask[shown], width)
      if mask.any():  # matplotlib 3.10 warns of an empty outline
        axes.contour(
          _tile(mask, columns, False),
          levels=[0.5],
          colors=[_COLOURS[4]],
          linewidths=0.7,
        )
    outlined = {
      "color": "white",
      "fontsize": 7,
      "path_effects": [patheffects.withStroke(linewidth=2, foreground="black")],
    }
    for i, index in enumerate(shown):
      label = f"{index + 1}"
      if record.positions_known:
        label = f"{round(float(record.positions_mm[index])):+d} mm"
      row, column = divmod(i, columns)
      x, y = (column + 0.04) * width, (row + 0.95) * height
      axes.text(x, y, label, **outlined)
    if record.geometry.get("plane") in ("axial", "coronal"):
      axes.text(0.04 * width, 0.5 * height, "L", **outlined)
    axes.set_title(title, loc="left")
    axes.set_axis_off()
  return figure


def save_png(figure: mpl_figure.Figure, path: str | os.PathLike[str]) -> None:
  """Writes a PNG, whole or not at all; a figure gives the same bytes twice."""
  with records.replacing(path) as partial, matplotlib.rc_context(_STYLE):
    figure.savefig(partial, format="png", dpi=_DPI, metadata={"Software": None})


def _series(
  log_lines: Sequence[Mapping[str, Any]], key: str
) -> tuple[list[float], list[float]]:
  """Epochs and values of the lines where the key has a finite value."""
  values = [
    (line["epoch"], line[key])
    for line in log_lines
    if line.get(key) is not None and math.isfinite(line[key])
  ]
  return [epoch for epoch, _ in values], [value for _, value in values]


def _tile(images: np.ndarray, columns: int, fill: float) -> np.ndarray:
  """Lays [S,H,W] out as one image, row by row."""
  num_images, height, width = images.shape
  rows = -(-num_images // columns)
  canvas = np.full((rows * columns, height, width), fill, images.dtype)
  canvas[:num_images] = images
  canvas = canvas.reshape(rows, columns, height, width)
  return canvas.swapaxes(1, 2).reshape(rows * height, columns * width)
