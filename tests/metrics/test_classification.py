import numpy as np
import pytest
import sklearn.metrics as peer

from brainjax.metrics import classification as metrics

OF_CLASS = (
  metrics.sensitivity,
  metrics.specificity,
  metrics.precision,
  metrics.f1,
  metrics.roc_auc,
  metrics.average_precision,
)


def predictions(seed, num_rows, num_classes):
  """Probabilities in steps of a twentieth, so that many are tied."""
  rng = np.random.default_rng(seed)
  targets = rng.integers(num_classes, size=num_rows)
  targets[:num_classes] = np.arange(num_classes)
  # Dirichlet parameters that favour the true class.
  parameters = 1 + np.eye(num_classes)[targets]
  steps = [rng.multinomial(20, rng.dirichlet(p)) for p in parameters]
  return np.array(steps) / 20, targets


@pytest.mark.parametrize("positive", [0, 1])
@pytest.mark.parametrize("seed", range(5))
def test_binary_task_agrees_with_scikit_learn(seed, positive):
  probabilities, targets = predictions(seed, 40, 2)
  truth, scores = targets == positive, probabilities[:, positive]
  predicted = probabilities.argmax(1) == positive
  expected = {
    metrics.sensitivity: peer.recall_score(truth, predicted),
    metrics.specificity: peer.recall_score(~truth, ~predicted),
    metrics.precision: peer.precision_score(truth, predicted),
    metrics.f1: peer.f1_score(truth, predicted),
    metrics.roc_auc: peer.roc_auc_score(truth, scores),
    metrics.average_precision: peer.average_precision_score(truth, scores),
  }
  for metric, value in expected.items():
    result = metric(probabilities, targets, positive=positive)
    assert result == pytest.approx(value, abs=1e-12), metric.__name__
  assert metrics.brier(probabilities, targets) == pytest.approx(
    peer.brier_score_loss(truth, scores), abs=1e-12
  )


@pytest.mark.parametrize("num_classes", [2, 3, 4])
@pytest.mark.parametrize("seed", range(3))
def test_macro_agrees_with_scikit_learn(seed, num_classes):
  probabilities, targets = predictions(seed, 60, num_classes)
  predicted = probabilities.argmax(1)
  one_hot = np.eye(num_classes, dtype=int)[targets]
  matrix = peer.confusion_matrix(targets, predicted)
  negatives = matrix.sum() - matrix.sum(1)
  false_positives = matrix.sum(0) - matrix.diagonal()
  squared = ((probabilities - one_hot) ** 2).sum(1).mean()
  expected = {
    metrics.accuracy: peer.accuracy_score(targets, predicted),
    metrics.balanced_accuracy: peer.balanced_accuracy_score(targets, predicted),
    metrics.sensitivity: peer.recall_score(targets, predicted, average="macro"),
    metrics.specificity: np.mean(1 - false_positives / negatives),
    metrics.precision: peer.precision_score(
      targets, predicted, average="macro", zero_division=0
    ),
    metrics.f1: peer.f1_score(targets, predicted, average="macro"),
    metrics.roc_auc: peer.roc_auc_score(one_hot, probabilities),
    metrics.average_precision: peer.average_precision_score(
      one_hot, probabilities
    ),
    metrics.brier: squared / 2 if num_classes == 2 else squared,
  }
  for metric, value in expected.items():
    result = metric(probabilities, targets)
    assert result == pytest.approx(value, abs=1e-12), metric.__name__
  np.testing.assert_array_equal(
    metrics.confusion_matrix(probabilities, targets), matrix
  )


def test_values_worked_by_hand():
  positive_scores = np.array([0.1, 0.4, 0.4, 0.6, 0.9])
  probabilities = np.stack([1 - positive_scores, positive_scores], axis=1)
  targets = np.array([0, 0, 1, 0, 1])
  matrix = metrics.confusion_matrix(probabilities, targets)
  assert matrix.tolist() == [[2, 1], [1, 1]]
  value = {
    m.__name__: float(m(probabilities, targets, positive=1)) for m in OF_CLASS
  }
  assert value == pytest.approx(
    {
      "sensitivity": 1 / 2,
      "specificity": 2 / 3,
      "precision": 1 / 2,
      "f1": 1 / 2,
      # Of six pairs 0.4 wins one, ties one; 0.9 wins three.
      "roc_auc": 4.5 / 6,
      # 0.9 adds a half at precision 1, the tie a half at precision 2/4.
      "average_precision": 0.5 * 1 + 0.5 * 0.5,
    }
  )
  assert metrics.brier(probabilities, targets) == pytest.approx(
    (0.01 + 0.16 + 0.36 + 0.36 + 0.01) / 5
  )


def test_scores_all_tied_are_chance():
  probabilities = np.full((6, 2), 0.5)
  targets = np.array([0, 0, 0, 0, 1, 1])
  assert metrics.roc_auc(probabilities, targets, positive=1) == 0.5
  prevalence = metrics.average_precision(probabilities, targets, positive=1)
  assert prevalence == pytest.approx(1 / 3)


def test_result_takes_the_leading_axes_of_counts():
  probabilities, targets = predictions(0, 10, 3)
  counts = np.ones((2, 4, 10), int)
  assert metrics.accuracy(probabilities, targets, counts=counts).shape == (2, 4)
  assert metrics.roc_auc(probabilities, targets, counts=counts).shape == (2, 4)
  matrix = metrics.confusion_matrix(probabilities, targets, counts=counts)
  assert matrix.shape == (2, 4, 3, 3)
  assert matrix.dtype == np.int64


def test_one_class_alone_leaves_only_what_exists():
  probabilities = np.array([[0.2, 0.8], [0.7, 0.3], [0.1, 0.9]])
  only_positives = np.ones(3, int)
  defined = {
    m.__name__: float(m(probabilities, only_positives, positive=1))
    for m in OF_CLASS
  }
  assert defined == pytest.approx(
    {
      "sensitivity": 2 / 3,
      "specificity": np.nan,
      "precision": 1.0,
      "f1": 0.8,
      "roc_auc": np.nan,
      "average_precision": 1.0,
    },
    nan_ok=True,
  )
  assert np.isnan(metrics.balanced_accuracy(probabilities, only_positives))
  only_negatives = np.zeros(3, int)
  for metric in OF_CLASS:
    value = metric(probabilities, only_negatives, positive=1)
    assert np.isnan(value) == (metric is not metrics.specificity)


def test_nothing_predicted_positive_is_zero_precision():
  probabilities = np.array([[0.8, 0.2], [0.7, 0.3]])
  targets = np.array([0, 1])
  assert metrics.precision(probabilities, targets, positive=1) == 0
  assert metrics.f1(probabilities, targets, positive=1) == 0


def test_a_class_without_rows_makes_the_macro_mean_undefined():
  probabilities, targets = predictions(0, 20, 3)
  two_of_three = np.minimum(targets, 1)
  for metric in (*OF_CLASS, metrics.balanced_accuracy):
    value = metric(probabilities, two_of_three)
    assert np.isnan(value) == (metric is not metrics.specificity)
  assert not np.isnan(metrics.accuracy(probabilities, two_of_three))


def test_no_row_drawn_is_undefined():
  probabilities, targets = predictions(0, 10, 2)
  none = np.zeros(10, int)
  assert np.isnan(metrics.accuracy(probabilities, targets, counts=none))
  assert np.isnan(metrics.brier(probabilities, targets, counts=none))


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"targets": np.array([0, -1, 1])}, "from -1 to 1, expected 0 to 1"),
    ({"targets": np.array([0, 1, 2])}, "from 0 to 2, expected 0 to 1"),
    ({"targets": np.array([0, 1])}, "give one target a row"),
    ({"probabilities": np.full((3, 2), 0.7)}, "does not sum to 1"),
    ({"probabilities": np.full((3, 2), np.nan)}, "not finite"),
    ({"probabilities": np.tile([1.5, -0.5], (3, 1))}, "negative"),
    ({"probabilities": np.ones((3, 1))}, "at least two classes"),
    ({"counts": np.ones(3)}, "expected integers"),
    ({"counts": np.ones((2, 4), int)}, r"expected integers \[\.\.\., 3\]"),
    ({"counts": np.array([1, 1, -1])}, "counts are negative"),
  ],
)
def test_wrong_arguments_are_refused(change, message):
  arguments = {
    "probabilities": np.full((3, 2), 0.5),
    "targets": np.array([0, 1, 1]),
    "counts": None,
  }
  metrics.accuracy(**arguments)
  with pytest.raises(ValueError, match=message):
    metrics.accuracy(**(arguments | change))


@pytest.mark.parametrize(("num_classes", "positive"), [(3, 1), (2, 2)])
def test_only_a_binary_task_has_a_positive_class(num_classes, positive):
  probabilities, targets = predictions(0, 10, num_classes)
  for metric in OF_CLASS:
    with pytest.raises(ValueError, match="only a task of two classes has one"):
      metric(probabilities, targets, positive=positive)
