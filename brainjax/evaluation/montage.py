"""Slices of scans as pictures: one scan at length, or many on a sheet.

Grey runs from -2.5 to 2.5 standard deviations of the brain's intensity, and
what lies outside the brain is black. A solid line is the outline of the
tumour mask, a dotted one that of the brain mask; an L is the participant's
left.
"""

import textwrap
from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib import axes as mpl_axes
from matplotlib import figure as mpl_figure
from matplotlib import patheffects

from brainjax.evaluation import figures
from brainjax.records import Record, unpack_bits

_WINDOW = 2.5  # standard deviations shown from black to white, either side
_WIDTH = 8.0  # of every picture; this and what follows in inches
_TITLE = 0.3
_LINE = 0.15  # of a caption
_GAP = 0.12
COLUMNS = 8  # slices side by side on a sheet
_ACROSS = 4  # scans side by side at most, if they have few slices
_MONTAGE_ROWS = 3
_CHARACTERS_AN_INCH = 14.0  # of a caption, at its size


def slice_montage(
  record: Record, *, title: str, columns: int
) -> mpl_figure.Figure:
  """Draws one scan: the first of its modalities that is there.

  What does not fit in three rows is thinned out evenly.

  Args:
    record: The scan.
    title: Text above the slices.
    columns: Slices side by side.
  """
  indices = spread(len(record.slices), columns * _MONTAGE_ROWS)
  height, width = _tile_shape(record)
  rows = -(-len(indices) // columns)
  inches = _WIDTH * rows * height / (columns * width)
  with matplotlib.rc_context({**figures.STYLE, "axes.grid": False}):
    figure = mpl_figure.Figure((_WIDTH, inches + _TITLE))
    axes = figure.add_axes((0, 0, 1, inches / (inches + _TITLE)))
    channel = first_present(record)
    draw_slices(axes, record, indices, channel=channel, columns=columns)
    axes.set_title(title, loc="left")
  return figure


def contact_sheet(
  records: Sequence[Record],
  captions: Sequence[str],
  *,
  modalities: Sequence[str],
  title: str,
) -> mpl_figure.Figure:
  """Draws a few slices of every scan, as the model gets them.

  A scan has a row of up to eight evenly spread slices for each modality,
  under its caption; a modality that is not there is named instead. Scans of
  few slices stand side by side.

  Args:
    records: The scans, at least one.
    captions: What stands above each of them.
    modalities: Names of the channels, in order.
    title: Text above all.
  """
  columns = min(COLUMNS, max(len(record.slices) for record in records))
  across = min(_ACROSS, COLUMNS // columns)
  block = (_WIDTH - _GAP * (across - 1)) / across
  lines = [
    textwrap.wrap(caption, int(block * _CHARACTERS_AN_INCH)) or [""]
    for caption in captions
  ]
  caption = _LINE * max(map(len, lines)) + 0.04
  heights = [_strip_heights(record, block / columns) for record in records]
  rows = [
    caption + max(map(sum, heights[i : i + across])) + _GAP
    for i in range(0, len(records), across)
  ]
  total = _TITLE + sum(rows)
  with matplotlib.rc_context({**figures.STYLE, "axes.grid": False}):
    figure = mpl_figure.Figure((_WIDTH, total))
    figure.text(0, 1 - 0.05 / total, title, va="top")
    for i, record in enumerate(records):
      row, column = divmod(i, across)
      left = column * (block + _GAP) / _WIDTH
      y = _TITLE + sum(rows[:row])  # inches from the top
      figure.text(
        left, 1 - (y + 0.02) / total, "\n".join(lines[i]), va="top", fontsize=8
      )
      y += caption
      indices = spread(len(record.slices), columns)
      for channel, height in enumerate(heights[i]):
        y += height
        name = modalities[channel]
        if not record.present[channel]:
          text = f"{name}: not there"
          figure.text(left, 1 - (y - 0.05) / total, text, fontsize=7)
          continue
        wide = block * len(indices) / columns / _WIDTH
        axes = figure.add_axes((left, 1 - y / total, wide, height / total))
        draw_slices(
          axes,
          record,
          indices,
          channel=channel,
          columns=len(indices),
          label=name,
          brain_outline=True,
        )
  return figure


def draw_slices(
  axes: mpl_axes.Axes,
  record: Record,
  indices: np.ndarray,
  *,
  channel: int,
  columns: int,
  label: str = "",
  brain_outline: bool = False,
) -> None:
  """Fills axes with slices of one modality, row by row.

  Every slice has a black pixel around it and its position in a corner: in
  millimetres, or its number where the source says nothing of millimetres.

  Args:
    axes: Hold nothing else.
    record: The scan.
    indices: i64[S'] slices to draw.
    channel: Of the modality.
    columns: Slices side by side.
    label: Written into the first slice.
    brain_outline: Draw the brain mask too.
  """
  height, width = _tile_shape(record)
  brain = unpack_bits(record.brain_mask[indices], width - 2)
  values = record.intensities()[indices, :, :, channel]
  # Zero is the brain's mean: left as it is, the background would be grey.
  values[~brain & (values == 0)] = -_WINDOW
  image = tile(values, columns, -_WINDOW)
  if len(indices) % columns:
    image[-height:, len(indices) % columns * width :] = np.nan  # not drawn
  axes.imshow(image, cmap="gray", vmin=-_WINDOW, vmax=_WINDOW)
  if brain_outline:
    _outline(axes, tile(brain, columns, False), figures.COLOURS[5], ":", 0.6)
  if record.mask is not None:
    tumour = unpack_bits(record.mask[indices], width - 2)
    _outline(axes, tile(tumour, columns, False), figures.COLOURS[4], "-", 0.8)
  outlined = {
    "color": "white",
    "fontsize": 7,
    "path_effects": [patheffects.withStroke(linewidth=2, foreground="black")],
  }
  for i, index in enumerate(indices):
    position = f"{index + 1}"
    if record.positions_known:
      millimetres = round(float(record.positions_mm[index]))
      position = f"{millimetres:+d} mm".replace("-", "\N{MINUS SIGN}")
    row, column = divmod(i, columns)
    x, y = (column + 0.04) * width, (row + 0.95) * height
    axes.text(x, y, position, **outlined)
  if label:
    axes.text(0.04 * width, 0.04 * height, label, va="top", **outlined)
  if record.geometry.get("plane") in ("axial", "coronal"):
    axes.text(0.04 * width, 0.5 * height, "L", va="center", **outlined)
  axes.set_axis_off()


def first_present(record: Record) -> int:
  """Returns the channel of the first modality that is there, 0 if none is."""
  return int(np.argmax(record.present))


def spread(num_slices: int, num_shown: int) -> np.ndarray:
  """Returns i64[S'], at most `num_shown` slices spread evenly, ends included.

  >>> spread(9, 3)
  array([0, 4, 8])
  """
  num_shown = min(num_slices, num_shown)
  return np.linspace(0, num_slices - 1, num_shown).round().astype(int)


def tile(images: np.ndarray, columns: int, fill: float) -> np.ndarray:
  """Lays [S,H,W] out as one image of tiles [H+2,W+2], row by row."""
  images = np.pad(images, ((0, 0), (1, 1), (1, 1)), constant_values=fill)
  num_images, height, width = images.shape
  rows = -(-num_images // columns)
  canvas = np.full((rows * columns, height, width), fill, images.dtype)
  canvas[:num_images] = images
  canvas = canvas.reshape(rows, columns, height, width)
  return canvas.swapaxes(1, 2).reshape(rows * height, columns * width)


def _tile_shape(record: Record) -> tuple[int, int]:
  """Returns the pixels of a tile, high and wide."""
  _, height, width, _ = record.slices.shape
  return height + 2, width + 2


def _strip_heights(record: Record, tile_inches: float) -> list[float]:
  """Returns the height of each modality's row; a line if it is not there."""
  height, width = _tile_shape(record)
  inches = tile_inches * height / width
  return [inches if there else _LINE + 0.05 for there in record.present]


def _outline(
  axes: mpl_axes.Axes, mask: np.ndarray, colour: str, line: str, width: float
) -> None:
  if mask.any():  # matplotlib 3.10 warns of an empty outline
    axes.contour(
      mask, levels=[0.5], colors=[colour], linestyles=line, linewidths=width
    )
