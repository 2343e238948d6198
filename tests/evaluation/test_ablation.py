"""An ablation from features to its page, and what starting it again does."""

import csv
import io
import json

import pytest
import rich.console

import helpers
from brainjax import InputError
from brainjax.evaluation import ablation

pytestmark = pytest.mark.slow  # compiles five heads

HEADS = ("max", "logsumexp", "mean")


def ablate(root, *overrides, heads=HEADS, seeds=2):
  config = helpers.micro_config(
    root / "features",
    "ablation.primary=('max','mean')",
    "train.epochs=2",
    "eval.resamples=50",
    *overrides,
  )
  output = io.StringIO()
  found = ablation.ablate(
    config,
    root / "run",
    heads=heads,
    folds="3",
    seeds=seeds,
    console=rich.console.Console(file=output, width=1000),
  )
  return found, output.getvalue()


@pytest.fixture(scope="module")
def root(tmp_path_factory):
  root = tmp_path_factory.mktemp("ablation")
  helpers.write_features(root / "features", lengths=(1, 4, 2, 5, 3))
  found, printed = ablate(root, "ablation.learning_rates=(0.001,0.01)")
  assert "fitted on no group of the cohort" in printed
  assert found == json.loads((root / "run" / "ablation.json").read_text())
  return root


def test_every_scan_is_answered_once_a_seed(root):
  with open(root / "run" / "heads" / "max" / "predictions.csv") as file:
    rows = list(csv.DictReader(file))
  pairs = {(row["participant_id"], row["seed"]) for row in rows}
  assert len(rows) == len(pairs) == 30 * 2
  for row in rows:
    total = float(row["proba_normal"]) + float(row["proba_tumour"])
    assert total == pytest.approx(1)


def test_a_head_says_how_it_was_trained(root):
  result = json.loads(
    (root / "run" / "heads" / "max" / "result.json").read_text()
  )
  assert result["runs"] == 3 * 2 * 2
  assert set(result["learning_rates"]) <= {0.001, 0.01}
  assert len(result["learning_rates"]) == 3
  assert result["parameters"] == 8 * 2 + 2
  assert result["latency_ms"] > 0


def test_files_hold_all_heads_and_controls(root):
  found = json.loads((root / "run" / "ablation.json").read_text())
  assert {row["head"] for row in found["heads"]} == set(HEADS)
  kinds = [(row["head"], row["control"]) for row in found["controls"]]
  assert kinds == [("max", "random_labels"), ("mean", "random_labels")]
  with open(root / "run" / "ablation.csv") as file:
    rows = list(csv.DictReader(file))
  assert [row["head"] for row in rows] == found["order"]
  assert "<h1>run</h1>" in (root / "run" / "ablation.html").read_text()


def test_started_again_it_trains_nothing_and_says_the_same(root):
  before = (root / "run" / "ablation.csv").read_text()
  _, printed = ablate(root, "ablation.learning_rates=(0.001,0.01)")
  assert printed.count("done already") == 5
  assert " runs in " not in printed
  assert (root / "run" / "ablation.csv").read_text() == before


@pytest.mark.parametrize(
  ("change", "seeds", "words"),
  [
    ("ablation.primary=('mean','max')", 2, "ablation.primary"),
    ("ablation.learning_rates=(0.001,0.01)", 3, "seeds"),
  ],
)
def test_what_was_declared_cannot_be_changed(root, change, seeds, words):
  rates = "ablation.learning_rates=(0.001,0.01)"
  with pytest.raises(InputError, match=words):
    ablate(root, rates, change, seeds=seeds)
