"""The picture of the draws that a run's training scans are varied by."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib import figure as mpl_figure
from scipy import ndimage

from brainjax.evaluation import exhibits, figures, montage
from brainjax.evaluation.run_files import Run

_WINDOW = 2.5  # standard deviations shown from black to white, either side
_WIDTH = 8.0  # of the picture; this and what follows in inches
_TITLE = 0.2
_CAPTION = 0.2  # of a row


def augmentation_exhibit(run: Run) -> tuple[exhibits.Exhibit, str] | None:
  """Shows scans as prepared and as varied; None if nothing was kept.

  Returns:
    The picture, and the ranges of its draws in words.
  """
  file = run.path / "augmentation.npz"
  if not file.is_file():
    return None
  scans = {int(scan["record_index"]): scan for scan in run.scans}
  rows, captions = [], []
  with open(file, "rb") as opened, np.load(opened, allow_pickle=False) as kept:
    ranges = describe(json.loads(str(kept["ranges"])))
    for name in sorted((n for n in kept if n.isdigit()), key=int):
      values, scan = kept[name], scans[int(name)]
      there = int(np.argmax(np.any(values[0] != 0, axis=(0, 1))))
      rows.append(values[..., there])
      captions.append(
        f"{scan['participant_id']} {scan['session_id']} {scan['class']},"
        f" {run.model['modalities'][there]}".replace("  ", " ")
      )
  exhibit = exhibits.Exhibit(
    "augmentation.png",
    f"The middle slice of {len(rows)} training scans as prepared and under"
    f" {len(rows[0]) - 1} draws of the augmentation ({ranges}):"
    f" {'; '.join(captions)}.",
    draw_sheet(rows, captions),
  )
  return exhibit, ranges


def describe(ranges: Mapping[str, Any]) -> str:
  """Says the ranges of an `AugmentRanges` that are not off.

  >>> describe({"flip": True, "scale": 0.1, "noise": 0.0, "gamma": [0.7, 1.5]})
  'mirror image in half of the scans, scale ±10 %, gamma 0.7 to 1.5'
  """
  texts = {
    "flip": "mirror image in half of the scans",
    "rotation_degrees": "rotation ±{:g}°",
    "scale": "scale ±{:.3g} %",
    "stretch": "height against width ±{:.3g} %",
    "shear_degrees": "shear ±{:g}°",
    "translation": "translation ±{:.3g} % of the side",
    "perspective": "scale at the edges ±{:.3g} % (perspective)",
    "crop": "window cut out of {:.3g} % of the side or more",
    "elastic_alpha": "elastic displacement up to {:.3g} % of the side",
    "bias_field": "bias field up to a factor of {:.3g}",
    "gamma": "gamma {:g} to {:g}",
    "noise": "noise up to {:g} standard deviations",
    "fill_value": "{:g} standard deviations outside the image",
  }
  shown = []
  for name, text in texts.items():
    value = ranges.get(name)
    if not value or (name == "gamma" and value[0] == value[1] == 1):
      continue
    if name == "gamma":
      shown.append(text.format(*value))
      continue
    if "%" in text:
      value = 100 * (1 - value if name == "crop" else value)
    shown.append(text.format(np.exp(value) if name == "bias_field" else value))
  return ", ".join(shown)


def draw_sheet(
  rows: Sequence[np.ndarray], captions: Sequence[str]
) -> mpl_figure.Figure:
  """Draws a row a scan, under its caption: as prepared, then its draws.

  Args:
    rows: f32[1+D,H,W] z-scores of each scan.
    captions: What stands above each row.
  """
  columns, height, width = rows[0].shape
  columns_inches = _WIDTH / columns
  strip = columns_inches * (height + 2) / (width + 2)
  total = _TITLE + len(rows) * (_CAPTION + strip)
  with matplotlib.rc_context({**figures.STYLE, "axes.grid": False}):
    figure = mpl_figure.Figure((_WIDTH, total))
    for column in range(columns):
      text = f"draw {column}" if column else "as prepared"
      left = (column + 0.02) / columns
      figure.text(left, 1 - 0.03 / total, text, va="top", fontsize=8)
    for i, (values, caption) in enumerate(zip(rows, captions, strict=True)):
      top = _TITLE + i * (_CAPTION + strip)
      y = 1 - (top + _CAPTION - 0.05) / total
      figure.text(0, y, caption, fontsize=8)
      bottom = 1 - (top + _CAPTION + strip) / total
      axes = figure.add_axes((0, bottom, 1, strip / total))
      shown = np.stack([_on_black(image) for image in values])
      image = montage.tile(shown, columns, -_WINDOW)
      axes.imshow(image, cmap="gray", vmin=-_WINDOW, vmax=_WINDOW)
      axes.set_axis_off()
  return figure


def _on_black(image: np.ndarray) -> np.ndarray:
  """Makes the background, the zeros that reach the edge, as dark as can be.

  Zero is the brain's mean: left as it is, the background would be grey.
  """
  zeros = np.pad(image == 0, 1, constant_values=True)
  labels, _ = ndimage.label(zeros)
  outside = (labels == labels[0, 0])[1:-1, 1:-1]
  return np.where(outside, -_WINDOW, image)
