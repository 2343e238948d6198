"""Streaming keeps no batch: the process does not grow with the steps."""

import ctypes
import gc
import pathlib

import jax
import numpy as np
import pytest

import helpers
from brainjax.input import pipeline, plan

STATUS = pathlib.Path("/proc/self/status")
SETTLED = 40  # steps after which the allocator has what it needs
GROWTH_MB = 25  # that is noise, over any number of steps

pytestmark = pytest.mark.skipif(
  not STATUS.is_file(), reason="reads the resident memory from /proc"
)


@pytest.fixture(scope="module")
def record_set(tmp_path_factory):
  rng = np.random.default_rng(0)
  scans = [
    helpers.random_record(rng, num_slices=length, height=64, width=64)
    for length in rng.integers(10, 30, 24)
  ]
  return helpers.write_records(tmp_path_factory.mktemp("records"), scans)


def resident_mb():
  gc.collect()
  # Or a leak could fill what earlier tests have left to the allocator.
  ctypes.CDLL(None).malloc_trim(0)
  (line,) = [x for x in STATUS.read_text().splitlines() if "VmRSS" in x]
  return int(line.split()[1]) / 1e3


def growth_mb(record_set, steps, put):
  """Streams so many steps; returns the growth after the first few, in MB."""
  subset = np.arange(len(record_set))
  shape = plan.plan_shape(
    record_set.lengths,
    packs=2,
    scans_per_step=8,
    pack_slices=None,
    longest=int(record_set.lengths.max()),
  )
  assert 0.6 < pipeline.batch_bytes(record_set, shape) / 1e6 < 1
  batches = pipeline.training_batches(
    record_set,
    pipeline.training_rows(
      record_set.lengths, subset, shape, seed=0, packs=np.arange(2)
    ),
    np.zeros(len(record_set), np.int64),
    shape,
    first_step=0,
    num_steps=steps,
    read_threads=2,
    prefetch_steps=2,
    put=put,
  )
  total = jax.numpy.zeros(())
  for step, batch in enumerate(batches, 1):
    total += batch["scale"].sum()  # as a step would, on the device
    if step == SETTLED:
      before = resident_mb()
    if step % 200 == 0:
      print(f"step {step}: {resident_mb():.0f} MB")
  return resident_mb() - before


@pytest.mark.parametrize(
  "steps",
  [
    pytest.param(200, marks=pytest.mark.slow),
    pytest.param(2000, marks=pytest.mark.soak),
  ],
)
def test_memory_does_not_grow_with_the_steps(record_set, steps):
  assert growth_mb(record_set, steps, jax.device_put) < GROWTH_MB


@pytest.mark.slow  # as long as the one above, which it proves able to fail
def test_a_source_that_keeps_its_batches_is_noticed(record_set):
  kept = []

  def leaking(batch):
    kept.append(batch)
    return jax.device_put(batch)

  assert growth_mb(record_set, 200, leaking) > 4 * GROWTH_MB
