"""What a reader of a paper about the run will ask: the CLAIM checklist.

An item is answered by where on the page its answer stands, or with the answer;
an item that no file of a run can answer is marked for the authors.

Source: Mongan, Moy and Kahn 2020, Checklist for Artificial Intelligence in
Medical Imaging (CLAIM), Radiology: Artificial Intelligence 2(2) e200029; the
items are in words of our own.
"""

from collections.abc import Collection
from typing import NamedTuple

from brainjax.evaluation import methods
from brainjax.evaluation.run_files import Run

_SECTIONS = (
  (2, "Title and abstract"),
  (4, "Introduction"),
  (6, "Study design"),
  (13, "Data"),
  (18, "Reference standard"),
  (21, "Partitions"),
  (24, "Model"),
  (27, "Training"),
  (32, "Evaluation"),
  (37, "Results"),
  (39, "Discussion"),
  (42, "Other information"),
)
_ASKS = (
  "Title or abstract names the method as machine learning, and which",
  "Structured abstract",
  "Background, intended use and clinical role",
  "Objectives and hypotheses",
  "Prospective or retrospective",
  "Aim: a model, a comparison, feasibility",
  "Where the data come from",
  "Who was eligible: how, where and when",
  "Preprocessing",
  "Which parts of the data were selected",
  "Definitions of data elements",
  "De-identification",
  "Missing data",
  "What the reference standard is",
  "Why that reference standard",
  "Who made the reference annotations, and how qualified they are",
  "Annotation tools",
  "Agreement within and between raters",
  "Intended sample size, and why",
  "How the data were divided, in what shares",
  "The level at which partitions are disjoint",
  "The model: inputs, layers, outputs",
  "Software and versions",
  "Initial parameters",
  "Training: augmentation, hyperparameters, number of models",
  "How the final model was chosen",
  "Ensembles",
  "Metrics",
  "Uncertainty and significance",
  "Robustness or sensitivity",
  "Explanation of the model’s answers",
  "Test on external data",
  "Flow of participants",
  "Demographic and clinical characteristics in each partition",
  "Performance on all partitions",
  "Estimates with their precision",
  "Analysis of failures",
  "Limitations",
  "Implications for practice",
  "Registration",
  "Full protocol",
  "Funding",
)


class Item(NamedTuple):
  """One item; `answer` is "" where only the authors can answer."""

  section: str
  number: int
  asks: str
  answer: str


def items(
  run: Run,
  *,
  rejected: int | None,
  subgroup_fields: Collection[str],
  attends: bool,
) -> list[Item]:
  """Returns the 42 items, answered as far as the files of a run can.

  Args:
    run: The run.
    rejected: Scans that preparation could not read; None if not known.
    subgroup_fields: By which the page scores parts of the cohort.
    attends: Whether the page shows what the model attends to.
  """
  told = methods.paragraphs(run, "test")
  absent = len(run.model["modalities"]) > 1
  scored = [s for s in ("train", "validation", "test") if s in run.metrics]
  answers = {
    7: _sources(run),
    9: told["Images"],
    10: "Slices and crop: see 9. None is chosen by its content.",
    13: "Absent modalities are zero, and the model is told so."
    if absent
    else "One modality; a scan without it is no scan of the cohort.",
    14: _labels(run),
    20: methods.splits_of(run),
    21: "The group of scans of one participant (group_id).",
    22: told["Model"],
    23: told["Software"],
    24: _initial(run),
    25: told["Training"],
    26: "The parameters with the lowest validation loss.",
    27: "None: one model.",
    28: "Section “How well it does”.",
    29: told["Statistics"],
    30: f"By {', '.join(subgroup_fields)}." if subgroup_fields else "",
    31: "Section “What the model sees”: attention." if attends else "",
    33: _flow(run, rejected),
    34: "Section “What the model sees”: cohort and splits, by class and source;"
    " what else describes the participants is not in the page.",
    35: f"Scored: {', '.join(scored)}.",
    36: "Section “How well it does”: 95 % intervals.",
    37: "Section “Where it is wrong”.",
    41: "The configuration and the command, at the end of this page.",
  }
  external = sorted(run.metrics.get("external", {}))
  if external:
    answers[32] = f"Scored on {', '.join(external)}."
  return [
    Item(_section(number), number, asks, answers.get(number, ""))
    for number, asks in enumerate(_ASKS, start=1)
  ]


def _section(number: int) -> str:
  return next(name for last, name in _SECTIONS if number <= last)


def _sources(run: Run) -> str:
  sources = sorted({s["source"] for s in run.scans if s["source"]})
  return f"Sources: {', '.join(sources)}." if sources else ""


def _initial(run: Run) -> str:
  if run.features:
    return (
      "The encoder's: those of the run whose features this one was given, see"
      " 22; the head's: at random."
    )
  start = run.config["model"]["init_from"]
  return f"From {start}." if start else "Initialised at random."


def _labels(run: Run) -> str:
  """Says how labels make classes; who gave the labels, authors must say."""
  of_class: dict[str, set[str]] = {}
  for scan in run.scans:
    if scan["class"]:
      of_class.setdefault(scan["class"], set()).add(scan["label"])
  made = "; ".join(f"{k}: {', '.join(sorted(v))}" for k, v in of_class.items())
  return f"The cohort’s labels, per participant, as classes ({made})."


def _flow(run: Run, rejected: int | None) -> str:
  used = sum(bool(scan["class"]) for scan in run.scans)
  text = f"{methods.counted(used, 'scan')} with a class"
  others = len(run.scans) - used
  if others:
    text += f", {others} without"
  if rejected is not None:
    text += f"; {rejected} left out in preparation, each with its reason"
  return f"{text}."
