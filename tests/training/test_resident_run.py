import re

import jax
import numpy as np
import pytest

import helpers
from brainjax import InputError
from brainjax.training import experiment, runner, sharding


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
  folder = tmp_path_factory.mktemp("cohort") / "records"
  return helpers.write_cohort(folder, participants=40)


def make_runner(cohort, workdir, devices, *overrides):
  config = helpers.micro_config(
    cohort.path,
    "data.packs=8",
    "data.scans_per_step=16",
    f"mesh.devices={devices}",
    *overrides,
  )
  return runner.Runner(experiment.resolve(config, workdir, devices))


def gigabytes(cohort, share):
  """A limit of this share of all slices, more than the training split is."""
  return f"data.resident_gb={share * cohort.lengths.sum() * 16 * 16 / 1e9}"


@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32"])
@pytest.mark.parametrize("dealt", [False, True])
@pytest.mark.parametrize("slice_devices", [1, 2])
def test_rows_are_taken_on_eight_devices(slice_devices, dealt, dtype):
  mesh = sharding.make_mesh(8, slice_devices)
  rng = np.random.default_rng(0)
  rows = -rng.integers(0, 99, (80, 4, 4, 1)).astype(dtype)  # -0.0 among them
  packs = rng.integers(0, 80, (16, 6)).astype(np.int32)
  put, take = sharding.row_store(mesh, dealt=dealt)
  store = put(rows)
  held = 80 // sharding.data_devices(mesh) if dealt else 80
  assert {s.data.shape[0] for s in store.addressable_shards} == {held}
  given = jax.device_put(packs, sharding.over_slices(mesh))
  found = take(store, given)
  assert np.asarray(found).tobytes() == rows[packs].tobytes()
  assert found.dtype == dtype
  assert found.sharding == sharding.over_slices(mesh)


@pytest.mark.parametrize("dealt", [False, True])
def test_devices_exchange_a_batch_and_never_the_store(dealt):
  mesh = sharding.make_mesh(8)
  put, take = sharding.row_store(mesh, dealt=dealt)
  store = put(np.zeros((80, 4, 4, 1), np.uint8))
  rows = jax.device_put(np.zeros((16, 5), np.int32), sharding.over_slices(mesh))
  text = take.lower(store, rows).compile().as_text()
  pattern = r"= (\w+\[[\d,]*\])\S* (all-\S+?|collective-\S+?|reduce-scatter)\("
  assert set(re.findall(pattern, text)) == (
    {("s32[16,5]", "all-gather"), ("s32[2,5,4,4,1]", "reduce-scatter")}
    if dealt
    else set()
  )


@pytest.mark.slow  # five runners
def test_a_run_chooses_by_what_fits(cohort, tmp_path):
  for overrides, said in (
    ([], "streamed, at most 5 batches of 0.0 MB at once"),
    (["data.mode=resident"], "on every device"),
    ([gigabytes(cohort, 1)], "on every device"),
    ([gigabytes(cohort, 0.3)], "dealt over the devices"),
  ):
    run = make_runner(cohort, tmp_path, 8, *overrides)
    assert run.where_slices_are.endswith(f" MB, {said}")
  run = make_runner(
    cohort, tmp_path, 8, "data.mode=resident", gigabytes(cohort, 0.01)
  )
  with pytest.raises(InputError, match="set the mode to 'streaming'"):
    _ = run.placement


@pytest.mark.slow  # compiles a step
def test_losses_are_those_of_streaming(cohort, tmp_path):
  def losses(*overrides):
    run = make_runner(cohort, tmp_path, 8, *overrides)
    _ = run.train_step  # compiled
    found = []
    for batch in run.training_batches(first_step=0, num_steps=6):
      with jax.transfer_guard("disallow"):
        run.state, metrics = run.train_step(run.state, batch)
      found.append(float(metrics["loss"]))
    return found

  streaming = losses("data.mode=streaming")
  assert len(set(streaming)) == 6
  assert losses("data.mode=resident") == streaming
  assert losses("data.mode=resident", gigabytes(cohort, 0.3)) == streaming
