import collections
import concurrent.futures
import contextlib
import subprocess
import sys
import threading
import time

import jax
import numpy as np
import pytest

import helpers
from brainjax import records
from brainjax.input import pipeline, plan, sampling
from brainjax.training import sharding

LENGTHS = (3, 1, 4, 1, 5, 2, 6, 5, 3, 5, 2, 4)
SUBSET = np.array([11, 0, 2, 3, 4, 6, 7, 9])  # the others are not of training
LABELS = np.array([0, 1, 2] * 4)


@pytest.fixture(scope="module")
def record_set(tmp_path_factory):
  rng = np.random.default_rng(0)
  scans = [
    helpers.random_record(rng, num_slices=length, height=4, width=4)
    for length in LENGTHS
  ]
  return helpers.write_records(tmp_path_factory.mktemp("records"), scans)


@pytest.fixture(scope="module")
def shape(record_set):
  return plan.plan_shape(
    record_set.lengths[SUBSET],
    packs=2,
    scans_per_step=3,
    pack_slices=None,
    longest=int(record_set.lengths.max()),
  )


def train(
  record_set,
  shape,
  *,
  first=0,
  steps=7,
  threads=2,
  put=dict,
  seed=0,
  packs=None,
):
  return pipeline.training_batches(
    record_set,
    pipeline.training_rows(
      record_set.lengths,
      SUBSET,
      shape,
      seed=seed,
      packs=np.arange(shape.packs) if packs is None else packs,
    ),
    LABELS,
    shape,
    first_step=first,
    num_steps=steps,
    read_threads=threads,
    prefetch_steps=1,
    put=put,
  )


def evaluate(record_set, shape, subset):
  return pipeline.evaluation_batches(
    record_set,
    subset,
    LABELS,
    shape,
    packs=np.arange(shape.packs),
    read_threads=2,
    prefetch_steps=1,
    put=dict,
  )


def present(batches):
  """Record indices of the scans of some batches."""
  indices = np.concatenate([b["record_index"].ravel() for b in batches])
  return indices[indices >= 0].tolist()


def reading_threads():
  return [t for t in threading.enumerate() if "grain" in t.name]


def wait_for(condition, *, seconds=20):
  deadline = time.monotonic() + seconds
  while not condition() and time.monotonic() < deadline:
    time.sleep(0.01)
  return condition()


def test_batches_are_those_of_the_plan(record_set, shape):
  batches = list(train(record_set, shape, seed=3))
  assert len(batches) == 7
  for step, batch in enumerate(batches):
    epoch, place = divmod(step, shape.steps_per_epoch)
    table = plan.epoch_plan(record_set.lengths[SUBSET], 3, epoch, shape)[place]
    expected = np.where(table < 0, -1, SUBSET[table])
    np.testing.assert_array_equal(batch["record_index"], expected)
    scan = batch["record_index"] >= 0
    indices = batch["record_index"][scan]
    np.testing.assert_array_equal(batch["label"][scan], LABELS[indices])
    np.testing.assert_array_equal(batch["weight"], scan)
    first = record_set[batch["record_index"][0, 0]].slices
    np.testing.assert_array_equal(batch["slices"][0, : len(first)], first)


def test_draws_of_a_scan_are_told_apart_whoever_reads_them(record_set):
  lengths = record_set.lengths
  cells = (SUBSET == 7).astype(np.int32)  # one scan for half of the draws
  people = [str(scan) for scan in SUBSET]
  drawn = sampling.balanced_sampling(lengths[SUBSET], cells, people)
  shape = plan.plan_shape(
    drawn.envelope,
    packs=4,
    scans_per_step=len(SUBSET),
    pack_slices=None,
    longest=max(LENGTHS),
  )

  def rows_of(packs):
    facts = {"seed": 1, "packs": np.array(packs), "sampling": drawn}
    return pipeline.training_rows(lengths, SUBSET, shape, **facts)(0)

  found = rows_of([0, 1, 2, 3])
  for packs in ([0], [3, 1]):
    np.testing.assert_array_equal(rows_of(packs), found[packs])
  there = found[found >= 0]
  assert len(set(there.tolist())) == len(there)
  counts = collections.Counter((there % len(lengths)).tolist())
  assert max(counts.values()) > 1
  for scan, count in counts.items():
    assert {scan + i * len(lengths) for i in range(count)} <= set(
      there.tolist()
    )


def test_each_epoch_sees_the_subset_once(record_set, shape):
  steps = shape.steps_per_epoch
  batches = list(train(record_set, shape, steps=2 * steps))
  epochs = [present(batches[:steps]), present(batches[steps:])]
  assert sorted(epochs[0]) == sorted(epochs[1]) == sorted(SUBSET)
  assert epochs[0] != epochs[1]


@pytest.mark.parametrize(("threads", "first"), [(1, 0), (4, 0), (3, 4), (1, 6)])
def test_any_threads_and_any_start_give_the_same_order(
  record_set, shape, threads, first
):
  whole = list(train(record_set, shape))
  rest = list(train(record_set, shape, threads=threads, first=first))
  assert len(rest) == len(whole) - first
  for batch, expected in zip(rest, whole[first:], strict=True):
    assert batch.keys() == expected.keys()
    for key, value in batch.items():
      np.testing.assert_array_equal(value, expected[key])


def test_processes_read_a_batch_between_them(record_set, shape):
  whole = train(record_set, shape)
  parts = [train(record_set, shape, packs=np.array([i])) for i in range(2)]
  for batch, *shares in zip(whole, *parts, strict=True):
    for name, values in batch.items():
      joined = np.concatenate([share[name] for share in shares])
      np.testing.assert_array_equal(joined, values)


def test_a_finished_run_has_no_batch_left(record_set, shape):
  assert list(train(record_set, shape, first=7)) == []


def test_evaluation_sees_each_scan_once(record_set, shape):
  subset = np.array([10, 8, 1, 5, 3, 6, 2])
  batches = list(evaluate(record_set, shape, subset))
  assert sorted(present(batches)) == sorted(subset)
  assert sum(b["weight"].sum() for b in batches) == len(subset)
  for batch in batches:
    scan = batch["record_index"] >= 0
    lengths = record_set.lengths[batch["record_index"][scan]]
    np.testing.assert_array_equal(batch["length"][scan], lengths)


def test_evaluation_of_nothing_gives_no_batch(record_set, shape):
  assert list(evaluate(record_set, shape, np.array([], np.int64))) == []


def test_batches_are_on_the_device(record_set, shape):
  host = list(train(record_set, shape))
  with jax.transfer_guard("disallow"):
    device = list(train(record_set, shape, put=jax.device_put))
  for batch, expected in zip(device, host, strict=True):
    for key, value in batch.items():
      assert isinstance(value, jax.Array)
      np.testing.assert_array_equal(value, expected[key])


def test_a_cpu_takes_the_slices_uncopied(record_set, shape):
  pairs = []

  def put(batch):
    pairs.append((batch["slices"], jax.device_put(batch["slices"])))
    return batch

  list(train(record_set, shape, put=put))
  assert len(pairs) > 1
  for host, device in pairs:
    assert device.unsafe_buffer_pointer() == host.ctypes.data


def test_one_device_gets_what_device_put_gives(record_set, shape):
  mesh = sharding.make_mesh(1)
  layouts = {"slices": sharding.over_slices(mesh)}
  for batch in train(record_set, shape):
    found = sharding.batch_putter(mesh)(batch)
    assert found.keys() == batch.keys()
    for key, value in found.items():
      expected = jax.device_put(
        batch[key], layouts.get(key, sharding.over_packs(mesh))
      )
      assert value.sharding == expected.sharding
      assert value.committed
      assert value.aval == expected.aval
      np.testing.assert_array_equal(value, expected)


def test_reading_starts_at_once_and_stays_a_few_batches_ahead(
  record_set, shape
):
  made = []

  def put(batch):
    made.append(batch)
    return batch

  batches = train(record_set, shape, threads=2, put=put)
  with contextlib.closing(batches):
    assert wait_for(lambda: len(made) == 3)
    time.sleep(0.05)
    assert len(made) == 3
    next(batches)
    assert wait_for(lambda: len(made) == 4)


def test_a_reading_error_is_raised_as_itself(record_set, shape):
  class Unreadable(records.RecordSet):
    def __getitem__(self, record_index):
      if record_index == 7:
        raise OSError("disk gone")
      return super().__getitem__(record_index)

  batches = train(Unreadable(record_set.path), shape)
  with contextlib.closing(batches), pytest.raises(OSError, match="disk gone"):
    list(batches)


def test_close_ends_the_threads(record_set, shape):
  batches = train(record_set, shape)
  next(batches)
  assert reading_threads()
  batches.close()
  assert wait_for(lambda: not reading_threads())


def test_interpreter_ends_with_an_open_iterator(record_set):
  script = f"""
import numpy as np
from brainjax import records
from brainjax.input import pipeline, plan
record_set = records.RecordSet({str(record_set.path)!r})
shape = plan.plan_shape(
  record_set.lengths, packs=1, scans_per_step=2, pack_slices=None, longest=6
)
rows_of = pipeline.training_rows(
  record_set.lengths, np.arange(12), shape, seed=0, packs=np.arange(1)
)
batches = pipeline.training_batches(
  record_set, rows_of, np.zeros(12), shape, first_step=0,
  num_steps=10**6, read_threads=2, prefetch_steps=2, put=dict
)
print(next(batches)["weight"].sum())
"""
  ended = subprocess.run(
    [sys.executable, "-W", "error", "-c", script],
    capture_output=True,
    text=True,
    timeout=60,
  )
  assert ended.returncode == 0, ended.stderr
  assert ended.stdout == "2.0\n"
  assert ended.stderr == ""


def test_records_are_read_by_several_threads(record_set):
  fresh = records.RecordSet(record_set.path)
  barrier = threading.Barrier(4)

  def read(seed):
    order = np.random.default_rng(seed).integers(0, len(LENGTHS), 200)
    barrier.wait()
    return [(i, fresh[i].slices) for i in order]

  expected = [record_set[i].slices for i in range(len(LENGTHS))]
  with concurrent.futures.ThreadPoolExecutor(4) as executor:
    for found in executor.map(read, range(4)):
      for i, slices in found:
        np.testing.assert_array_equal(slices, expected[i])
