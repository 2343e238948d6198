import dataclasses

import numpy as np
import pytest

import helpers
from brainjax import records
from brainjax.input import packing, plan

SHAPE = plan.PackShape(packs=2, slices=7, rows=3, longest=4, steps_per_epoch=1)
FACTS = {"slice_shape": (4, 5, 1), "dtype": np.dtype(np.uint8)}


def make_scans(dtype="uint8"):
  """Scans of 3, 1, 4 and 2 slices, each with a scale of its own."""
  rng = np.random.default_rng(0)
  return [
    dataclasses.replace(
      helpers.random_record(
        rng, num_slices=length, height=4, width=5, dtype=dtype
      ),
      positions_mm=rng.normal(0, 30, length).astype(np.float32),
      scale=0.5 + length,
    )
    for length in (3, 1, 4, 2)
  ]


def unpack(batch, pack, slot):
  """What a slot says of itself: (record, place, codes, millimetres, scale)."""
  row = batch["owner"][pack, slot]
  return (
    batch["record_index"][pack, row],
    batch["position"][pack, slot],
    batch["slices"][pack, slot],
    batch["positions_mm"][pack, slot],
    batch["scale"][pack, row],
  )


@pytest.mark.parametrize("dtype", ["uint8", "int16"])
def test_each_slot_is_the_next_slice_of_its_scan(dtype):
  scans = make_scans(dtype)
  rows = np.array([[2, 0, -1], [-1, 3, 1]], np.int32)
  facts = {**FACTS, "dtype": np.dtype(dtype)}
  batch = packing.pack_batch(
    rows, scans.__getitem__, np.array([0, 1, 2, -1]), SHAPE, **facts
  )
  for pack, order in enumerate([(2, 0), (3, 1)]):
    slot = 0
    for record_index in order:
      scan = scans[record_index]
      for place, codes in enumerate(scan.slices):
        index, position, slices, positions_mm, scale = unpack(batch, pack, slot)
        assert (index, position) == (record_index, place)
        np.testing.assert_array_equal(slices, codes)
        assert positions_mm == scan.positions_mm[place]
        assert scale == scan.scale
        slot += 1
    for filler in range(slot, SHAPE.slices):
      assert batch["owner"][pack, filler] == SHAPE.rows
      assert (batch["slices"][pack, filler] == scans[0].zero_code).all()
      assert batch["positions_mm"][pack, filler] == 0
      assert batch["position"][pack, filler] == SHAPE.longest + filler
  np.testing.assert_array_equal(batch["record_index"], rows)
  np.testing.assert_array_equal(batch["label"], [[2, 0, -1], [-1, -1, 1]])
  np.testing.assert_array_equal(batch["weight"], [[1, 1, 0], [0, 1, 1]])
  np.testing.assert_array_equal(batch["length"], [[4, 3, 0], [0, 2, 1]])
  np.testing.assert_array_equal(
    batch["scale"], [[4.5, 3.5, 0, 0], [0, 2.5, 1.5, 0]]
  )


def test_batch_has_the_keys_shapes_and_types_of_the_contract():
  rows = np.array([[2, 0, -1], [-1, 3, 1]])
  batch = packing.pack_batch(
    rows, make_scans().__getitem__, np.zeros(4, int), SHAPE, **FACTS
  )
  assert {k: (v.shape, str(v.dtype)) for k, v in batch.items()} == {
    "slices": ((2, 7, 4, 5, 1), "uint8"),
    "owner": ((2, 7), "int32"),
    "position": ((2, 7), "int32"),
    "positions_mm": ((2, 7), "float32"),
    "label": ((2, 3), "int32"),
    "weight": ((2, 3), "float32"),
    "length": ((2, 3), "int32"),
    "record_index": ((2, 3), "int32"),
    "draw": ((2, 3), "int32"),
    "scale": ((2, 4), "float32"),
  }


def test_batch_without_a_scan_is_filler():
  batch = packing.pack_batch(
    np.full((2, 3), -1), lambda _: pytest.fail(), np.zeros(0), SHAPE, **FACTS
  )
  assert batch["slices"].shape == (2, 7, 4, 5, 1)
  assert (batch["slices"] == records.ZERO_CODES[np.dtype(np.uint8)]).all()
  assert (batch["owner"] == 3).all()
  assert (batch["label"] == -1).all()
  assert not batch["weight"].any()
  assert not batch["scale"].any()


@pytest.mark.parametrize(
  ("order", "shape"),
  [
    ([2, 0, 1], SHAPE),  # numpy alone would drop the single slice of 1
    ([2, 0, 3], SHAPE),
    ([2, -1, -1], dataclasses.replace(SHAPE, longest=3)),
  ],
)
def test_scan_that_does_not_fit_is_refused(order, shape):
  rows = np.array([order, [-1, -1, -1]])
  with pytest.raises(ValueError, match="does not fit"):
    packing.pack_batch(
      rows, make_scans().__getitem__, np.zeros(4, int), shape, **FACTS
    )


def test_present_modalities_go_along_when_there_are_several():
  scans = [
    dataclasses.replace(
      scan,
      slices=scan.slices.repeat(2, -1),
      landmarks=scan.landmarks.repeat(2, 0),
      present=np.array(present, np.uint8),
    )
    for scan, present in zip(
      make_scans(), [(1, 1), (0, 1), (1, 0), (1, 1)], strict=True
    )
  ]
  rows = np.array([[2, 0, -1], [-1, 3, 1]], np.int32)
  facts = {**FACTS, "slice_shape": (4, 5, 2)}
  labels = np.zeros(4, np.int32)
  batch = packing.pack_batch(rows, scans.__getitem__, labels, SHAPE, **facts)
  nothing = [0, 0]
  np.testing.assert_array_equal(
    batch["present"],
    [[[1, 0], [1, 1], nothing, nothing], [nothing, [1, 1], [0, 1], nothing]],
  )
  single = packing.pack_batch(
    rows, make_scans().__getitem__, labels, SHAPE, **FACTS
  )
  assert "present" not in single


def test_features_go_as_they_are_and_lack_no_modality():
  scans = [
    dataclasses.replace(
      scan,
      slices=np.full((len(scan.slices), 1, 1, 6), i + 0.5, np.float32),
      brain_mask=np.full((len(scan.slices), 1, 1), 128, np.uint8),
      scale=1.0,
    )
    for i, scan in enumerate(make_scans())
  ]
  rows = np.array([[2, 0, -1], [-1, -1, 1]], np.int32)
  batch = packing.pack_batch(
    rows,
    scans.__getitem__,
    np.zeros(4, np.int32),
    SHAPE,
    slice_shape=(1, 1, 6),
    dtype=np.dtype(np.float32),
  )
  assert "present" not in batch
  assert batch["slices"].dtype == np.float32
  np.testing.assert_array_equal(
    batch["slices"][:, :, 0, 0, 5], [[2.5] * 4 + [0.5] * 3, [1.5] + [0] * 6]
  )
