"""A run whose encoder starts from a file of weights."""

import io
import json

import jax
import numpy as np
import pytest
import rich.console

import helpers
from brainjax import InputError, records
from brainjax.training import experiment, model_file, train
from brainjax.training.runner import Runner

LEAVES = {
  "kernel": "weight",
  "scale": "weight",
  "bias": "bias",
  "mean": "running_mean",
  "var": "running_var",
}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
  folder = tmp_path_factory.mktemp("cohort") / "records"
  helpers.write_cohort(folder)
  return folder


@pytest.fixture(scope="module")
def weights(cohort, tmp_path_factory):
  """Writes a state_dict of three input channels; returns path and values."""
  run = experiment.resolve(
    helpers.micro_config(cohort), tmp_path_factory.mktemp("run"), 1
  )
  state = Runner(run).state
  rng = np.random.default_rng(0)
  expected, arrays = [], {}
  trees = state.params["encoder"], state.batch_stats["encoder"]
  for path, leaf in jax.tree.leaves_with_path(trees):
    value = rng.uniform(0.5, 1, leaf.shape).astype(np.float32)
    expected.append(value)
    _, *modules, name = [getattr(entry, "key", None) for entry in path]
    if value.ndim == 4:
      value = value.transpose(3, 2, 0, 1)
      if modules == ["conv0"]:
        value = value * np.float32([0.5, 0.25, 0.25])[None, :, None, None]
    arrays[".".join([*modules, LEAVES[name]])] = value
  path = tmp_path_factory.mktemp("weights") / "micro.npz"
  np.savez(path, **arrays)
  return path, expected


def start(config, workdir):
  console = rich.console.Console(file=io.StringIO(), width=1000)
  train.train(config, workdir, console=console)
  return console.file.getvalue()


def test_the_first_start_alone_reads_the_file(
  cohort, weights, tmp_path, monkeypatch
):
  path, expected = weights
  moved = tmp_path / "weights.npz"
  moved.write_bytes(path.read_bytes())
  sha256 = records.sha256_of(moved)
  seen = []
  batches = Runner.training_batches

  def watching(self, **kwargs):
    state = jax.device_get(self.state)
    seen.append((state.params["encoder"], state.batch_stats["encoder"]))
    return batches(self, **kwargs)

  monkeypatch.setattr(Runner, "training_batches", watching)
  overrides = f"model.init_from={moved}", "train.patience_epochs=0"
  workdir = tmp_path / "run"
  config = helpers.micro_config(cohort, *overrides, "train.epochs=1")
  printed = start(config, workdir)
  assert f"9,112 parameters (encoder) start from {moved} (sha256" in printed
  assert "drawn at random: classifier, head" in printed
  # The sum over three channels is exact: their shares are powers of two.
  jax.tree.map(
    np.testing.assert_array_equal, jax.tree.leaves(seen[0]), expected
  )
  moved.unlink()
  config = helpers.micro_config(cohort, *overrides, "train.epochs=2")
  printed = start(config, workdir)
  assert "continuing after step 3" in printed
  assert "parameters start from" not in printed
  kernels = [encoder["conv0"]["kernel"] for encoder, _ in seen]
  assert len(kernels) == 2 and (kernels[0] != kernels[1]).any()
  model = json.loads((workdir / "model.json").read_text())
  assert model["start"]["sha256"] == sha256
  run = experiment.open_run(workdir)
  groups = {run.record_set.rows[i]["group_id"] for i in run.subset("train")}
  assert set(model["encoder_group_ids"]) == groups


def test_a_run_from_scratch_has_no_hash(cohort, tmp_path):
  run = experiment.resolve(helpers.micro_config(cohort), tmp_path, 1)
  model_file.write_model_file(run, num_parameters=7)
  model = json.loads((tmp_path / "model.json").read_text())
  assert model["start"] is None


@pytest.mark.parametrize(
  ("file", "message"),
  [
    ("absent.npz", "no such file"),
    ("damaged.npz", "damaged, or not a .npz file"),
    ("partial.npz", "1 of 44 names are missing, the first is norm5.bias"),
  ],
)
def test_a_bad_file_is_refused_before_anything_is_written(
  tmp_path, cohort, weights, file, message
):
  (tmp_path / "damaged.npz").write_bytes(weights[0].read_bytes()[:-9])
  arrays = dict(np.load(weights[0]))
  del arrays["norm5.bias"]
  np.savez(tmp_path / "partial.npz", **arrays)
  config = helpers.micro_config(cohort, f"model.init_from={tmp_path / file}")
  with pytest.raises(InputError) as refused:
    experiment.resolve(config, tmp_path / "run", 1)
  said = str(refused.value)
  assert said.startswith(f"config.model.init_from={tmp_path / file}: ")
  assert message in said and "\n" not in said
  assert not (tmp_path / "run").exists()
