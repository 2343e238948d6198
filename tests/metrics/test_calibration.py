import numpy as np
import pytest

from brainjax.metrics import calibration


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
