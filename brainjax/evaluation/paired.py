"""A run held against other runs on the same participants, by paired tests.

Of two classes: the areas under the ROC curve, by DeLong's test. Of more, or
where a group holds several participants (DeLong's are independent): the metric
of the verdict, its interval by a paired bootstrap of groups and its p by
exchanging the answers of both runs, group by group. Besides, for independent
participants, McNemar's test of who is right.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import scipy.stats

from brainjax.evaluation import run_files, verdict
from brainjax.evaluation.run_files import Run
from brainjax.metrics import classification, comparison, delong, permutation

_METRICS: Mapping[str, comparison.Metric] = {
  "roc_auc": classification.roc_auc,
  "balanced_accuracy": classification.balanced_accuracy,
}


def paired_tests(
  rows: Sequence[Mapping[str, Any]], split: str
) -> list[dict[str, Any]]:
  """Compares a run with every other that was scored on the same scans.

  Args:
    rows: Of `tables.comparison`, the run first.
    split: Whose participants.

  Returns:
    A row a compared run: its `name`; `difference`, the run minus it, with
    `low` and `high`, None if undefined, and whether that is `by_delong`;
    `only_this` and `only_other`, participants that one of them alone has
    right; `p` of the difference and `mid_p` of McNemar, each adjusted by Holm
    for the number of runs, None where there is no test.
  """
  run, *others = (row["run"] for row in rows if row["run"] and not row["note"])
  names = [row["name"] for row in rows if row["run"] and not row["note"]]
  found = [_compare(run, other, split) for other in others]
  for column in ("p", "mid_p"):
    tested = [row for row in found if row[column] is not None]
    adjusted = comparison.holm([row[column] for row in tested])
    for row, p in zip(tested, adjusted, strict=True):
      row[column] = float(p)
  return [
    {"name": name, **row} for name, row in zip(names[1:], found, strict=True)
  ]


def _compare(run: Run, other: Run, split: str) -> dict[str, Any]:
  classes, evaluation = run.model["classes"], run.config["eval"]
  people = [row for row in run.participants if row["split"] == split]
  theirs = {
    row["participant_id"]: row
    for row in other.participants
    if row["split"] == split
  }
  first, targets = run_files.answers(people, classes)
  second, _ = run_files.answers(
    [theirs[row["participant_id"]] for row in people], classes
  )
  groups = [row["group_id"] for row in people]
  independent = len(set(groups)) == len(groups)
  right = [answers.argmax(1) == targets for answers in (first, second)]
  mcnemar = comparison.mcnemar(*right)
  if len(classes) == 2:
    first, second = _ranks(first), _ranks(second)
  fewest = np.bincount(targets, minlength=len(classes)).min()
  by_delong = len(classes) == 2 and independent and bool(fewest > 1)
  if by_delong:
    test = delong.compare_aucs(first[:, 1], second[:, 1], targets == 1)
    reach = scipy.stats.norm.ppf(0.975) * test.standard_error or np.nan
    difference, p = test.difference, test.p
    low, high = difference - reach, difference + reach
  else:
    metric = _METRICS[verdict.main_metric(classes)]
    resamples, seed = evaluation["resamples"], evaluation["seed"]
    difference, low, high, _ = comparison.paired_difference(
      first[None],
      second[None],
      targets,
      groups,
      metric,
      resamples=resamples,
      seed=seed,
    )
    p = permutation.permutation_p(
      first,
      second,
      targets,
      groups,
      metric,
      permutations=resamples,
      seed=seed,
    )
  return {
    "by_delong": by_delong,
    "difference": _defined(difference),
    "low": _defined(low),
    "high": _defined(high),
    "p": _defined(p),
    "only_this": mcnemar.only_first,
    "only_other": mcnemar.only_second,
    "mid_p": mcnemar.mid_p if independent else None,
  }


def _ranks(probabilities: np.ndarray) -> np.ndarray:
  """Returns f64[n,2], the order of the rows alone; it has the same AUC.

  Models differ in their scale, which exchanging answers would mix; and of the
  larger probability alone, files round to 1 what is near.
  """
  ranks = scipy.stats.rankdata(probabilities[:, 1] - probabilities[:, 0])
  share = ranks / len(ranks)
  return np.stack([1 - share, share], axis=1)


def _defined(value: float) -> float | None:
  return None if np.isnan(value) else value
