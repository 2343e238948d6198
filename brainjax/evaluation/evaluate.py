"""Scores a split of a run: predictions, metrics with intervals, and probes."""

import csv
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from brainjax import InputError, records
from brainjax.cohort.splits import SPLITS
from brainjax.evaluation import (
  attention,
  augmentation,
  baselines,
  reconstruction,
)
from brainjax.metrics import classification, statistics
from brainjax.training import processes
from brainjax.training import runner as runner_lib
from brainjax.training.experiment import Experiment, open_run

SCHEMA_VERSION = 1
_PROBE_METRICS = ("accuracy", "balanced_accuracy", "roc_auc", "screening_auc")
_TINY = 1e-12  # a probe may give a class probability 0; its log must be finite


def evaluate(workdir: pathlib.Path, split: str = "test") -> dict[str, Any]:
  """Scores one split with the run's best parameters.

  If slices are only reconstructed, there is nothing but `metrics.json`, with
  `reconstruction` and `feature_probes`. Else it writes the split's rows of
  `predictions.csv` and `predictions_participant.csv`, and its part of
  `metrics.json`; and what `attention.py` says, if the model has attention.
  Either way, `augmentation.npz` if the training scans are varied.

  Args:
    workdir: Of the run.
    split: "train", "validation" or "test".

  Returns:
    The split's part of `metrics.json`.

  Raises:
    InputError: The run is not ready, or the split has no scan.
  """
  experiment = open_run(workdir)
  subset = experiment.scored(split)
  if not len(subset):
    raise InputError(f"{workdir / 'splits.csv'}: no scan in split {split!r}")
  runner = runner_lib.Runner(experiment)
  step = runner_lib.restore_best(runner)
  augmentation.write_draws(experiment)
  if experiment.objective == "reconstruct":
    scores = _score_reconstruction(experiment, runner, split)
    scores |= {"classes": list(experiment.classes), "step": step}
    _write_scores(workdir, split, scores)
    return scores
  log_probabilities = runner.score(subset)
  scores = _score(experiment, subset, log_probabilities)
  scores["classes"] = list(experiment.classes)
  scores["step"] = step
  try:
    images = experiment.record_set.images()
  except InputError as error:
    scores |= {"probes": {}, "probes_left_out": str(error)}
  else:
    scores["probes"] = _score_probes(experiment, images, subset)

  scans = [
    scan
    for scan in experiment.scans
    if scan["split"] == split and scan["class"]
  ]
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
  weights = runner.attention(subset)
  if weights:
    rows = attention.attention_rows(scans, weights, experiment.record_set)
    _replace_rows(workdir / "attention.csv", split, rows)
    if processes.is_first():
      maps_file = attention.maps_file(workdir, split)
      attention.write_maps(maps_file, scans, weights)
  if experiment.objective == "joint":
    scores["reconstruction"], _ = reconstruction.score_reconstruction(
      experiment, runner, split
    )
  _write_scores(workdir, split, scores)
  return scores


def _write_scores(
  workdir: pathlib.Path, split: str, scores: dict[str, Any]
) -> None:
  if not processes.is_first():
    return
  path = workdir / "metrics.json"
  metrics = json.loads(path.read_text()) if path.is_file() else {}
  metrics |= {"schema_version": SCHEMA_VERSION, split: scores}
  records.write_text(path, json.dumps(metrics, indent=2) + "\n")


def _score_reconstruction(
  experiment: Experiment, runner: runner_lib.Runner, split: str
) -> dict[str, Any]:
  """Scores an auto-encoder, and what a linear probe makes of its embeddings."""
  scores, features = reconstruction.score_reconstruction(
    experiment, runner, split
  )
  train, subset = experiment.subset("train"), experiment.subset(split)
  described = np.unique(np.concatenate([train, subset]))
  known = experiment.targets >= 0
  subset = subset[known[subset]]
  scores = {"n": scores["n"], "reconstruction": scores, "feature_probes": {}}
  classes = len(experiment.classes)
  if not all(
    len(np.unique(experiment.targets[rows[known[rows]]])) == classes
    for rows in (train, subset)
  ):
    return scores
  found = _probe_log_probabilities(experiment, features, described, subset)
  scores["feature_probes"] = _score_probe_answers(experiment, subset, found)
  scores["feature_probe_gain"] = _gain(experiment, subset, found)
  return scores


def _gain(
  experiment: Experiment, subset: np.ndarray, found: Mapping[str, np.ndarray]
) -> dict[str, float | None]:
  """How much balanced accuracy embeddings have over the PCA, paired."""
  ours, targets, groups = _participants(experiment, subset, found["embedding"])
  theirs, _, _ = _participants(experiment, subset, found["pca"])
  counts = statistics.bootstrap_counts(
    targets,
    groups,
    resamples=experiment.config.eval.resamples,
    seed=experiment.config.eval.seed,
  )

  def gain(counts):
    first, second = (
      classification.balanced_accuracy(probabilities, targets, counts=counts)
      for probabilities in (ours, theirs)
    )
    return first - second

  gains = gain(counts)
  low = high = None
  if all((counts[:, targets == k] != 1).any() for k in np.unique(targets)) and (
    np.ptp(gains) > 0
  ):
    low, high = (float(value) for value in np.percentile(gains, [2.5, 97.5]))
  return {"value": float(gain(None)), "low": low, "high": high}


def _participants(
  experiment: Experiment, subset: np.ndarray, log_probabilities: np.ndarray
) -> tuple[np.ndarray, np.ndarray, list[str]]:
  """Returns f64[n,K] probabilities, i64[n] targets and groups of people."""
  rows = [experiment.record_set.rows[i] for i in subset]
  people, probabilities = statistics.aggregate_participants(
    log_probabilities, [row["participant_id"] for row in rows]
  )
  facts = {
    row["participant_id"]: (experiment.targets[i], row["group_id"])
    for i, row in zip(subset, rows, strict=True)
  }
  targets = np.array([facts[person][0] for person in people])
  return probabilities, targets, [facts[person][1] for person in people]


def _score(
  experiment: Experiment, subset: np.ndarray, log_probabilities: np.ndarray
) -> dict[str, Any]:
  return statistics.score_with_intervals(
    *_participants(experiment, subset, log_probabilities),
    positive=experiment.positive,
    negative=experiment.negative,
    resamples=experiment.config.eval.resamples,
    seed=experiment.config.eval.seed,
  )


def _score_probes(
  experiment: Experiment, images: records.RecordSet, subset: np.ndarray
) -> dict[str, dict[str, Any]]:
  """Scores the shortcut probes like the model, on the same participants."""
  described = np.unique(np.concatenate([experiment.subset("train"), subset]))
  features = baselines.probe_features(images, described)
  found = _probe_log_probabilities(experiment, features, described, subset)
  return _score_probe_answers(experiment, subset, found)


def _score_probe_answers(
  experiment: Experiment, subset: np.ndarray, found: Mapping[str, np.ndarray]
) -> dict[str, dict[str, Any]]:
  scores = {
    name: _score(experiment, subset, values) for name, values in found.items()
  }
  return {
    name: {key: score[key] for key in (*_PROBE_METRICS, "n") if key in score}
    for name, score in scores.items()
  }


def _probe_log_probabilities(
  experiment: Experiment,
  features: Mapping[str, np.ndarray],
  described: np.ndarray,
  subset: np.ndarray,
) -> dict[str, np.ndarray]:
  """Asks a linear probe of features, f64[R,D] by name; f64[T,K] by name.

  Rows are of the record indices `described`, in ascending order.
  """
  train = np.searchsorted(described, experiment.subset("train"))
  return {
    name: np.log(
      baselines.probe_probabilities(
        values,
        train,
        np.searchsorted(described, subset),
        experiment.targets[described],
        len(experiment.classes),
      )
      + _TINY
    )
    for name, values in features.items()
  }


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
  if not processes.is_first():
    return
  kept = []
  if path.is_file():
    with open(path, newline="") as file:
      kept = [row for row in csv.DictReader(file) if row["split"] != split]
  rows = sorted([*kept, *rows], key=lambda row: SPLITS.index(row["split"]))
  records.write_csv(path, list(rows[0]), rows)
