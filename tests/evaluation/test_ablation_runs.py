"""End to end: which runs are asked for, and what is made of them."""

import csv
import json
import shutil

import pytest

import helpers
from brainjax import InputError
from brainjax import config as config_lib
from brainjax.evaluation import ablation_runs
from brainjax.training import executor, folds, jobs

HEADS = ("gru", "mean")


@pytest.fixture
def asked(monkeypatch):
  """Runs end at once; a training leaves the files of a run that was tested."""
  asked = []

  def run(wanted, place):
    for job in wanted:
      asked.append(job)
      if job.arguments[0] == "train":
        leave_files(job.folder, test="p1")
      yield jobs.End(job, 0, 2.0, "")

  monkeypatch.setattr(executor, "run", run)
  return asked


def leave_files(folder, *, test):
  folder.mkdir(parents=True)
  losses = (0.5, 0.3, 0.4)
  lines = [
    {"step": epoch, "epoch": float(epoch), "validation/loss": loss}
    for epoch, loss in enumerate(losses, start=1)
  ]
  lines.insert(0, {"step": 1, "epoch": 1.0, "train/loss": 0.6})
  text = "".join(json.dumps(line) + "\n" for line in lines)
  (folder / "metrics.jsonl").write_text(text)
  (folder / "model.json").write_text('{"num_parameters": 77}')
  (folder / "environment.json").write_text('{"devices": ["cpu", "cpu"]}')
  columns = ("participant_id", "group_id", "split", "true_label")
  columns += ("proba_normal", "proba_tumour")
  with open(folder / "predictions.csv", "w", newline="") as file:
    writer = csv.writer(file)
    writer.writerow(columns)
    writer.writerow(("p0", "p0", "validation", "normal", 0.9, 0.1))
    writer.writerow((test, test, "test", "tumour", 0.2, 0.8))


def train(tmp_path, *overrides, heads=HEADS):
  if not (tmp_path / "records").exists():
    helpers.write_cohort(tmp_path / "records", participants=2)
  config = helpers.micro_config(tmp_path / "records", *overrides)
  ablation_runs.train_runs(
    config,
    tmp_path,
    heads,
    folds.make_folds("3", None),
    seeds=2,
    place=executor.Local(),
    say=print,
  )


def test_there_is_a_run_for_each_head_fold_and_seed(tmp_path, asked):
  train(tmp_path, "train.seed=5", "ablation.budget=900")
  trained = [job for job in asked if job.arguments[0] == "train"]
  assert len(trained) == 2 * 3 * 2
  assert len({job.folder for job in asked}) == len(asked) == 24
  found = set()
  for job in trained:
    options = dict(
      a.removeprefix("--").split("=", 1) for a in job.arguments[1:]
    )
    overrides = [
      f"{name.removeprefix('config.')}={value}"
      for name, value in options.items()
      if name.startswith("config.")
    ]
    config = config_lib.load_config(options["config"], overrides)
    assert config.split.folds == 3
    assert config.model.head.budget == 900
    assert config.data.records == str(tmp_path / "records")
    found.add((config.model.head.name, config.split.fold, config.train.seed))
  assert found == {(h, f, s) for h in HEADS for f in range(3) for s in (5, 6)}


def test_a_network_takes_the_place_of_encoder_and_head(tmp_path, asked):
  train(
    tmp_path,
    "model.attention.slice_axis=distance",
    heads=("gru", "cnn2d", "densenet3d"),
  )
  for name, preset in (("cnn2d", "cnn2d"), ("densenet3d", "micro_3d")):
    config = config_lib.load_config(f"{tmp_path / 'configs/config.py'}:{name}")
    assert config.model.encoder.preset == preset
    assert config.model.head.name == "mean"
    assert config.model.attention.slice_axis == "none"
    assert (tmp_path / "heads" / name / "predictions.csv").is_file()
  gru = config_lib.load_config(f"{tmp_path / 'configs/config.py'}:gru").model
  assert (gru.encoder.preset, gru.head.name) == ("micro", "gru")
  assert gru.attention.slice_axis == "distance"


def test_a_head_is_what_its_runs_said_of_their_test_split(tmp_path, asked):
  train(tmp_path)
  folder = tmp_path / "heads" / "gru"
  with open(folder / "predictions.csv", newline="") as file:
    rows = list(csv.DictReader(file))
  assert [(row["fold"], row["seed"]) for row in rows] == [
    (str(fold), str(seed)) for fold in range(3) for seed in range(2)
  ]
  assert {row["participant_id"] for row in rows} == {"p1"}
  assert {row["proba_tumour"] for row in rows} == {"0.8"}
  result = json.loads((folder / "result.json").read_text())
  assert result["parameters"] == 77
  assert result["device"] == "cpu"
  assert (result["runs"], result["seconds"]) == (6, 12.0)
  assert (result["best_epoch"][0], result["epochs"][0]) == (2.0, 3.0)


@pytest.mark.parametrize("override", ["ablation.margin=0.03", "train.epochs=9"])
def test_another_config_is_refused(tmp_path, asked, override):
  train(tmp_path)
  before = len(asked)
  with pytest.raises(InputError, match=override.partition("=")[0]):
    train(tmp_path, override)
  assert len(asked) == before


def test_what_was_trained_on_other_records_is_not_kept(tmp_path, asked):
  train(tmp_path)
  helpers.write_cohort(tmp_path / "records", participants=2, seed=1)
  shutil.rmtree(tmp_path / "runs")  # which the pretended training fills
  train(tmp_path)
  before, after = asked[:24], asked[24:]
  for earlier, now in zip(before, after, strict=True):
    assert earlier.arguments == now.arguments
    assert earlier.inputs != now.inputs


def test_a_failed_run_is_named_when_the_others_have_ended(
  tmp_path, monkeypatch
):
  ended = []

  def run(wanted, place):
    for job in wanted:
      ended.append(job)
      yield jobs.End(job, 2 * (len(ended) == 1), 1.0, "no memory")

  monkeypatch.setattr(executor, "run", run)
  with pytest.raises(InputError, match="1 of 12 runs failed.*no memory"):
    train(tmp_path)
  assert len(ended) == 12
