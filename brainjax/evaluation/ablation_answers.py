"""What a head said of every participant, and how good that is."""

import csv
import functools
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from brainjax.metrics import classification, comparison, statistics


class Answers(NamedTuple):
  """What a head said of every participant.

  Attributes:
    probabilities: f64[S,n,K] of each seed.
    targets: i64[S,n] true classes; equal for all seeds unless labels are
      random.
    folds: i64[n], in which each participant tested.
    groups: Group of each participant.
    participants: Their names.
  """

  probabilities: np.ndarray
  targets: np.ndarray
  folds: np.ndarray
  groups: list[str]
  participants: list[str]


def read_answers(
  folder: pathlib.Path, classes: Sequence[str], folds: Sequence[str]
) -> Answers:
  """Reads `predictions.csv` of a head; scans are joined to participants."""
  with open(folder / "predictions.csv", newline="", encoding="utf-8") as file:
    rows = list(csv.DictReader(file))
  seeds = sorted({int(row["seed"]) for row in rows})
  of_seeds = []
  for seed in seeds:
    chosen = [row for row in rows if int(row["seed"]) == seed]
    scans = np.array(
      [[float(row[f"proba_{name}"]) for name in classes] for row in chosen]
    )
    people, joined = statistics.aggregate_participants(
      np.log(np.maximum(scans, np.finfo(np.float64).tiny)),
      [row["participant_id"] for row in chosen],
    )
    first = {row["participant_id"]: row for row in reversed(chosen)}
    order = np.argsort(people)
    people = [people[i] for i in order]
    of_seeds.append((people, joined[order], [first[name] for name in people]))
  people, _, facts = of_seeds[0]
  targets = [
    [classes.index(row["true_label"]) for row in found]
    for _, _, found in of_seeds
  ]
  return Answers(
    np.stack([joined for _, joined, _ in of_seeds]),
    np.array(targets),
    np.array([folds.index(row["fold"]) for row in facts]),
    [row["group_id"] for row in facts],
    people,
  )


def metric_of(name: str, positive: int | None) -> comparison.Metric:
  """Returns one of `ABLATION_METRICS`, with the class it is of bound."""
  metric = getattr(classification, name)
  if name in ("roc_auc", "average_precision"):
    return functools.partial(metric, positive=positive)
  return metric


def score(
  answers: Answers, metric: comparison.Metric, *, resamples: int, seed: int
) -> dict[str, float | None]:
  """Returns `{"value", "low", "high"}` of a head, NaN as None.

  Labels that differ between seeds are resampled within the classes of each.
  """
  found = comparison.seed_mean(
    answers.probabilities,
    answers.targets,
    answers.groups,
    metric,
    resamples=resamples,
    seed=seed,
  )
  return {
    "value": finite(found.value),
    "low": finite(found.low),
    "high": finite(found.high),
  }


def fold_scores(answers: Answers, metric: comparison.Metric) -> np.ndarray:
  """Returns f64[F], the metric of each fold, the mean over its seeds.

  NaN where a fold lacks a class that the metric needs.
  """
  found = []
  for fold in range(answers.folds.max() + 1):
    inside = answers.folds == fold
    found.append(
      np.mean(
        [
          metric(probabilities[inside], targets[inside])
          for probabilities, targets in zip(*answers[:2], strict=True)
        ]
      )
    )
  return np.array(found)


def finite(value: Any) -> float | None:
  """Returns a float, or None for NaN and infinities."""
  return float(value) if np.isfinite(value) else None
