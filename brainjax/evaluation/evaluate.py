"""Scores a split of a run: predictions, metrics with intervals, and probes."""

import csv
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from brainjax import InputError, records
from brainjax.cohort.splits import SPLITS
from brainjax.evaluation import baselines
from brainjax.metrics import statistics
from brainjax.training import runner as runner_lib
from brainjax.training.experiment import Experiment, open_run

SCHEMA_VERSION = 1
_PROBE_METRICS = ("accuracy", "balanced_accuracy", "roc_auc")
_TINY = 1e-12  # a probe may give a class probability 0; its log must be finite


def evaluate(workdir: pathlib.Path, split: str = "test") -> dict[str, Any]:
  """Scores one split with the run's best parameters.

  Writes the split's rows of `predictions.csv` and
  `predictions_participant.csv`, and its part of `metrics.json`.

  Args:
    workdir: Of the run.
    split: "train", "validation" or "test".

  Returns:
    The split's part of `metrics.json`.

  Raises:
    InputError: The run is not ready, or the split has no scan.
  """
  experiment = open_run(workdir)
  subset = experiment.subset(split)
  if not len(subset):
    raise InputError(f"{workdir / 'splits.csv'}: no scan in split {split!r}")
  runner = runner_lib.Runner(experiment)
  step = runner_lib.restore_best(runner)
  log_probabilities = runner.score(subset)
  scores = _score(experiment, subset, log_probabilities)
  scores["classes"] = list(experiment.classes)
  scores["step"] = step
  scores["probes"] = _score_probes(experiment, subset)

  scans = [scan for scan in experiment.scans if scan["split"] == split]
  _replace_rows(
    workdir / "predictions.csv",
    split,
    _prediction_rows(scans, np.exp(log_probabilities), experiment.classes),
  )
  people, probabilities = statistics.aggregate_participants(
    log_probabilities, [scan["participant_id"] for scan in scans]
  )
  scan_of = {scan["participant_id"]: dict(scan) for scan in scans}
  for scan in scan_of.values():
    del scan["session_id"]
  _replace_rows(
    workdir / "predictions_participant.csv",
    split,
    _prediction_rows(
      [scan_of[person] for person in people],
      probabilities,
      experiment.classes,
    ),
  )
  path = workdir / "metrics.json"
  metrics = json.loads(path.read_text()) if path.is_file() else {}
  metrics |= {"schema_version": SCHEMA_VERSION, split: scores}
  records.write_text(path, json.dumps(metrics, indent=2) + "\n")
  return scores


def _score(
  experiment: Experiment, subset: np.ndarray, log_probabilities: np.ndarray
) -> dict[str, Any]:
  rows = [experiment.record_set.rows[i] for i in subset]
  people, probabilities = statistics.aggregate_participants(
    log_probabilities, [row["participant_id"] for row in rows]
  )
  facts = {
    row["participant_id"]: (experiment.targets[i], row["group_id"])
    for i, row in zip(subset, rows, strict=True)
  }
  return statistics.score_with_intervals(
    probabilities,
    np.array([facts[person][0] for person in people]),
    [facts[person][1] for person in people],
    positive=experiment.positive,
    resamples=experiment.config.eval.resamples,
    seed=experiment.config.eval.seed,
  )


def _score_probes(
  experiment: Experiment, subset: np.ndarray
) -> dict[str, dict[str, Any]]:
  """Scores the shortcut probes like the model, on the same participants."""
  train_subset = experiment.subset("train")
  described = np.unique(np.concatenate([train_subset, subset]))
  row_of = {index: row for row, index in enumerate(described)}
  scores = {}
  features = baselines.probe_features(experiment.record_set, described)
  for name, values in features.items():
    probabilities = baselines.probe_probabilities(
      values,
      np.array([row_of[index] for index in train_subset]),
      np.array([row_of[index] for index in subset]),
      experiment.targets[described],
      len(experiment.classes),
    )
    score = _score(experiment, subset, np.log(probabilities + _TINY))
    scores[name] = {key: score[key] for key in (*_PROBE_METRICS, "n")}
  return scores


def _prediction_rows(
  scans: Sequence[Mapping[str, str]],
  probabilities: np.ndarray,
  classes: Sequence[str],
) -> list[dict[str, Any]]:
  kept = ("participant_id", "session_id", "group_id", "source", "split", "fold")
  return [
    {
      **{name: scan[name] for name in kept if name in scan},
      "true_label": scan["class"],
      "predicted_label": classes[int(np.argmax(row))],
      **{
        f"proba_{name}": f"{value:.9g}"
        for name, value in zip(classes, row, strict=True)
      },
    }
    for scan, row in zip(scans, probabilities, strict=True)
  ]


def _replace_rows(
  path: pathlib.Path, split: str, rows: list[dict[str, Any]]
) -> None:
  """Puts a split's rows into the file, in place of its earlier ones."""
  kept = []
  if path.is_file():
    with open(path, newline="") as file:
      kept = [row for row in csv.DictReader(file) if row["split"] != split]
  rows = sorted([*kept, *rows], key=lambda row: SPLITS.index(row["split"]))
  records.write_csv(path, list(rows[0]), rows)
