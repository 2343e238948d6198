"""What `make demo` must have shown; the gate runs it before these."""

import collections
import csv
import json
import math
import pathlib

import numpy as np
import pytest
from sklearn import metrics

from brainjax import demo
from brainjax.evaluation import verdict

FOLDER = pathlib.Path(__file__).parent.parent / "demo"


@pytest.fixture(scope="module", params=demo.HEADS)
def scores(request):
  path = FOLDER / request.param / "metrics.json"
  if not path.is_file():
    pytest.skip("needs the demo's output: run `make demo`")
  return request.param, json.loads(path.read_text())["test"]


@pytest.mark.slow
def test_test_split_is_large_enough(scores):
  assert scores[1]["n"] >= 32


@pytest.mark.slow
def test_recurrent_model_screens(scores):
  head, test = scores
  if head == "lstm":
    assert test["roc_auc"]["low"] > 0.6


@pytest.mark.slow
def test_shortcuts_explain_little(scores):
  probes = scores[1]["probes"]
  assert probes["histogram"]["roc_auc"]["value"] <= 0.75
  header = probes["header"]["roc_auc"]
  assert header["low"] <= 0.5 <= header["high"]


@pytest.fixture(scope="module")
def people(scores):
  """True class and probability of a tumour, joined anew from the scans."""
  logs = collections.defaultdict(list)
  with open(FOLDER / scores[0] / "predictions.csv", newline="") as file:
    for row in csv.DictReader(file):
      if row["split"] == "test":
        key = row["participant_id"], row["true_label"] == "tumour"
        logs[key].append(
          [math.log(float(row[f"proba_{k}"])) for k in ("normal", "tumour")]
        )
  true = np.array([is_tumour for _, is_tumour in logs])
  normal, tumour = np.exp([np.mean(rows, axis=0) for rows in logs.values()]).T
  return true, tumour / (normal + tumour)


@pytest.mark.slow
def test_every_score_follows_from_the_predictions(scores, people):
  """Recomputed by scikit-learn, and the intervals by a bootstrap of its own."""
  true, tumour = people
  called = tumour > 0.5
  found = scores[1]
  expected = {
    "roc_auc": metrics.roc_auc_score(true, tumour),
    "average_precision": metrics.average_precision_score(true, tumour),
    "accuracy": metrics.accuracy_score(true, called),
    "balanced_accuracy": metrics.balanced_accuracy_score(true, called),
    "sensitivity": metrics.recall_score(true, called),
    "specificity": metrics.recall_score(~true, ~called),
    "precision": metrics.precision_score(true, called),
    "f1": metrics.f1_score(true, called),
    "brier": metrics.brier_score_loss(true, tumour),
  }
  for name, value in expected.items():
    assert found[name]["value"] == pytest.approx(value, abs=1e-6), name
  matrix = metrics.confusion_matrix(true, called).tolist()
  assert found["confusion_matrix"] == matrix
  rng = np.random.default_rng(1)
  classes = [np.flatnonzero(true == k) for k in (False, True)]
  draws = np.array(
    [
      metrics.roc_auc_score(true[rows], tumour[rows])
      for rows in (
        np.concatenate([rng.choice(k, len(k)) for k in classes])
        for _ in range(1000)
      )
    ]
  )
  low, high = np.percentile(draws, [2.5, 97.5])
  assert found["roc_auc"]["low"] == pytest.approx(low, abs=0.03)
  assert found["roc_auc"]["high"] == pytest.approx(high, abs=0.03)


@pytest.mark.slow
def test_the_page_shows_those_scores(scores):
  page = (FOLDER / demo.HEADS[0] / "report.html").read_text()
  shown = verdict.METRICS if scores[0] == demo.HEADS[0] else ("roc_auc",)
  for name in set(shown) & set(scores[1]):
    assert verdict.score_text(scores[1][name]) in page, name


def test_config_resolves_for_each_head():
  for head in demo.HEADS:
    config = demo.get_config(head)
    assert config.model.head.name == head
    assert config.preparation == demo.get_config(demo.HEADS[0]).preparation
