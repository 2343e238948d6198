import dataclasses
import math

import jax
import numpy as np
import pytest

import helpers
from brainjax import InputError, records
from brainjax.input import pipeline, plan, resident

LENGTHS = (3, 1, 4, 1, 5, 2, 6, 5, 3, 5, 2, 4)
SUBSET = np.array([11, 0, 2, 3, 4, 6, 7, 9])  # the others are not of training
LABELS = np.array([0, 1, 2] * 4)


def of_kind(record, kind):
  if kind == "features":
    features = record.intensities().reshape(len(record.slices), 1, 1, -1)
    bits = np.full((len(features), 1, 1), 128, np.uint8)
    return dataclasses.replace(
      record, slices=features, scale=1.0, brain_mask=bits
    )
  if kind == "modalities":
    return dataclasses.replace(
      record,
      slices=np.concatenate([record.slices, record.slices[::-1]], axis=-1),
      present=np.array([1, len(record.slices) % 2], np.uint8),
      landmarks=np.zeros((2, 11), np.float32),
    )
  if kind == "landmarks":
    brain = np.zeros((len(record.slices), 4, 4), bool)
    brain[:, 1:3] = True
    return dataclasses.replace(
      record,
      brain_mask=records.pack_bits(brain),
      landmarks=np.arange(11, dtype=np.float32)[None] + len(record.slices),
      moments=np.array([[5, 2]], np.float32),
    )
  return record


@pytest.fixture(
  scope="module",
  params=["uint8", "int16", "modalities", "features", "landmarks"],
)
def record_set(request, tmp_path_factory):
  rng = np.random.default_rng(0)
  dtype = "int16" if request.param == "int16" else "uint8"
  scans = [
    helpers.random_record(rng, num_slices=n, height=4, width=4, dtype=dtype)
    for n in LENGTHS
  ]
  scans = [of_kind(scan, request.param) for scan in scans]
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


def wants_landmarks(record_set):
  return record_set[0].moments is not None


def streaming(record_set, shape, *, steps, first=0):
  return pipeline.training_batches(
    record_set,
    pipeline.training_rows(
      record_set.lengths, SUBSET, shape, seed=3, packs=np.arange(shape.packs)
    ),
    LABELS,
    shape,
    first_step=first,
    num_steps=steps,
    read_threads=2,
    prefetch_steps=1,
    put=dict,
    landmarks=wants_landmarks(record_set),
  )


def on_device(record_set, shape, *, steps, first=0):
  landmarks = wants_landmarks(record_set)
  rows, scans = resident.load(
    record_set, SUBSET, multiple_of=8, read_threads=2, landmarks=landmarks
  )
  return resident.training_batches(
    jax.device_put(rows),
    scans,
    jax.jit(lambda store, rows: store[rows]),
    record_set,
    pipeline.training_rows(
      record_set.lengths, SUBSET, shape, seed=3, packs=np.arange(shape.packs)
    ),
    LABELS,
    shape,
    first_step=first,
    num_steps=steps,
    prefetch_steps=1,
    put=jax.device_put,
    landmarks=landmarks,
  )


@pytest.mark.parametrize("first", [0, 4])
def test_batches_are_those_of_streaming(record_set, shape, first):
  steps = 3 * shape.steps_per_epoch + 1  # a fourth epoch begins
  expected = list(streaming(record_set, shape, steps=steps, first=first))
  found = list(on_device(record_set, shape, steps=steps, first=first))
  assert len(found) == len(expected) == steps - first
  filler = 0
  for batch, other in zip(found, expected, strict=True):
    assert batch.keys() == other.keys()
    for key, value in other.items():
      assert batch[key].dtype == jax.dtypes.canonicalize_dtype(value.dtype)
      np.testing.assert_array_equal(batch[key], value, err_msg=key)
    filler += (other["owner"] == shape.rows).sum()
  assert filler > 0


def test_rows_hold_every_slice_and_zeros(record_set):
  rows, scans = resident.load(record_set, SUBSET, multiple_of=8, read_threads=3)
  total = record_set.lengths[SUBSET].sum()
  assert len(rows) % 8 == 0 and total < len(rows) <= total + 8
  assert (rows[total:] == records.ZERO_CODES[record_set.dtype]).all()
  for index in SUBSET:
    found = rows[scans[int(index)].slices]
    np.testing.assert_array_equal(found, record_set[int(index)].slices)


def test_an_unreadable_scan_is_raised_as_itself(record_set):
  class Unreadable(records.RecordSet):
    def __getitem__(self, record_index):
      if record_index == 7:
        raise OSError("disk gone")
      return super().__getitem__(record_index)

  with pytest.raises(OSError, match="disk gone"):
    resident.load(
      Unreadable(record_set.path), SUBSET, multiple_of=1, read_threads=2
    )


def place(mode, num_bytes, *, limit=100, devices=8, processes=1):
  found = resident.choose_placement(
    mode,
    num_bytes,
    limit_bytes=limit,
    num_devices=devices,
    num_processes=processes,
  )
  return found.resident, found.dealt


@pytest.mark.parametrize("mode", ["auto", "resident"])
def test_slices_go_where_they_fit(mode):
  assert place(mode, 100) == (True, False)
  assert place(mode, 101) == (True, True)
  assert place(mode, 800) == (True, True)


def test_what_does_not_fit_is_streamed_or_refused():
  assert place("auto", 801) == (False, False)
  assert place("auto", 101, devices=1) == (False, False)
  with pytest.raises(InputError, match="config.data.resident_gb") as refused:
    place("resident", 801)
  assert "\n" not in str(refused.value)


def test_streaming_is_streaming():
  assert place("streaming", 1) == (False, False)


def test_several_processes_stream():
  assert place("auto", 1, processes=2) == (False, False)
  with pytest.raises(InputError, match="2; set it to 'streaming'"):
    place("resident", 1, processes=2)


def test_auto_leaves_a_cpu_alone():
  accelerator = {"bytes_limit": 1000}
  assert resident.default_limit("auto", accelerator) == 300
  assert resident.default_limit("resident", accelerator) == 300
  assert resident.default_limit("auto", None) == 0
  assert resident.default_limit("resident", None) == math.inf
