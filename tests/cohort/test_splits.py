import collections

import numpy as np
import pytest

from brainjax import InputError
from brainjax.cohort import splits


def make_rows(sizes, scans=1, **extra):
  """`sizes` groups of each (label, source), with `scans` visits each."""
  return [
    {
      "participant_id": f"{label}-{source}-{i}",
      "session_id": str(visit),
      "group_id": f"{label}-{source}-{i}",
      "label": label,
      "source": source,
      **extra,
    }
    for (label, source), size in sizes.items()
    for i in range(size)
    for visit in range(scans)
  ]


def assign(rows, *, fractions=(0.6, 0.2, 0.2), folds=0, fold=0, seed=0):
  return splits.assign_splits(
    rows, fractions=fractions, folds=folds, fold=fold, seed=seed
  )


def count(rows, assigned):
  """Rows of each split in each (label, source)."""
  counts = collections.defaultdict(collections.Counter)
  for row, (split, _) in zip(rows, assigned, strict=True):
    counts[row["label"], row["source"]][split] += 1
  return {
    stratum: tuple(counter[split] for split in splits.SPLITS)
    for stratum, counter in counts.items()
  }


def test_every_stratum_keeps_the_fractions():
  sizes = {("normal", "a"): 20, ("glioma", "a"): 10, ("glioma", "b"): 50}
  rows = make_rows(sizes)
  assigned = assign(rows)
  assert count(rows, assigned) == {
    ("normal", "a"): (12, 4, 4),
    ("glioma", "a"): (6, 2, 2),
    ("glioma", "b"): (30, 10, 10),
  }
  assert {fold for _, fold in assigned} == {-1}


def test_sizes_that_do_not_divide_are_apportioned():
  rng = np.random.default_rng(0)
  for _ in range(20):
    sizes = {("l", str(i)): int(rng.integers(1, 40)) for i in range(6)}
    rows = make_rows(sizes)
    fractions = rng.dirichlet((5, 3, 2))
    counts = count(rows, assign(rows, fractions=fractions))
    for stratum, size in sizes.items():
      assert np.abs(counts[stratum] - size * fractions).max() < 2
      assert size < 3 or min(counts[stratum]) > 0


def test_three_groups_reach_every_split():
  sizes = {("glioma", source): 3 for source in "abcdefgh"}
  rows = make_rows(sizes)
  counts = count(rows, assign(rows, fractions=(0.9, 0.05, 0.05)))
  assert set(counts.values()) == {(1, 1, 1)}


def test_many_single_groups_together_keep_the_fractions():
  sizes = {("glioma", f"{i:03d}"): 1 for i in range(100)}
  rows = make_rows(sizes)
  totals = np.sum(list(count(rows, assign(rows)).values()), axis=0)
  assert totals.tolist() == [60, 20, 20]


def test_a_split_of_fraction_zero_stays_empty():
  sizes = {("glioma", source): 7 for source in "abcde"}
  rows = make_rows(sizes)
  counts = count(rows, assign(rows, fractions=(0.7, 0.3, 0)))
  assert {c[2] for c in counts.values()} == {0}


def test_a_group_stays_together():
  rows = make_rows({("glioma", "a"): 12}, scans=4)
  # Two participants who share a group, of two labels and sources.
  for i, row in enumerate(rows):
    row["group_id"] = f"group-{i // 8}"
    row["source"] = "ab"[i % 2]
    row["label"] = ("glioma", "meningioma")[i // 4 % 2]
  for folds in (0, 3):
    assigned = assign(rows, folds=folds)
    for start in range(0, len(rows), 8):
      assert len(set(assigned[start : start + 8])) == 1
    assert {split for split, _ in assigned} == set(splits.SPLITS)


@pytest.mark.parametrize("folds", [0, 5])
def test_the_draw_depends_on_the_seed_and_not_on_row_order(folds):
  rows = make_rows({("normal", "a"): 15, ("glioma", "b"): 15}, scans=2)
  # A group in two sources: which one is its stratum must not depend on order.
  for row in rows[::2]:
    row["source"] = "c"
  assigned = assign(rows, folds=folds)
  order = np.random.default_rng(0).permutation(len(rows))
  shuffled = assign([rows[i] for i in order], folds=folds)
  assert shuffled == [assigned[i] for i in order]
  assert assign(rows, folds=folds, seed=1) != assigned


def test_rows_need_no_source():
  rows = make_rows({("normal", ""): 10, ("glioma", ""): 10})
  assigned = assign(rows)
  for row in rows:
    del row["source"]
  assert assign(rows) == assigned


def test_every_group_is_tested_once_over_the_folds():
  sizes = {("normal", "a"): 11, ("glioma", "a"): 7, ("glioma", "b"): 4}
  rows = make_rows(sizes)
  runs = [assign(rows, folds=5, fold=fold) for fold in range(5)]
  for of_row in zip(*runs, strict=True):
    assert [split for split, _ in of_row].count("test") == 1
    assert [split for split, _ in of_row].count("validation") == 1
    (own,) = {fold for _, fold in of_row}
    assert of_row[own][0] == "test"
    assert of_row[(own - 1) % 5][0] == "validation"
  totals = [[split for split, _ in run].count("test") for run in runs]
  assert max(totals) - min(totals) <= 1
  for run in runs:
    for stratum, size in sizes.items():
      assert abs(count(rows, run)[stratum][2] - size / 5) < 1


def test_the_manifest_s_split_wins():
  rows = make_rows({("glioma", "a"): 4})
  given = ["test", "train", "train", "validation"]
  for row, split in zip(rows, given, strict=True):
    row["split"] = split
    row["fold"] = "0"
  assert assign(rows) == [(split, -1) for split in given]


def test_the_manifest_s_fold_wins():
  rows = make_rows({("glioma", "a"): 4}, split="train")
  for row, fold in zip(rows, "2031", strict=True):
    row["fold"] = fold
  assert assign(rows, folds=4, fold=3) == [
    ("train", 2),
    ("validation", 0),
    ("test", 3),
    ("train", 1),
  ]


def test_a_column_that_is_nowhere_filled_is_as_good_as_absent():
  rows = make_rows({("glioma", "a"): 10})
  assigned = assign(rows)
  for row in rows:
    row["split"] = ""
  assert assign(rows) == assigned


@pytest.mark.parametrize("column, folds", [("split", 0), ("fold", 3)])
def test_a_half_filled_column_is_refused(column, folds):
  rows = make_rows({("glioma", "a"): 4})
  for row, value in zip(rows, ("0", "", "1", ""), strict=True):
    row[column] = value
  message = f"column {column}: empty for 2 of 4 .*glioma-a-1"
  with pytest.raises(InputError, match=message):
    assign(rows, folds=folds)


def test_folds_of_the_manifest_must_be_those_of_the_config():
  rows = make_rows({("glioma", "a"): 4})
  for row, fold in zip(rows, "0123", strict=True):
    row["fold"] = fold
  for folds in (3, 5):
    with pytest.raises(InputError, match=r"holds \[0, 1, 2, 3\]"):
      assign(rows, folds=folds)


def test_the_manifest_s_test_scans_are_not_dealt_to_folds():
  rows = make_rows({("glioma", "a"): 4}, split="test")
  with pytest.raises(InputError, match="config.split.folds=3"):
    assign(rows, folds=3)


@pytest.mark.parametrize(
  "fields, message",
  [
    ({"fractions": (0.6, 0.2, 0.1)}, "config.split.fractions"),
    ({"fractions": (1.2, -0.1, -0.1)}, "config.split.fractions"),
    ({"fractions": (0.5, 0.5)}, "config.split.fractions"),
    ({"fractions": (float("nan"), 0.5, 0.5)}, "config.split.fractions"),
    ({"folds": 2}, "config.split.folds: 2"),
    ({"folds": -3}, "config.split.folds: -3"),
    ({"folds": 3, "fold": 3}, "config.split.fold: 3"),
    ({"folds": 3, "fold": -1}, "config.split.fold: -1"),
    ({"seed": -1}, "config.split.seed: -1"),
  ],
)
def test_an_error_names_the_field(fields, message):
  with pytest.raises(InputError, match=message):
    assign(make_rows({("glioma", "a"): 9}), **fields)


def sourced(*sources):
  return [
    {
      "participant_id": f"p{i}",
      "session_id": "",
      "group_id": f"p{i}",
      "label": "ab"[i % 2],
      "source": source,
    }
    for i, source in enumerate(sources)
  ]


LEAVE_OUT = {"fractions": (0.6, 0.2, 0.2), "folds": 0, "fold": 0, "seed": 0}


def test_a_source_that_is_left_out_tests_and_no_other():
  rows = sourced(*("xy" * 20))
  found = splits.assign_splits(rows, **LEAVE_OUT, source="y")
  by_source = collections.Counter(
    (row["source"], split) for row, (split, _) in zip(rows, found, strict=True)
  )
  assert by_source == {
    ("x", "train"): 15,
    ("x", "validation"): 5,
    ("y", "test"): 20,
  }


@pytest.mark.parametrize(
  ("change", "words"),
  [
    ({"source": "z"}, "name one of"),
    ({"folds": 5}, "either"),
    ({"fractions": (0.8, 0.0, 0.2)}, "validation"),
  ],
)
def test_a_source_that_cannot_be_left_out(change, words):
  rows = sourced(*("xy" * 20))
  with pytest.raises(InputError, match=words):
    splits.assign_splits(rows, **{**LEAVE_OUT, "source": "y", **change})


def test_a_group_of_two_sources_cannot_leave_with_one():
  rows = sourced(*("xy" * 20))
  rows[1]["group_id"] = "p0"
  with pytest.raises(InputError, match="both sides"):
    splits.assign_splits(rows, **LEAVE_OUT, source="y")
