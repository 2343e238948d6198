import csv
import dataclasses
import json

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

import helpers
from brainjax import InputError, records
from brainjax.evaluation import evaluate, external, test_lock
from brainjax.metrics import calibration
from brainjax.training import experiment, trained
from brainjax.training import runner as runner_lib
from brainjax.training import workdir as workdir_lib


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
  """A run in which every second participant has two scans."""
  root = tmp_path_factory.mktemp("evaluate")
  rng = np.random.default_rng(0)
  scans = [
    helpers.random_record(
      rng,
      num_slices=3 + session,
      label=["normal", "glioma"][i % 2],
      participant_id=f"p{i:02d}",
      session_id=str(session),
      brightness=0.4 * (i % 2),
    )
    for i in range(24)
    for session in range(1 + i // 2 % 2)
  ]
  helpers.write_records(root / "records", scans)
  helpers.write_run(helpers.micro_config(root / "records"), root / "run")
  return root / "run"


def read(path):
  with open(path, newline="") as file:
    return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def scores(workdir):
  evaluate.evaluate(workdir, "validation")
  return evaluate.evaluate(workdir, "test")


def test_every_scan_of_the_split_is_scored_once(workdir, scores):
  rows = read(workdir / "predictions.csv")
  run = experiment.open_run(workdir)
  for split in ("validation", "test"):
    scored = [
      (row["participant_id"], row["session_id"])
      for row in rows
      if row["split"] == split
    ]
    expected = [
      (scan["participant_id"], scan["session_id"])
      for scan in run.scans
      if scan["split"] == split
    ]
    assert scored == expected
    assert len(set(scored)) == len(scored)
  assert not [row for row in rows if row["split"] == "train"]


def test_each_scan_is_scored_for_itself_too(workdir, scores):
  rows = [r for r in read(workdir / "predictions.csv") if r["split"] == "test"]
  right = [row["true_label"] == row["predicted_label"] for row in rows]
  found = scores["scans"]
  assert found["n"] == len(rows) > scores["n"]
  assert found["accuracy"]["value"] == pytest.approx(np.mean(right))
  assert found["accuracy"]["low"] < found["accuracy"]["value"]


def test_columns_and_probabilities(workdir, scores):
  rows = read(workdir / "predictions.csv")
  assert list(rows[0]) == [
    "participant_id",
    "session_id",
    "group_id",
    "source",
    "split",
    "fold",
    "true_label",
    "predicted_label",
    "proba_normal",
    "proba_tumour",
  ]
  for row in rows:
    values = {
      name: float(row[f"proba_{name}"]) for name in ("normal", "tumour")
    }
    assert sum(values.values()) == pytest.approx(1, abs=1e-6)
    assert row["predicted_label"] == max(values, key=values.get)


def test_participant_is_the_mean_of_its_scans_log_probabilities(
  workdir, scores
):
  scans = read(workdir / "predictions.csv")
  people = read(workdir / "predictions_participant.csv")
  assert "session_id" not in people[0]
  several = 0
  for person in people:
    own = [
      [float(scan["proba_normal"]), float(scan["proba_tumour"])]
      for scan in scans
      if scan["participant_id"] == person["participant_id"]
    ]
    several += len(own) > 1
    joined = np.exp(np.log(own).mean(axis=0))
    assert float(person["proba_tumour"]) == pytest.approx(
      joined[1] / joined.sum(), abs=1e-6
    )
  assert several


def test_metrics_are_those_of_the_participants(workdir, scores):
  people = [
    row
    for row in read(workdir / "predictions_participant.csv")
    if row["split"] == "test"
  ]
  targets = [row["true_label"] == "tumour" for row in people]
  values = [float(row["proba_tumour"]) for row in people]
  expected = sklearn_metrics.roc_auc_score(targets, values)
  assert scores["roc_auc"]["value"] == pytest.approx(expected, abs=1e-9)
  assert scores["n"] == len(people) == np.sum(scores["confusion_matrix"])
  written = json.loads((workdir / "metrics.json").read_text())
  assert written["test"] == json.loads(json.dumps(scores))
  assert written["validation"]["n"] > 0
  assert written["schema_version"] == evaluate.SCHEMA_VERSION


def test_temperature_of_validation_is_carried_to_the_test(workdir, scores):
  fitted = json.loads((workdir / "model.json").read_text())["calibration"]
  metrics = json.loads((workdir / "metrics.json").read_text())
  assert fitted["step"] == scores["step"]
  assert fitted["n"] == metrics["validation"]["n"]
  for name, value in fitted.items():
    assert metrics["validation"]["calibration"][name] == value
    assert scores["calibration"][name] == value
  run = experiment.open_run(workdir)
  runner = runner_lib.Runner(run)
  runner_lib.restore_best(runner)
  raw = runner.score(run.scored("test"))
  expected = calibration.apply_temperature(raw, fitted["temperature"])
  rows = [r for r in read(workdir / "predictions.csv") if r["split"] == "test"]
  found = [[float(r["proba_normal"]), float(r["proba_tumour"])] for r in rows]
  np.testing.assert_allclose(found, np.exp(expected), atol=1e-6)
  assert not np.allclose(found, np.exp(raw), atol=1e-3)


def test_operating_point_of_validation_is_carried_to_the_test(workdir, scores):
  threshold = scores["calibration"]["threshold"]
  people = read(workdir / "predictions_participant.csv")
  for split, part in (("validation", None), ("test", scores)):
    rows = [row for row in people if row["split"] == split]
    truth = np.array([row["true_label"] == "tumour" for row in rows])
    given = np.array([float(row["proba_tumour"]) for row in rows])
    if split == "validation":
      rates = sklearn_metrics.roc_curve(truth, given, drop_intermediate=False)
      called = given >= threshold
      youden = called[truth].mean() - called[~truth].mean()
      assert youden == pytest.approx((rates[1] - rates[0]).max())
    else:
      point = part["calibration"]["operating_point"]
      called = given >= threshold
      assert point["sensitivity"]["value"] == called[truth].mean()
      assert point["specificity"]["value"] == 1 - called[~truth].mean()


def test_calibration_is_of_the_step_it_was_fitted_to(workdir, scores):
  facts = trained.read_model_file(workdir)
  assert trained.calibration_of(facts, scores["step"]) == facts["calibration"]
  assert trained.calibration_of(facts, scores["step"] + 1) is None


def test_another_cohort_is_scored_like_the_test_split(
  workdir, scores, tmp_path
):
  run = experiment.open_run(workdir)
  scans = [run.record_set[int(i)] for i in run.scored("test")]
  renamed = [
    dataclasses.replace(
      scan,
      participant_id=f"x-{scan.participant_id}",
      group_id=f"x-{scan.group_id}",
      label={"normal": "normal", "glioma": "meningioma"}[scan.label],
    )
    for scan in scans
  ]
  unknown = dataclasses.replace(renamed[0], participant_id="y", label="")
  folder = tmp_path / "site B" / "records"
  helpers.write_records(folder, [unknown, *renamed])
  nobody = [
    row | {"patient_id_known": "false"} for row in read(folder / "manifest.csv")
  ]
  records.write_csv(folder / "manifest.csv", list(nobody[0]), nobody)
  before = json.loads((workdir / "metrics.json").read_text())
  name, found = external.evaluate_external(workdir, folder)
  assert name == "site-B"
  own = [r for r in read(workdir / "predictions.csv") if r["split"] == "test"]
  rows = read(workdir / "predictions_external_site-B.csv")
  for row, expected in zip(rows, own, strict=True):
    assert row["participant_id"] == f"x-{expected['participant_id']}"
    for column in ("true_label", "predicted_label"):
      assert row[column] == expected[column]
    assert float(row["proba_tumour"]) == pytest.approx(
      float(expected["proba_tumour"]), abs=1e-5
    )
  for metric in ("roc_auc", "accuracy", "ece"):
    value = scores[metric]["value"]
    assert found[metric]["value"] == pytest.approx(value, abs=1e-5)
  point = found["calibration"]["operating_point"]["sensitivity"]["value"]
  expected = scores["calibration"]["operating_point"]["sensitivity"]["value"]
  assert point == expected
  assert found["unlabelled_scans"] == 1
  assert found["patients_known"] is False
  assert found["probes"]["histogram"]["n"] == found["n"] == scores["n"]
  written = json.loads((workdir / "metrics.json").read_text())
  assert written.pop("external")["site-B"] == json.loads(json.dumps(found))
  assert written == before
  assert len(test_lock.read_looks(workdir, external="site-B")) == 1
  helpers.write_records(folder, renamed)
  with pytest.raises(InputError, match="other records of the name 'site-B'"):
    external.evaluate_external(workdir, folder)
  assert len(test_lock.read_looks(workdir, external="site-B")) == 1


def test_probes_find_the_brightness_and_not_the_header(scores):
  assert scores["probes"]["histogram"]["roc_auc"]["value"] == 1
  assert scores["probes"]["header"]["n"] == scores["n"]


def test_a_second_look_is_counted_and_not_scored_again(
  workdir, scores, monkeypatch
):
  before = test_lock.read_looks(workdir)
  with monkeypatch.context() as patch:
    patch.delattr(runner_lib, "Runner")  # nothing can be scored
    assert evaluate.evaluate(workdir, "test") == json.loads(json.dumps(scores))
  looks = test_lock.read_looks(workdir)
  assert len(looks) == len(before) + 1
  assert looks[-1]["checkpoint_sha256"] == looks[0]["checkpoint_sha256"]
  assert looks[-1]["command"].startswith("brainjax")
  with monkeypatch.context() as patch:
    patch.setattr(workdir_lib, "git_revision", lambda: "of other code")
    patch.delattr(runner_lib, "Runner")
    with pytest.raises(AttributeError, match="Runner"):  # it would be scored
      evaluate.evaluate(workdir, "test")
  # With other facts it is another score.
  config = (workdir / "config.json").read_text()
  changed = config.replace('"resamples": 2000', '"resamples": 50')
  assert changed != config
  (workdir / "config.json").write_text(changed)
  again = evaluate.evaluate(workdir, "test")
  (workdir / "config.json").write_text(config)
  assert again["roc_auc"]["value"] == scores["roc_auc"]["value"]
  assert again["look_sha256"] != scores["look_sha256"]
  assert len(test_lock.read_looks(workdir)) == len(before) + 3


def test_splits_that_were_changed_after_training_are_refused(workdir, scores):
  path = workdir / "splits.csv"
  original = path.read_text()
  assert original.count(",train,") > 2
  path.write_text(original.replace(",train,", ",test,", 1))
  with pytest.raises(InputError, match="not the splits this run was trained"):
    evaluate.evaluate(workdir, "test")
  path.write_text(original)


def test_scoring_again_replaces_and_changes_nothing(workdir, scores):
  names = ("predictions.csv", "predictions_participant.csv", "metrics.json")
  evaluate.evaluate(workdir, "test")
  before = [(workdir / name).read_bytes() for name in names]
  (workdir / "metrics.json").write_text(
    json.dumps(json.loads(before[-1]) | {"test": {}})
  )
  evaluate.evaluate(workdir, "test")
  assert [(workdir / name).read_bytes() for name in names] == before


def test_run_without_a_checkpoint_names_the_command(workdir, tmp_path):
  (tmp_path / "run").mkdir()
  for name in ("config.json", "model.json", "splits.csv"):
    content = (workdir / name).read_bytes()
    (tmp_path / "run" / name).write_bytes(content)
  with pytest.raises(InputError, match="brainjax train"):
    evaluate.evaluate(tmp_path / "run")
