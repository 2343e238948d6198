"""From log-probabilities of scans to scores of participants and of probes."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from brainjax import InputError
from brainjax.evaluation import baselines
from brainjax.metrics import classification, comparison, statistics
from brainjax.training.experiment import Experiment

_PROBE_METRICS = ("accuracy", "balanced_accuracy", "roc_auc", "screening_auc")
_TINY = 1e-12  # a probe may give a class probability 0; its log must be finite


def patients_known(rows: Iterable[Mapping[str, str]]) -> bool:
  """Whether it is known of every scan of a manifest whose it is."""
  return all(row.get("patient_id_known") != "false" for row in rows)


def participants(
  experiment: Experiment, subset: np.ndarray, log_probabilities: np.ndarray
) -> tuple[np.ndarray, np.ndarray, list[str]]:
  """Joins scans into people.

  Args:
    experiment: The run's facts.
    subset: i64[T] record indices.
    log_probabilities: f64[T,K] of those scans.

  Returns:
    f64[n,K] probabilities, i64[n] targets and the groups of the n people.
  """
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


def score(
  experiment: Experiment, subset: np.ndarray, log_probabilities: np.ndarray
) -> dict[str, Any]:
  """Scores the participants of a subset; arguments as of `participants`."""
  return statistics.score_with_intervals(
    *participants(experiment, subset, log_probabilities),
    positive=experiment.positive,
    negative=experiment.negative,
    resamples=experiment.config.eval.resamples,
    seed=experiment.config.eval.seed,
  )


def score_scans(
  experiment: Experiment, subset: np.ndarray, log_probabilities: np.ndarray
) -> dict[str, Any]:
  """Scores each scan for itself; intervals are over groups nevertheless.

  Returns:
    As `score`, with n scans; {} if nobody has several, for then it is `score`.
  """
  rows = [experiment.record_set.rows[i] for i in subset]
  if len({row["participant_id"] for row in rows}) == len(rows):
    return {}
  return statistics.score_with_intervals(
    np.exp(log_probabilities),
    experiment.targets[subset],
    [row["group_id"] for row in rows],
    positive=experiment.positive,
    negative=experiment.negative,
    resamples=experiment.config.eval.resamples,
    seed=experiment.config.eval.seed,
  )


def score_probes(experiment: Experiment, subset: np.ndarray) -> dict[str, Any]:
  """Scores the shortcut probes like the model, on the same participants.

  Returns:
    "probes", by name; "probes_left_out", why those that need images are not
    among them, if the images are gone.
  """
  train, record_set = experiment.subset("train"), experiment.record_set
  described = np.unique(np.concatenate([train, subset]))
  features = baselines.manifest_features(
    [record_set.rows[i] for i in described],
    record_set.lengths[described],
    np.searchsorted(described, train),
  )
  said = {}
  try:
    features |= baselines.probe_features(record_set.images(), described)
  except InputError as error:
    said = {"probes_left_out": str(error)}
  found = probe_log_probabilities(experiment, features, described, subset)
  return {"probes": score_probe_answers(experiment, subset, found), **said}


def score_probe_answers(
  experiment: Experiment, subset: np.ndarray, found: Mapping[str, np.ndarray]
) -> dict[str, dict[str, Any]]:
  """Scores f64[T,K] log-probabilities of probes, by name."""
  scores = {
    name: score(experiment, subset, values) for name, values in found.items()
  }
  return {
    name: {key: score[key] for key in (*_PROBE_METRICS, "n") if key in score}
    for name, score in scores.items()
  }


def probe_log_probabilities(
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
    name: log_of(
      baselines.probe_probabilities(
        values,
        train,
        np.searchsorted(described, subset),
        experiment.targets[described],
        len(experiment.classes),
      )
    )
    for name, values in features.items()
  }


def log_of(probabilities: np.ndarray) -> np.ndarray:
  """Returns finite logarithms, also of a probe that excludes a class."""
  return np.log(probabilities + _TINY)


def participant_rows(
  scans: Sequence[Mapping[str, str]],
  log_probabilities: np.ndarray,
  classes: Sequence[str],
) -> list[dict[str, Any]]:
  """Joins the scans of each participant into a row of the table."""
  people, probabilities = statistics.aggregate_participants(
    log_probabilities, [scan["participant_id"] for scan in scans]
  )
  scan_of = {scan["participant_id"]: dict(scan) for scan in scans}
  for scan in scan_of.values():
    del scan["session_id"]
  rows = [scan_of[person] for person in people]
  return prediction_rows(rows, probabilities, classes)


def gain(
  experiment: Experiment, subset: np.ndarray, found: Mapping[str, np.ndarray]
) -> dict[str, float | None]:
  """How much balanced accuracy embeddings have over the PCA, paired."""
  ours, targets, groups = participants(experiment, subset, found["embedding"])
  theirs, _, _ = participants(experiment, subset, found["pca"])
  difference = comparison.paired_difference(
    ours[None],
    theirs[None],
    targets,
    groups,
    classification.balanced_accuracy,
    resamples=experiment.config.eval.resamples,
    seed=experiment.config.eval.seed,
  )
  bounds = {"low": difference.low, "high": difference.high}
  return {
    "value": difference.value,
    **{k: None if np.isnan(v) else v for k, v in bounds.items()},
  }


def prediction_rows(
  scans: Sequence[Mapping[str, str]],
  probabilities: np.ndarray,
  classes: Sequence[str],
) -> list[dict[str, Any]]:
  """Returns rows of a table of predictions, of scans or of participants."""
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
