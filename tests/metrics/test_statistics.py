import json

import numpy as np
import pytest
import scipy.special
import scipy.stats
import sklearn.metrics

from brainjax.metrics import statistics

METRICS = (
  "accuracy",
  "balanced_accuracy",
  "sensitivity",
  "specificity",
  "precision",
  "f1",
  "roc_auc",
  "average_precision",
  "brier",
  "ece",
)


def predictions(seed, num_rows, num_classes, signal=1.0):
  """Balanced targets, and the softmax of noise that favours them."""
  rng = np.random.default_rng(seed)
  targets = np.arange(num_rows) % num_classes
  logits = rng.normal(size=(num_rows, num_classes))
  logits[np.arange(num_rows), targets] += signal
  return scipy.special.softmax(logits, axis=1), targets


def own_groups(num_rows):
  return [f"g{i}" for i in range(num_rows)]


@pytest.mark.parametrize(
  ("num_classes", "positive"), [(2, 1), (2, None), (3, None)]
)
def test_counts_score_as_repeated_rows(num_classes, positive):
  probabilities, targets = predictions(0, 30, num_classes)
  probabilities[1::3] = probabilities[::3][:, ::-1]  # ties between classes
  counts = np.random.default_rng(1).integers(4, size=(6, 30))
  drawn = statistics.scores(
    probabilities, targets, positive=positive, counts=counts
  )
  for r, row in enumerate(counts):
    repeated = statistics.scores(
      np.repeat(probabilities, row, axis=0),
      np.repeat(targets, row),
      positive=positive,
    )
    for name in METRICS:
      assert drawn[name][r] == pytest.approx(repeated[name], abs=1e-12), name


def test_aggregate_is_the_normalised_geometric_mean_in_order_of_appearance():
  probabilities = np.array(
    [[0.5, 0.3, 0.2], [0.1, 0.2, 0.7], [0.2, 0.2, 0.6], [0.3, 0.3, 0.4]]
  )
  ids, joined = statistics.aggregate_participants(
    np.log(probabilities), ["p9", "p1", "p9", "p5"]
  )
  assert ids == ["p9", "p1", "p5"]
  geometric = np.sqrt(probabilities[0] * probabilities[2])
  expected = [geometric / geometric.sum(), probabilities[1], probabilities[3]]
  np.testing.assert_allclose(joined, expected, rtol=1e-12)


def test_aggregate_of_impossible_scans():
  with np.errstate(divide="ignore"):
    certain = np.log([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]])
  _, joined = statistics.aggregate_participants(certain[:2], ["a", "a"])
  assert joined.tolist() == [[1, 0]]
  with pytest.raises(ValueError, match="participant a: .* no class possible"):
    statistics.aggregate_participants(certain, ["a", "b", "a"])


def test_bootstrap_keeps_groups_together_and_each_stratum_its_size():
  #          class 0 alone    class 1 alone      both classes
  groups = ["a", "b", "b", "c", "d", "e", "f", "f", "g", "g"]
  targets = np.array([0, 0, 0, 0, 1, 1, 0, 1, 1, 0])
  counts = statistics.bootstrap_counts(targets, groups, resamples=500, seed=0)
  assert counts.shape == (500, 10)
  assert counts.dtype == np.int64
  for one, other in ((1, 2), (6, 7), (8, 9)):
    np.testing.assert_array_equal(counts[:, one], counts[:, other])
  for rows in ([0, 1, 3], [4, 5], [6, 8]):  # a row of each group
    assert (counts[:, rows].sum(1) == len(rows)).all()
    # Each is drawn once on average, and from 0 to all times.
    np.testing.assert_allclose(counts[:, rows].mean(0), 1, atol=0.15)
    assert (counts[:, rows].min(), counts[:, rows].max()) == (0, len(rows))


@pytest.mark.parametrize("seed", range(10))
def test_every_resample_holds_every_class(seed):
  rng = np.random.default_rng(seed)
  targets = np.concatenate([np.arange(4), rng.integers(3, size=16)])
  groups = [f"g{i}" for i in rng.integers(10, size=20)]
  counts = statistics.bootstrap_counts(
    targets, groups, resamples=100, seed=seed
  )
  for k in range(4):
    assert (counts[:, targets == k].sum(1) > 0).all()


def test_bootstrap_variance_is_that_of_drawing_with_replacement():
  targets = np.zeros(20, int)
  counts = statistics.bootstrap_counts(
    targets, own_groups(20), resamples=4000, seed=0
  )
  np.testing.assert_allclose(counts.var(), 1 - 1 / 20, rtol=0.03)
  # Resamples are independent of each other.
  assert abs(np.corrcoef(counts[:-1, 0], counts[1:, 0])[0, 1]) < 0.05


def test_equal_seeds_give_equal_intervals():
  probabilities, targets = predictions(0, 40, 3)

  def score(seed):
    return statistics.score_with_intervals(
      probabilities,
      targets,
      own_groups(40),
      positive=None,
      resamples=50,
      seed=seed,
    )

  assert score(3) == score(3)
  assert score(3)["roc_auc"]["low"] != score(4)["roc_auc"]["low"]
  assert score(3)["roc_auc"]["value"] == score(4)["roc_auc"]["value"]


@pytest.mark.parametrize("num_classes", [2, 3])
def test_report_holds_exactly_the_contract(num_classes):
  probabilities, targets = predictions(0, 60, num_classes)
  result = statistics.score_with_intervals(
    probabilities,
    targets,
    own_groups(60),
    positive=1 if num_classes == 2 else None,
    resamples=100,
    seed=0,
  )
  assert json.loads(json.dumps(result, allow_nan=False)) == result
  metrics = METRICS if num_classes == 2 else (*METRICS, "hand_till_auc")
  assert list(result) == [*metrics, "n", "confusion_matrix"]
  assert result["n"] == 60 == sum(map(sum, result["confusion_matrix"]))
  for name in metrics:
    entry = result[name]
    assert list(entry) == ["value", "low", "high"]
    if name != "ece":
      assert entry["low"] < entry["value"] < entry["high"]
      assert entry["high"] - entry["low"] > 0.01
  assert result["ece"]["value"] > 0
  assert result["ece"]["low"] is result["ece"]["high"] is None


def test_screening_auc_is_that_of_one_class_against_all_others():
  probabilities, targets = predictions(0, 60, 4)
  result = statistics.score_with_intervals(
    probabilities,
    targets,
    own_groups(60),
    positive=None,
    negative=2,
    resamples=100,
    seed=0,
  )
  entry = result["screening_auc"]
  expected = sklearn.metrics.roc_auc_score(targets != 2, -probabilities[:, 2])
  assert entry["value"] == pytest.approx(expected)
  assert entry["low"] < entry["value"] < entry["high"]
  # What is as good as certain is still in order.
  order = np.array([[1e-30, 1.0, 0.0], [1e-20, 1.0, 0.0]])
  scores = statistics.scores(order, np.array([1, 0]), positive=None, negative=0)
  assert scores["screening_auc"] == 1


def test_interval_covers_the_truth_as_often_as_it_says():
  separation = 1.2  # between the means of two unit normals
  truth = {
    "roc_auc": scipy.stats.norm.cdf(separation / np.sqrt(2)),
    "sensitivity": scipy.stats.norm.cdf(separation / 2),
    "accuracy": scipy.stats.norm.cdf(separation / 2),
  }
  targets = np.repeat([0, 1], 50)
  covered = dict.fromkeys(truth, 0)
  for seed in range(100):
    scores = np.random.default_rng(seed).normal(targets * separation)
    positive = scipy.special.expit(scores - separation / 2)
    result = statistics.score_with_intervals(
      np.stack([1 - positive, positive], axis=1),
      targets,
      own_groups(100),
      positive=1,
      resamples=200,
      seed=seed,
    )
    for name, value in truth.items():
      entry = result[name]
      covered[name] += entry["low"] <= value <= entry["high"]
  for name, count in covered.items():
    assert 88 <= count <= 99, name


def test_groups_that_repeat_themselves_widen_the_interval():
  probabilities, targets = predictions(0, 60, 2)
  probabilities, targets = np.repeat(probabilities, 4, 0), np.repeat(targets, 4)

  def width(groups):
    entry = statistics.score_with_intervals(
      probabilities, targets, groups, positive=1, resamples=400, seed=0
    )["roc_auc"]
    return entry["high"] - entry["low"]

  together = width(list(np.repeat(own_groups(60), 4)))
  assert together / width(own_groups(240)) == pytest.approx(2, rel=0.15)


def test_random_labels_are_chance():
  probabilities, targets = predictions(0, 60, 2, signal=0.0)
  result = statistics.score_with_intervals(
    probabilities, targets, own_groups(60), positive=1, resamples=300, seed=0
  )
  assert result["roc_auc"]["low"] < 0.5 < result["roc_auc"]["high"]


def test_a_class_of_one_group_has_values_but_no_interval():
  probabilities, targets = predictions(0, 30, 2)
  targets = np.zeros(30, int)
  targets[-2:] = 1  # two participants, one group
  groups = [*own_groups(28), "family", "family"]
  result = statistics.score_with_intervals(
    probabilities, targets, groups, positive=1, resamples=100, seed=0
  )
  for name in METRICS:
    assert result[name]["value"] is not None
    assert result[name]["low"] is result[name]["high"] is None
  groups[-1] = "other"  # of the same class, so the two can be exchanged
  result = statistics.score_with_intervals(
    probabilities, targets, groups, positive=1, resamples=100, seed=0
  )
  assert result["accuracy"]["low"] < result["accuracy"]["high"]


def test_a_perfect_score_claims_no_certainty():
  probabilities, targets = predictions(0, 20, 2, signal=50.0)
  result = statistics.score_with_intervals(
    probabilities, targets, own_groups(20), positive=1, resamples=50, seed=0
  )
  for name in ("accuracy", "roc_auc"):
    assert result[name] == {"value": 1.0, "low": None, "high": None}
  assert result["brier"]["low"] < result["brier"]["high"]


def test_undefined_metrics_are_none():
  probabilities, _ = predictions(0, 20, 2)
  result = statistics.score_with_intervals(
    probabilities,
    np.ones(20, int),
    own_groups(20),
    positive=1,
    resamples=50,
    seed=0,
  )
  for name in ("balanced_accuracy", "specificity", "roc_auc"):
    assert result[name] == {"value": None, "low": None, "high": None}
  assert result["sensitivity"]["low"] < result["sensitivity"]["high"]
