import numpy as np
import pytest

from brainjax.audit import probes


@pytest.fixture
def few(monkeypatch):
  """Fewer permutations and resamples: a hundred are enough for 0.05."""
  monkeypatch.setattr(probes, "PERMUTATIONS", 99)
  monkeypatch.setattr(probes, "RESAMPLES", 99)


def names(count):
  return [f"g{i}" for i in range(count)]


def test_what_follows_the_label_is_found(few):
  rng = np.random.default_rng(0)
  targets = rng.integers(3, size=120)
  features = np.stack([targets == 1, rng.random(120)], 1).astype(float)
  found = probes.run_probe(features, targets, names(120))
  assert found.best_class == 1
  assert found.auc > 0.99
  assert found.p_value == 0.01
  assert found.num_units == 120


def test_the_interval_holds_the_auc_that_noise_leaves(few):
  rng = np.random.default_rng(1)
  targets = rng.integers(2, size=300)
  flipped = np.where(rng.random(300) < 0.8, targets, 1 - targets)
  found = probes.run_probe(flipped[:, None] * 1.0, targets, names(300))
  assert found.low < 0.8 < found.high
  assert found.low < found.auc < found.high


def test_p_values_of_noise_are_uniform(few):
  p_values = []
  for seed in range(60):
    rng = np.random.default_rng(seed)
    # Unequal classes, rare categories and many columns.
    targets = (rng.random(50) < 0.3).astype(int)
    features = np.concatenate(
      [np.eye(12)[rng.integers(12, size=50)], rng.normal(size=(50, 20))], 1
    )
    found = probes.run_probe(features, targets, names(50), seed=seed)
    p_values.append(found.p_value)
  assert np.mean(np.array(p_values) <= 0.05) <= 0.12
  assert 0.35 < np.mean(p_values) < 0.65


def test_what_is_constant_tells_nothing(few):
  targets = np.arange(53) % 3
  found = probes.run_probe(np.zeros((53, 2)), targets, names(53))
  assert (found.auc, found.low, found.p_value) == (0.5, None, 1.0)


def test_a_group_is_never_in_two_folds(few):
  # Each group has features of its own, and labels that mean nothing.
  rng = np.random.default_rng(0)
  groups = np.repeat(np.arange(40), 4)
  targets = rng.integers(2, size=40)[groups]
  found = probes.run_probe(
    np.eye(40)[groups], targets, [f"g{g}" for g in groups]
  )
  assert found.auc < 0.6


def test_too_few_are_not_asked():
  targets = np.array([0] * 30 + [1] * 4)
  assert probes.run_probe(np.ones((34, 1)), targets, names(34)) is None


def test_of_many_some_of_every_class_are_drawn(few, monkeypatch):
  monkeypatch.setattr(probes, "MOST_UNITS", 40)
  targets = np.array([0] * 180 + [1] * 60)
  found = probes.run_probe(targets[:, None] * 1.0, targets, names(240))
  assert found.num_units == 40
  assert found.auc == 1


def test_holm_is_monotone_and_at_most_one():
  corrected = probes.holm([0.6, 0.001, 0.02, 0.5])
  np.testing.assert_allclose(corrected, [1, 0.004, 0.06, 1])
