import collections
import re

import jax
import numpy as np
import pytest

import helpers
from brainjax import InputError
from brainjax.training import experiment, runner, sharding

NUM_STEPS = 30

pytestmark = pytest.mark.slow  # each compiles a step or two


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
  folder = tmp_path_factory.mktemp("cohort") / "records"
  helpers.write_cohort(folder, participants=60)
  return folder


def make_runner(cohort, workdir, devices, *overrides):
  config = helpers.micro_config(
    cohort,
    "data.packs=8",
    "data.scans_per_step=16",
    # Adam divides a gradient by its own size: with an epsilon of 1e-8 the last
    # bit of a gradient near zero would decide a whole learning rate.
    "optimizer.epsilon=1e-3",
    f"mesh.devices={devices}",
    *overrides,
  )
  dealt_over = devices // config.mesh.slice_devices
  return runner.Runner(experiment.resolve(config, workdir, dealt_over))


def run_steps(run):
  for batch in run.training_batches(first_step=0, num_steps=NUM_STEPS):
    shards = batch["slices"].addressable_shards
    run.state, _ = run.train_step(run.state, batch)
  return jax.device_get(run.state.params), shards


@pytest.fixture(scope="module")
def one_device(cohort, tmp_path_factory):
  """Parameters after some steps on one device, by kind of statistics."""
  found = {}
  for statistics in ("batch", "pack"):
    run = make_runner(
      cohort,
      tmp_path_factory.mktemp(statistics),
      1,
      f"model.encoder.statistics={statistics}",
    )
    found[statistics], shards = run_steps(run)
    assert len(shards) == 1
  return found


def variants():
  """How else the same steps can be done: devices, statistics, overrides."""
  slices = "mesh.slice_devices=2"
  return {
    "jit": (8, "batch", ()),
    "jit, own statistics": (8, "pack", ()),
    "pmap": (8, "batch", ("mesh.parallelism=pmap",)),
    "pmap, own statistics": (4, "pack", ("mesh.parallelism=pmap",)),
    "in parts": (1, "pack", ("train.accumulation=4",)),
    "in parts on devices": (2, "pack", ("train.accumulation=2",)),
    "in parts, pmap": (
      2,
      "pack",
      ("train.accumulation=2", "mesh.parallelism=pmap"),
    ),
    "slices over devices": (8, "pack", (slices, "train.accumulation=2")),
    "less memory": (1, "batch", ("model.encoder.residuals=small",)),
  }


@pytest.mark.parametrize("name", variants())
def test_however_it_is_dealt_it_is_the_same(cohort, tmp_path, one_device, name):
  devices, statistics, overrides = variants()[name]
  statistics_override = f"model.encoder.statistics={statistics}"
  run = make_runner(cohort, tmp_path, devices, statistics_override, *overrides)
  parameters, shards = run_steps(run)
  assert len({shard.device for shard in shards}) == devices
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5),
    parameters,
    one_device[statistics],
  )


def collectives(hlo):
  """Counts the elements each kind of collective moves in compiled HLO."""
  found = collections.Counter()
  pattern = (
    r"= (.*?) (all-reduce|all-gather|all-to-all|collective-permute"
    r"|reduce-scatter|collective-broadcast)(?:-start)?\("
  )
  for shapes, kind in re.findall(pattern, hlo):
    for dimensions in re.findall(r"\w+\[([\d,]*)\]", shapes):
      sizes = [int(size) for size in dimensions.split(",") if size]
      found[kind] += int(np.prod(sizes))
  return found


def test_only_gradients_and_statistics_are_reduced(cohort, tmp_path):
  run = make_runner(cohort, tmp_path, 8, "model.encoder.statistics=pack")
  found = collectives(run.train_step.as_text())
  assert set(found) == {"all-reduce"}
  statistics = sum(leaf.size for leaf in jax.tree.leaves(run.state.batch_stats))
  # The gradient, the running statistics, and a handful of metrics and counts.
  at_most = run.num_parameters + statistics + 64
  assert run.num_parameters <= found["all-reduce"] <= at_most


def test_global_statistics_add_only_reductions(cohort, tmp_path):
  run = make_runner(cohort, tmp_path, 8)
  found = collectives(run.train_step.as_text())
  assert set(found) == {"all-reduce"}
  statistics = sum(leaf.size for leaf in jax.tree.leaves(run.state.batch_stats))
  # Forward and backward reduce a mean and a variance each; no activation is.
  assert found["all-reduce"] <= run.num_parameters + 4 * statistics + 64


def test_slices_over_devices_add_only_embeddings(cohort, tmp_path):
  overrides = ("mesh.slice_devices=2", "data.packs=4")
  run = make_runner(cohort, tmp_path / "shared", 8, *overrides)
  found = collectives(run.train_step.as_text())
  assert set(found) == {"all-reduce", "all-gather"}
  embedding = run.experiment.build()[0].encoder.num_features
  assert found["all-gather"] <= run.experiment.shape.slices * (embedding + 8)
  alone = make_runner(cohort, tmp_path / "alone", 4, "data.packs=4")
  operations = [r.train_step.cost_analysis()["flops"] for r in (run, alone)]
  assert operations[0] < 0.6 * operations[1]  # nobody does another's work


def test_evaluation_needs_no_collective(cohort, tmp_path):
  run = make_runner(cohort, tmp_path, 8)
  assert not collectives(run.eval_step.as_text())


def test_a_run_is_used_on_other_devices(cohort, tmp_path):
  config = helpers.micro_config(cohort, "data.packs=2", "mesh.devices=2")
  run = experiment.resolve(config, tmp_path, 2)
  for asked, expected in ((None, 2), (64, 2), (1, 1)):
    run.config.mesh.devices = asked
    batches = runner.Runner(run).training_batches(first_step=0, num_steps=1)
    shards = next(batches)["slices"].addressable_shards
    assert len(shards) == expected


def test_more_devices_than_there_are_is_refused():
  with pytest.raises(InputError, match="config.mesh.devices=9"):
    sharding.make_mesh(9)
