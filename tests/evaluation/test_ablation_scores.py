"""Scores and tests of an ablation, from predictions written by hand."""

import csv
import json

import numpy as np
import pytest
import sklearn.metrics

from brainjax import records
from brainjax.evaluation import (
  ablation_answers,
  ablation_heads,
  ablation_page,
  ablation_scores,
)
from brainjax.metrics import comparison

PEOPLE, FOLDS = 60, ("0", "1", "2")
CLASSES = ("normal", "tumour")
BOOTSTRAP = {"resamples": 300, "seed": 0}


def write_head(workdir, name, *, skill, seeds=(0, 1), scans=1, flip=False):
  """Writes a head whose answers are right by `skill` standard deviations."""
  rng = np.random.default_rng([len(name), int(10 * skill), flip])
  rows = []
  for seed in seeds:
    order = rng.permutation(PEOPLE)  # rows need not come in order
    for person in order:
      truth = rng.integers(2) if flip else person % 2
      for scan in range(scans):
        logit = skill * (2 * truth - 1) + rng.normal()
        if flip:
          logit = rng.normal()
        p = 1 / (1 + np.exp(-logit))
        rows.append(
          {
            "participant_id": f"p{person:02d}",
            "session_id": str(scan),
            "group_id": f"g{person:02d}",
            "fold": FOLDS[person % 3],
            "seed": seed,
            "true_label": CLASSES[truth],
            "predicted_label": CLASSES[int(p > 0.5)],
            "proba_normal": repr(float(1 - p)),
            "proba_tumour": repr(float(p)),
          }
        )
  folder = workdir / "heads" / name
  folder.mkdir(parents=True)
  columns = (*ablation_heads.PREDICTION_COLUMNS, "proba_normal", "proba_tumour")
  records.write_csv(folder / "predictions.csv", columns, rows)
  result = dict.fromkeys(ablation_scores.RESULT_FIELDS, 1)
  result |= {"fields": {"name": name}, "learning_rates": [0.1] * 3}
  result["device"] = f"{'one' if name == 'gru' else 'another'} device"
  (folder / "result.json").write_text(json.dumps(result))
  return rows


def score(workdir, heads, primary, controls=None):
  return ablation_scores.score_ablation(
    workdir,
    heads,
    controls or {},
    classes=CLASSES,
    folds=FOLDS,
    test_train_ratio=1.5,
    positive=1,
    primary=primary,
    metric="roc_auc",
    margin=0.05,
    **BOOTSTRAP,
  )


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("ablation")
  write_head(workdir, "lstm", skill=2.0)
  write_head(workdir, "gru", skill=1.9, scans=2)
  write_head(workdir, "mean", skill=0.3)
  write_head(workdir, "lstm-random_labels", skill=0, flip=True)
  write_head(workdir, "lstm-shuffled", skill=0.2)
  return workdir


@pytest.fixture(scope="module")
def found(workdir):
  controls = {"lstm": ("shuffled", "random_labels")}
  return score(workdir, ("lstm", "gru", "mean"), ("lstm", "mean"), controls)


def test_a_score_is_the_mean_over_seeds_of_all_participants(tmp_path):
  rows = write_head(tmp_path, "lstm", skill=1.0, seeds=(3, 4, 5))
  expected = []
  for seed in (3, 4, 5):
    chosen = [row for row in rows if row["seed"] == seed]
    expected.append(
      sklearn.metrics.roc_auc_score(
        [row["true_label"] == "tumour" for row in chosen],
        [float(row["proba_tumour"]) for row in chosen],
      )
    )
  answers = ablation_answers.read_answers(
    tmp_path / "heads" / "lstm", CLASSES, FOLDS
  )
  metric = ablation_answers.metric_of("roc_auc", 1)
  found = ablation_answers.score(answers, metric, **BOOTSTRAP)
  assert found["value"] == pytest.approx(np.mean(expected))
  assert found["low"] < found["value"] < found["high"]
  chosen = [row for row in rows if row["fold"] == "1" and row["seed"] == 3]
  of_fold = ablation_answers.fold_scores(
    answers._replace(
      probabilities=answers.probabilities[:1], targets=answers.targets[:1]
    ),
    metric,
  )
  assert of_fold[1] == pytest.approx(
    sklearn.metrics.roc_auc_score(
      [row["true_label"] == "tumour" for row in chosen],
      [float(row["proba_tumour"]) for row in chosen],
    )
  )


def test_heads_meet_the_same_participants_whatever_the_order_of_rows(workdir):
  lstm, gru = (
    ablation_answers.read_answers(workdir / "heads" / name, CLASSES, FOLDS)
    for name in ("lstm", "gru")
  )
  assert lstm.participants == gru.participants
  assert lstm.probabilities.shape == gru.probabilities.shape == (2, PEOPLE, 2)
  assert (lstm.targets == gru.targets).all()


def test_the_better_head_is_found_and_the_equal_one_is_not(found):
  primary = found["primary"]
  assert primary["heads"] == ["lstm", "mean"]
  assert primary["low"] > 0.1
  assert primary["p"] < 0.001
  assert primary["equivalence_p"] > 0.5
  against = found["against_reference"]
  assert against["gru"]["low"] < 0 < against["gru"]["high"]
  assert "holm_p" not in against["mean"]  # declared, so not adjusted
  assert found["order"][-1] == "mean"
  assert sorted(found["cliques"][0]) == ["gru", "lstm"]
  assert found["heads"][2]["rank"] == 3


def test_the_t_test_knows_how_many_train(workdir, found):
  metric = ablation_answers.metric_of("roc_auc", 1)
  first, second = (
    ablation_answers.fold_scores(
      ablation_answers.read_answers(workdir / "heads" / name, CLASSES, FOLDS),
      metric,
    )
    for name in ("lstm", "mean")
  )
  expected = comparison.corrected_resampled_t(first - second, 1.5).p
  assert found["primary"]["t_p"] == pytest.approx(expected)


def test_one_group_of_a_class_gives_no_interval():
  answers = ablation_answers.Answers(
    probabilities=np.full((2, 6, 2), 0.5) + [[[-0.1, 0.1]], [[0.1, -0.1]]],
    targets=np.array([[0, 0, 0, 0, 1, 1]] * 2),
    folds=np.zeros(6, int),
    groups=["a", "b", "c", "d", "family", "family"],
    participants=list("abcdef"),
  )
  metric = ablation_answers.metric_of("balanced_accuracy", 1)
  answers.probabilities[0, 0] = [0.9, 0.1]  # so that resamples differ
  found = ablation_answers.score(answers, metric, **BOOTSTRAP)
  assert found["value"] > 0.5
  assert (found["low"], found["high"]) == (None, None)


def test_heads_have_an_order_where_a_fold_lacks_a_class(tmp_path):
  for name, skill in (("lstm", 0.3), ("mean", 2.0)):
    write_head(tmp_path, name, skill=skill)
    file = tmp_path / "heads" / name / "predictions.csv"
    rows = [
      row | {"fold": "0" if row["true_label"] == "normal" else "1"}
      for row in csv.DictReader(file.read_text().splitlines())
    ]
    records.write_csv(file, list(rows[0]), rows)
  found = score(tmp_path, ("lstm", "mean"), ("lstm", "mean"))
  assert found["heads"][0]["rank"] is None
  assert found["order"] == ["mean", "lstm"]


def test_both_sides_of_a_comparison_are_the_same_numbers(found):
  primary, against = found["primary"], found["against_reference"]["mean"]
  assert against["difference"] == -primary["difference"]
  assert (against["low"], against["high"]) == (
    -primary["high"],
    -primary["low"],
  )
  assert against["p"] == primary["p"]
  (pair,) = (p for p in found["pairs"] if p["heads"] == ["lstm", "mean"])
  assert pair["difference"] == primary["difference"]


def test_controls_are_held_against_their_head_or_against_chance(found):
  shuffled, random_labels = found["controls"]
  assert shuffled["high"] < 0
  assert "p" not in random_labels
  assert random_labels["score"]["low"] < 0.5 < random_labels["score"]["high"]
  checks = ablation_page.checks(found)
  assert [check.stands for check in checks] == [True, True, True]
  spoilt = json.loads(json.dumps(found))
  spoilt["controls"][1]["score"] |= {"low": 0.6, "high": 0.8}
  assert [c.stands for c in ablation_page.checks(spoilt)] == [True, False, True]


def test_the_verdict_says_what_was_shown(found):
  assert ablation_page.headline(found).startswith("lstm is better than mean. ")
  pair = {"heads": ["a", "b"], "low": -0.04, "high": 0.03}
  said = ablation_page.conclusion(pair | {"equivalence_p": 0.4}, 0.02)
  assert said.startswith("Neither is shown")
  worse = pair | {"high": -0.01, "equivalence_p": 0.4}
  assert ablation_page.conclusion(worse, 0.02) == "b is better than a."


def test_the_page_holds_every_head_and_needs_nothing_else(found, tmp_path):
  said = found | {
    "budget": 500_000,
    "features": "8 features",
    "records": ["x"],
    "environment": {"command": "brainjax ablate", "date": "2026-01-01T00:00"},
  }
  page = ablation_page.write_page(tmp_path, said).read_text()
  for text in ("lstm", "gru", "mean", "data:image/png", "classes dealt anew"):
    assert text in page
  for text in ("gru on one device", "lstm on another device"):
    assert text in page
  assert "http" not in page
  assert {f.name for f in (tmp_path / "figures").iterdir()} == {
    *("heads.png", "ranks.png", "cost.png")
  }
