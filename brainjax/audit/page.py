"""The page of an audit: one HTML file, without network or JavaScript."""

import base64
import io
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
import matplotlib
from matplotlib import figure as mpl_figure

from brainjax import records
from brainjax.audit.confounds import Answer
from brainjax.audit.findings import SEVERITIES, Finding, count

_STYLE: dict[Any, Any] = {
  "font.family": "DejaVu Sans",
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
_DPI = 160
_MOST_CASES = 50  # on the page; `audit.json` has all


def write_page(
  path: pathlib.Path,
  facts: Mapping[str, Any],
  findings: Sequence[Finding],
  answers: Sequence[Answer],
) -> pathlib.Path:
  """Writes the page.

  Args:
    path: The file.
    facts: The head of `audit.json`.
    findings: The gravest first.
    answers: Of all probes.

  Returns:
    The path.
  """
  asked = [answer for answer in answers if answer.probe]
  environment = jinja2.Environment(
    loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
  )
  environment.filters["count"] = count
  text = environment.get_template("audit.html.jinja").render(
    facts=facts,
    name=pathlib.Path(facts["input"]).name,
    findings=findings,
    counts={s: sum(f.severity == s for f in findings) for s in SEVERITIES},
    asked=asked,
    skipped=[answer for answer in answers if not answer.probe],
    forest=_picture(draw_probes(asked)) if asked else None,
    most_cases=_MOST_CASES,
  )
  records.write_text(path, text)
  return path


def draw_probes(answers: Sequence[Answer]) -> mpl_figure.Figure:
  """Draws the AUC of each probe with its interval, and chance."""
  with matplotlib.rc_context(_STYLE):
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
        [0.5, 0.5], [y - 0.1, y + 0.4], ":", color=_QUIET, linewidth=1.4
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
        interval_text(answer),
        transform=axes.get_yaxis_transform(),
        **style,
      )
    axes.text(0.5, -0.62, " chance", color=_QUIET, fontsize=8.5)
    axes.set(xlim=(lowest, 1), ylim=(len(answers) - 0.4, -0.8), yticks=[])
    axes.set_xlabel("AUC of the label told best, 95 % intervals", loc="left")
    axes.spines[["left", "top", "right"]].set_visible(False)
  return figure


def interval_text(answer: Answer) -> str:
  """Writes the AUC of a probe with its interval."""
  probe = answer.probe
  if probe is None:
    return answer.skipped
  if probe.low is None or probe.high is None:
    return f"{probe.auc:.2f}"
  return f"{probe.auc:.2f} [{probe.low:.2f}, {probe.high:.2f}]"


def _picture(figure: mpl_figure.Figure) -> str:
  """Returns a figure as base64 of a PNG; equal figures give equal text."""
  file = io.BytesIO()
  with matplotlib.rc_context(_STYLE):
    figure.savefig(file, format="png", dpi=_DPI, metadata={"Software": None})
  return base64.b64encode(file.getvalue()).decode()
