"""Whether one classifier is better than another, or than chance.

Which test answers which question: `paired_difference` (bootstrap) how much
better on these participants, for any metric; `mcnemar` the same for being right
or wrong; `delong.compare_aucs` for the AUC on one test set;
`corrected_resampled_t` over the folds and repeats of a cross-validation;
`equivalence` whether two are as good as equal; `holm` corrects several answers.
The unit is the participant: slices, scans and seeds are not independent.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import scipy.stats

from brainjax.metrics import statistics


class Metric(Protocol):
  """A metric of `classification.py`, higher is better or worse alike."""

  def __call__(
    self,
    probabilities: np.ndarray,
    targets: np.ndarray,
    *,
    counts: np.ndarray | None = None,
  ) -> np.ndarray:
    """Returns f64[...], the metric of each row of counts."""
    ...


class Estimate(NamedTuple):
  """A metric, or a difference, with a 95 % interval; NaN where undefined."""

  value: float
  low: float
  high: float
  standard_error: float


class McNemar(NamedTuple):
  """Rows that only the first, or only the second, has right; two-sided p."""

  only_first: int
  only_second: int
  exact_p: float
  mid_p: float


class TTest(NamedTuple):
  """A mean difference, with its 95 % interval and two-sided p."""

  difference: float
  low: float
  high: float
  standard_error: float
  degrees: int
  t: float
  p: float


class Equivalence(NamedTuple):
  """The larger p of both one-sided tests, and the interval that decides."""

  p: float
  low: float
  high: float


def paired_difference(
  first: np.ndarray,
  second: np.ndarray,
  targets: np.ndarray,
  groups: Sequence[str],
  metric: Metric,
  *,
  resamples: int,
  seed: int,
) -> Estimate:
  """Bootstraps the difference of two models' metrics on the same groups.

  Both models are scored on the same resamples of groups, drawn within class.
  Where a model was trained with several seeds, its metric is the mean over
  them, and seeds are resampled too, each model's by themselves (two levels):
  few seeds make the interval too narrow by (S - 1) / S of their variance.

  Args:
    first: f64[S,n,K] probabilities of a model, a leading row a seed.
    second: f64[T,n,K] those of another.
    targets: i64[n] true classes.
    groups: The unit that is resampled, of each row.
    metric: Of `classification.py`, with `positive` bound if it takes one.
    resamples: Number of bootstrap resamples.
    seed: Equal seeds give equal intervals.

  Returns:
    The difference; without an interval if no resample differs from another,
    or if the groups of some class cannot vary since there is only one.

  Raises:
    ValueError: As the metric does.
  """
  counts = statistics.bootstrap_counts(
    targets, groups, resamples=resamples, seed=seed
  )
  rng = np.random.default_rng([seed, 1])  # apart from the draws of groups
  (value, resampled), (other, others) = (
    _mean_of_seeds(
      model, [targets] * len(model), [counts] * len(model), metric, rng
    )
    for model in (first, second)
  )
  return _with_interval(value - other, resampled - others)


def seed_mean(
  probabilities: np.ndarray,
  targets: np.ndarray,
  groups: Sequence[str],
  metric: Metric,
  *,
  resamples: int,
  seed: int,
) -> Estimate:
  """Bootstraps a model's metric, the mean over its seeds, in the same way.

  Args:
    probabilities: f64[S,n,K], a leading row a seed.
    targets: i64[S,n] true classes; where those of seeds differ, groups are
      resampled within the classes of each.
    groups: The unit that is resampled, of each row.
    metric: Of `classification.py`, with `positive` bound if it takes one.
    resamples: Number of bootstrap resamples.
    seed: Equal seeds give equal intervals.
  """
  counts = [
    statistics.bootstrap_counts(one, groups, resamples=resamples, seed=seed)
    for one in targets
  ]
  rng = np.random.default_rng([seed, 1])
  return _with_interval(
    *_mean_of_seeds(probabilities, targets, counts, metric, rng)
  )


def _mean_of_seeds(
  probabilities, targets, counts, metric, rng
) -> tuple[float, np.ndarray]:
  """Returns the mean over seeds, and f64[R] over resamples of groups and seeds.

  Those are NaN if the groups of some class cannot vary.
  """
  num_seeds, resamples = len(probabilities), len(counts[0])
  rows = list(zip(probabilities, targets, counts, strict=True))
  value = float(np.mean([metric(p, truth) for p, truth, _ in rows]))
  of_seeds = np.stack([metric(p, truth, counts=n) for p, truth, n in rows])
  drawn = rng.multinomial(
    num_seeds, np.full(num_seeds, 1 / num_seeds), resamples
  )
  resampled = (of_seeds * drawn.T).sum(0) / num_seeds
  varies = all(
    (n[:, truth == k] != 1).any() for _, truth, n in rows for k in set(truth)
  )
  return value, resampled if varies else np.full(resamples, np.nan)


def _with_interval(value: float, resampled: np.ndarray) -> Estimate:
  if not np.ptp(resampled) > 0:  # all equal, or all NaN
    return Estimate(value, np.nan, np.nan, np.nan)
  low, high = np.percentile(resampled, [2.5, 97.5])
  return Estimate(value, float(low), float(high), float(resampled.std(ddof=1)))


def mcnemar(first_right: np.ndarray, second_right: np.ndarray) -> McNemar:
  """Tests whether two models are right equally often, on the same rows.

  >>> first = np.array([True] * 8 + [False] * 13)
  >>> second = np.array([True] + [False] * 7 + [True] + [False] * 12)
  >>> test = mcnemar(first, second)
  >>> (test.only_first, test.only_second, round(test.mid_p, 4))
  (7, 1, 0.0391)

  The exact p is conservative; the mid-p keeps its level in practice.

  Args:
    first_right: bool[n], whether the first model is right on each row.
    second_right: bool[n], the same of the second.

  Source: McNemar 1947, Psychometrika 12; mid-p of Fagerland et al. 2013, BMC
    Medical Research Methodology 13:91, whose data the example is.
  """
  only_first = int(np.sum(first_right & ~second_right))
  only_second = int(np.sum(~first_right & second_right))
  total, fewer = only_first + only_second, min(only_first, only_second)
  twice = 2 * scipy.stats.binom.cdf(fewer, total, 0.5)
  at = scipy.stats.binom.pmf(fewer, total, 0.5)
  return McNemar(
    only_first, only_second, float(min(1, twice)), float(min(1, twice - at))
  )


def corrected_resampled_t(
  differences: np.ndarray, test_train_ratio: float
) -> TTest:
  """Tests a mean difference over splits whose training sets overlap.

  The plain t-test takes the splits for independent and finds differences that
  are not there; this one widens the variance by the share that is tested on.

  Args:
    differences: f64[J], of the metric, one of each train and test split. Where
      there are several seeds in a split, give their mean: seeds are no splits.
    test_train_ratio: Test over training size; of k folds 1 / (k - 1), or
      1 / (k - 2) where one more validates.

  Returns:
    The test; p is 1 if all differences are 0, NaN if they are one other value.

  Raises:
    ValueError: There are fewer than two splits.

  Source: Nadeau and Bengio 2003, Machine Learning 52, section 3.3; for
    repeated cross-validation Bouckaert and Frank 2004, PAKDD.
  """
  num_splits = len(differences)
  if num_splits < 2:
    raise ValueError(f"{num_splits} splits; a t-test needs at least two")
  mean, degrees = float(np.mean(differences)), num_splits - 1
  factor = 1 / num_splits + test_train_ratio
  standard_error = float(np.sqrt(factor * np.var(differences, ddof=1)))
  if standard_error == 0:
    p = 1.0 if mean == 0 else np.nan
    return TTest(mean, np.nan, np.nan, 0.0, degrees, np.nan, p)
  t = mean / standard_error
  reach = scipy.stats.t.ppf(0.975, degrees) * standard_error
  p = float(2 * scipy.stats.t.sf(abs(t), degrees))
  return TTest(mean, mean - reach, mean + reach, standard_error, degrees, t, p)


def equivalence(
  difference: float,
  standard_error: float,
  margin: float,
  *,
  degrees: float = np.inf,
) -> Equivalence:
  """Tests whether two models differ by less than a margin (TOST).

  That no difference was found shows nothing; this shows that there is none of
  any size that matters. A p below 0.05 is the same as a 90 % interval inside
  the margin.

  Args:
    difference: As of `Estimate`, `AucComparison` or `TTest`.
    standard_error: Of that estimate, more than 0.
    margin: The largest difference that does not matter, more than 0; it is
      chosen before looking.
    degrees: Of freedom; infinite for the normal distribution.

  Raises:
    ValueError: The standard error or the margin is not more than 0.

  Source: Schuirmann 1987, Journal of Pharmacokinetics and Biopharmaceutics
    15(6).
  """
  if not (standard_error > 0 and margin > 0):
    raise ValueError(
      f"standard error {standard_error} and margin {margin}; both must be more"
      " than 0"
    )
  law = scipy.stats.t(degrees)
  below = law.sf((margin + difference) / standard_error)
  above = law.sf((margin - difference) / standard_error)
  reach = float(law.ppf(0.95)) * standard_error
  return Equivalence(
    float(max(below, above)), difference - reach, difference + reach
  )


def holm(p_values: Sequence[float]) -> np.ndarray:
  """Adjusts p values for their number, so that one error in all stays rare.

  >>> holm([0.01, 0.04, 0.03]).round(2).tolist()
  [0.03, 0.06, 0.06]

  Returns:
    f64[m], in the order given.

  Source: Holm 1979, Scandinavian Journal of Statistics 6(2).
  """
  p = np.asarray(p_values, np.float64)
  order = np.argsort(p)
  raised = np.minimum(1, (len(p) - np.arange(len(p))) * p[order])
  adjusted = np.empty_like(p)
  adjusted[order] = np.maximum.accumulate(raised)
  return adjusted
