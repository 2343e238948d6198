"""The comparators as runs: trained, scored, asked and reported as any other."""

import dataclasses
import io

import numpy as np
import pytest
import rich.console

import helpers
from brainjax import InputError, records
from brainjax import config as config_lib
from brainjax.cohort import manifest, phantom
from brainjax.evaluation import (
  answer,
  comparators,
  evaluate,
  methods,
  report,
  run_files,
)
from brainjax.preparation import prepare
from brainjax.training import encode, experiment, fold_encoders, train, trained


def with_network(folder, network, *overrides):
  fields = helpers.micro_config(folder)
  if network:
    config_lib.set_network(fields, network)
  for override in overrides:
    config_lib.set_field(fields, override)
  return fields


def run_train(config, workdir):
  console = rich.console.Console(file=io.StringIO(), width=1000)
  train.train(config, workdir, console=console)
  return console.file.getvalue()


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
  folder = tmp_path_factory.mktemp("cohort") / "records"
  helpers.write_cohort(folder)
  return folder


def test_slices_of_volumes_have_no_features_for_heads(cohort):
  fields = with_network(cohort, "densenet3d")
  with pytest.raises(InputError, match="preset='micro_3d': .*--end-to-end"):
    fold_encoders.num_features(fields)
  assert fold_encoders.num_features(with_network(cohort, "cnn2d")) == 128


@pytest.mark.parametrize("network", config_lib.NETWORKS)
def test_weights_of_a_slice_densenet_are_refused(cohort, tmp_path, network):
  weights = tmp_path / "weights.npz"
  np.savez(weights, a=np.zeros(1))
  fields = with_network(cohort, network, f"model.init_from={weights}")
  with pytest.raises(InputError, match="weights are of a 2-D DenseNet"):
    experiment.resolve(fields, tmp_path / "run", 1)


@pytest.fixture(scope="module")
def volumes(cohort, tmp_path_factory):
  """A run of the DenseNet of volumes, of one epoch."""
  workdir = tmp_path_factory.mktemp("volumes") / "run"
  fields = with_network(cohort, "densenet3d", "train.epochs=1")
  said = run_train(fields, workdir)
  assert said.splitlines()[0].startswith("micro_3d, ")
  return workdir


@pytest.mark.slow
def test_a_scan_is_answered_with_and_without_each_slice(volumes):
  run = experiment.open_run(volumes)
  model = trained.load_trained(volumes)
  evaluate.evaluate(volumes, "test")
  rows = run_files.read_csv(volumes / "predictions.csv")
  (index,) = run.subset("test")[:1]
  record = run.record_set[int(index)]
  found = answer.answer_scan([model], record)
  assert len(found.contributions) == len(record.slices)
  if model.calibration is None:  # then those of `evaluate` are as raw
    (row,) = (
      row for row in rows if row["participant_id"] == record.participant_id
    )
    for name, value in found.probabilities.items():
      assert value == pytest.approx(float(row[f"proba_{name}"]), abs=1e-5)
  # Without its last slice, it is a scan of one slice less.
  if len(record.slices) > 1:
    shorter = dataclasses.replace(
      record,
      slices=record.slices[:-1],
      positions_mm=record.positions_mm[:-1],
      brain_mask=record.brain_mask[:-1],
    )
    without = answer.answer_scan([model], shorter).probabilities[found.label]
    difference = np.log(found.probabilities[found.label] / without)
    assert found.contributions[-1] == pytest.approx(difference, abs=1e-4)


@pytest.mark.slow
def test_what_needs_features_of_slices_does_without(volumes, tmp_path):
  with pytest.raises(InputError, match="describes scans as a whole"):
    encode.encode(volumes, tmp_path / "features")
  _, found = comparators._features(experiment.open_run(volumes), None)
  assert found.keys() == {"classical"}


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory):
  root = tmp_path_factory.mktemp("phantoms")
  rows, columns = phantom.write_phantom_cohort(root, participants=60, seed=0)
  manifest.write_manifest(root / "manifest.csv", rows, columns)
  section = config_lib.get_config().preparation
  section.bias_field.method = "none"
  section.height = section.width = 32
  section.num_slices = 6
  prepare.prepare(
    root / "manifest.csv", root / "records", section, num_workers=2
  )
  return root / "records"


@pytest.mark.slow
def test_they_learn_from_phantoms_and_are_reported_side_by_side(
  phantoms, tmp_path
):
  workdirs = []
  for network in ("", *config_lib.NETWORKS):
    workdir = tmp_path / (network or "lstm")
    fields = with_network(
      phantoms,
      network,
      "train.epochs=24",
      "train.patience_epochs=0",
      "model.dropout=0.0",
      "optimizer.learning_rate=3e-3",
    )
    fields.augment.update(config_lib.AUGMENT_PRESETS["none"])
    run_train(fields, workdir)
    evaluate.evaluate(workdir, "test")
    workdirs.append(workdir)
  runs = [run_files.read_run(workdir) for workdir in workdirs]
  assert [run.name for run in runs] == [
    "lstm on micro (lstm)",
    "mean on cnn2d (cnn2d)",
    "micro_3d (densenet3d)",
  ]
  for run in runs[1:]:
    losses = [x["train/loss"] for x in run.log if "train/loss" in x]
    assert np.mean(losses[-4:]) < 0.8 * np.mean(losses[:2]), (run.name, losses)
    assert records.sha256_of(run.path / "splits.csv") == records.sha256_of(
      runs[0].path / "splits.csv"
    )
  told = [methods.paragraphs(run, "test")["Model"] for run in runs]
  assert "by a DenseNet (micro) and" in told[0]
  assert "by a plain two-dimensional convolutional network and" in told[1]
  assert "as a volume by a three-dimensional DenseNet (micro_3d" in told[2]
  page = report.write_report(workdirs, out=tmp_path / "report.html").read_text()
  for run in runs:
    assert run.name in page
