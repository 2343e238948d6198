"""Pictures of an audit: probes, pairs of scans, and a number in each class."""

import collections
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib import figure as mpl_figure

from brainjax.audit.confounds import Answer, auc_text
from brainjax.audit.describe import Scan
from brainjax.audit.facts import FACTS
from brainjax.audit.findings import Finding

STYLE: dict[Any, Any] = {
  "font.family": "DejaVu Sans",  # comes with matplotlib
  "font.size": 10.0,
  "text.parse_math": False,  # an id may hold a dollar sign
}
# Okabe and Ito 2008; told apart by their shape as well.
_SIGNS = {
  "fail": ("#D55E00", "D"),
  "warn": ("#E69F00", "s"),
  "": ("#0072B2", "o"),
}
_QUIET = "#666666"
_MOST_PAIRS = 4
_NAME_CHARACTERS = 24


def draw_probes(answers: Sequence[Answer]) -> mpl_figure.Figure:
  """Draws the AUC of each probe with its interval, and chance."""
  with matplotlib.rc_context(STYLE):
    figure = mpl_figure.Figure(
      (5.0, 0.7 + 0.46 * len(answers)), layout="constrained"
    )
    axes = figure.subplots()
    lowest = 0.3
    for y, answer in enumerate(answers):
      probe = answer.probe
      assert probe is not None
      colour, marker = _SIGNS[answer.severity]
      style = {"va": "center", "fontsize": 9}
      axes.plot(
        [0.5, 0.5], [y - 0.15, y + 0.4], ":", color=_QUIET, linewidth=1.4
      )
      if probe.low is not None and probe.high is not None:
        axes.plot([probe.low, probe.high], [y, y], color=colour, linewidth=2.2)
        lowest = min(lowest, probe.low - 0.02)
      lowest = min(lowest, probe.auc - 0.02)
      axes.plot(probe.auc, y, marker, color=colour, markersize=7, clip_on=False)
      axes.text(
        0,
        y - 0.32,
        answer.title,
        transform=axes.get_yaxis_transform(),
        in_layout=False,
        weight="bold" if answer.severity else "normal",
        **style,
      )
      axes.text(
        1.03,
        y,
        auc_text(probe),
        transform=axes.get_yaxis_transform(),
        **style,
      )
    axes.text(0.5, -0.62, " chance", color=_QUIET, fontsize=8.5)
    axes.set(xlim=(lowest, 1), ylim=(len(answers) - 0.4, -0.8), yticks=[])
    axes.set_xlabel("AUC of the label told best, 95 % intervals", loc="left")
    axes.spines[["left", "top", "right"]].set_visible(False)
  return figure


def picture_of(
  finding: Finding, scans: Sequence[Scan]
) -> tuple[mpl_figure.Figure, str] | None:
  """Draws what a finding is about, where that says more than words.

  Returns:
    The figure and its text for who cannot see it; None if there is none.
  """
  if finding.check == "copies":
    preview_of = {scan.name: scan.preview for scan in scans}
    pairs = [
      pair
      for pair in finding.ids[:_MOST_PAIRS]
      if all(preview_of.get(name) is not None for name in pair)
    ]
    if not pairs:
      return None
    names = "; ".join(" beside ".join(pair) for pair in pairs)
    return _draw_pairs(pairs, preview_of), f"Middle slices: {names}"
  fact = {fact.name: fact for fact in FACTS}.get(finding.check)
  if fact is None:
    return None
  values = collections.defaultdict(list)
  for scan in scans:
    if scan.row["label"] and not scan.error:
      value = fact.values(scan)
      if isinstance(value, str) or len(value) > 1:
        return None
      values[scan.row["label"]].append(float(value[0]))
  text = f"Every scan's {fact.title}, a row of dots for each label"
  return _draw_by_label(values, fact.title), text


def _draw_pairs(
  pairs: Sequence[Sequence[str]], preview_of: Mapping[str, Any]
) -> mpl_figure.Figure:
  """Draws pairs of previews, a pair a row."""
  with matplotlib.rc_context(STYLE):
    figure = mpl_figure.Figure((4.2, 2.2 * len(pairs)), layout="constrained")
    panels = figure.subplots(len(pairs), 2, squeeze=False)
    for axes, name in zip(
      panels.ravel(), (name for pair in pairs for name in pair), strict=True
    ):
      axes.imshow(preview_of[name], cmap="gray", vmin=0, vmax=255)
      axes.set_title(_shortened(name), fontsize=9)
      axes.set_axis_off()
  return figure


def _draw_by_label(
  values: Mapping[str, Sequence[float]], title: str
) -> mpl_figure.Figure:
  """Draws every value, a row a label, and the medians."""
  rng = np.random.default_rng(0)
  with matplotlib.rc_context(STYLE):
    figure = mpl_figure.Figure(
      (5.0, 0.8 + 0.55 * len(values)), layout="constrained"
    )
    axes = figure.subplots()
    names = sorted(values)
    for y, name in enumerate(names):
      known = np.array(values[name])[np.isfinite(values[name])]
      spread = rng.uniform(-0.22, 0.22, len(known))
      axes.plot(known, y + spread, "o", color="#0072B2", ms=3, alpha=0.45)
      if len(known):
        middle = float(np.median(known))
        axes.plot([middle, middle], [y - 0.34, y + 0.34], "k", linewidth=2)
    labels = [f"{_shortened(name)} ({len(values[name])})" for name in names]
    axes.set_yticks(range(len(names)), labels)
    axes.set(xlabel=f"{title}; line: median", ylim=(len(values) - 0.5, -0.5))
    axes.spines[["top", "right"]].set_visible(False)
  return figure


def _shortened(name: str) -> str:
  """Leaves out the middle of a long name."""
  if len(name) <= _NAME_CHARACTERS:
    return name
  half = (_NAME_CHARACTERS - 1) // 2
  return f"{name[:half]}\N{HORIZONTAL ELLIPSIS}{name[-half:]}"
