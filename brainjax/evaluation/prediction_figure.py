"""The answer to one scan as a picture: what, how sure, and which slices."""

import textwrap
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib import axes as mpl_axes
from matplotlib import figure as mpl_figure
from matplotlib import patches, ticker

from brainjax.evaluation import figures, montage
from brainjax.records import Record

NUM_LARGE = 3  # slices shown large
_FOR, _AGAINST = figures.COLOURS[:2]
_GREY = "#666666"
_PALE = "#e4e4e4"
_AMBER = "#fff3d6"
_LITTLE = 0.05  # nats; smaller contributions are not worth a look
# Inches.
_WIDTH = 8.0
_MARGIN = 0.3
_INNER = _WIDTH - 2 * _MARGIN
_GAP = 0.1
_LINE = 0.18
_CLASS = 0.27
_CHART = 1.9
_CHARACTERS = 116  # of a line of small text
_ALONG = {
  "axial": "millimetres above the centre of the brain",
  "coronal": "millimetres in front of the centre of the brain",
  "sagittal": "millimetres to the right of the centre of the brain",
}
_TAKE_CARE = "Take this answer with care"
_MEANING = (
  "Contribution of a slice: how much the logarithm of the answer's probability"
  " falls when the model does not see the slice. Neighbours look alike and"
  " share it; it says where to look, not what is there."
)


def prediction_figure(
  record: Record,
  contributions: np.ndarray,
  probabilities: Mapping[str, float],
  *,
  modalities: Sequence[str],
  slice_names: Sequence[str],
  title: str,
  warnings: Sequence[str],
  notice: str,
) -> mpl_figure.Figure:
  """Draws the answer, its warnings, and the slices it hangs on.

  The slices of the largest contributions, to either side, are shown in every
  modality that is there; the chart holds all slices.

  Args:
    record: The scan.
    contributions: f[S] of each slice to the answer, in nats.
    probabilities: Of each class; the answer has the highest.
    modalities: Names of the channels, in order.
    slice_names: S texts, what each slice is in the scanner file.
    title: Name of the scan.
    warnings: What makes the answer doubtful, a sentence each.
    notice: What must be read with it.
  """
  order = np.argsort(-np.abs(contributions), kind="stable")
  largest: list[int] = order[:NUM_LARGE].tolist()
  channels: list[int] = np.flatnonzero(record.present).tolist()
  _, height, width, _ = record.slices.shape
  tile = (_INNER - (NUM_LARGE - 1) * _GAP) / NUM_LARGE
  tile_height = tile * height / width
  cautions = [
    line for text in warnings for line in _wrap(text, bullet="\N{BULLET} ")
  ]
  meaning = _wrap(_MEANING)

  warnings_at = 0.65 + max(0.7, _CLASS * len(probabilities))
  slices_at = warnings_at + bool(cautions) * (_LINE * len(cautions) + 0.6)
  tiles_at = slices_at + 0.8
  chart_at = tiles_at + len(channels) * (tile_height + _GAP) + 0.35
  meaning_at = chart_at + _CHART + 0.65
  total = meaning_at + _LINE * (len(meaning) + 1) + 0.3
  with matplotlib.rc_context(figures.STYLE):
    figure = mpl_figure.Figure((_WIDTH, total))
    # Everything is placed in inches from the upper left corner.
    page = figure.add_axes((0, 0, 1, 1))
    page.set(xlim=(0, _WIDTH), ylim=(total, 0))
    page.set_axis_off()

    def axes_at(left, top, width, height):
      bottom = total - top - height
      size = (width / _WIDTH, height / total)
      return figure.add_axes((left / _WIDTH, bottom / total, *size))

    _draw_answer(page, title, probabilities)
    if cautions:
      _draw_cautions(page, warnings_at, cautions)
    answer = max(probabilities, key=lambda name: probabilities[name])
    heading = "The slices that matter most"
    if np.abs(contributions).max() < _LITTLE:
      heading = "No slice decides alone; those that matter most"
    page.text(
      _MARGIN, slices_at, heading, va="top", fontsize=11, fontweight="bold"
    )
    for i, s in enumerate(largest):
      left = _MARGIN + i * (tile + _GAP)
      signed = f"{contributions[s]:+.2f}".replace("-", "\N{MINUS SIGN}")
      text = f"{i + 1}: contribution {signed}\n    {slice_names[s]}"
      colour = _FOR if contributions[s] >= 0 else _AGAINST
      style = {"va": "bottom", "fontsize": 9, "color": colour}
      page.text(left, tiles_at - 0.06, text, **style)
      for row, channel in enumerate(channels):
        top = tiles_at + row * (tile_height + _GAP)
        montage.draw_slices(
          axes_at(left, top, tile, tile_height),
          record,
          np.array([s]),
          channel=channel,
          columns=1,
          label=modalities[channel],
        )
    chart = axes_at(_MARGIN + 0.6, chart_at, _INNER - 0.6, _CHART)
    _draw_chart(chart, record, contributions, largest, answer)
    small = {"va": "top", "fontsize": 8}
    page.text(_MARGIN, meaning_at, "\n".join(meaning), color=_GREY, **small)
    notice_at = meaning_at + _LINE * len(meaning) + 0.05
    page.text(_MARGIN, notice_at, notice, fontweight="bold", **small)
  return figure


def _draw_answer(
  page: mpl_axes.Axes, title: str, probabilities: Mapping[str, float]
) -> None:
  """Writes the answer, and a bar for each class at its right."""
  answer = max(probabilities, key=lambda name: probabilities[name])
  page.text(_MARGIN, 0.2, title, va="top", fontsize=9, color=_GREY)
  page.text(
    _MARGIN,
    0.5,
    answer,
    va="top",
    fontsize=min(22, 400 / len(answer)),  # a long name must fit too
    fontweight="bold",
    color=_FOR,
  )
  page.text(
    _MARGIN,
    0.95,
    f"probability {_percent(probabilities[answer])}",
    va="top",
    fontsize=12,
  )
  left, wide = 5.3, 1.8
  for i, (name, probability) in enumerate(probabilities.items()):
    y = 0.55 + _CLASS * i
    colour = _FOR if name == answer else "#999999"
    style = {"va": "center", "fontsize": 9}
    page.text(left - 0.1, y, name, ha="right", **style)
    for width, fill in ((wide, _PALE), (wide * probability, colour)):
      box = patches.Rectangle((left, y - 0.08), width, 0.16, color=fill, lw=0)
      page.add_patch(box)
    page.text(left + wide + 0.08, y, _percent(probability), **style)


def _draw_cautions(
  page: mpl_axes.Axes, top: float, lines: Sequence[str]
) -> None:
  height = _LINE * len(lines) + 0.42
  box = patches.Rectangle((_MARGIN, top), _INNER, height, color=_AMBER, lw=0)
  page.add_patch(box)
  left, style = _MARGIN + 0.12, {"va": "top", "fontsize": 8.5}
  page.text(left, top + 0.1, _TAKE_CARE, fontweight="bold", **style)
  page.text(left, top + 0.32, "\n".join(lines), linespacing=1.4, **style)


def _draw_chart(
  axes: mpl_axes.Axes,
  record: Record,
  contributions: np.ndarray,
  largest: Sequence[int],
  answer: str,
) -> None:
  """Draws a bar a slice against its position; the large ones are numbered."""
  plane = record.geometry.get("plane")
  places, label = np.arange(1.0, len(contributions) + 1), "slice"
  if record.positions_known:
    places, label = record.positions_mm, _ALONG[plane or "axial"]
  gap = np.diff(places).min() if len(places) > 1 else 1.0
  colours = [_FOR if value >= 0 else _AGAINST for value in contributions]
  axes.bar(places, contributions, width=0.8 * gap, color=colours, zorder=2)
  axes.axhline(0, color="black", linewidth=0.8, zorder=3)
  low = min(float(contributions.min()), -_LITTLE)
  high = max(float(contributions.max()), _LITTLE)
  room = 0.16 * (high - low)
  axes.set_ylim(low - room, high + room)
  axes.xaxis.set_major_locator(ticker.MaxNLocator(integer=True, min_n_ticks=1))
  axes.yaxis.set_major_locator(ticker.MaxNLocator(5))
  axes.yaxis.set_major_formatter("{x:.2f}")
  for rank, s in enumerate(largest, start=1):
    above = contributions[s] >= 0
    axes.annotate(
      f"{rank}",
      (places[s], contributions[s]),
      xytext=(0, 2 if above else -2),
      textcoords="offset points",
      ha="center",
      va="bottom" if above else "top",
      fontsize=9,
      fontweight="bold",
    )
  axes.set_xlabel(label)
  axes.set_ylabel("contribution")
  axes.grid(axis="x", visible=False)
  axes.legend(
    handles=[
      patches.Patch(color=_FOR, label=f"speaks for {answer}"),
      patches.Patch(color=_AGAINST, label=f"speaks against {answer}"),
    ],
    loc="lower right",
    bbox_to_anchor=(1, 1),
    ncols=2,
    fontsize=9,
    borderaxespad=0.2,
  )


def _percent(probability: float) -> str:
  """Writes a probability; what is not quite certain does not look so.

  >>> _percent(0.9312), _percent(0.9999)
  ('93.1 %', '> 99.9 %')
  """
  if 0.999 < probability < 1:
    return "> 99.9 %"
  if 0 < probability < 0.001:
    return "< 0.1 %"
  return f"{100 * probability:.1f} %"


def _wrap(text: str, *, bullet: str = "") -> list[str]:
  return textwrap.wrap(
    text,
    _CHARACTERS,
    initial_indent=bullet,
    subsequent_indent=" " * 2 * len(bullet),
  )
