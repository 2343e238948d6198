"""The pictures of a page, each with the words for who cannot see it."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from brainjax.evaluation import figures, montage, run_files, verdict
from brainjax.evaluation.forest import Estimate, draw_forest
from brainjax.evaluation.run_files import Run
from brainjax.metrics import multiclass
from brainjax.records import Record, RecordSet

_SHEET_ROWS = 4  # modalities times scans of a class, so that a page holds them


class Exhibit(NamedTuple):
  """A picture: its file's name, what it says in words, and the figure."""

  name: str
  alt: str
  figure: Figure


def forest(
  comparison: Sequence[Mapping[str, Any]], classes: Sequence[str], split: str
) -> Exhibit:
  """Shows the metric of the verdict beside all it is held against."""
  metric = verdict.main_metric(classes)
  estimates = [
    Estimate(
      row["name"], row["kind"], row["scores"][metric], row["scores"]["n"]
    )
    for row in comparison
    if row["kind"] != "constant" and not row["note"]
  ]
  chance = comparison[-1]["scores"][metric]["value"]
  name = verdict.METRICS[metric]
  values = "; ".join(
    f"{e.name} {verdict.score_text(e.score)}, n = {e.n}" for e in estimates
  )
  return Exhibit(
    "verdict.png",
    f"{name} on the {split} split with 95 % intervals, and chance at"
    f" {chance:.2f}: {values}.",
    draw_forest(
      estimates, metric=f"{name} on the {split} split", chance=chance
    ),
  )


def roc(
  comparison: Sequence[Mapping[str, Any]], split: str
) -> tuple[Exhibit, Exhibit | None]:
  """Shows the curves of the runs that are comparable, all in one picture.

  More than two classes make two pictures: the classes of the first run, and
  of all runs, where there are several, their means over the classes.
  """
  runs = [row for row in comparison if row["run"] and not row["note"]]
  model = runs[0]["run"].model
  classes, curves, values = model["classes"], {}, []
  metric = "AUC" if len(classes) == 2 else "macro AUC"
  for row in runs:
    people = [p for p in row["run"].participants if p["split"] == split]
    score = f"{metric} {verdict.score_text(row['scores']['roc_auc'])}"
    score += f", n = {row['scores']['n']}"
    curves[f"{row['name']}\n{score}"] = run_files.answers(people, classes)
    values.append(f"{row['name']} {score}")

  def exhibit(name, what, number):
    shown = dict(list(curves.items())[:number])
    return Exhibit(
      name,
      f"Receiver operating characteristic on the {split} split, {what}:"
      f" {'; '.join(values[:number])}.",
      figures.roc_curves(shown, classes, model["positive"]),
    )

  if len(classes) == 2:
    return exhibit("roc_curves.png", "a curve a model", len(runs)), None
  areas = multiclass.one_vs_rest_auc(*curves[next(iter(curves))])
  each = ", ".join(
    f"{name} {'undefined' if np.isnan(area) else format(area, '.2f')}"
    for name, area in zip(classes, areas, strict=True)
  )
  first = exhibit("roc_curves.png", f"a curve a class, AUC {each}", 1)
  if len(runs) == 1:
    return first, None
  return first, exhibit("roc_models.png", "a mean curve a model", len(runs))


def confusion(
  scores: Mapping[str, Any], classes: Sequence[str], split: str
) -> Exhibit:
  """Shows what each true class was taken for."""
  matrix = scores["confusion_matrix"]
  rows = "; ".join(
    f"of {sum(counts)} {name}, "
    + ", ".join(
      f"{count} taken for {other}"
      for count, other in zip(counts, classes, strict=True)
    )
    for counts, name in zip(matrix, classes, strict=True)
  )
  return Exhibit(
    "confusion_matrix.png",
    f"Confusion matrix on the {split} split, n = {scores['n']}: {rows}.",
    figures.confusion_matrix(matrix, classes),
  )


def learning(log_lines: Sequence[Mapping[str, Any]]) -> Exhibit:
  """Shows how the run learned, from its log."""
  said = []
  for key, name in (
    ("train/loss", "training loss"),
    ("validation/loss", "validation loss"),
    ("validation/accuracy", "validation accuracy"),
    ("validation/roc_auc", "validation AUC"),
  ):
    epochs, values = figures.series(log_lines, key)
    if values:
      text = f"{name} from {values[0]:.2f} to {values[-1]:.2f}"
      if key == "validation/loss":
        best = figures.lowest(values)
        text += f", lowest {values[best]:.2f} at epoch {epochs[best]:g}"
      said.append(text)
  epochs = max((line["epoch"] for line in log_lines), default=0)
  return Exhibit(
    "learning_curves.png",
    f"Learning curves over {epochs:g} epochs: "
    f"{'; '.join(said) or 'nothing was logged'}.",
    figures.learning_curves(log_lines),
  )


def sheets(run: Run, record_set: RecordSet) -> Iterator[Exhibit]:
  """Shows scans of each class that the run was trained on.

  They lie evenly in the training split, sorted by source and then by record.
  """
  modalities = run.model["modalities"]
  shown = max(2, _SHEET_ROWS // len(modalities))
  for number, name in enumerate(run.model["classes"], start=1):
    scans = sorted(
      (s for s in run.scans if (s["split"], s["class"]) == ("train", name)),
      key=lambda scan: (scan["source"], int(scan["record_index"])),
    )
    chosen = [scans[i] for i in montage.spread(len(scans), shown)]
    if not chosen:
      continue
    examples = [record_set[int(scan["record_index"])] for scan in chosen]
    title = f"{name}: {len(chosen)} of {len(scans)} training scans"
    captions = [
      _caption(scan, record)
      for scan, record in zip(chosen, examples, strict=True)
    ]
    yield Exhibit(
      f"contact_sheet_{number}.png",
      f"Contact sheet of {title}, up to {montage.COLUMNS} slices each of"
      f" {', '.join(modalities)}. {'; '.join(captions)}. A tumour is outlined"
      f" in {sum(map(has_tumour, examples))} of {len(examples)}.",
      montage.contact_sheet(
        examples, captions, modalities=modalities, title=title
      ),
    )


def _caption(scan: Mapping[str, str], record: Record) -> str:
  """Names a scan: ids, source, label if the class has another name."""
  label = scan["label"] if scan["label"] != scan["class"] else ""
  plural = "s" if len(record.slices) > 1 else ""
  length = f"{len(record.slices)} slice{plural}"
  ids = f"{scan['participant_id']} {scan['session_id']}".strip()
  return ", ".join(filter(None, (ids, scan["source"], label, length)))


def has_tumour(record: Record) -> bool:
  """Says whether a tumour is marked in any slice."""
  return record.mask is not None and bool(record.mask.any())
