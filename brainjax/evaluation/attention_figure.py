"""Where a model's attention lies in a few scans, as one picture.

Blocks of colour over the slices are what each place of the feature map was
multiplied by; where there is no colour, it was left as it is. A strip below
has a bar a slice, for what the slice was multiplied by and for its weight in
the head.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib import axes as mpl_axes
from matplotlib import cm, ticker
from matplotlib import colors as mpl_colors
from matplotlib import figure as mpl_figure

from brainjax.evaluation import attention, exhibits, figures, montage
from brainjax.evaluation.run_files import Run, read_csv
from brainjax.records import Record, RecordSet

STRIPS: Mapping[str, str] = {
  "slice_axis": "factor of the slice",
  "head": "weight in the head",
}
_OPACITY = 0.6  # of the factor farthest from 1
_BELOW, _ABOVE = figures.COLOURS[:2]
_COLOUR_MAP = mpl_colors.LinearSegmentedColormap.from_list(
  "factors",
  [
    (0.0, (_BELOW, _OPACITY)),
    (0.5, (_BELOW, 0.0)),
    (0.5, (_ABOVE, 0.0)),
    (1.0, (_ABOVE, _OPACITY)),
  ],
)
_LEAST_RANGE = 0.01  # of factors beside 1; less than that is not worth colour
# Inches.
_WIDTH = 8.0
_LEFT = 0.65
_CAPTION = 0.25
_STRIP = 0.75
_AXIS = 0.45
_BAR = 0.6
_LARGEST_TILE = 2.0


@dataclasses.dataclass(frozen=True)
class Example:
  """One scan.

  Attributes:
    record: The scan.
    caption: What it is.
    in_plane: f32[S,h,w] factors of places, or None.
    strips: f[S] by the names of `STRIPS`, those that there are.
  """

  record: Record
  caption: str
  in_plane: np.ndarray | None
  strips: Mapping[str, np.ndarray]


def attention_exhibit(
  run: Run, split: str, record_set: RecordSet
) -> exhibits.Exhibit | None:
  """Shows the first scan of each class in a split; None without attention.

  Args:
    run: The run.
    split: Of the scans.
    record_set: The images of the run.
  """
  rows_of = _rows_of_scans(run, split)
  examples = []
  for name in run.model["classes"]:
    for scan in run.scans:
      key = scan["participant_id"], scan["session_id"]
      if (scan["split"], scan["class"]) == (split, name) and key in rows_of:
        record = record_set[int(scan["record_index"])]
        examples.append(_example(run, scan, rows_of[key], record))
        break
  if not examples:
    return None
  said = "; ".join(_say(example) for example in examples)
  return exhibits.Exhibit(
    "attention.png",
    f"Attention in the first scan of each class of the {split} split: {said}.",
    draw_attention(examples),
  )


def scan_exhibit(
  run: Run, scan: Mapping[str, str], record: Record, name: str
) -> exhibits.Exhibit | None:
  """Shows one scan; None without attention.

  Args:
    run: The run.
    scan: Row of splits.csv.
    record: The scan's images.
    name: Of the picture's file.
  """
  key = scan["participant_id"], scan["session_id"]
  rows = _rows_of_scans(run, scan["split"]).get(key)
  if rows is None:
    return None
  example = _example(run, scan, rows, record)
  return exhibits.Exhibit(
    name, f"Attention: {_say(example)}.", draw_attention([example])
  )


def draw_attention(examples: Sequence[Example]) -> mpl_figure.Figure:
  """Draws up to eight evenly spread slices of each scan, and its strips."""
  beside_one = [
    np.abs(e.in_plane - 1).max() for e in examples if e.in_plane is not None
  ]
  largest = max([_LEAST_RANGE, *map(float, beside_one)])
  norm = mpl_colors.Normalize(1 - largest, 1 + largest)
  indices = [
    montage.spread(len(e.record.slices), montage.COLUMNS) for e in examples
  ]
  tile = min((_WIDTH - _LEFT) / max(map(len, indices)), _LARGEST_TILE)
  heights = [_tile_height(e.record, tile) for e in examples]
  total = _BAR * bool(beside_one) + sum(
    _CAPTION + height + len(e.strips) * (_STRIP + _AXIS)
    for e, height in zip(examples, heights, strict=True)
  )
  with matplotlib.rc_context(figures.STYLE):
    figure = mpl_figure.Figure((_WIDTH, total))
    y = 0.0  # inches from the top

    def axes_below(height: float, width: float) -> mpl_axes.Axes:
      nonlocal y
      y += height
      return figure.add_axes(
        (_LEFT / _WIDTH, 1 - y / total, width / _WIDTH, height / total)
      )

    for example, shown, height in zip(examples, indices, heights, strict=True):
      figure.text(
        _LEFT / _WIDTH, 1 - (y + 0.05) / total, example.caption, va="top"
      )
      y += _CAPTION
      axes = axes_below(height, tile * len(shown))
      _draw_slices(axes, example, shown, norm)
      for name, values in example.strips.items():
        y += 0.05
        _draw_strip(
          axes_below(_STRIP - 0.05, _WIDTH - _LEFT - 0.1),
          example.record,
          values,
          STRIPS[name],
        )
        y += _AXIS
    if beside_one:
      y += 0.05
      bar = figure.colorbar(
        cm.ScalarMappable(norm, _COLOUR_MAP),
        cax=axes_below(0.12, 0.5 * (_WIDTH - _LEFT)),
        orientation="horizontal",
      )
      bar.ax.tick_params(labelsize=7)
      bar.set_label("factor of a place; 1 = unchanged", fontsize=7)
  return figure


def _rows_of_scans(
  run: Run, split: str
) -> dict[tuple[str, str], list[dict[str, str]]]:
  """Returns the rows of attention.csv by participant and session."""
  file = run.path / "attention.csv"
  rows_of: dict[tuple[str, str], list[dict[str, str]]] = {}
  for row in read_csv(file) if file.is_file() else ():
    if row["split"] == split:
      key = row["participant_id"], row["session_id"]
      rows_of.setdefault(key, []).append(row)
  return rows_of


def _example(
  run: Run,
  scan: Mapping[str, str],
  rows: Sequence[Mapping[str, str]],
  record: Record,
) -> Example:
  file = attention.maps_file(run.path, scan["split"])
  in_plane = None
  if file.is_file():
    with np.load(file, allow_pickle=False) as maps:
      in_plane = maps[scan["record_index"]]
  ids = f"{scan['participant_id']} {scan['session_id']}".strip()
  return Example(
    record=record,
    caption=f"{ids} ({scan['class']})",
    in_plane=in_plane,
    strips={
      name: np.array([float(row[name]) for row in rows])
      for name in STRIPS
      if name in rows[0]
    },
  )


def _say(example: Example) -> str:
  """Puts a scan's attention into words."""
  said = []
  if example.in_plane is not None:
    low, high = example.in_plane.min(), example.in_plane.max()
    said.append(f"factors of places {low:.2f} to {high:.2f}")
  for name, values in example.strips.items():
    place = int(np.argmax(values))
    where = f"slice {place + 1}"
    if example.record.positions_known:
      where = f"{example.record.positions_mm[place]:+.0f} mm"
    said.append(f"{STRIPS[name]} up to {values[place]:.2f} at {where}")
  return f"{example.caption}, {', '.join(said)}"


def _draw_slices(
  axes: mpl_axes.Axes,
  example: Example,
  shown: np.ndarray,
  norm: mpl_colors.Normalize,
) -> None:
  record = example.record
  axes.grid(visible=False)
  montage.draw_slices(
    axes,
    record,
    shown,
    channel=montage.first_present(record),
    columns=len(shown),
  )
  if example.in_plane is None:
    return
  _, height, width, _ = record.slices.shape
  _, rows, columns = example.in_plane.shape
  row_of = np.arange(height) * rows // height
  column_of = np.arange(width) * columns // width
  factors = example.in_plane[shown][:, row_of][:, :, column_of]
  image = montage.tile(factors.astype(float), len(shown), np.nan)
  axes.imshow(image, cmap=_COLOUR_MAP, norm=norm)


def _draw_strip(
  axes: mpl_axes.Axes, record: Record, values: np.ndarray, label: str
) -> None:
  places, name = np.arange(1.0, len(values) + 1), "slice"
  if record.positions_known:
    places, name = record.positions_mm, "millimetres from the brain's centre"
  gap = np.diff(places).min() if len(places) > 1 else 1.0
  axes.bar(places, values, width=0.8 * gap, color=figures.COLOURS[0], zorder=2)
  axes.xaxis.set_major_locator(ticker.MaxNLocator(integer=True, min_n_ticks=1))
  axes.yaxis.set_major_locator(ticker.MaxNLocator(2))
  small: dict[str, Any] = {"fontsize": 7}
  axes.tick_params(labelsize=7)
  axes.set_xlabel(f"{label}, by {name}", **small)
  axes.grid(axis="x", visible=False)


def _tile_height(record: Record, tile: float) -> float:
  _, height, width, _ = record.slices.shape
  return tile * (height + 2) / (width + 2)
