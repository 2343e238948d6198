import functools

import numpy as np
import pytest
import scipy.special
import scipy.stats

from brainjax.metrics import classification, comparison, statistics

AUC = functools.partial(classification.roc_auc, positive=1)


def predictions(seed, num_rows, num_classes=2, signal=1.0):
  rng = np.random.default_rng(seed)
  targets = np.arange(num_rows) % num_classes
  logits = rng.normal(size=(num_rows, num_classes))
  logits[np.arange(num_rows), targets] += signal
  return scipy.special.softmax(logits, axis=1), targets


# --- Bootstrap of a difference.


def test_difference_is_of_the_same_resamples():
  first, targets = predictions(0, 40)
  second, _ = predictions(1, 40, signal=0.5)
  groups = [f"g{i // 2}" for i in range(40)]
  result = comparison.paired_difference(
    first[None], second[None], targets, groups, AUC, resamples=300, seed=2
  )
  counts = statistics.bootstrap_counts(targets, groups, resamples=300, seed=2)
  found = [
    AUC(np.repeat(first, c, axis=0), np.repeat(targets, c))
    - AUC(np.repeat(second, c, axis=0), np.repeat(targets, c))
    for c in counts
  ]
  assert result.value == pytest.approx(
    AUC(first, targets) - AUC(second, targets)
  )
  np.testing.assert_allclose(
    (result.low, result.high), np.percentile(found, [2.5, 97.5])
  )
  assert result.standard_error == pytest.approx(np.std(found, ddof=1))


def test_pairing_narrows_the_interval_of_like_models():
  first, targets = predictions(0, 60)
  rng = np.random.default_rng(3)
  logits = np.log(first) + 0.2 * rng.normal(size=first.shape)
  like = scipy.special.softmax(logits, axis=1)
  other, _ = predictions(1, 60)
  compare = functools.partial(
    comparison.paired_difference,
    targets=targets,
    groups=range(60),
    metric=AUC,
    resamples=300,
    seed=0,
  )
  paired, apart = (
    compare(first[None], like[None]),
    compare(first[None], other[None]),
  )
  assert paired.standard_error < 0.5 * apart.standard_error


def test_seeds_that_differ_widen_the_interval():
  model, targets = predictions(0, 60)
  rival, _ = predictions(1, 60)
  unlike = np.stack([predictions(s, 60, signal=s)[0] for s in (0, 0, 3, 3)])
  compare = functools.partial(
    comparison.paired_difference,
    targets=targets,
    groups=range(60),
    metric=classification.accuracy,
    resamples=400,
    seed=0,
  )
  one = compare(model[None], rival[None])
  same = compare(np.stack([model] * 4), rival[None])
  assert (same.value, same.standard_error) == pytest.approx(
    (one.value, one.standard_error)
  )
  several = compare(unlike, rival[None])
  values = [classification.accuracy(p, targets) for p in unlike]
  assert several.value == pytest.approx(
    np.mean(values) - classification.accuracy(rival, targets)
  )
  assert several.standard_error > 1.2 * one.standard_error


def test_equal_models_have_no_interval():
  model, targets = predictions(0, 20)
  result = comparison.paired_difference(
    model[None], model[None], targets, range(20), AUC, resamples=50, seed=0
  )
  assert result.value == 0
  assert np.isnan(result[1:]).all()


def test_bootstrap_interval_covers_a_true_difference():
  covered = 0
  for seed in range(200):
    first, targets = predictions(seed, 60)
    second, _ = predictions(1000 + seed, 60)
    result = comparison.paired_difference(
      first[None],
      second[None],
      targets,
      range(60),
      AUC,
      resamples=200,
      seed=seed,
    )
    covered += result.low <= 0 <= result.high
  assert 179 <= covered <= 199


# --- McNemar.


def right(only_first, only_second, both=5, neither=3):
  parts = (only_first, only_second, both, neither)
  first = np.repeat([True, False, True, False], parts)
  second = np.repeat([False, True, True, False], parts)
  return first, second


@pytest.mark.parametrize("counts", [(7, 1), (1, 7), (12, 30), (4, 4), (0, 3)])
def test_mcnemar_is_the_binomial_test(counts):
  test = comparison.mcnemar(*right(*counts))
  peer = scipy.stats.binomtest(counts[0], sum(counts)).pvalue
  assert (test.only_first, test.only_second) == counts
  assert test.exact_p == pytest.approx(peer)
  at = scipy.stats.binom.pmf(counts[0], sum(counts), 0.5)
  expected = 1 if counts[0] == counts[1] else peer - at
  assert test.mid_p == pytest.approx(expected)


def test_mcnemar_published_example():
  """Bentur et al. 2009, as in Fagerland et al. 2013, Table 2."""
  test = comparison.mcnemar(*right(1, 7, both=1, neither=12))
  assert test.exact_p == pytest.approx(0.070, abs=5e-4)
  assert test.mid_p == pytest.approx(0.039, abs=5e-4)


def test_mcnemar_of_models_that_never_differ():
  test = comparison.mcnemar(*right(0, 0))
  assert (test.exact_p, test.mid_p) == (1, 1)


REPEATS = pytest.mark.parametrize(
  ("repeats", "fewest", "most"),
  [(200, 3, 19), pytest.param(1000, 35, 65, marks=pytest.mark.soak)],
)


@REPEATS
def test_false_positives_of_mcnemar(repeats, fewest, most):
  """Models that are right equally often and together more than by chance."""
  rng = np.random.default_rng(0)
  mid, exact = 0, 0
  for _ in range(repeats):
    luck = rng.normal(size=(2, 500)) + rng.normal(size=500)
    test = comparison.mcnemar(*(luck > -1))
    mid, exact = mid + (test.mid_p < 0.05), exact + (test.exact_p < 0.05)
  assert fewest <= mid <= most
  assert exact <= mid


# --- Corrected resampled t.


def test_without_overlap_it_is_the_t_test():
  differences = np.random.default_rng(0).normal(0.3, 1, size=12)
  test = comparison.corrected_resampled_t(differences, 0.0)
  peer = scipy.stats.ttest_1samp(differences, 0)
  interval = peer.confidence_interval()
  assert (test.t, test.p) == pytest.approx((peer.statistic, peer.pvalue))
  assert (test.low, test.high) == pytest.approx(tuple(interval))


def test_overlap_widens_as_worked_by_hand():
  # Ten differences, mean 2, variance 10/9; two folds of ten: 1/10 + 1/9.
  differences = np.array([1.0, 3.0] * 5)
  test = comparison.corrected_resampled_t(differences, 1 / 9)
  assert test.standard_error == pytest.approx(
    np.sqrt((1 / 10 + 1 / 9) * 10 / 9)
  )
  assert test.t == pytest.approx(2 / test.standard_error)
  assert test.degrees == 9
  assert test.p == pytest.approx(2 * scipy.stats.t.sf(test.t, 9))


def test_differences_that_do_not_vary():
  assert comparison.corrected_resampled_t(np.zeros(5), 0.25).p == 1
  assert np.isnan(comparison.corrected_resampled_t(np.full(5, 0.25), 0.25).p)
  with pytest.raises(ValueError, match="at least two"):
    comparison.corrected_resampled_t(np.zeros(1), 0.25)


def resampled_differences(rng, num_rows=100, splits=15, tested=20):
  """Differences in accuracy of two learners that are equally good on average.

  Each has one measurement of its own and learns the threshold between the
  class means.
  """
  targets = np.arange(num_rows) % 2
  measured = rng.normal(size=(2, num_rows)) + targets
  found = []
  for _ in range(splits):
    order = rng.permutation(num_rows)
    test, train = order[:tested], order[tested:]
    means = [
      measured[:, train[targets[train] == k]].mean(1, keepdims=True)
      for k in (0, 1)
    ]
    above = measured[:, test] > (means[0] + means[1]) / 2
    accuracy = (above == (targets[test] == 1)).mean(1)
    found.append(accuracy[0] - accuracy[1])
  return np.array(found)


@REPEATS
def test_false_positives_of_the_corrected_t(repeats, fewest, most):
  """Splits as correlated as the correction takes them to be."""
  rng = np.random.default_rng(0)
  ratio = 1 / 4
  share = ratio / (1 + ratio)  # of the variance that all splits have in common
  rejected = 0
  for _ in range(repeats):
    common, own = rng.normal(), rng.normal(size=15)
    differences = np.sqrt(share) * common + np.sqrt(1 - share) * own
    rejected += comparison.corrected_resampled_t(differences, ratio).p < 0.05
  assert fewest <= rejected <= most


@REPEATS
def test_equal_learners_are_told_apart_as_seldom_as_said(repeats, fewest, most):
  rng = np.random.default_rng(0)
  corrected, plain = 0, 0
  for _ in range(repeats):
    differences = resampled_differences(rng)
    p = comparison.corrected_resampled_t(differences, 20 / 80).p
    corrected += p < 0.05
    plain += comparison.corrected_resampled_t(differences, 0.0).p < 0.05
  assert fewest <= corrected <= most
  assert plain > 2 * most  # without the correction


# --- Equivalence.


@pytest.mark.parametrize("degrees", [np.inf, 9])
def test_equivalence_is_two_one_sided_tests(degrees):
  law = scipy.stats.norm if degrees == np.inf else scipy.stats.t(degrees)
  result = comparison.equivalence(0.005, 0.008, 0.02, degrees=degrees)
  expected = max(law.sf(0.025 / 0.008), law.sf(0.015 / 0.008))
  assert result.p == pytest.approx(expected)
  np.testing.assert_allclose(
    (result.low, result.high),
    0.005 + 0.008 * np.array([law.ppf(0.05), law.ppf(0.95)]),
  )


@pytest.mark.parametrize("difference", [-0.01, 0.0, 0.006, 0.03])
def test_equivalence_is_the_interval_inside_the_margin(difference):
  result = comparison.equivalence(difference, 0.008, 0.02)
  inside = -0.02 < result.low and result.high < 0.02
  assert (result.p < 0.05) == inside


@pytest.mark.parametrize(
  ("error", "margin"), [(0, 0.02), (0.01, 0), (np.nan, 1)]
)
def test_equivalence_without_an_error_or_margin_is_refused(error, margin):
  with pytest.raises(ValueError, match="more than 0"):
    comparison.equivalence(0.0, error, margin)


# --- Holm.


def test_holm_worked_by_hand_in_any_order():
  p = [0.01, 0.02, 0.03, 0.04]
  expected = [0.04, 0.06, 0.06, 0.06]  # 4, 3, 2, 1 times, never falling
  np.testing.assert_allclose(comparison.holm(p), expected)
  np.testing.assert_allclose(comparison.holm(p[::-1]), expected[::-1])
  np.testing.assert_allclose(comparison.holm([0.4, 0.9]), [0.8, 0.9])
  assert comparison.holm([0.7, 0.8]).max() == 1


def test_holm_keeps_the_error_of_all_comparisons():
  rng = np.random.default_rng(0)
  wrong = [(comparison.holm(p) < 0.05).any() for p in rng.random((1000, 7))]
  assert 35 <= np.sum(wrong) <= 65


# --- Wilson.


@pytest.mark.parametrize(("successes", "trials"), [(0, 9), (9, 9), (37, 39)])
@pytest.mark.parametrize("level", [0.9, 0.95])
def test_wilson_agrees_with_scipy(successes, trials, level):
  peer = scipy.stats.binomtest(successes, trials).proportion_ci(level, "wilson")
  found = statistics.wilson_interval(successes, trials, level=level)
  assert found == pytest.approx((peer.low, peer.high), abs=1e-12)


@pytest.mark.parametrize(("successes", "trials"), [(0, 0), (3, 2), (-1, 4)])
def test_wilson_of_impossible_counts(successes, trials):
  with pytest.raises(ValueError, match="at least one"):
    statistics.wilson_interval(successes, trials)
