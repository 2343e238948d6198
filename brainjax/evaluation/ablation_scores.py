"""What an ablation shows: scores with intervals, paired tests, ranks, controls.

The unit is the participant. Out-of-fold answers are pooled, each participant's
once a seed; a head's score is the mean over seeds, and its interval resamples
participants and seeds. The corrected resampled t-test beside it takes the folds
for what varies, each with the mean over its seeds: seeds are no splits.
"""

import functools
import itertools
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import scipy.stats

from brainjax.evaluation.ablation_answers import (
  Answers,
  finite,
  fold_scores,
  metric_of,
  read_answers,
  score,
)
from brainjax.metrics import comparison
from brainjax.training.config_checks import ABLATION_METRICS


def compare(
  first: Answers,
  second: Answers,
  metric: comparison.Metric,
  *,
  test_train_ratio: float,
  margin: float,
  resamples: int,
  seed: int,
) -> dict[str, float | None]:
  """Tests whether the first head is better than the second, or equal to it.

  Args:
    first: Of a head.
    second: Of another, of the same participants.
    metric: What is compared; more is better.
    test_train_ratio: See `comparison.corrected_resampled_t`.
    margin: The largest difference that does not matter.
    resamples: Of the paired bootstrap.
    seed: Of it.

  Returns:
    "difference" with "low" and "high" (95 %, paired bootstrap over groups and
    seeds) and "p" (normal, by its standard error); "t_p" of the corrected
    resampled t-test over folds; "equivalence_p" of TOST within the margin, with
    "equivalence_low" and "equivalence_high" (90 %). None where undefined.
  """
  found = comparison.paired_difference(
    first.probabilities,
    second.probabilities,
    first.targets[0],
    first.groups,
    metric,
    resamples=resamples,
    seed=seed,
  )
  result = {
    "difference": found.value,
    "low": found.low,
    "high": found.high,
    "p": np.nan,
    "t_p": np.nan,
    "equivalence_p": np.nan,
    "equivalence_low": np.nan,
    "equivalence_high": np.nan,
  }
  if found.standard_error > 0:
    z = abs(found.value) / found.standard_error
    result["p"] = 2 * scipy.stats.norm.sf(z)
    equal = comparison.equivalence(found.value, found.standard_error, margin)
    result["equivalence_p"] = equal.p
    result["equivalence_low"] = equal.low
    result["equivalence_high"] = equal.high
  differences = fold_scores(first, metric) - fold_scores(second, metric)
  if np.isfinite(differences).all():
    test = comparison.corrected_resampled_t(differences, test_train_ratio)
    result["t_p"] = test.p
  return {name: finite(value) for name, value in result.items()}


def turned(compared: Mapping[str, Any]) -> dict[str, Any]:
  """Returns a comparison of two heads as one of the second with the first.

  It is not made again: other draws of the bootstrap would give other numbers.
  """
  result = dict(compared)
  result["difference"] = -compared["difference"]
  for kind in ("", "equivalence_"):
    low, high = compared[f"{kind}low"], compared[f"{kind}high"]
    result[f"{kind}low"] = None if high is None else -high
    result[f"{kind}high"] = None if low is None else -low
  return result


def ranks(
  answers: Mapping[str, Answers], metric: comparison.Metric
) -> dict[str, float] | None:
  """Returns each head's mean rank over the folds, 1 = best; ties share.

  None if a fold lacks a class.
  """
  scores = np.stack([fold_scores(one, metric) for one in answers.values()])
  if not np.isfinite(scores).all():
    return None
  mean = scipy.stats.rankdata(-scores, axis=0).mean(axis=1)
  return dict(zip(answers, mean.tolist(), strict=True))


def cliques(
  order: Sequence[str], different: Mapping[frozenset[str], bool]
) -> list[list[str]]:
  """Returns the longest runs of neighbours of which no two differ.

  >>> pairs = {frozenset("ab"): False, frozenset("bc"): False}
  >>> cliques("abc", pairs | {frozenset("ac"): True})
  [['a', 'b'], ['b', 'c']]

  Args:
    order: Heads, best first.
    different: Whether two heads are shown to differ.

  Source: the bars of a critical-difference diagram, Demsar 2006, JMLR 7, with
  pairwise tests after Holm in the place of one critical difference, as Benavoli
  et al. 2016, JMLR 17(5), advise.
  """
  found: list[list[str]] = []
  for start, end in itertools.combinations(range(len(order) + 1), 2):
    run = list(order[start:end])
    pairs = itertools.combinations(run, 2)
    if len(run) > 1 and not any(different[frozenset(p)] for p in pairs):
      found.append(run)
  return [
    run for run in found if not any(set(run) < set(other) for other in found)
  ]


def score_ablation(
  workdir: pathlib.Path,
  heads: Sequence[str],
  controls: Mapping[str, Sequence[str]],
  *,
  classes: Sequence[str],
  folds: Sequence[str],
  test_train_ratio: float,
  positive: int | None,
  primary: Sequence[str],
  metric: str,
  margin: float,
  resamples: int,
  seed: int,
) -> dict[str, Any]:
  """Scores everything that was trained; what `ablation.json` says.

  Args:
    workdir: Of the ablation.
    heads: Names.
    controls: Of a head, the names of its controls.
    classes: Names.
    folds: Names.
    test_train_ratio: See `comparison.corrected_resampled_t`.
    positive: Index of the positive class of a binary task.
    primary: The two heads whose comparison was declared.
    metric: The metric it is of.
    margin: A smaller difference does not matter.
    resamples: Of the bootstrap.
    seed: Of it.
  """
  bootstrap = {"resamples": resamples, "seed": seed}
  judged = metric_of(metric, positive)
  answers = {
    name: read_answers(workdir / "heads" / name, classes, folds)
    for name in heads
  }
  tested = functools.partial(
    compare,
    metric=judged,
    test_train_ratio=test_train_ratio,
    margin=margin,
    **bootstrap,
  )
  pairs = list(itertools.combinations(heads, 2))
  compared = {
    pair: tested(answers[pair[0]], answers[pair[1]]) for pair in pairs
  }
  adjusted = comparison.holm([_or_one(c["p"]) for c in compared.values()])
  different = {
    frozenset(pair): bool(p < 0.05)
    for pair, p in zip(pairs, adjusted, strict=True)
  }
  mean_ranks = ranks(answers, judged)
  table = []
  for name in heads:
    result = json.loads((workdir / "heads" / name / "result.json").read_text())
    row: dict[str, Any] = {
      "head": name,
      "scores": {
        one: score(answers[name], metric_of(one, positive), **bootstrap)
        for one in ABLATION_METRICS
      },
      "folds": [finite(v) for v in fold_scores(answers[name], judged)],
      "rank": None if mean_ranks is None else mean_ranks[name],
      **{key: result[key] for key in RESULT_FIELDS},
    }
    table.append(row)
  # A fold may lack a class where a participant's scans are of several.
  of_name = {row["head"]: row for row in table}
  order = sorted(
    heads,
    key=lambda name: (
      -(of_name[name]["scores"][metric]["value"] or 0.0)
      if mean_ranks is None
      else mean_ranks[name]
    ),
  )
  reference = primary[0]
  others = [name for name in heads if name not in primary]

  def between(first: str, second: str) -> dict[str, Any]:
    if (first, second) in compared:
      return dict(compared[first, second])
    return turned(compared[second, first])

  against = {
    name: between(name, reference) for name in heads if name != reference
  }
  if others:
    raised = comparison.holm([_or_one(against[name]["p"]) for name in others])
    for name, p in zip(others, raised, strict=True):
      against[name]["holm_p"] = float(p)
  return {
    "schema_version": 1,
    "metric": metric,
    "margin": margin,
    "test_train_ratio": test_train_ratio,
    "participants": len(answers[heads[0]].participants),
    "folds": list(folds),
    "classes": list(classes),
    "seeds": len(answers[heads[0]].probabilities),
    "resamples": resamples,
    "primary": {
      "heads": list(primary),
      **between(*primary),
    },
    "reference": reference,
    "heads": table,
    "against_reference": against,
    "pairs": [
      {"heads": list(pair), **compared[pair], "holm_p": float(p)}
      for pair, p in zip(pairs, adjusted, strict=True)
    ],
    "order": order,
    "cliques": cliques(order, different),
    "controls": [
      _control(
        read_answers(workdir / "heads" / f"{head}-{control}", classes, folds),
        answers[head],
        head,
        control,
        functools.partial(score, metric=judged, **bootstrap),
        tested,
      )
      for head, kinds in controls.items()
      for control in kinds
    ],
  }


RESULT_FIELDS = (
  *("parameters", "fields", "learning_rates", "best_epoch", "epochs"),
  *("runs", "seconds", "compile_seconds", "latency_ms", "scans_per_second"),
  "device",
)


def _control(found, normal, head, control, scored, tested):
  """Scores a control, and compares it with its head."""
  row = {"head": head, "control": control, "score": scored(found)}
  if control != "random_labels":  # whose labels are others
    row |= tested(found, normal)
  return row


def _or_one(p: float | None) -> float:
  """Returns a p value; 1 where two heads said the same of everybody."""
  return 1.0 if p is None else p
