"""Labels dealt at random leave nothing to learn, and a sound split shows it.

Yagis et al. 2021 (doi:10.1038/s41598-021-01681-w) reached 96 % on random labels
with slices of one person on both sides of the split.
"""

import io

import numpy as np
import pytest
import rich.console
import scipy.stats

import helpers
from brainjax import config, records
from brainjax.cohort import manifest, phantom, splits
from brainjax.evaluation import comparators, evaluate, scoring
from brainjax.metrics import classification, statistics
from brainjax.preparation import prepare
from brainjax.training import train


def auc_of_random_labels(seed, unit):
  """Of people with four scans each that look alike, split by a unit."""
  rng = np.random.default_rng(seed)
  people = np.repeat(np.arange(60), 4)
  targets = rng.permutation(np.arange(60) % 2)[people]
  features = rng.normal(size=(60, 6))[people] + 0.3 * rng.normal(size=(240, 6))
  rows = [
    {
      "participant_id": f"p{person:02d}",
      "session_id": str(scan),
      "group_id": f"p{person:02d}" if unit == "person" else f"s{scan:03d}",
      "label": str(target),
    }
    for scan, (person, target) in enumerate(zip(people, targets, strict=True))
  ]
  assigned = splits.assign_splits(
    rows, fractions=(0.6, 0.2, 0.2), folds=0, fold=0, seed=seed
  )
  split = np.array([name for name, _ in assigned])
  train_rows, test = split == "train", split == "test"
  found = comparators.fit_and_predict(
    "k-NN", features[train_rows], targets[train_rows], features[test], 2
  )
  ids, joined = statistics.aggregate_participants(
    scoring.log_of(found), [f"p{person:02d}" for person in people[test]]
  )
  of_person = dict(zip(people.tolist(), targets.tolist(), strict=True))
  truth = np.array([of_person[int(name[1:])] for name in ids])
  return float(classification.roc_auc(joined, truth, positive=1))


def interval(values):
  reach = scipy.stats.sem(values) * scipy.stats.t.ppf(0.975, len(values) - 1)
  return np.mean(values) - reach, np.mean(values) + reach


def test_random_labels_are_at_chance_by_person_and_not_by_scan():
  low, high = interval([auc_of_random_labels(s, "person") for s in range(20)])
  assert low <= 0.5 <= high
  assert high - low < 0.15
  low, _ = interval([auc_of_random_labels(s, "scan") for s in range(20)])
  assert low > 0.75  # the planted leak


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory):
  root = tmp_path_factory.mktemp("phantoms")
  rows, columns = phantom.write_phantom_cohort(root, participants=60, seed=0)
  manifest.write_manifest(root / "manifest.csv", rows, columns)
  section = config.get_config().preparation
  for field, value in {
    "bias_field.method": "none",
    "height": 32,
    "width": 32,
    "num_slices": 6,
  }.items():
    part, _, leaf = field.rpartition(".")
    setattr(section[part] if part else section, leaf, value)
  prepare.prepare(
    root / "manifest.csv", root / "records", section, num_workers=2
  )
  return root / "records"


@pytest.mark.soak
def test_runs_on_phantoms_with_random_labels_are_at_chance(phantoms, tmp_path):
  path = phantoms / "manifest.csv"
  rows = [dict(row) for row in records.RecordSet(phantoms).rows]
  areas = []
  for seed in range(20):
    labels = np.random.default_rng(seed).permutation(np.arange(len(rows)) % 2)
    for row, label in zip(rows, labels, strict=True):
      row["label"] = ["normal", "glioma"][label]
    records.write_csv(path, list(rows[0]), rows)
    fields = helpers.micro_config(
      phantoms, f"split.seed={seed}", "train.epochs=3"
    )
    workdir = tmp_path / str(seed)
    console = rich.console.Console(file=io.StringIO())
    train.train(fields, workdir, console=console)
    areas.append(evaluate.evaluate(workdir, "test")["roc_auc"]["value"])
  low, high = interval(areas)
  assert low <= 0.5 <= high, areas
  assert high - low < 0.25
