import types

import numpy as np
import pytest

from brainjax.evaluation import paired, verdict
from brainjax.metrics import classification, comparison, delong, permutation

PEOPLE = 40


def run_of(seed, *, skill=1.0, classes=("normal", "tumour"), family=1):
  """A run that answered 40 participants, in an order of its own."""
  rng = np.random.default_rng(seed)
  targets = np.arange(PEOPLE) % len(classes)
  logits = rng.normal(size=(PEOPLE, len(classes)))
  logits += skill * np.eye(len(classes))[targets]
  probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
  rows = [
    {
      "participant_id": f"p{i}",
      "group_id": f"g{i // family}",
      "split": "test",
      "true_label": classes[targets[i]],
      **{
        f"proba_{name}": f"{value:.9g}"
        for name, value in zip(classes, probabilities[i], strict=True)
      },
    }
    for i in rng.permutation(PEOPLE)
  ]
  return types.SimpleNamespace(
    participants=[*rows, rows[0] | {"split": "validation"}],
    model={"classes": list(classes)},
    config={"eval": {"resamples": 200, "seed": 0}},
    answers=probabilities,
    targets=targets,
  )


def rows_of(*runs):
  rows = [
    {"name": f"run {i}", "run": run, "note": ""} for i, run in enumerate(runs)
  ]
  left_out = {"name": "x", "run": runs[0], "note": "other splits"}
  return [*rows, left_out, {"name": "always", "run": None, "note": ""}]


def exchanged(first, second, metric):
  """The p of exchanging ranks, in the order of the first run's file."""
  people = [int(row["participant_id"][1:]) for row in first.participants[:-1]]
  ranks = [
    run.answers[people, 1].argsort().argsort() / PEOPLE
    for run in (first, second)
  ]
  answers = [np.stack([1 - share, share], axis=1) for share in ranks]
  groups = [row["group_id"] for row in first.participants[:-1]]
  return permutation.permutation_p(
    *(*answers, first.targets[people], groups, metric),
    permutations=200,
    seed=0,
  )


def test_two_classes_are_compared_by_delong_and_mcnemar():
  runs = [run_of(0, skill=3.0), run_of(1, skill=0.0), run_of(2, skill=1.0)]
  found = paired.paired_tests(rows_of(*runs), "test")
  assert [row["name"] for row in found] == ["run 1", "run 2"]
  targets = runs[0].targets
  tests = [
    delong.compare_aucs(
      runs[0].answers[:, 1], other.answers[:, 1], targets == 1
    )
    for other in runs[1:]
  ]
  right = [run.answers.argmax(1) == targets for run in runs]
  mcnemars = [comparison.mcnemar(right[0], other) for other in right[1:]]
  holm = {
    "p": comparison.holm([test.p for test in tests]),
    "mid_p": comparison.holm([test.mid_p for test in mcnemars]),
  }
  for i, row in enumerate(found):
    assert row["difference"] == pytest.approx(tests[i].difference)
    reach = 1.959964 * tests[i].standard_error
    assert row["high"] - row["low"] == pytest.approx(2 * reach)
    assert row["only_this"] == mcnemars[i].only_first
    assert row["only_other"] == mcnemars[i].only_second
    for column, values in holm.items():
      assert row[column] == pytest.approx(values[i])


def test_participants_of_one_group_are_not_independent():
  runs = [run_of(0, skill=2.0, family=2), run_of(1, skill=0.0, family=2)]
  (row,) = paired.paired_tests(rows_of(*runs), "test")
  alone = [run_of(0, skill=2.0), run_of(1, skill=0.0)]
  (independent,) = paired.paired_tests(rows_of(*alone), "test")
  assert row["difference"] == pytest.approx(independent["difference"])
  assert row["mid_p"] is None
  assert row["low"] < row["difference"] < row["high"]
  assert row["low"] != pytest.approx(independent["low"], abs=1e-6)
  assert independent["by_delong"] and not row["by_delong"]
  # Twenty groups are exchanged, not forty participants.
  assert row["p"] == exchanged(*runs, classification.roc_auc)


def test_the_scale_of_probabilities_changes_no_test_of_the_area():
  first, second = (run_of(i, skill=2 - i, family=2) for i in (0, 1))
  (before,) = paired.paired_tests(rows_of(first, second), "test")
  for row in second.participants:
    row["proba_tumour"] = repr(float(row["proba_tumour"]) ** 9 / 2)
    row["proba_normal"] = repr(1 - float(row["proba_tumour"]))
  (after,) = paired.paired_tests(rows_of(first, second), "test")
  for name in ("difference", "low", "high", "p"):
    assert after[name] == pytest.approx(before[name], abs=1e-12)


def test_a_class_without_participants_leaves_nothing_to_test():
  runs = [run_of(0), run_of(1)]
  for run in runs:
    run.participants = [
      row for row in run.participants if row["true_label"] == "normal"
    ]
  (row,) = paired.paired_tests(rows_of(*runs), "test")
  assert row["difference"] is row["low"] is row["p"] is None
  assert verdict.difference_text(row) == "undefined"


def test_three_classes_are_compared_by_balanced_accuracy():
  classes = ("a", "b", "c")
  runs = [run_of(i, skill=3.0 * (1 - i), classes=classes) for i in (0, 1)]
  (row,) = paired.paired_tests(rows_of(*runs), "test")
  recalls = [
    [
      np.mean(run.answers.argmax(1)[run.targets == k] == k)
      for k in range(len(classes))
    ]
    for run in runs
  ]
  assert row["difference"] == pytest.approx(
    np.mean(recalls[0]) - np.mean(recalls[1])
  )
  assert row["p"] == 1 / 201 and row["mid_p"] is not None
  assert row["low"] > 0


def test_a_run_that_answers_alike_is_no_different():
  (row,) = paired.paired_tests(rows_of(run_of(0), run_of(0)), "test")
  assert (row["difference"], row["low"], row["p"]) == (0, None, 1)
  assert (row["only_this"], row["only_other"], row["mid_p"]) == (0, 0, 1)


def test_a_run_alone_is_held_against_nothing():
  assert paired.paired_tests(rows_of(run_of(0)), "test") == []
