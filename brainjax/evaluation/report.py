"""The report: a run on one HTML page, from the files it left.

The page needs no network and no JavaScript; its pictures are inside it and,
as PNG, in `workdir/figures`. It holds no date of its own, so the same files
give the same page.
"""

import base64
import os
import pathlib
import re
import urllib.parse
from collections.abc import Callable, Sequence
from typing import Any

import jinja2
import markupsafe
import ml_collections

from brainjax import InputError, records
from brainjax import config as config_lib
from brainjax.evaluation import (
  attention_figure,
  audited,
  augmentation_figure,
  baselines_figure,
  claim,
  cost_figure,
  exhibits,
  figures,
  methods,
  mistakes,
  paired,
  reconstruction_page,
  reliability_figure,
  run_files,
  subgroups,
  tables,
  test_lock,
  verdict,
)

# Titles by the anchors of a page's sections, in order.
SECTIONS = {
  "report": {
    "verdict": "Verdict",
    "input": "What the model sees",
    "scores": "How well it does",
    "mistakes": "Where it is wrong",
    "methods": "Methods and checklist",
    "learning": "How it learned",
    "reproduce": "How to reproduce",
  },
  "reconstruction": {
    "verdict": "Verdict",
    "slices": "What it draws",
    "probe": "What its embeddings tell apart",
    "learning": "How it learned",
    "reproduce": "How to reproduce",
  },
}
# "0.87 [0.78, 0.94]", and "n = 48": a line never ends inside.
_NUMBERS = re.compile(
  r"\d\.\d\d \[\d\.\d\d, \d\.\d\d\]|[+-]?\d+\.\d dB \[[^\]]*\]|n = \d+"
)


def write_report(
  workdirs: Sequence[pathlib.Path], *, out: pathlib.Path | None = None
) -> pathlib.Path:
  """Writes the page of a run, and its figures into `workdir/figures`.

  The test split is reported; the validation split if there is no other.

  Args:
    workdirs: The run the page is about; then others to compare it with.
    out: The page; `report.html` in the first workdir by default.

  Returns:
    Path of the page.

  Raises:
    InputError: A workdir lacks a file or metrics; the command is named.
  """
  runs = [run_files.read_run(pathlib.Path(workdir)) for workdir in workdirs]
  run, *others = runs
  split = next((s for s in ("test", "validation") if s in run.metrics), None)
  if split is None:
    raise InputError(
      f"{run.path / 'metrics.json'}: neither test nor validation metrics; run"
      f" `brainjax evaluate --workdir={run.path}`"
    )
  if others and not run.classifies:
    raise InputError(
      f"{run.path}: an auto-encoder's run classifies nothing, so"
      f" {others[0].path} cannot be held against it; name it alone"
    )
  record_set, problem = run_files.open_records(run)
  out = out or run.path / "report.html"
  folder = run.path / "figures"
  folder.mkdir(exist_ok=True)
  for stale in folder.glob("*.png"):
    stale.unlink()

  def link(file: pathlib.Path) -> str:
    return urllib.parse.quote(os.path.relpath(file, out.parent))

  def picture(exhibit: exhibits.Exhibit) -> dict[str, str]:
    file = folder / exhibit.name
    figures.save_png(exhibit.figure, file)
    data = base64.b64encode(file.read_bytes()).decode()
    return {"href": link(file), "data": data, "alt": exhibit.alt}

  kind, content = "report", _classification
  if not run.classifies:
    kind, content = "reconstruction", _reconstruction
  page = template(kind, link=link, picture=picture).render(
    **content(run, others, split, record_set),
    run=run,
    split=split,
    scores=run.metrics[split],
    problem=problem,
    commands=dict.fromkeys(
      [run.environment["command"], *test_lock.commands(run.path)]
    ),
    sections=SECTIONS[kind],
    learning=exhibits.learning(run.log),
    augmentation=augmentation_figure.augmentation_exhibit(run),
    speed=tables.speed(run.log),
    fields=config_lib.leaf_fields(ml_collections.ConfigDict(run.config)),
    sources=[(r.name, r.files) for r in runs]
    + ([("records", run_files.record_files(record_set))] if record_set else []),
  )
  out.parent.mkdir(parents=True, exist_ok=True)
  with records.replacing(out) as partial:
    partial.write_text(page, encoding="utf-8")
  return out


def _classification(
  run: run_files.Run,
  others: Sequence[run_files.Run],
  split: str,
  record_set: records.RecordSet | None,
) -> dict[str, Any]:
  scores, classes = run.metrics[split], run.model["classes"]
  comparison = tables.comparison(run, others, split)
  worst, num_wrong, num_scans = mistakes.mistakes(run, split, record_set)
  attention = reconstructions = None
  if record_set:
    attention = attention_figure.attention_exhibit(run, split, record_set)
    reconstructions = reconstruction_page.reconstruction_exhibit(
      run, split, record_set
    )
  manifest = record_set.rows if record_set else ()
  parts = subgroups.subgroups(run, split, manifest)
  preparation = _preparation(record_set)
  main = verdict.main_metric(classes)
  roc, roc_models = exhibits.roc(comparison, split)
  number = f"{verdict.METRICS[main]} {verdict.score_text(scores[main])}"
  return {
    "main_metric": main,
    "subgroups": parts,
    "cost": cost_figure.cost_exhibit(comparison, main, split),
    "methods": methods.paragraphs(run, split),
    "claim": claim.items(
      run,
      rejected=preparation.get("rejected"),
      subgroup_fields=list(dict.fromkeys(row["field"] for row in parts)),
      attends=attention is not None,
    ),
    "metric_names": verdict.METRICS,
    "headline": audited.refused_headline(run.scans, number, split)
    or verdict.headline(scores, classes, f"the {split} split"),
    "checks": [
      *verdict.checks(scores, classes, run.scans),
      *audited.checks(run, record_set),
    ],
    "externals": _externals(run),
    "baselines": baselines_figure.baseline_scores(run, split),
    "baselines_exhibits": baselines_figure.baselines_exhibits(run, split),
    "forest": exhibits.forest(comparison, classes, split),
    "sheets": exhibits.sheets(run, record_set) if record_set else (),
    "attention": attention,
    "reconstructions": reconstructions,
    "cohort": tables.cohort(run.scans),
    "preparation": preparation,
    "comparison": comparison,
    "paired": paired.paired_tests(comparison, split),
    "roc": roc,
    "roc_models": roc_models,
    "confusion": exhibits.confusion(scores, classes, split),
    "reliability": reliability_figure.reliability_exhibit(run, split),
    "calibration": scores.get("calibration"),
    "looks": test_lock.summary(test_lock.read_looks(run.path)),
    "mistakes": worst,
    "num_wrong": num_wrong,
    "num_scans": num_scans,
  }


def _externals(run: run_files.Run) -> list[dict[str, Any]]:
  """Returns what the page says of each other cohort."""
  found = []
  for name, scores in run.metrics.get("external", {}).items():
    table = run_files.read_csv(run.path / f"predictions_external_{name}.csv")
    scans = [
      {"source": row.get("source", ""), "class": row["true_label"]}
      for row in table
    ]
    classes = run.model["classes"]
    looks = test_lock.read_looks(run.path, external=name)
    found.append(
      {
        "name": name,
        "scores": scores,
        "headline": verdict.headline(scores, classes, f"the cohort {name}"),
        "checks": verdict.checks(scores, classes, scans),
        "looks": len(looks),
      }
    )
  return found


def _reconstruction(
  run: run_files.Run,
  others: Sequence[run_files.Run],
  split: str,
  record_set: records.RecordSet | None,
) -> dict[str, Any]:
  scores = run.metrics[split]
  exhibit = None
  if record_set:
    exhibit = reconstruction_page.reconstruction_exhibit(run, split, record_set)
  return {
    "headline": reconstruction_page.headline(scores, split),
    "checks": reconstruction_page.checks(scores),
    "exhibit": exhibit,
    "psnr": reconstruction_page.decibels(scores["reconstruction"]["psnr"]),
    "psnr_pca": reconstruction_page.decibels(
      scores["reconstruction"]["psnr_pca"]
    ),
    "probes": reconstruction_page.probe_rows(scores),
  }


def template(kind: str, **filters: Callable[..., Any]) -> jinja2.Template:
  """Returns the template of a kind of page, with these filters besides."""
  environment = jinja2.Environment(
    loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
  )
  filters |= {
    "score": verdict.score_text,
    "difference": verdict.difference_text,
    "p_value": verdict.p_text,
    "unbroken": _unbroken,
  }
  environment.filters.update(filters)
  return environment.get_template(f"{kind}.html.jinja")


def _unbroken(text: str) -> markupsafe.Markup:
  """Marks the numbers of a sentence, which then stay on one line."""
  # As a plain string: a match put into Markup would be escaped again.
  escaped = str(markupsafe.escape(text))
  return markupsafe.Markup(
    _NUMBERS.sub(r'<span class="number">\g<0></span>', escaped)
  )


def _preparation(record_set: records.RecordSet | None) -> dict[str, int]:
  """Counts what preparation said, by the name of the file that says it."""
  if record_set is None:
    return {}
  return {
    file.stem: len(run_files.read_csv(file))
    for file in run_files.record_files(record_set)
    if file.name in ("rejected.csv", "warnings.csv")
  }
