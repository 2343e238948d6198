import dataclasses

import numpy as np
import pytest

import brainjax
import helpers
from brainjax import records
from brainjax.evaluation import baselines
from brainjax.metrics import classification

TRAIN, TEST = np.arange(80), np.arange(80, 160)


class CountingSet(list):
  """A list of records that notes which are read."""

  def __init__(self, scans):
    super().__init__(scans)
    self.reads = []

  def __getitem__(self, record_index):
    self.reads.append(record_index)
    return super().__getitem__(record_index)


def record(**kwargs):
  size = {"height": 8, "width": 8}
  return helpers.random_record(np.random.default_rng(0), **(size | kwargs))


def cohort(folder, *, slices_follow_label, brightness_follows_label):
  """Records of two classes, and their targets."""
  rng = np.random.default_rng(5)
  targets = rng.integers(2, size=160)
  scans = []
  for i, target in enumerate(targets):
    long = target if slices_follow_label else rng.integers(2)
    bright = target if brightness_follows_label else rng.integers(2)
    scan = helpers.random_record(
      rng,
      num_slices=int(rng.integers(4, 7) + 2 * long),
      height=8,
      width=8,
      brightness=0.5 * bright,
      participant_id=f"p{i}",
    )
    scans.append(scan)
  return helpers.write_records(folder, scans), targets


def auc(features, targets):
  probabilities = baselines.probe_probabilities(
    features, TRAIN, TEST, targets, 2
  )
  return classification.roc_auc(probabilities, targets[TEST], positive=1)


@pytest.mark.parametrize("culprit", ["header", "histogram"])
def test_a_shortcut_is_found_by_its_probe_alone(tmp_path, culprit):
  record_set, targets = cohort(
    tmp_path,
    slices_follow_label=culprit == "header",
    brightness_follows_label=culprit == "histogram",
  )
  features = baselines.probe_features(record_set)
  for name in baselines.PROBES:
    if name == culprit:
      assert auc(features[name], targets) > 0.9
    else:
      assert 0.35 < auc(features[name], targets) < 0.65


def test_histogram_counts_the_brain_alone():
  scan = record(num_slices=2)
  slices = np.full_like(scan.slices, 255)  # beyond 5: the last bin
  brain = np.zeros((2, 8, 8), bool)
  brain[0, 2, 3:6] = brain[1, 4, 5] = True
  slices[0, 2, 3] = scan.zero_code
  slices[0, 2, 4] = scan.zero_code - 127  # -5: the first bin
  scan = dataclasses.replace(
    scan, slices=slices, brain_mask=records.pack_bits(brain)
  )
  expected = np.zeros(32)
  expected[[0, 16, 31]] = 1 / 4, 1 / 4, 2 / 4
  np.testing.assert_array_equal(baselines.histogram(scan), expected)
  empty = np.zeros_like(scan.brain_mask)
  scan = dataclasses.replace(scan, brain_mask=empty)
  np.testing.assert_array_equal(baselines.histogram(scan), np.zeros(32))


def test_histogram_has_a_part_for_each_modality():
  scan = record()
  slices = np.concatenate([scan.slices, np.full_like(scan.slices, 127)], -1)
  pair = dataclasses.replace(
    scan,
    slices=slices,
    present=np.ones(2, np.uint8),
    landmarks=np.zeros((2, 11), np.float32),
  )
  features = baselines.histogram(pair)
  np.testing.assert_array_equal(features[:32], baselines.histogram(scan))
  np.testing.assert_array_equal(features[32:], np.eye(32)[16])


@pytest.mark.parametrize(
  ("geometry", "expected"),
  [
    ({}, [0, 0, 0, 0, 0, 0]),
    (
      {"file_shape": [256, 240, 150], "file_spacing_mm": [0.9, 1.0, 1.2]},
      [256, 240, 150, 0.9, 1.0, 1.2],
    ),
    (
      {"file_shape": [512, 512], "file_spacing_mm": None},
      [512, 512, 0, 0, 0, 0],
    ),
    (
      {"file_shape": [64, 64, 30, 2], "file_spacing_mm": [1, 1, 5, 2]},
      [64, 64, 30, 1, 1, 5],
    ),
  ],
)
def test_header_reads_the_geometry(geometry, expected):
  scan = dataclasses.replace(record(num_slices=4), geometry=geometry)
  assert baselines.header(scan).tolist() == [4, *expected]


def test_features_follow_the_indices_and_records_are_read_once():
  scans = [record(num_slices=n) for n in (2, 3, 4, 5)]
  record_set = CountingSet(scans)
  features = baselines.probe_features(record_set, np.array([3, 0, 1]))
  assert record_set.reads == [3, 0, 1]
  assert set(features) == set(baselines.PROBES)
  assert features["header"][:, 0].tolist() == [5, 2, 3]
  np.testing.assert_array_equal(
    features["histogram"][1], baselines.histogram(scans[0])
  )
  everything = baselines.probe_features(record_set)
  assert everything["header"][:, 0].tolist() == [2, 3, 4, 5]


def test_nothing_is_fitted_on_test_rows():
  rng = np.random.default_rng(0)
  features, targets = rng.normal(size=(160, 5)), rng.integers(3, size=160)
  before = baselines.probe_probabilities(features, TRAIN, TEST, targets, 3)
  features[TEST[1:]] = 1e3 * rng.normal(size=(79, 5))
  targets[TEST] = 0
  after = baselines.probe_probabilities(features, TRAIN, TEST, targets, 3)
  np.testing.assert_array_equal(before[0], after[0])
  assert not np.array_equal(before[1:], after[1:])


def test_unknown_classes_train_nothing():
  rng = np.random.default_rng(0)
  features, targets = rng.normal(size=(160, 5)), rng.integers(2, size=160)
  known = baselines.probe_probabilities(features, TRAIN, TEST, targets, 2)
  features = np.concatenate([features, np.full((20, 5), 50.0)])
  targets = np.concatenate([targets, np.full(20, -1)])
  more = np.concatenate([TRAIN, np.arange(160, 180)])
  np.testing.assert_array_equal(
    baselines.probe_probabilities(features, more, TEST, targets, 2), known
  )


def test_columns_are_classes_even_if_one_is_not_trained_on():
  rng = np.random.default_rng(0)
  targets = rng.choice([0, 2], size=160)
  features = targets[:, None] + 0.1 * rng.normal(size=(160, 1))
  probabilities = baselines.probe_probabilities(
    features, TRAIN, TEST, targets, 4
  )
  assert probabilities.shape == (80, 4)
  np.testing.assert_array_equal(probabilities[:, [1, 3]], 0)
  np.testing.assert_allclose(probabilities.sum(1), 1)
  np.testing.assert_array_equal(probabilities.argmax(1), targets[TEST])


def test_a_rare_class_weighs_as_much_as_a_common_one():
  rng = np.random.default_rng(0)
  targets = (np.arange(160) % 10 == 0).astype(int)
  features = rng.normal(size=(160, 2))  # says nothing
  probabilities = baselines.probe_probabilities(
    features, TRAIN, TEST, targets, 2
  )
  assert 0.4 < probabilities[:, 1].mean() < 0.6


def test_one_class_to_train_on_is_refused():
  with pytest.raises(brainjax.InputError, match="needs two classes"):
    baselines.probe_probabilities(
      np.zeros((4, 2)), np.arange(3), np.array([3]), np.array([1, 1, -1, 0]), 2
    )


def test_separable_features_of_any_scale_converge():
  rng = np.random.default_rng(0)
  targets = np.arange(160) % 3
  features = targets[:, None] + 0.01 * rng.normal(size=(160, 32))
  features = features * np.logspace(-6, 6, 32) + 1e4  # a warning is an error
  probabilities = baselines.probe_probabilities(
    features, TRAIN, TEST, targets, 3
  )
  np.testing.assert_array_equal(probabilities.argmax(1), targets[TEST])


def test_units_of_features_do_not_matter():
  rng = np.random.default_rng(0)
  targets = rng.integers(2, size=160)
  features = targets[:, None] + rng.normal(size=(160, 3))
  probabilities = [
    baselines.probe_probabilities(f, TRAIN, TEST, targets, 2)
    for f in (features, features * [1e-3, 1.0, 1e3])
  ]
  np.testing.assert_allclose(*probabilities, atol=1e-6)


def manifest_rows(ages=(), sexes=(), sources=()):
  columns = {"age": ages, "sex": sexes, "source": sources}
  length = max(len(values) for values in columns.values())
  return [
    {name: values[i] for name, values in columns.items() if values}
    for i in range(length)
  ]


def test_manifest_says_age_sex_source_and_slices():
  rows = manifest_rows(
    ages=["60", "", "n/a", "40", "90"],
    sexes=["F", "f", "M", "", "M"],
    sources=["ixi", "ixi", "ucsf", "ixi", "new"],
  )
  lengths = np.array([5, 6, 7, 8, 9])
  features = baselines.manifest_features(rows, lengths, np.arange(4))
  assert features["slices"].tolist() == [[5], [6], [7], [8], [9]]
  ages = features["demographics"][:, :2].tolist()
  # The median of the two known ages of training scans.
  assert ages == [[60, 0], [50, 1], [50, 1], [40, 0], [90, 0]]
  sexes = features["demographics"][:, 2:]
  assert sexes.sum(1).tolist() == [1] * 5
  assert (sexes[0] == sexes[1]).all() and (sexes[2] == sexes[4]).all()
  assert features["source"][:4].tolist() == [
    *[[1, 0, 0]] * 2,
    [0, 0, 1],
    [1, 0, 0],
  ]


def test_manifest_features_that_do_not_vary_are_left_out():
  rows = manifest_rows(sexes=["F", "F", "M"], sources=["ixi"] * 3)
  features = baselines.manifest_features(
    rows, np.array([4, 4, 5]), np.array([0, 1])
  )
  assert features == {}
  assert not baselines.manifest_features(rows, np.arange(3), np.arange(0))


def test_a_source_that_is_the_label_is_found():
  rng = np.random.default_rng(0)
  targets = rng.integers(2, size=160)
  rows = manifest_rows(
    ages=[str(a) for a in rng.integers(20, 80, size=160)],
    sources=[["ixi", "ucsf"][target] for target in targets],
  )
  features = baselines.manifest_features(rows, np.full(160, 9), TRAIN)
  assert set(features) == {"demographics", "source"}
  assert auc(features["source"], targets) == 1
  assert auc(features["demographics"], targets) < 0.7
