import collections
import csv
import itertools

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from brainjax import InputError
from brainjax.input import plan

property_test = hypothesis.settings(
  deadline=None, derandomize=True, max_examples=60
)
SCANS = st.lists(st.integers(1, 40), min_size=1, max_size=60)


@st.composite
def derived_shapes(draw):
  """Lengths of training scans, and a shape derived from them."""
  lengths = np.array(draw(SCANS), np.int32)
  packs = draw(st.integers(1, min(4, len(lengths))))
  longest = int(lengths.max()) + draw(st.integers(0, 10))
  shape = plan.plan_shape(
    lengths,
    packs=packs,
    scans_per_step=draw(st.integers(packs, 20)),
    pack_slices=draw(st.none() | st.integers(longest, 90)),
    longest=longest,
  )
  return lengths, shape


def shape_of(lengths, *, packs=1, scans_per_step=16, pack_slices=None):
  lengths = np.asarray(lengths, np.int32)
  return plan.plan_shape(
    lengths,
    packs=packs,
    scans_per_step=scans_per_step,
    pack_slices=pack_slices,
    longest=int(lengths.max()),
  )


def pack_loads(table, lengths):
  """i64[steps*G] slices of each pack."""
  padded = np.append(lengths, 0)
  return padded[table].sum(axis=-1).ravel()


def fullest_pack(lengths, num_packs):
  """Slices of the fullest pack, by the packing rule's definition."""
  loads = [0] * num_packs
  for length in sorted(lengths.tolist(), reverse=True):
    loads[loads.index(min(loads))] += length
  return max(loads)


@property_test
@hypothesis.given(derived_shapes(), st.integers(0, 2**63), st.integers(0, 99))
def test_an_epoch_holds_each_scan_once_and_fits(given, seed, epoch):
  lengths, shape = given
  table = plan.epoch_plan(lengths, seed, epoch, shape)
  assert table.dtype == np.int32
  assert table.shape == (shape.steps_per_epoch, shape.packs, shape.rows)
  assert sorted(table[table >= 0]) == list(range(len(lengths)))
  assert table.min() >= -1
  assert pack_loads(table, lengths).max() <= shape.slices


@property_test
@hypothesis.given(derived_shapes())
def test_ties_change_no_load_so_the_row_limit_never_binds(given):
  lengths, shape = given
  loads = [
    np.sort(pack_loads(plan.epoch_plan(lengths, 0, epoch, shape), lengths))
    for epoch in range(5)
  ]
  np.testing.assert_array_equal(loads, [loads[0]] * 5)


@property_test
@hypothesis.given(SCANS, st.integers(1, 4), st.integers(0, 20))
@hypothesis.example(lengths=[1, 1, 1], packs=2, more=0)  # 3 / 2 rounds to 2
def test_derived_pack_is_the_smallest_and_none_is_empty(lengths, packs, more):
  lengths = np.array(lengths)
  packs = min(packs, len(lengths))
  shape = shape_of(lengths, packs=packs, scans_per_step=packs + more)
  num_packs = packs * shape.steps_per_epoch
  load = max(fullest_pack(lengths, num_packs), shape.longest)
  assert shape.slices % 8 == 0
  assert 0 <= shape.slices - load < 8
  assert pack_loads(plan.epoch_plan(lengths, 0, 0, shape), lengths).min() > 0


@hypothesis.settings(property_test, max_examples=20)
@hypothesis.given(
  st.lists(st.integers(1, 12), min_size=60, max_size=120),
  st.integers(1, 2),
  st.integers(0, 2),
)
def test_the_steps_near_those_asked_for_have_least_filler(lengths, packs, more):
  lengths = np.array(lengths)
  asked = len(lengths) / (packs + more)
  shape = shape_of(lengths, packs=packs, scans_per_step=packs + more)

  def cost(steps):
    load = max(fullest_pack(lengths, packs * steps), shape.longest)
    return steps * 8 * -(-load // 8), abs(steps - asked)

  most = len(lengths) // packs
  near = {
    steps
    for steps in range(1, most + 1)
    if abs(steps - asked) <= 0.05 * asked or steps == min(round(asked), most)
  }
  assert len(near) <= plan.MOST_TRIED
  assert shape.steps_per_epoch in near
  assert cost(shape.steps_per_epoch) == min(map(cost, near))


def test_the_nearest_number_of_steps_can_be_had():
  lengths = np.ones(1677, np.int32)
  facts = {"packs": 1, "scans_per_step": 32, "pack_slices": None, "longest": 1}
  nearest = plan.plan_shape(lengths, **facts, steps_per_epoch=plan.NEAREST)
  assert nearest == plan.PackShape(1, 40, 33, 1, steps_per_epoch=52)
  given = plan.plan_shape(lengths, **facts, steps_per_epoch=54)
  assert given == plan.PackShape(1, 32, 32, 1, steps_per_epoch=54)


@property_test
@hypothesis.given(SCANS, st.integers(1, 4), st.integers(40, 90))
def test_given_pack_takes_the_fewest_steps(lengths, packs, pack_slices):
  lengths = np.array(lengths)
  packs = min(packs, len(lengths))
  shape = shape_of(lengths, packs=packs, pack_slices=pack_slices)
  fits = (
    steps
    for steps in itertools.count(1)
    if fullest_pack(lengths, packs * steps) <= pack_slices
  )
  assert shape.slices == pack_slices
  assert shape.steps_per_epoch == next(fits)


@property_test
@hypothesis.given(derived_shapes(), SCANS)
def test_evaluation_holds_each_scan_of_any_set_once(given, lengths):
  _, shape = given
  lengths = np.minimum(lengths, shape.longest)
  table = plan.evaluation_plan(lengths, shape)
  assert table.dtype == np.int32
  assert table.shape[1:] == (shape.packs, shape.rows)
  assert sorted(table[table >= 0]) == list(range(len(lengths)))
  assert pack_loads(table, lengths).max() <= shape.slices
  assert (table >= 0).any(axis=(1, 2)).all()
  np.testing.assert_array_equal(table, plan.evaluation_plan(lengths, shape))


def test_evaluation_takes_as_few_steps_as_slots_and_rows_allow():
  shape = plan.PackShape(2, slices=16, rows=4, longest=8, steps_per_epoch=1)
  by_slots = plan.evaluation_plan(np.full(12, 8), shape)
  by_rows = plan.evaluation_plan(np.full(24, 1), shape)
  assert (by_slots.shape[0], by_rows.shape[0]) == (3, 3)
  assert plan.evaluation_plan(np.array([], int), shape).shape == (0, 2, 4)


def test_epochs_and_seeds_differ_and_repeat():
  lengths = np.random.default_rng(0).integers(1, 9, 40)
  shape = shape_of(lengths, scans_per_step=8)
  tables = {
    key: plan.epoch_plan(lengths, *key, shape).tobytes()
    for key in itertools.product(range(3), range(3))
  }
  assert len(set(tables.values())) == 9
  for key, table in tables.items():
    assert plan.epoch_plan(lengths, *key, shape).tobytes() == table


def test_ties_and_the_deal_to_steps_are_random():
  lengths = np.array([5, 5, 5, 5, 9, 1])
  shape = shape_of(lengths, scans_per_step=2)
  mates = set()
  steps_of_the_longest = set()
  for epoch in range(60):
    table = plan.epoch_plan(lengths, 0, epoch, shape)[:, 0]
    mates |= {tuple(sorted(scans)) for scans in table.tolist()}
    steps_of_the_longest |= set(np.nonzero(table == 4)[0].tolist())
  assert mates == {*itertools.combinations(range(4), 2), (4, 5)}
  assert steps_of_the_longest == {0, 1, 2}


@pytest.mark.parametrize(
  ("lengths", "scans_per_step", "rows"),
  [
    # 6 | 3 + 3 tie: the last scan makes 2 rows of the one or 3 of the other.
    ([6, 3, 3, 1], 2, {2, 3}),
    # 6 + 5 + 4 and, later, 12 + 3: equally full, fewer rows.
    ([12, 6, 5, 4, 3], 3, {3}),
  ],
)
def test_rows_are_the_most_a_pack_can_hold(lengths, scans_per_step, rows):
  shape = shape_of(lengths, scans_per_step=scans_per_step)
  plans = [
    plan.epoch_plan(np.array(lengths), 0, epoch, shape) for epoch in range(30)
  ]
  assert {int((p >= 0).sum(-1).max()) for p in plans} == rows
  assert shape.rows == max(rows)


def test_equal_lengths_leave_no_slot_and_no_row_empty():
  lengths = np.full(96, 24)
  shape = shape_of(lengths, packs=2, scans_per_step=16)
  assert shape == plan.PackShape(2, 8 * 24, 8, 24, 6)
  table = plan.epoch_plan(lengths, 0, 0, shape)
  assert table.min() == 0
  assert plan.pack_fill(table, lengths, shape.slices) == 1


def test_fill_counts_real_slices_only():
  table = np.array([[[0, 1], [2, -1]], [[-1, -1], [3, -1]]])
  assert plan.pack_fill(table, np.array([3, 4, 5, 4]), 8) == 0.5


def test_plan_is_the_same_on_every_platform_and_in_every_version():
  lengths = np.array([4, 2, 2, 3, 1, 1])
  table = plan.epoch_plan(lengths, 7, 3, shape_of(lengths, scans_per_step=3))
  assert table.tolist() == [[[3, 1, 4, -1]], [[0, 2, 5, -1]]]


def test_ten_thousand_scans_fill_their_packs():
  lengths = np.random.default_rng(0).integers(8, 40, 10_000)
  shape = shape_of(lengths, packs=8, scans_per_step=128)
  table = plan.epoch_plan(lengths, 0, 0, shape)
  assert sorted(table[table >= 0]) == list(range(10_000))
  assert plan.pack_fill(table, lengths, shape.slices) > 0.98


@pytest.mark.parametrize(
  ("packs", "scans_per_step", "fill"), [(1, 16, 0.95), (8, 64, 0.95)]
)
def test_fill_of_figshare_patients(data_root, packs, scans_per_step, fill):
  with open(data_root / "figshare" / "slices.csv", newline="") as file:
    patients = [row["patient_id"] for row in csv.DictReader(file)]
  lengths = np.array(list(collections.Counter(patients).values()))
  assert (lengths.min(), lengths.max()) == (1, 38)
  shape = shape_of(lengths, packs=packs, scans_per_step=scans_per_step)
  table = plan.epoch_plan(lengths, 0, 0, shape)
  assert plan.pack_fill(table, lengths, shape.slices) > fill


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({"packs": 4}, "config.data.packs=4: .* only 3 training scans"),
    ({"packs": 2, "scans_per_step": 1}, "config.data.scans_per_step=1: "),
    ({"pack_slices": 8}, "config.data.pack_slices=8: .* 9 slices"),
  ],
)
def test_impossible_shape_names_the_field(fields, message):
  with pytest.raises(InputError, match=message):
    shape_of([9, 1, 1], **fields)


@pytest.mark.parametrize("lengths", [[9, 1, 10], [0, 1]])
def test_length_out_of_range_is_refused(lengths):
  shape = plan.PackShape(1, slices=64, rows=9, longest=9, steps_per_epoch=1)
  with pytest.raises(InputError, match="scan"):
    plan.evaluation_plan(np.array(lengths), shape)
  with pytest.raises(InputError, match="scan"):
    plan.epoch_plan(np.array(lengths), 0, 0, shape)


@pytest.mark.parametrize(("slices", "rows"), [(15, 4), (16, 3)])
def test_epoch_that_does_not_fit_is_refused(slices, rows):
  lengths = np.full(8, 4)
  fitting = plan.PackShape(1, 16, 4, longest=4, steps_per_epoch=2)
  plan.epoch_plan(lengths, 0, 0, fitting)
  tight = plan.PackShape(1, slices, rows, longest=4, steps_per_epoch=2)
  with pytest.raises(ValueError, match="8 scans of 32 slices do not fit"):
    plan.epoch_plan(lengths, 0, 0, tight)
