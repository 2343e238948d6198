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
from brainjax.audit import pictures
from brainjax.audit.confounds import Answer
from brainjax.audit.describe import Scan
from brainjax.audit.findings import SEVERITIES, Finding, count

_DPI = 160
_MOST_CASES = 50  # on the page; `audit.json` has all


def write_page(
  path: pathlib.Path,
  facts: Mapping[str, Any],
  findings: Sequence[Finding],
  answers: Sequence[Answer],
  scans: Sequence[Scan],
) -> pathlib.Path:
  """Writes the page.

  Args:
    path: The file.
    facts: The head of `audit.json`.
    findings: The gravest first.
    answers: Of all probes.
    scans: What they are about.

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
    forest=_encoded(pictures.draw_probes(asked)) if asked else None,
    pictures=[_picture(finding, scans) for finding in findings],
    most_cases=_MOST_CASES,
  )
  records.write_text(path, text)
  return path


def _picture(finding: Finding, scans: Sequence[Scan]) -> dict[str, str] | None:
  drawn = pictures.picture_of(finding, scans)
  if drawn is None:
    return None
  figure, text = drawn
  return {"data": _encoded(figure), "alt": text}


def _encoded(figure: mpl_figure.Figure) -> str:
  """Returns a figure as base64 of a PNG; equal figures give equal text."""
  file = io.BytesIO()
  with matplotlib.rc_context(pictures.STYLE):
    figure.savefig(file, format="png", dpi=_DPI, metadata={"Software": None})
  return base64.b64encode(file.getvalue()).decode()
