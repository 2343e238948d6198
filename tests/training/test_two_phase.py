"""Balanced training, then the classifier alone, which screens and types."""

import io
import json
import pathlib

import jax
import numpy as np
import pytest
import rich.console

import helpers
from brainjax import config as config_lib
from brainjax.evaluation import evaluate, report
from brainjax.evaluation.answer import answer_scan
from brainjax.training import experiment, train, trained

pytestmark = pytest.mark.slow  # two runs

CONFIG = pathlib.Path(__file__).parents[2] / "configs" / "two_phase.py"
CLASSES = ("normal: normal", "glioma: glioma", "other: meningioma, metastasis")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
  root = tmp_path_factory.mktemp("root")
  rng = np.random.default_rng(0)
  labels = ["normal"] * 24 + ["glioma"] * 8 + ["meningioma"] * 6
  scans = [
    helpers.random_record(
      rng,
      num_slices=int(rng.integers(1, 6)),
      label=label,
      participant_id=f"p{i:02d}",
      brightness=0.5 * (label != "normal") + 0.5 * (label == "glioma"),
    )
    for i, label in enumerate(labels)
  ]
  helpers.write_records(root / "records", scans)
  for phase in (1, 2):
    start(root, phase)
  return root


def start(root, phase):
  config = config_lib.load_config(f"{CONFIG}:phase={phase}")
  micro = helpers.micro_config(root / "records")
  with config.unlocked():
    for section in ("data.records", "data.scans_per_step", "mesh.devices"):
      name, field = section.split(".")
      config[name][field] = micro[name][field]
    config.model.encoder.preset = "micro"
    config.model.head = micro.model.head
    config.model.output = "hierarchical"
    config.task.classes = CLASSES
    config.task.negative = "normal"
    config.task.positive = ""
    config.train.epochs = 2
    if phase == 2:
      config.model.init_from = str(root / "phase1")
  console = rich.console.Console(file=io.StringIO(), width=1000)
  train.train(config, root / f"phase{phase}", console=console)


def test_the_second_phase_moves_the_classifier_alone(root):
  first, second = (
    trained.load_trained(root / f"phase{phase}").variables for phase in (1, 2)
  )
  for name in ("encoder", "head"):
    jax.tree.map(
      np.testing.assert_array_equal,
      first["params"][name],
      second["params"][name],
    )
  jax.tree.map(
    np.testing.assert_array_equal, first["batch_stats"], second["batch_stats"]
  )
  for part in ("screening", "typing"):
    before, after = (v["params"]["classifier"][part] for v in (first, second))
    assert (before["kernel"] != after["kernel"]).all()


def test_the_first_phase_is_balanced_and_the_second_is_not(root):
  first, second = (experiment.open_run(root / f"phase{p}") for p in (1, 2))
  of_class = first.targets[first.subset("train")]
  shares = np.bincount(of_class, first.sampling.expected)
  np.testing.assert_allclose(shares, len(of_class) / 3)
  assert second.sampling is None
  assert len(set(np.bincount(of_class))) > 1
  assert second.validation_weights == (1.0, 1.0, 1.0)
  assert first.validation_weights[0] < 1 < first.validation_weights[2]


def test_scores_page_and_answers_are_of_the_composed_classes(root):
  workdir = root / "phase2"
  scores = evaluate.evaluate(workdir)
  assert 0 <= scores["screening_auc"]["value"] <= 1
  assert "screening_auc" in scores["probes"]["histogram"]
  stored = json.loads((workdir / "metrics.json").read_text())["test"]
  assert stored["screening_auc"] == scores["screening_auc"]
  page = report.write_report([workdir]).read_text()
  assert "<th>Screening AUC</th>" in page
  assert "Screening AUC: normal against all other classes" in page
  run = trained.load_trained(workdir)
  record_set = experiment.open_run(workdir).record_set
  with open(workdir / "predictions.csv") as file:
    header, row, *_ = (line.strip().split(",") for line in file)
  predicted = dict(zip(header, row, strict=True))
  place = {r["participant_id"]: i for i, r in enumerate(record_set.rows)}
  answer = answer_scan([run], record_set[place[predicted["participant_id"]]])
  assert sum(answer.probabilities.values()) == pytest.approx(1)
  for name, probability in answer.probabilities.items():
    stated = float(predicted[f"proba_{name}"])
    assert stated == pytest.approx(probability, abs=1e-5)
