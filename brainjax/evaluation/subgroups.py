"""How well a model does in parts of the cohort: sources, sexes, ages."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from brainjax.evaluation import run_files
from brainjax.evaluation.run_files import Run
from brainjax.metrics import statistics

AGES = (40, 60)  # years at which a band of ages begins
_UNKNOWN = "not known"


def subgroups(
  run: Run, split: str, scans: Iterable[Mapping[str, str]]
) -> list[dict[str, Any]]:
  """Scores the participants of each source, sex and band of ages.

  Args:
    run: The run.
    split: Whose participants.
    scans: Rows of the manifest of the run's records; a participant is what
      the first row with an entry says.

  Returns:
    Rows `{"field", "value", "n", "of_class", "scores"}`, in which `of_class`
    counts participants by class and `scores` are as in metrics.json, None if
    some class has no participant there; nothing of a field with one value.
  """
  people = [p for p in run.participants if p["split"] == split]
  classes = run.model["classes"]
  probabilities, targets = run_files.answers(people, classes)
  groups = [p["group_id"] for p in people]
  told = _first_entries(scans)
  rows = []
  for field, values in (
    ("source", [p["source"] or _UNKNOWN for p in people]),
    ("sex", [told["sex"].get(p["participant_id"], "") for p in people]),
    ("age", [told["age"].get(p["participant_id"], "") for p in people]),
  ):
    if field == "age":
      values = [_band(age) for age in values]
    values = np.array([value or _UNKNOWN for value in values])
    found = np.unique(values)
    if len(found) < 2:
      continue
    for value in sorted(found, key=_rank):
      inside = values == value
      counts = np.bincount(targets[inside], minlength=len(classes))
      rows.append(
        {
          "field": field,
          "value": str(value),
          "n": int(inside.sum()),
          "of_class": dict(zip(classes, map(int, counts), strict=True)),
          "scores": _score(
            run,
            probabilities[inside],
            targets[inside],
            [g for g, i in zip(groups, inside, strict=True) if i],
          )
          if counts.all()
          else None,
        }
      )
  return rows


def _rank(value: str) -> tuple[bool, bool, str]:
  """Puts the youngest first and what is not known last."""
  return value == _UNKNOWN, not value.startswith("under "), value


def _score(
  run: Run,
  probabilities: np.ndarray,
  targets: np.ndarray,
  groups: Sequence[str],
) -> dict[str, Any]:
  classes, positive = run.model["classes"], run.model["positive"]
  evaluation = run.config["eval"]
  return statistics.score_with_intervals(
    probabilities,
    targets,
    groups,
    positive=classes.index(positive) if positive else None,
    resamples=evaluation["resamples"],
    seed=evaluation["seed"],
  )


def _first_entries(
  scans: Iterable[Mapping[str, str]],
) -> dict[str, dict[str, str]]:
  """Returns sex and age by participant."""
  told: dict[str, dict[str, str]] = {"sex": {}, "age": {}}
  for scan in scans:
    for field, of_person in told.items():
      if scan.get(field):
        of_person.setdefault(scan["participant_id"], scan[field])
  return told


def _band(age: str) -> str:
  """Names the band of an age in years; "" of what is no number.

  >>> _band("39.5"), _band("60"), _band("")
  ('under 40', '60 and over', '')
  """
  try:
    years = float(age)
  except ValueError:
    return ""
  if not np.isfinite(years):
    return ""
  if years < AGES[0]:
    return f"under {AGES[0]}"
  for low, high in itertools.pairwise(AGES):
    if years < high:
      return f"{low} to {high - 1}"
  return f"{AGES[-1]} and over"
