"""Who trains, validates and tests in the cells of an ablation."""

import csv
import dataclasses
import json

import numpy as np
import pytest

import helpers
from brainjax import InputError, records
from brainjax.training import fold_cells
from brainjax.training import folds as folds_lib


@pytest.fixture(scope="module")
def record_set(tmp_path_factory):
  folder = tmp_path_factory.mktemp("folds") / "features"
  return helpers.write_features(
    folder, participants=24, lengths=(1, 4, 2, 5, 3)
  )


@pytest.fixture(scope="module")
def experiments(record_set, tmp_path_factory):
  config = helpers.micro_config(record_set.path)
  return folds_lib.resolve_folds(
    config,
    folds_lib.make_folds("4", record_set),
    tmp_path_factory.mktemp("run"),
  )


def indices(rows):
  return sorted(rows[rows >= 0].tolist())


def test_every_scan_tests_once_and_no_split_meets_another(experiments):
  plan = fold_cells.plan_cells(experiments, seeds=2, learning_rates=(0.1, 0.2))
  assert len(plan.experiments) == 4 * 2 * 2
  tested = []
  for cell in range(0, 16, 4):
    test = indices(plan.test[cell])
    validation = indices(plan.validation[cell])
    train = indices(plan.rows_of(cell, 0))
    assert sorted(test + validation + train) == list(range(24))
    tested += test
    for other in range(cell, cell + 4):  # seeds and rates of the fold
      assert indices(plan.test[other]) == test
      assert indices(plan.rows_of(other, 1)) == train
  assert sorted(tested) == list(range(24))


def test_seeds_train_in_another_order_and_rates_in_the_same(experiments):
  plan = fold_cells.plan_cells(experiments, seeds=2, learning_rates=(0.1, 0.2))
  one, rate, seed = (plan.rows_of(cell, 3) for cell in (0, 1, 2))
  assert (one == rate).all()
  assert (one != seed).any()
  assert plan.cells.seed.tolist()[:4] == [0, 0, 1, 1]
  np.testing.assert_allclose(plan.cells.learning_rate[:3], [0.1, 0.2, 0.1])


def test_random_labels_are_the_same_in_every_fold_and_keep_their_number(
  experiments,
):
  dealt = [fold_cells.with_random_labels(one, 0) for one in experiments]
  targets = dealt[0].targets
  for one in dealt:
    assert (one.targets == targets).all()
    for scan in one.scans:
      index = int(scan["record_index"])
      assert one.classes[targets[index]] == scan["class"]
  before = experiments[0].targets
  assert (targets != before).any()
  for fold in range(4):
    inside = dealt[fold].subset("test")
    assert sorted(targets[inside]) == sorted(before[inside])
  again = fold_cells.with_random_labels(experiments[0], 1).targets
  assert (again != targets).any()


def test_random_labels_of_families_keep_the_classes_of_each_split(experiments):
  scans = experiments[0].scans
  mixed = [
    {**scan, "group_id": f"family {scan['split']}"} if i % 3 else scan
    for i, scan in enumerate(scans)
  ]
  one = dataclasses.replace(experiments[0], scans=tuple(mixed))
  moved = 0
  for seed in range(4):
    dealt = fold_cells.with_random_labels(one, seed)
    for split in ("train", "validation", "test"):
      before, after = (
        [s["class"] for s in found if s["split"] == split]
        for found in (scans, dealt.scans)
      )
      assert sorted(before) == sorted(after)
      moved += before != after
  assert moved > 6


def test_shuffled_slices_stay_in_their_scan_and_positions_in_their_place(
  experiments,
):
  store, shuffled = (
    fold_cells.load_store(experiments, shuffled=s) for s in (False, True)
  )
  assert (store.positions_mm == shuffled.positions_mm).all()
  assert store.starts.shape == (1, 24)  # one set of features for all folds
  moved = 0
  for index, (start, length) in enumerate(
    zip(store.starts[0].tolist(), store.lengths.tolist(), strict=True)
  ):
    rows = np.asarray(store.features[start : start + length])
    expected = experiments[0].record_set[index].slices[:, 0, 0]
    np.testing.assert_array_equal(rows, expected)
    others = np.asarray(shuffled.features[start : start + length])
    moved += (rows != others).any()
    np.testing.assert_array_equal(np.sort(rows, 0), np.sort(others, 0))
  assert moved > 6
  assert not store.features[-1].any()


def test_a_head_has_the_budget_and_the_config_s_own_keeps_its_fields(
  experiments,
):
  lstm, gru = (
    folds_lib.with_head(experiments, name)[1].config.model.head
    for name in ("lstm", "gru")
  )
  assert (lstm.hidden_size, gru.hidden_size) == (4, 256)
  assert lstm.budget == gru.budget == 500_000
  assert experiments[0].config.model.head.budget is None
  small = experiments[0].config.copy_and_resolve_references()
  small.ablation.budget = 10
  with pytest.raises(InputError, match=r"ablation.budget=10: .*attention"):
    folds_lib.check_budget(small, 8, ["mean", "attention"])


def write_sources(folder, sources):
  """Writes features whose scans are of these sources, one after another."""
  record_set = helpers.write_features(folder, participants=24)
  file = folder / "manifest.csv"
  with open(file, newline="") as opened:
    rows = list(csv.DictReader(opened))
  for i, row in enumerate(rows):
    row["source"] = sources[i // 2 % len(sources)]
  records.write_csv(file, list(rows[0]), rows)
  return records.RecordSet(record_set.path)


def test_each_source_tests_once(tmp_path):
  record_set = write_sources(tmp_path / "features", ["a", "b c", "d"])
  folds = folds_lib.make_folds("source", record_set)
  assert [fold.name for fold in folds] == ["a", "b_c", "d"]
  found = folds_lib.resolve_folds(
    helpers.micro_config(record_set.path), folds, tmp_path / "run"
  )
  for one, source in zip(found, ("a", "b c", "d"), strict=True):
    for scan in one.scans:
      assert (scan["split"] == "test") == (scan["source"] == source)
  assert {scan["split"] for scan in found[0].scans} == {
    *("train", "validation", "test")
  }


def test_folds_without_a_class_are_refused_at_once(tmp_path):
  record_set = write_sources(tmp_path / "features", ["a", "b", "c"])
  rows = [dict(row) for row in record_set.rows]
  for row in rows:
    if row["source"] == "b":
      row["label"] = "glioma"
  rows[0] |= {"label": "", "source": "of an unlabelled scan"}
  rows[2] |= {"label": "unclear", "source": ""}
  records.write_csv(record_set.path / "manifest.csv", list(rows[0]), rows)
  record_set = records.RecordSet(record_set.path)
  config = helpers.micro_config(record_set.path, "task.ignore=('unclear',)")
  folds = folds_lib.make_folds("source", record_set, config.task.ignore)
  assert [fold.name for fold in folds] == ["a", "b", "c"]
  with pytest.raises(InputError, match="fold b: .*'normal' has no group in"):
    folds_lib.assign_folds(config, folds, record_set)


def test_one_fold_tests_and_one_validates_and_the_rest_trains(experiments):
  ratio = folds_lib.test_train_ratio([one.scans for one in experiments])
  assert ratio == 6 / 12


@pytest.mark.parametrize("folds", ["2", "five", "source"])
def test_impossible_folds_are_refused(record_set, folds):
  with pytest.raises(InputError, match="--folds"):
    folds_lib.make_folds(folds, record_set)


def test_folds_of_other_scans_are_refused(record_set, tmp_path):
  template = tmp_path / "fold-{fold}"
  for name, participants in (("0", 24), ("1", 24), ("2", 22)):
    helpers.write_features(tmp_path / f"fold-{name}", participants=participants)
  config = helpers.micro_config(template)
  folds = folds_lib.make_folds("3", record_set)
  with pytest.raises(InputError, match="not the scans of"):
    folds_lib.resolve_folds(config, folds, tmp_path / "run")


def test_an_encoder_that_has_seen_a_group_serves_no_fold_it_is_tested_in(
  tmp_path,
):
  record_set = helpers.write_features(tmp_path / "features", participants=24)
  file = record_set.path / "index.json"
  index = json.loads(file.read_text())
  index["encoder"]["encoder_group_ids"] = ["p003"]
  file.write_text(json.dumps(index))
  config = helpers.micro_config(record_set.path)
  folds = folds_lib.make_folds("4", record_set)
  with pytest.raises(InputError, match="p003"):
    folds_lib.resolve_folds(config, folds, tmp_path / "run")
