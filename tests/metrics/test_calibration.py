import numpy as np
import pytest
import scipy.special
import sklearn.metrics

from brainjax.metrics import calibration, statistics


def binary(confidence, correct):
  """Rows predicted as class 0 with this confidence, and their targets."""
  confidence = np.asarray(confidence)
  targets = 1 - np.asarray(correct, int)
  return np.stack([confidence, 1 - confidence], axis=1), targets


def test_bins_of_equal_mass_by_hand():
  probabilities, targets = binary(
    [0.6, 0.95, 0.7, 0.85, 0.9, 0.8], [0, 1, 1, 0, 1, 1]
  )
  # Sorted: (0.6 wrong, 0.7 right), (0.8 right, 0.85 wrong), (0.9, 0.95 right).
  expected = (abs(0.5 - 0.65) + abs(0.5 - 0.825) + abs(1 - 0.925)) / 3
  result = calibration.ece(probabilities, targets, bins=3)
  assert result == pytest.approx(expected)


def test_a_row_on_a_cut_is_shared():
  probabilities, targets = binary([0.6, 0.7, 0.9], [0, 1, 1])
  # Each of two bins has one and a half rows.
  low = (-0.6 + 0.3 / 2) / 1.5
  high = (0.3 / 2 + 0.1) / 1.5
  result = calibration.ece(probabilities, targets, bins=2)
  assert result == pytest.approx((abs(low) + abs(high)) / 2)


def test_equals_whole_row_bins_where_they_are_equal():
  rng = np.random.default_rng(0)
  logits = rng.normal(size=(150, 3))
  probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
  targets = rng.integers(3, size=150)
  confidence = probabilities.max(1)
  correct = probabilities.argmax(1) == targets
  bins = np.split(np.argsort(confidence), 15)
  gaps = [abs(correct[b].mean() - confidence[b].mean()) for b in bins]
  result = calibration.ece(probabilities, targets)
  assert result == pytest.approx(np.mean(gaps), abs=1e-12)


def test_order_of_tied_rows_does_not_matter():
  probabilities, targets = binary([0.8] * 4, [1, 1, 0, 0])
  shuffled = targets[[0, 2, 1, 3]]
  one = calibration.ece(probabilities, targets, bins=2)
  other = calibration.ece(probabilities, shuffled, bins=2)
  assert one == other == pytest.approx(0.3)


def test_calibrated_confidence_has_no_error():
  probabilities, targets = binary([0.75] * 4, [1, 1, 1, 0])
  assert calibration.ece(probabilities, targets) == pytest.approx(0, abs=1e-12)


def test_counts_repeat_rows_and_none_drawn_is_undefined():
  probabilities, targets = binary([0.6, 0.7, 0.9], [0, 1, 1])
  counts = np.array([[1, 1, 1], [2, 0, 1], [0, 0, 0]])
  result = calibration.ece(probabilities, targets, counts=counts)
  for row, value in zip(counts[:2], result[:2], strict=True):
    repeated = np.repeat(probabilities, row, axis=0), np.repeat(targets, row)
    assert value == pytest.approx(calibration.ece(*repeated), abs=1e-12)
  assert np.isnan(result[2])


def logits_of(seed, num_rows, num_classes, temperature):
  """Log-probabilities that are too sure of themselves by a temperature."""
  rng = np.random.default_rng(seed)
  honest = scipy.special.log_softmax(
    2 * rng.normal(size=(num_rows, num_classes)), axis=1
  )
  targets = np.array([rng.choice(num_classes, p=row) for row in np.exp(honest)])
  return scipy.special.log_softmax(honest * temperature, axis=1), targets


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("num_classes", [2, 3])
def test_temperature_is_found_again(temperature, num_classes):
  log_probabilities, targets = logits_of(0, 4000, num_classes, temperature)
  found = calibration.fit_temperature(log_probabilities, targets)
  assert found == pytest.approx(temperature, rel=0.1)
  fitted = calibration.apply_temperature(log_probabilities, found)
  np.testing.assert_array_equal(fitted.argmax(1), log_probabilities.argmax(1))
  if temperature == 3:
    likelihoods = [
      calibration.negative_log_likelihood(values, targets)
      for values in (fitted, log_probabilities)
    ]
    assert likelihoods[0] < likelihoods[1] - 0.1
    errors = [
      calibration.ece(np.exp(values), targets)
      for values in (fitted, log_probabilities)
    ]
    assert errors[0] < 0.3 * errors[1]


def test_temperature_is_where_the_derivative_vanishes():
  log_probabilities, targets = logits_of(1, 60, 3, 2.0)
  found = calibration.fit_temperature(log_probabilities, targets)
  of_class = np.bincount(targets)[targets]
  wanted = np.full((60, 3), 0.5) / (of_class[:, None] + 2)
  wanted[np.arange(60), targets] = (of_class + 1) / (of_class + 2)
  fitted = np.exp(calibration.apply_temperature(log_probabilities, found))
  # Of the loss by 1 / T: the given minus the wanted mean of log-probabilities.
  slope = ((fitted - wanted) * log_probabilities).sum(1).mean()
  assert slope == pytest.approx(0, abs=1e-4)


def test_no_mistakes_ask_for_no_certainty():
  log_probabilities = scipy.special.log_softmax(5 * np.eye(2), axis=1)
  log_probabilities = np.tile(log_probabilities, (20, 1))
  targets = np.tile([0, 1], 20)
  found = calibration.fit_temperature(log_probabilities, targets)
  fitted = np.exp(calibration.apply_temperature(log_probabilities, found))
  # Twenty of a class, none wrong: 21 of 22.
  assert fitted.max() == pytest.approx(21 / 22, abs=1e-4)


def test_scaling_scans_and_joining_them_commute():
  rng = np.random.default_rng(0)
  scans = scipy.special.log_softmax(rng.normal(size=(6, 3)), axis=1)
  people = ["a", "b", "a", "c", "a", "b"]
  scaled = calibration.apply_temperature(scans, 2.5)
  _, one = statistics.aggregate_participants(scaled, people)
  _, joined = statistics.aggregate_participants(scans, people)
  other = calibration.apply_temperature(np.log(joined), 2.5)
  np.testing.assert_allclose(one, np.exp(other), rtol=1e-12)


def test_bins_of_equal_width_by_hand():
  probabilities, targets = binary(
    [0.55, 0.6, 0.62, 0.9, 0.95, 1.0], [0, 1, 1, 0, 1, 1]
  )
  # (0.5, 0.6], (0.6, 0.7], (0.8, 0.9] and (0.9, 1.0] hold 2, 1, 1 and 2 rows.
  gaps = [abs(1 - 1.15), abs(1 - 0.62), 0.9, abs(2 - 1.95)]
  result = calibration.ece_equal_width(probabilities, targets, bins=10)
  assert result == pytest.approx(sum(gaps) / 6)
  counts = np.array([[1, 1, 1, 1, 1, 1], [0, 0, 2, 0, 0, 1], [0] * 6])
  drawn = calibration.ece_equal_width(
    probabilities, targets, bins=10, counts=counts
  )
  assert drawn[:2] == pytest.approx([sum(gaps) / 6, 2 * 0.38 / 3])
  assert np.isnan(drawn[2])


def test_reliability_counts_every_row_once():
  confidence = np.array([0.9, 0.1, 0.5, 0.3, 0.7])
  came_true = np.array([True, False, True, False, False])
  bins = calibration.reliability(confidence, came_true, bins=2)
  np.testing.assert_allclose(bins.confidence, [0.3, 0.8])
  assert (bins.rows.tolist(), bins.true.tolist()) == ([3, 2], [1, 1])
  assert len(calibration.reliability(confidence, came_true).rows) == 5


def test_operating_point_by_hand():
  scores = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
  is_positive = np.array([0, 0, 1, 0, 1, 1]) > 0
  # From 0.25 on: all of 3 and 2 of 3; from 0.45 on: 2 of 3 and all of 3. Of
  # equals the more sensitive.
  point = calibration.operating_point
  assert point(scores, is_positive) == pytest.approx(0.25)
  assert point(scores, is_positive, least_sensitivity=0.6) == pytest.approx(
    0.45
  )
  assert point(scores, is_positive, least_sensitivity=1.0) == pytest.approx(
    0.25
  )
  all_alike = point(np.full(6, 0.3), is_positive)
  assert all_alike < 0.3 - 1e-9  # computed otherwise, 0.3 may be rounded down


def test_as_many_as_asked_for_are_enough():
  assert 0.55 * 100 > 55
  scores = np.linspace(0.1, 0.9, 200)
  is_positive = np.arange(200) % 2 > 0
  point = calibration.operating_point(
    scores, is_positive, least_sensitivity=0.55
  )
  assert (scores >= point)[is_positive].sum() == 55


@pytest.mark.parametrize("seed", range(5))
def test_operating_point_is_the_best_of_all(seed):
  rng = np.random.default_rng(seed)
  is_positive = rng.random(40) < 0.4
  scores = np.round(rng.random(40) + 0.3 * is_positive, 1)
  rates = sklearn.metrics.roc_curve(
    is_positive, scores, drop_intermediate=False
  )
  found = scores >= calibration.operating_point(scores, is_positive)
  youden = found[is_positive].mean() - found[~is_positive].mean()
  assert youden == pytest.approx((rates[1] - rates[0]).max())
  found = scores >= calibration.operating_point(
    scores, is_positive, least_sensitivity=0.9
  )
  assert found[is_positive].mean() >= 0.9
  best = rates[0][rates[1] >= 0.9].min()
  assert found[~is_positive].mean() == pytest.approx(best)


def test_operating_point_needs_both_kinds():
  with pytest.raises(ValueError, match="3 positives of 3 rows"):
    calibration.operating_point(np.arange(3.0), np.ones(3, bool))
