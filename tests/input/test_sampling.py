import collections

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from brainjax.input import plan, sampling

property_test = hypothesis.settings(
  deadline=None, derandomize=True, max_examples=50
)


@st.composite
def cohorts(draw):
  """Lengths, cells and participants of some scans."""
  scans = st.tuples(st.integers(1, 40), st.integers(-1, 3), st.integers(0, 9))
  rows = draw(st.lists(scans, min_size=1, max_size=40))
  lengths, cells, people = (
    np.array(column) for column in zip(*rows, strict=True)
  )
  return lengths.astype(np.int32), cells, [f"p{person}" for person in people]


def generator(seed):
  return np.random.Generator(np.random.Philox(seed))


def draws(drawn, num_scans):
  return np.bincount(drawn, minlength=num_scans)


def test_cells_then_people_then_scans_count_alike():
  cells = np.array([0] * 8 + [1] * 4)
  people = ["a", "a", "a", "b", "c", "c", "d", "e", "f", "g", "g", "h"]
  found = sampling.balanced_sampling(np.full(12, 3), cells, people)
  by_cell = collections.Counter()
  by_person = collections.Counter()
  for cell, person, expected in zip(cells, people, found.expected, strict=True):
    by_cell[cell] += expected
    by_person[person] += expected
  assert by_cell == {0: pytest.approx(6), 1: pytest.approx(6)}
  np.testing.assert_allclose([by_person[p] for p in "abcde"], 6 / 5)
  np.testing.assert_allclose([by_person[p] for p in "fgh"], 6 / 3)
  np.testing.assert_allclose(found.expected[:3], 6 / 5 / 3)


def test_mean_draws_are_the_expected_ones():
  rng = np.random.default_rng(0)
  cells = np.array([0] * 30 + [1] * 7 + [2] * 3 + [-1] * 2)
  lengths = rng.integers(1, 20, len(cells))
  people = [f"p{i // 2}" for i in range(len(cells))]
  found = sampling.balanced_sampling(lengths, cells, people)
  total = np.zeros(len(cells))
  for seed in range(2000):
    counts = draws(found.draw(generator(seed)), len(cells))
    assert (counts >= np.floor(found.expected)).all()
    assert (counts <= np.ceil(found.expected)).all()
    of_cells = [counts[cells == cell].sum() for cell in range(3)]
    assert set(of_cells) <= {13, 14}  # 40 / 3
    assert counts[cells < 0].tolist() == [1, 1]
    total += counts
  # Of 2000 draws, a Bernoulli mean has a standard deviation of 0.011 at most.
  np.testing.assert_allclose(total / 2000, found.expected, atol=0.045)


@property_test
@hypothesis.given(cohorts(), st.integers(0, 2**63))
def test_no_draw_exceeds_the_envelope(cohort, seed):
  lengths, cells, people = cohort
  found = sampling.balanced_sampling(lengths, cells, people)
  assert sum(found.parts) == len(lengths) * found.whole
  drawn = found.draw(generator(seed))
  assert drawn.dtype == np.int32
  assert len(drawn) == len(found.envelope) == len(lengths)
  assert (np.diff(lengths[drawn]) <= 0).all()
  assert (lengths[drawn] <= found.envelope).all()
  np.testing.assert_array_equal(drawn, found.draw(generator(seed)))


@property_test
@hypothesis.given(cohorts(), st.integers(1, 3), st.integers(0, 15), st.data())
def test_every_epoch_fits_a_shape_for_the_envelope(cohort, packs, more, data):
  lengths, cells, people = cohort
  packs = min(packs, len(lengths))
  found = sampling.balanced_sampling(lengths, cells, people)
  longest = int(lengths.max())
  shape = plan.plan_shape(
    found.envelope,
    packs=packs,
    scans_per_step=packs + more,
    pack_slices=data.draw(st.none() | st.integers(longest, 90)),
    longest=longest,
  )
  for epoch in range(10):
    table = plan.epoch_plan(lengths, 3, epoch, shape, found)
    assert table.dtype == np.int32
    assert table.shape == (shape.steps_per_epoch, shape.packs, shape.rows)
    assert (table >= 0).sum() == len(lengths)
    assert np.append(lengths, 0)[table].sum(-1).max() <= shape.slices


def test_epochs_of_a_balanced_plan_differ_and_repeat():
  lengths = np.full(40, 6)
  cells = np.array([0] * 30 + [1] * 10)
  found = sampling.balanced_sampling(
    lengths, cells, [str(i) for i in range(40)]
  )
  shape = plan.plan_shape(
    found.envelope, packs=2, scans_per_step=8, pack_slices=None, longest=6
  )
  natural = plan.plan_shape(
    lengths, packs=2, scans_per_step=8, pack_slices=None, longest=6
  )
  assert shape == natural  # of equal lengths, balance costs nothing
  plans = [plan.epoch_plan(lengths, 0, e, shape, found) for e in range(30)]
  again = plan.epoch_plan(lengths, 0, 4, shape, found)
  np.testing.assert_array_equal(plans[4], again)
  seen = np.array([draws(p[p >= 0], 40) for p in plans])
  assert (seen[:, :30].sum(1) == 20).all() and (seen[:, 30:] == 2).all()
  assert len({tuple(row) for row in seen.tolist()}) == 30
  assert (seen[:, :30].sum(0) > 5).all()


def test_lengths_vary_little_whichever_scans_are_drawn():
  rng = np.random.default_rng(0)
  lengths = rng.integers(1, 39, 300)
  cells = (np.arange(300) % 10 == 0).astype(int)
  found = sampling.balanced_sampling(
    lengths, cells, [str(i) for i in range(300)]
  )
  sums = [lengths[found.draw(generator(s))].sum() for s in range(50)]
  assert found.envelope.sum() < 1.03 * np.mean(sums)
  assert np.ptp(sums) < 0.03 * np.mean(sums)


def test_big_cohorts_of_many_cells_are_drawn_exactly():
  rng = np.random.default_rng(0)
  cells = rng.integers(0, 300, 20_000)
  people = [str(i) for i in rng.integers(0, 15_000, 20_000)]
  found = sampling.balanced_sampling(rng.integers(8, 40, 20_000), cells, people)
  drawn = found.draw(generator(0))
  counts = np.bincount(cells[drawn], minlength=300)
  assert set(counts.tolist()) <= {66, 67}  # 20000 / 300
