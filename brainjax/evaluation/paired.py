"""A run held against other runs on the same participants, by paired tests.

Of two classes: the areas under the ROC curve, by DeLong's test. Of more, or
where a group holds several participants (DeLong's are independent): the metric
of the verdict, by a paired bootstrap of groups, which gives an interval and no
p. Besides, for independent participants, McNemar's test of who is right.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import scipy.stats

from brainjax.evaluation import verdict
from brainjax.evaluation.run_files import Run
from brainjax.metrics import classification, comparison, delong

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
    `low` and `high`, None if undefined; `only_this` and `only_other`,
    participants that one of them alone has right; `p` of the difference and
    `mid_p` of McNemar, each adjusted by Holm for the number of runs, None where
    there is no test.
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
  people = _people(run, split)
  theirs = _people(other, split)
  first, second = (
    np.array(
      [[float(row[person][f"proba_{k}"]) for k in classes] for person in people]
    )
    for row in (people, theirs)
  )
  targets = np.array(
    [classes.index(row["true_label"]) for row in people.values()]
  )
  groups = [row["group_id"] for row in people.values()]
  independent = len(set(groups)) == len(groups)
  p = low = high = None
  if len(classes) == 2 and independent and np.bincount(targets).min() > 1:
    # Not the probability alone, which files round to 1 where it is near.
    test = delong.compare_aucs(
      first[:, 1] - first[:, 0], second[:, 1] - second[:, 0], targets == 1
    )
    difference, p = test.difference, _defined(test.p)
    if test.standard_error > 0:
      reach = scipy.stats.norm.ppf(0.975) * test.standard_error
      low, high = difference - reach, difference + reach
  else:
    value = comparison.paired_difference(
      first[None],
      second[None],
      targets,
      groups,
      _METRICS[verdict.main_metric(classes)],
      resamples=evaluation["resamples"],
      seed=evaluation["seed"],
    )
    difference = value.value
    low, high = _defined(value.low), _defined(value.high)
  right = [answers.argmax(1) == targets for answers in (first, second)]
  mcnemar = comparison.mcnemar(*right)
  return {
    "difference": difference,
    "low": low,
    "high": high,
    "p": p,
    "only_this": mcnemar.only_first,
    "only_other": mcnemar.only_second,
    "mid_p": mcnemar.mid_p if independent else None,
  }


def _people(run: Run, split: str) -> dict[str, dict[str, str]]:
  """Returns the predictions of a split, by participant."""
  return {
    row["participant_id"]: row
    for row in run.participants
    if row["split"] == split
  }


def _defined(value: float) -> float | None:
  return None if np.isnan(value) else value
