"""A finished run of a few scans, as training and evaluation leave it."""

import dataclasses
import json

import numpy as np

import helpers
from brainjax import config as config_lib
from brainjax import records

SCREENING = ("normal", "tumour")
TYPING = ("glioma", "meningioma", "pituitary")


def with_modalities(record, present):
  """The record with its slices repeated as modalities, there or not."""
  channels = [
    record.slices if there else np.full_like(record.slices, record.zero_code)
    for there in present
  ]
  return dataclasses.replace(
    record,
    slices=np.concatenate(channels, axis=-1),
    present=np.array(present, np.uint8),
    landmarks=np.zeros((len(present), 11), np.float32),
  )


def score(value, low=None, high=None):
  return {"value": value, "low": low, "high": high}


def write_workdir(
  workdir,
  *,
  classes=SCREENING,
  split="test",
  wrong=2,
  auc=(0.87, 0.78, 0.94),
  balanced=(0.80, 0.70, 0.90),
  probes=None,
  person="p{}",
  head="lstm",
  sources=("ixi", "ucsf"),
  modalities=("t1",),
):
  """A finished run of 4 scans a class and split, and its records."""
  workdir.mkdir(parents=True)
  rng = np.random.default_rng(0)
  scans = []
  for place in ("train", split):
    for name in classes:
      for i in range(4):
        identity = person.format(len(scans))
        scans.append(
          {
            "participant_id": identity,
            "session_id": "s1",
            "group_id": identity,
            "source": sources[
              (i if len(classes) == 2 else classes.index(name)) % len(sources)
            ],
            "label": name,
            "class": name,
            "split": place,
            "fold": "",
            "record_index": len(scans),
          }
        )
  record_set = helpers.write_records(
    workdir / "records",
    [
      with_modalities(
        helpers.random_record(
          rng, participant_id=scan["participant_id"], session_id="s1"
        ),
        [1] * len(modalities),
      )
      for scan in scans
    ],
  )
  records.write_csv(workdir / "splits.csv", list(scans[0]), scans)
  predictions = []
  matrix = np.zeros((len(classes), len(classes)), int)
  for i, scan in enumerate(s for s in scans if s["split"] == split):
    true = classes.index(scan["class"])
    predicted = (true + 1) % len(classes) if i < wrong else true
    matrix[true, predicted] += 1
    probabilities = np.full(len(classes), 0.1)
    probabilities[predicted] = 1 - 0.1 * (len(classes) - 1)
    probabilities[true] -= 0.01 * i  # so that later ones are worse
    probabilities[(true + 1) % len(classes)] += 0.01 * i
    kept = "participant_id session_id group_id source split fold".split()
    predictions.append(
      {
        **{key: scan[key] for key in kept},
        "true_label": classes[true],
        "predicted_label": classes[predicted],
        **{
          f"proba_{name}": value
          for name, value in zip(classes, probabilities, strict=True)
        },
      }
    )
  columns = list(predictions[0])
  for name in ("predictions.csv", "predictions_participant.csv"):
    records.write_csv(workdir / name, columns, predictions)
  if probes is None:
    probes = {"histogram": (0.55, 0.40, 0.70), "header": (0.50, 0.35, 0.65)}
  metrics = {
    "roc_auc": score(*auc),
    "balanced_accuracy": score(*balanced),
    "accuracy": score(0.75, 0.60, 0.88),
    "brier": score(0.2, 0.1, 0.3),
    "ece": score(0.1),
    "n": len(predictions),
    "confusion_matrix": matrix.tolist(),
    "classes": list(classes),
    "probes": {
      name: {
        "roc_auc": score(*values),
        "balanced_accuracy": score(*values),
        "n": len(predictions),
      }
      for name, values in probes.items()
    },
  }
  config = config_lib.get_config(f"head={head}")
  config.data.records = str(workdir / "records")
  content = {
    "metrics.json": {"schema_version": 1, split: metrics},
    "config.json": config.to_dict(),
    "environment.json": {
      "command": "brainjax train --config=configs/default.py",
      "date": "2026-11-22T20:51:12+00:00",
      "jax": "0.10.2",
      "devices": ["cpu"],
      "git_revision": None,
    },
    "model.json": {
      "schema_version": 3,
      "objective": "classify",
      "classes": list(classes),
      "positive": "tumour" if "tumour" in classes else "",
      "modalities": list(modalities),
      "preparation": config.preparation.to_dict(),
      "slice_shape": [16, 16, len(modalities)],
      "records_sha256": record_set.sha256,
      "splits_sha256": "5" * 64,
      "num_parameters": 1234567,
    },
  }
  for name, value in content.items():
    (workdir / name).write_text(json.dumps(value))
  lines = [
    {"step": 1, "epoch": 1, "train/loss": 0.7},
    {"step": 2, "epoch": 1, "validation/loss": 0.6, "validation/roc_auc": None},
    {
      "step": 3,
      "epoch": 2,
      "train/loss": 0.5,
      "perf/volumes_per_second": 12.5,
      "perf/slices_per_second": 300.0,
      "perf/data_wait_fraction": 0.01,
    },
    {"step": 3, "epoch": 2, "validation/loss": 0.55},
    {"step": 4, "epoch": 3, "validation/loss": 0.65},
  ]
  (workdir / "metrics.jsonl").write_text(
    "".join(json.dumps(line) + "\n" for line in lines)
  )
  return workdir
