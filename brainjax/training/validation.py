"""What a run makes of its validation split after an epoch."""

import numpy as np

from brainjax.metrics import classification, statistics
from brainjax.training import logs
from brainjax.training.runner import Runner


def validate(
  runner: Runner,
  step: int,
  epoch: int,
  log: logs.MetricLog,
  display: logs.Display,
) -> float:
  """Scores the validation split, logs it, and returns its loss."""
  experiment = runner.experiment
  subset = experiment.scored("validation")
  scores = runner.score(subset)
  if experiment.objective == "reconstruct":
    loss = float(scores.mean())
    log.write({"step": step, "epoch": float(epoch), "validation/loss": loss})
    display.say(
      f"epoch {epoch:3d}  step {step:5d}  validation: squared error {loss:.4f}"
    )
    return loss
  return _validate_classes(runner, step, epoch, subset, scores, log, display)


def _validate_classes(
  runner, step, epoch, subset, log_probabilities, log, display
) -> float:
  experiment = runner.experiment
  targets = experiment.targets[subset]
  weights = np.array(experiment.validation_weights)[targets]
  losses = -log_probabilities[np.arange(len(subset)), targets]
  loss = float((losses * weights).sum() / weights.sum())
  rows = experiment.record_set.rows
  people, probabilities = statistics.aggregate_participants(
    log_probabilities, [rows[i]["participant_id"] for i in subset]
  )
  target_of = {
    rows[i]["participant_id"]: target
    for i, target in zip(subset, targets, strict=True)
  }
  people_targets = np.array([target_of[person] for person in people])
  scores = {
    "validation/accuracy": classification.accuracy(
      probabilities, people_targets
    ),
    "validation/roc_auc": classification.roc_auc(
      probabilities, people_targets, positive=experiment.positive
    ),
  }
  scores = {name: float(value) for name, value in scores.items()}
  log.write(
    {"step": step, "epoch": float(epoch), "validation/loss": loss, **scores}
  )
  display.say(
    f"epoch {epoch:3d}  step {step:5d}  validation: loss {loss:.3f}"
    f"  accuracy {scores['validation/accuracy']:.3f}"
    f"  AUC {scores['validation/roc_auc']:.3f}"
  )
  return loss
