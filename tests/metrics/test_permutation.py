import functools
import itertools

import numpy as np
import pytest
import scipy.special

from brainjax.metrics import classification, permutation

AUC = functools.partial(classification.roc_auc, positive=1)


def predictions(seed, num_rows, signal):
  rng = np.random.default_rng(seed)
  targets = np.arange(num_rows) % 2
  logits = rng.normal(size=num_rows) + signal * (2 * targets - 1)
  positive = scipy.special.expit(logits)
  return np.stack([1 - positive, positive], axis=1), targets


def test_exchange_agrees_with_every_exchange():
  """Few groups, so that all exchanges can be gone through."""
  first, targets = predictions(0, 8, 1.0)
  second, _ = predictions(1, 8, 0.0)
  groups = ["a", "a", "b", "b", "c", "c", "d", "d"]
  observed = AUC(first, targets) - AUC(second, targets)
  reached = []
  for swaps in itertools.product([False, True], repeat=4):
    swapped = np.repeat(swaps, 2)[:, None]
    one, other = (
      np.where(swapped, second, first),
      np.where(swapped, first, second),
    )
    difference = AUC(one, targets) - AUC(other, targets)
    reached.append(abs(difference) >= abs(observed) - 1e-12)
  p = permutation.permutation_p(
    first, second, targets, groups, AUC, permutations=4000, seed=0
  )
  assert p == pytest.approx(np.mean(reached), abs=0.03)


def test_a_better_model_is_found_and_an_equal_one_is_not():
  groups = list(range(60))
  good, targets = predictions(0, 60, 2.0)
  bad, _ = predictions(1, 60, 0.0)
  compare = functools.partial(
    permutation.permutation_p,
    targets=targets,
    groups=groups,
    metric=classification.accuracy,
    permutations=500,
    seed=0,
  )
  assert compare(good, bad) == 1 / 501
  assert compare(good, good) == 1


def test_false_positives_of_an_exchange():
  rejected = 0
  for seed in range(200):
    first, targets = predictions(seed, 40, 0.5)
    second, _ = predictions(1000 + seed, 40, 0.5)
    rejected += (
      permutation.permutation_p(
        first, second, targets, range(40), AUC, permutations=199, seed=seed
      )
      <= 0.05
    )
  assert 3 <= rejected <= 19


def test_what_is_undefined_has_no_p():
  good, _ = predictions(0, 8, 1.0)
  one_class, groups = np.zeros(8, np.int64), range(8)
  drawn = {"permutations": 20, "seed": 0}
  p = permutation.permutation_p(good, good, one_class, groups, AUC, **drawn)
  assert np.isnan(p)
