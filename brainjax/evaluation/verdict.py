"""What the metrics of a run are worth, in sentences a reader can trust.

A number is held against chance, against the largest class and against the
shortcuts that were probed; each comparison is of the lower bound of its 95 %
interval. All of it is pure text from `metrics.json`.
"""

import collections
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

METRICS = {
  "roc_auc": "AUC",
  "hand_till_auc": "Hand-Till AUC",
  "screening_auc": "screening AUC",
  "balanced_accuracy": "balanced accuracy",
  "accuracy": "accuracy",
  "sensitivity": "sensitivity",
  "specificity": "specificity",
  "precision": "precision",
  "f1": "F1",
  "average_precision": "average precision",
  "brier": "Brier score",
  "ece": "calibration error",
}
PROBES = {
  "histogram": "intensity histogram",
  "header": "image header",
  "slices": "number of slices",
  "demographics": "age and sex",
  "source": "source",
}
UNDEFINED = {"value": None, "low": None, "high": None}


class Check(NamedTuple):
  """One comparison: does the result stand, and the sentence that says so."""

  stands: bool
  text: str


def score_text(score: Mapping[str, float | None]) -> str:
  """Writes a metric with its interval, as far as they are defined.

  >>> score_text({"value": 0.871, "low": 0.78, "high": 0.94})
  '0.87 [0.78, 0.94]'
  """
  value, low, high = score["value"], score["low"], score["high"]
  if value is None:
    return "undefined"
  if low is None or high is None:
    return f"{value:.2f}"
  return f"{value:.2f} [{low:.2f}, {high:.2f}]"


def p_text(p: float | None) -> str:
  """Writes a p value.

  >>> [p_text(p) for p in (0.0004, 0.0312, 0.71, None)]
  ['<0.001', '0.031', '0.71', '–']
  """
  if p is None:
    return "–"
  if p < 0.001:
    return "<0.001"
  return f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def difference_text(compared: Mapping[str, Any]) -> str:
  """Writes a difference with its interval.

  >>> difference_text({"difference": 0.0123, "low": -0.004, "high": 0.03})
  '+0.012 [-0.004, +0.030]'
  """
  if compared["difference"] is None:
    return "undefined"
  text = f"{compared['difference']:+.3f}"
  if compared["low"] is None:
    return text
  return f"{text} [{compared['low']:+.3f}, {compared['high']:+.3f}]"


def main_metric(classes: Sequence[str]) -> str:
  """Returns the metric that the verdict is about."""
  return "roc_auc" if len(classes) == 2 else "balanced_accuracy"


def baseline(
  scores: Mapping[str, Any], classes: Sequence[str]
) -> tuple[str, dict[str, float]]:
  """Returns the largest class and what always answering it scores."""
  totals = np.sum(scores["confusion_matrix"], axis=1)
  largest = int(np.argmax(totals))
  return classes[largest], {
    "roc_auc": 0.5,
    "balanced_accuracy": 1 / len(classes),
    "accuracy": float(totals[largest] / totals.sum()),
  }


def headline(
  scores: Mapping[str, Any], classes: Sequence[str], where: str
) -> str:
  """Returns the sentence with the number: AUC, or balanced accuracy.

  Where its interval reaches down to chance, it says that nothing is shown; and
  there is no headline where a shortcut alone reaches the number.

  Args:
    scores: Metrics of one split, or of another cohort.
    classes: Names in index order.
    where: Whose, such as "the test split".
  """
  metrics = [main_metric(classes)]
  if len(classes) > 2:
    metrics.append("accuracy")
  numbers = " and ".join(
    f"{METRICS[metric]} {score_text(scores[metric])}" for metric in metrics
  )
  people = "participants" if _patients_known(scores) else "images"
  people = f"n = {scores['n']} {people}"
  low = scores[metrics[0]]["low"]
  chance = baseline(scores, classes)[1][metrics[0]]
  fails = low is not None and low <= chance
  reached = _reached_by(scores, metrics[0])
  if reached and not fails:
    return (
      f"No headline: on {where} {_reads(scores, metrics[0], reached)} reaches"
      f" the model's {numbers}, {people}. What the model adds to a shortcut is"
      " not shown."
    )
  return (
    f"On {where} the model"
    f"{' is not shown to tell' if fails else ' tells'}"
    f" {', '.join(classes[:-1])} and {classes[-1]} apart"
    f"{':' if fails else ' with'} {numbers}, {people}."
  )


def checks(
  scores: Mapping[str, Any],
  classes: Sequence[str],
  scans: Iterable[Mapping[str, str]],
) -> list[Check]:
  """Holds the headline against all that could explain it otherwise.

  Args:
    scores: Metrics of one split.
    classes: Names in index order.
    scans: Rows of `splits.csv`.

  Returns:
    That nobody knows whose the images are, if so; chance, the largest class
    (more than two classes), the shortcut probes, and the sources if none of
    them holds two classes.
  """
  main = main_metric(classes)
  largest, levels = baseline(scores, classes)
  chance = f"chance ({levels[main]:.2f})"
  found = [_against_level(scores[main], METRICS[main], levels[main], chance)]
  if len(classes) > 2:
    level = levels["accuracy"]
    always = f"always answering {largest} ({level:.2f})"
    found.append(_against_level(scores["accuracy"], "accuracy", level, always))
  found.append(_against_probes(scores, main))
  if not _patients_known(scores):
    text = (
      "Nobody knows which images show one person, so that one may stand in"
      " training and here: this is no result of patients, and its intervals are"
      " too narrow."
    )
    found.insert(0, Check(False, text))
  classes_of = collections.defaultdict(set)
  for scan in scans:
    if scan["class"]:
      classes_of[scan["source"]].add(scan["class"])
  if all(len(c) == 1 for c in classes_of.values()):
    text = (
      "No source holds more than one class: the model may have learned to"
      " tell sources apart, and nothing here can show otherwise."
    )
    found.append(Check(False, text))
  return found


def _patients_known(scores: Mapping[str, Any]) -> bool:
  return scores.get("patients_known", True)  # absent from older runs


def _against_level(
  score: Mapping[str, float | None], metric: str, level: float, what: str
) -> Check:
  low = score["low"]
  if low is None:
    text = (
      f"The {metric} has no interval (it is perfect, or too few groups vary),"
      f" so it cannot be held against {what}."
    )
    return Check(False, text)
  beats = "is above" if low > level else "does not beat"
  text = f"The lower bound of the {metric}, {low:.2f}, {beats} {what}."
  return Check(low > level, text)


def _against_probes(scores: Mapping[str, Any], metric: str) -> Check:
  probes = _probes(scores, metric)
  value, low = scores[metric]["value"], scores[metric]["low"]
  if not probes or value is None:
    text = "No shortcut could be probed, so one may explain the result."
    return Check(False, text)
  bound, model = (value, "value") if low is None else (low, "interval")
  tops = {n: p["high"] or p["value"] for n, p in probes.items()}
  best = max(probes, key=lambda name: probes[name]["value"])
  widest = max(tops, key=lambda name: tops[name])
  reached = _reached_by(scores, metric)
  if reached:
    text = (
      f"A shortcut could explain the result: {_reads(scores, metric, reached)}"
      f" reaches the model's {model}."
    )
    return Check(False, text)
  if tops[widest] >= bound:
    text = (
      "A shortcut is not ruled out: the interval of"
      f" {_reads(scores, metric, widest)} overlaps the model's {model}."
    )
    return Check(False, text)
  text = (
    "No probed shortcut explains the result: the strongest,"
    f" {_reads(scores, metric, best)}, stays below the model's {model}."
  )
  return Check(True, text)


def _reached_by(scores: Mapping[str, Any], metric: str) -> str:
  """Names the strongest probe, if it reaches the lower bound of the model."""
  probes = _probes(scores, metric)
  value, low = scores[metric]["value"], scores[metric]["low"]
  if not probes or value is None:
    return ""
  best = max(probes, key=lambda name: probes[name]["value"])
  # Without an interval, as of a perfect score, the value itself is the bound.
  return (
    best if probes[best]["value"] >= (value if low is None else low) else ""
  )


def _probes(scores: Mapping[str, Any], metric: str) -> dict[str, Any]:
  """Returns what every probe scores, by its name in words."""
  return {
    str(PROBES.get(name, name)): probe[metric]
    for name, probe in scores.get("probes", {}).items()
    if probe.get(metric, UNDEFINED)["value"] is not None
  }


def _reads(scores: Mapping[str, Any], metric: str, name: str) -> str:
  score = _probes(scores, metric)[name]
  return f"{METRICS[metric]} {score_text(score)} from the {name} alone"
