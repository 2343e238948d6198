"""Scores a split of a run: predictions, metrics with intervals, and probes."""

import csv
import json
import pathlib
from typing import Any

import numpy as np

import brainjax
from brainjax import InputError, checkpoint, records
from brainjax.cohort.splits import SPLITS
from brainjax.evaluation import (
  attention,
  augmentation,
  calibrate,
  reconstruction,
  scoring,
  test_lock,
)
from brainjax.metrics import calibration
from brainjax.training import processes, trained
from brainjax.training import runner as runner_lib
from brainjax.training import workdir as workdir_lib
from brainjax.training.experiment import Experiment, open_run

SCHEMA_VERSION = 1


def evaluate(workdir: pathlib.Path, split: str = "test") -> dict[str, Any]:
  """Scores one split with the run's best parameters.

  If slices are only reconstructed, there is nothing but `metrics.json`, with
  `reconstruction` and `feature_probes`. Else it writes the split's rows of
  `predictions.csv` and `predictions_participant.csv`, and its part of
  `metrics.json`, at the temperature that validation asks for; and what
  `attention.py` says, if the model has attention. Either way,
  `augmentation.npz` if the training scans are varied.

  Every look at the test split is written down; one that is just like the last
  one is not scored again, see `test_lock.py`.

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
  look = {}
  if split == "test":
    what = _test_identity(experiment, trained.best_step(workdir))
    look = {"look_sha256": records.sha256_of_json(what)}
    earlier = test_lock.earlier_scores(workdir, **look)
    if processes.is_first():
      test_lock.note_look(workdir, what)
    if earlier is not None:
      return earlier
  runner = runner_lib.Runner(experiment)
  step = runner_lib.restore_best(runner)
  augmentation.write_draws(experiment)
  if experiment.objective == "reconstruct":
    scores = _score_reconstruction(experiment, runner, split)
    scores |= {"classes": list(experiment.classes), "step": step, **look}
    _write_scores(workdir, split, scores)
    return scores
  log_probabilities, calibrated = _calibrated(
    experiment, split, step, runner.score(subset)
  )
  scores = scoring.score(experiment, subset, log_probabilities)
  scores["calibration"] = calibrated
  scores["classes"] = list(experiment.classes)
  scores |= {"step": step, **look}
  scores["scans"] = scoring.score_scans(experiment, subset, log_probabilities)
  if not scoring.patients_known(experiment.record_set.rows):
    scores["patients_known"] = False
  scores |= scoring.score_probes(experiment, subset)

  scans = [
    scan
    for scan in experiment.scans
    if scan["split"] == split and scan["class"]
  ]
  _replace_rows(
    workdir / "predictions.csv",
    split,
    scoring.prediction_rows(
      scans, np.exp(log_probabilities), experiment.classes
    ),
  )
  _replace_rows(
    workdir / "predictions_participant.csv",
    split,
    scoring.participant_rows(scans, log_probabilities, experiment.classes),
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


def _test_identity(experiment: Experiment, step: int) -> dict[str, Any]:
  """Returns all that a score of the test split follows from."""
  workdir = experiment.workdir
  rows = [
    {name: scan[name] for name in ("record_index", "group_id", "class")}
    for scan in experiment.scans
    if scan["split"] == "test"
  ]
  return {
    "test_sha256": records.sha256_of_json(
      [experiment.record_set.sha256, *rows]
    ),
    "checkpoint_sha256": checkpoint.sha256_of_step(
      workdir / "checkpoints", step
    ),
    "step": step,
    "calibration": trained.read_model_file(workdir)["calibration"],
    "eval": experiment.config.eval.to_dict(),
    "brainjax": brainjax.__version__,
    "git_revision": workdir_lib.git_revision(),
  }


def _calibrated(
  experiment: Experiment, split: str, step: int, log_probabilities: np.ndarray
) -> tuple[np.ndarray, dict[str, Any] | None]:
  """Puts scans at the temperature that the validation split asks for.

  Returns:
    f64[T,K] log-probabilities, and what `calibrate.score` says of them; as
    they were, and None, if validation was not scored with these parameters.
  """
  subset = experiment.scored(split)
  raw, targets, groups = scoring.participants(
    experiment, subset, log_probabilities
  )
  if split == "validation":
    fitted = calibrate.fit(experiment, raw, targets, step)
  else:
    facts = trained.read_model_file(experiment.workdir)
    fitted = trained.calibration_of(facts, step)
  if fitted is None:
    return log_probabilities, None
  found = calibration.apply_temperature(
    log_probabilities, fitted["temperature"]
  )
  joined, _, _ = scoring.participants(experiment, subset, found)
  scores = calibrate.score(experiment, fitted, joined, raw, targets, groups)
  return found, scores


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
  found = scoring.probe_log_probabilities(
    experiment, features, described, subset
  )
  scores["feature_probes"] = scoring.score_probe_answers(
    experiment, subset, found
  )
  scores["feature_probe_gain"] = scoring.gain(experiment, subset, found)
  return scores


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
