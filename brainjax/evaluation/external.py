"""Scores a run on the records of another cohort.

Nothing is fitted there: parameters, temperature and operating point are those
of the run. Labels are mapped to classes by their names, and a cohort that
shares a person or an image with what the run was trained on is refused.

    predictions_external_NAME.csv               a row a scan
    predictions_external_NAME_participant.csv   a row a participant
    metrics.json                                its part "external", by NAME
"""

import dataclasses
import functools
import json
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import jax
import ml_collections
import numpy as np

from brainjax import InputError, records
from brainjax.evaluation import (
  baselines,
  calibrate,
  external_checks,
  scoring,
  test_lock,
)
from brainjax.input import plan
from brainjax.metrics import calibration
from brainjax.models.classifier import Classifier
from brainjax.training import other_records, standardise, trained
from brainjax.training import step as step_lib
from brainjax.training.experiment import Experiment, open_run


def evaluate_external(
  workdir: pathlib.Path, folder: pathlib.Path
) -> tuple[str, dict[str, Any]]:
  """Scores every labelled scan of other records with the best parameters.

  Args:
    workdir: Of the run.
    folder: The records, prepared as the run's.

  Returns:
    The name of the cohort, that of its folder, and its scores.

  Raises:
    InputError: The run is not ready, or the records do not fit, are not new
      to it, or hold no label.
  """
  run = open_run(workdir)
  if run.objective == "reconstruct":
    raise InputError(
      f"{workdir}: an auto-encoder's run classifies nothing; give a run of"
      " another config.train.objective"
    )
  other = records.RecordSet(folder).images()
  name = external_name(other.path)
  external_checks.check_name(workdir, name, other)
  external_checks.check_images(workdir, other)
  external_checks.check_unseen(run, other)
  targets = external_checks.targets_by_name(run, other)
  subset = np.flatnonzero(targets >= 0)
  if not len(subset):
    raise InputError(f"{other.path}: no scan has a label; there is no score")
  model = trained.load_trained(workdir)
  test_lock.note_look(
    workdir,
    {
      "external": name,
      "test_sha256": other.sha256,
      "checkpoint_sha256": model.checkpoint_sha256,
      "step": model.step,
    },
  )
  raw = score_scans(model, other, subset, run.config.data)
  external = dataclasses.replace(run, record_set=other, targets=targets)
  fitted, found, calibrated = model.calibration, raw, None
  if fitted:
    found = calibration.apply_temperature(raw, fitted["temperature"])
    joined, truth, groups = scoring.participants(external, subset, found)
    given, _, _ = scoring.participants(external, subset, raw)
    calibrated = calibrate.score(run, fitted, joined, given, truth, groups)
  scores = scoring.score(external, subset, found)
  scores |= {
    "calibration": calibrated,
    "classes": list(run.classes),
    "step": model.step,
    "records": str(other.path),
    "records_sha256": other.sha256,
    "unlabelled_scans": len(other) - len(subset),
    **_probes(run, external, subset),
  }
  if not scoring.patients_known(other.rows):
    scores["patients_known"] = False
  _write(external, name, subset, found, scores)
  return name, scores


def external_name(path: pathlib.Path) -> str:
  """Names a cohort by the folder of its records.

  >>> external_name(pathlib.Path("/data/site B/records"))
  'site-B'
  """
  given = path.parent.name if path.name == "records" else path.name
  return re.sub(r"[^A-Za-z0-9_-]+", "-", given).strip("-") or "records"


def score_scans(
  run: trained.Trained,
  record_set: records.RecordSet,
  subset: np.ndarray,
  data: ml_collections.ConfigDict,
) -> np.ndarray:
  """Returns f64[T,K] log-probabilities of scans that are not a run's own.

  Args:
    run: The model.
    record_set: Images.
    subset: i64[T] record indices.
    data: The section of the config; how many are scored at a time.
  """
  given = other_records.supply(
    run, record_set, subset, data, lengths=record_set.lengths[subset]
  )
  outputs = [
    (
      batch["record_index"],
      _score_batch(
        given.variables,
        batch,
        model=run.model,
        zero_code=given.zero_code,
        standard=given.standard,
        shape=given.shape,
      ),
    )
    for batch in given.batches
  ]
  found = {}
  for indices, log_probabilities in jax.device_get(outputs):
    for pack, row in np.argwhere(indices >= 0):
      found[int(indices[pack, row])] = log_probabilities[pack, row]
  return np.array([found[int(index)] for index in subset], np.float64)


@functools.partial(
  jax.jit, static_argnames=("model", "zero_code", "standard", "shape")
)
def _score_batch(
  variables: Mapping[str, Any],
  batch: step_lib.Batch,
  *,
  model: Classifier,
  zero_code: int,
  standard: standardise.Standard | None,
  shape: plan.PackShape,
) -> jax.Array:
  """Returns f32[G,B,K] log-probabilities."""
  logits: Any = model.apply(
    variables,
    step_lib.dequantise(batch, zero_code, standard),
    *step_lib.model_inputs(batch),
    num_rows=shape.rows,
    max_length=shape.longest,
    train=False,
    method=step_lib.OBJECTIVES["classify"],
  )
  return jax.nn.log_softmax(logits)


def _probes(
  run: Experiment, external: Experiment, subset: np.ndarray
) -> dict[str, Any]:
  """Fits the shortcut probes on the run's training scans, and asks them."""
  train, theirs = run.scored("train"), external.record_set
  features = baselines.manifest_features(
    [run.record_set.rows[i] for i in train] + [theirs.rows[i] for i in subset],
    np.concatenate([run.record_set.lengths[train], theirs.lengths[subset]]),
    np.arange(len(train)),
  )
  said = {}
  try:
    own = baselines.probe_features(run.record_set.images(), train)
  except InputError as error:
    said = {"probes_left_out": str(error)}
  else:
    others = baselines.probe_features(theirs, subset)
    features |= {k: np.concatenate([own[k], others[k]]) for k in own}
  found = {
    name: scoring.log_of(
      baselines.probe_probabilities(
        values,
        np.arange(len(train)),
        len(train) + np.arange(len(subset)),
        np.concatenate([run.targets[train], external.targets[subset]]),
        len(run.classes),
      )
    )
    for name, values in features.items()
  }
  probes = scoring.score_probe_answers(external, subset, found)
  return {"probes": probes, **said}


def _write(
  external: Experiment,
  name: str,
  subset: np.ndarray,
  log_probabilities: np.ndarray,
  scores: dict[str, Any],
) -> None:
  workdir, classes = external.workdir, external.classes
  path = workdir / "metrics.json"
  metrics = json.loads(path.read_text()) if path.is_file() else {}
  rows = [external.record_set.rows[i] for i in subset]
  scans = [
    row | {"class": classes[external.targets[i]], "split": "external"}
    for i, row in zip(subset, rows, strict=True)
  ]
  tables = {
    "": scoring.prediction_rows(scans, np.exp(log_probabilities), classes),
    "_participant": scoring.participant_rows(scans, log_probabilities, classes),
  }
  for kind, table in tables.items():
    file = workdir / f"predictions_external_{name}{kind}.csv"
    records.write_csv(file, list(table[0]), table)
  metrics.setdefault("external", {})[name] = scores
  records.write_text(path, json.dumps(metrics, indent=2) + "\n")
