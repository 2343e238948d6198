"""Temperature and operating point: chosen on validation, carried to the test.

`model.json` holds them, with the step of the parameters they belong to; a use
of other parameters does without. All of it is of participants.
"""

import json
import pathlib
from typing import Any

import numpy as np

from brainjax import records
from brainjax.metrics import calibration, classification, statistics
from brainjax.training import processes
from brainjax.training.experiment import Experiment


def fit(
  experiment: Experiment,
  probabilities: np.ndarray,
  targets: np.ndarray,
  step: int,
) -> dict[str, Any] | None:
  """Fits temperature and operating point, and puts them into `model.json`.

  Args:
    experiment: The run's facts.
    probabilities: f64[n,K] of the participants of the validation split.
    targets: i64[n] true classes.
    step: Of the parameters.

  Returns:
    `{"step", "n", "temperature", "threshold"}`, the last None unless the task
    is binary; None if the split lacks a class.
  """
  if len(np.unique(targets)) < len(experiment.classes):
    return None
  log_probabilities = _log(probabilities)
  temperature = calibration.fit_temperature(log_probabilities, targets)
  positive, threshold = experiment.positive, None
  if positive is not None:
    scaled = calibration.apply_temperature(log_probabilities, temperature)
    threshold = calibration.operating_point(
      np.exp(scaled[:, positive]),
      targets == positive,
      least_sensitivity=experiment.config.eval.least_sensitivity,
    )
  fitted = {
    "step": step,
    "n": len(targets),
    "temperature": temperature,
    "threshold": threshold,
  }
  if processes.is_first():
    _write(experiment.workdir / "model.json", fitted)
  return fitted


def score(
  experiment: Experiment,
  fitted: dict[str, Any],
  probabilities: np.ndarray,
  uncalibrated: np.ndarray,
  targets: np.ndarray,
  groups: list[str],
) -> dict[str, Any]:
  """Scores the calibration of a split, and its operating point.

  Args:
    experiment: The run's facts.
    fitted: What `fit` returned.
    probabilities: f64[n,K] of the participants, at the temperature.
    uncalibrated: The same, as the model gave them.
    targets: i64[n] true classes.
    groups: Group of each.

  Returns:
    `fitted`; "ece_equal_width", and it and others before, "uncalibrated";
    for a binary task "operating_point", its sensitivity, specificity,
    precision and negative_predictive_value with intervals.
  """
  scores: dict[str, Any] = fitted | _measures(probabilities, targets)
  scores["uncalibrated"] = _measures(uncalibrated, targets)
  positive, threshold = experiment.positive, fitted["threshold"]
  if positive is None:
    return scores
  called = probabilities[:, positive] >= threshold
  decisions = np.eye(2)[np.where(called, positive, 1 - positive)]
  decided = {
    index: statistics.score_with_intervals(
      decisions,
      targets,
      groups,
      positive=index,
      resamples=experiment.config.eval.resamples,
      seed=experiment.config.eval.seed,
    )
    for index in (positive, 1 - positive)
  }
  names = ("sensitivity", "specificity", "precision")
  scores["operating_point"] = {
    **{name: decided[positive][name] for name in names},
    "negative_predictive_value": decided[1 - positive]["precision"],
  }
  return scores


def _measures(
  probabilities: np.ndarray, targets: np.ndarray
) -> dict[str, float]:
  data = (probabilities, targets)
  return {
    "ece": float(calibration.ece(*data)),
    "ece_equal_width": float(calibration.ece_equal_width(*data)),
    "brier": float(classification.brier(*data)),
    "negative_log_likelihood": calibration.negative_log_likelihood(
      _log(probabilities), targets
    ),
  }


def _log(probabilities: np.ndarray) -> np.ndarray:
  """Returns logarithms; of what was too small for a number, a finite one."""
  return np.log(np.maximum(probabilities, np.finfo(np.float64).tiny))


def _write(path: pathlib.Path, fitted: dict[str, Any]) -> None:
  content = json.loads(path.read_text()) | {"calibration": fitted}
  records.write_text(path, json.dumps(content, indent=2) + "\n")
