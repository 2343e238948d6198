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


def make_runner(cohort, tmp_path, devices, *overrides):
  config = helpers.micro_config(
    cohort,
    "data.packs=8",
    "data.scans_per_step=16",
    f"mesh.devices={devices}",
    *overrides,
  )
  resolved = experiment.resolve(config, tmp_path / str(devices), devices)
  return runner.Runner(resolved)


def run_steps(run):
  for batch in run.training_batches(first_step=0, num_steps=NUM_STEPS):
    shards = batch["slices"].addressable_shards
    run.state, _ = run.train_step(run.state, batch)
  return jax.device_get(run.state.params), shards


@pytest.mark.parametrize("statistics", ["batch", "pack"])
def test_eight_devices_equal_one(cohort, tmp_path, statistics):
  # Adam divides a gradient by its own size: with an epsilon of 1e-8 the last
  # bit of a gradient near zero would decide a whole learning rate.
  overrides = (
    f"model.encoder.statistics={statistics}",
    "optimizer.epsilon=1e-3",
  )
  one, shards = run_steps(make_runner(cohort, tmp_path, 1, *overrides))
  assert len(shards) == 1
  eight, shards = run_steps(make_runner(cohort, tmp_path, 8, *overrides))
  assert len(shards) == 8
  assert {shard.data.shape[0] for shard in shards} == {1}
  assert len({shard.device for shard in shards}) == 8
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), one, eight
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
