import json
import types

import numpy as np
import pytest

import helpers
from brainjax import config
from brainjax.evaluation import comparators
from brainjax.metrics import classification
from brainjax.training import trained


@pytest.mark.parametrize("name", comparators.COMPARATORS)
def test_comparators_learn_and_ask_nothing_of_the_test_rows(name):
  rng = np.random.default_rng(0)
  targets = rng.choice([0, 2], size=120)
  features = rng.normal(size=(120, 6)) * [1, 1, 1, 1e3, 1e-3, 1]
  features[:, 0] += 2 * targets
  predict = comparators.fit_and_predict
  found = predict(name, features[:80], targets[:80], features[80:], 3)
  assert found.shape == (40, 3)
  np.testing.assert_allclose(found.sum(1), 1)
  assert (found[:, 1] == 0).all()  # no training row has the class
  pair = found[:, [0, 2]]
  truth = (targets[80:] == 2).astype(int)
  assert classification.roc_auc(pair, truth, positive=1) > 0.9
  assert classification.accuracy(pair, truth) > 0.85
  alone = predict(name, features[:80], targets[:80], features[80:81], 3)
  np.testing.assert_allclose(alone[0], found[0], atol=1e-9)


@pytest.mark.parametrize("name", comparators.COMPARATORS)
def test_three_classes_and_twice_the_same(name):
  rng = np.random.default_rng(1)
  targets = np.arange(90) % 3
  features = rng.normal(size=(90, 4)) + 3 * np.eye(3, 4)[targets]
  rows = features[:60], targets[:60], features[60:], 3
  found = comparators.fit_and_predict(name, *rows)
  assert (found.argmax(1) == targets[60:]).mean() > 0.8
  np.testing.assert_array_equal(found, comparators.fit_and_predict(name, *rows))


@pytest.fixture
def run(tmp_path, monkeypatch):
  """A run on features, of which nothing but its tables is there."""
  record_set = helpers.write_features(tmp_path / "features")
  fields = config.get_config()
  fields.eval.resamples = 20
  labels = [row["label"] for row in record_set.rows]
  split = {i: "train" if i < 20 else "test" for i in range(30)}

  fake = types.SimpleNamespace(
    workdir=tmp_path,
    objective="classify",
    positive=1,
    negative=None,
    classes=("normal", "tumour"),
    config=fields,
    record_set=record_set,
    targets=np.array([int(label == "glioma") for label in labels]),
    scans=[{"record_index": str(i), "split": split[i]} for i in range(30)],
    scored=lambda name: np.array([i for i in range(30) if split[i] == name]),
  )
  monkeypatch.setattr(comparators, "open_run", lambda workdir: fake)
  monkeypatch.setattr(
    trained,
    "load_trained",
    lambda workdir: types.SimpleNamespace(
      step=7,
      checkpoint_sha256="c",
      model=types.SimpleNamespace(reads_volumes=False),
    ),
  )
  monkeypatch.setattr(
    comparators,
    "COMPARATORS",
    {k: comparators.COMPARATORS[k] for k in ("naive Bayes", "SVM")},
  )
  return fake


def test_scores_are_kept_by_split_and_features_are_computed_once(
  run, monkeypatch
):
  path = run.workdir / "metrics.json"
  path.write_text('{"schema_version": 1, "test": {"n": 10}}')
  scores = comparators.score_baselines(run.workdir, "test")
  # The images that the features were made from are gone.
  assert set(scores) == {
    "naive Bayes, encoder features",
    "SVM, encoder features",
  }
  metrics = json.loads(path.read_text())
  assert metrics["test"] == {"n": 10}
  assert metrics["baselines"]["test"]["step"] == 7
  kept = metrics["baselines"]["test"]["scores"]
  assert kept == json.loads(json.dumps(scores))
  assert kept["SVM, encoder features"]["roc_auc"]["value"] > 0.9
  rows = (run.workdir / "baselines_test.csv").read_text().splitlines()
  assert rows[0] == "model,participant_id,true_label,proba_normal,proba_tumour"
  assert len(rows) == 1 + 2 * 10
  with np.load(run.workdir / "baseline_features.npz") as features:
    mean = run.record_set[4].slices[:, 0, 0].mean(0)
    np.testing.assert_allclose(features["encoder"][4], mean)
  monkeypatch.setattr(type(run.record_set), "__getitem__", None)  # not read
  assert comparators.score_baselines(run.workdir, "test") == scores
