import numpy as np
import pytest
import sklearn.metrics

from brainjax.metrics import classification, multiclass


def predictions(seed, num_rows, num_classes):
  """Probabilities in steps of a twentieth, so that many are tied."""
  rng = np.random.default_rng(seed)
  targets = rng.integers(num_classes, size=num_rows)
  targets[:num_classes] = np.arange(num_classes)
  parameters = 1 + np.eye(num_classes)[targets]
  steps = [rng.multinomial(20, rng.dirichlet(p)) for p in parameters]
  return np.array(steps) / 20, targets


@pytest.mark.parametrize("num_classes", [3, 4])
@pytest.mark.parametrize("seed", range(3))
def test_agrees_with_scikit_learn(seed, num_classes):
  probabilities, targets = predictions(seed, 70, num_classes)
  one = multiclass.one_vs_rest_auc(probabilities, targets)
  for k in range(num_classes):
    peer = sklearn.metrics.roc_auc_score(targets == k, probabilities[:, k])
    assert one[k] == pytest.approx(peer, abs=1e-12)
  macro = classification.roc_auc(probabilities, targets)
  assert one.mean() == pytest.approx(macro, abs=1e-12)
  peer = sklearn.metrics.roc_auc_score(
    targets, probabilities, multi_class="ovo"
  )
  hand_till = multiclass.hand_till_auc(probabilities, targets)
  assert hand_till == pytest.approx(peer, abs=1e-12)


def test_hand_till_does_not_change_with_how_frequent_a_class_is():
  probabilities, targets = predictions(0, 60, 3)
  often = np.where(targets == 2, 7, 1)
  plain = multiclass.hand_till_auc(probabilities, targets)
  more = multiclass.hand_till_auc(probabilities, targets, counts=often)
  assert more == pytest.approx(plain, abs=1e-12)
  macro = classification.roc_auc(probabilities, targets)
  assert classification.roc_auc(
    probabilities, targets, counts=often
  ) != pytest.approx(macro, abs=1e-3)


def test_counts_are_repeated_rows():
  probabilities, targets = predictions(1, 30, 3)
  counts = np.random.default_rng(0).integers(1, 4, size=(2, 2, 30))
  for metric in (multiclass.hand_till_auc, multiclass.one_vs_rest_auc):
    drawn = metric(probabilities, targets, counts=counts)
    repeated = metric(
      np.repeat(probabilities, counts[1, 0], axis=0),
      np.repeat(targets, counts[1, 0]),
    )
    np.testing.assert_allclose(drawn[1, 0], repeated, atol=1e-12)


def test_an_absent_class_leaves_hand_till_undefined():
  probabilities, targets = predictions(0, 30, 3)
  targets = np.minimum(targets, 1)
  assert np.isnan(multiclass.hand_till_auc(probabilities, targets))
  one = multiclass.one_vs_rest_auc(probabilities, targets)
  assert np.isnan(one).tolist() == [False, False, True]
