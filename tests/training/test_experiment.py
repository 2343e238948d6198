import csv
import json

import numpy as np
import pytest

import helpers
from brainjax import InputError, records
from brainjax.training import experiment, model_file, trained, workdir


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
  folder = tmp_path_factory.mktemp("cohort") / "records"
  helpers.write_cohort(folder)
  return folder


def resolve(cohort, workdir, *overrides, devices=1):
  return experiment.resolve(
    helpers.micro_config(cohort, *overrides), workdir, devices
  )


def test_resolve_derives_and_open_run_reads_back(cohort, tmp_path):
  run = resolve(cohort, tmp_path)
  assert run.config.data.packs == 1
  assert run.classes == ("normal", "tumour")
  assert run.positive == 1
  subsets = {s: run.subset(s) for s in ("train", "validation", "test")}
  assert sorted(np.concatenate(list(subsets.values()))) == list(range(30))
  assert [len(s) for s in subsets.values()] == [18, 6, 6]
  with open(tmp_path / "splits.csv") as file:
    rows = list(csv.DictReader(file))
  assert tuple(rows[0]) == workdir.SPLIT_COLUMNS
  assert {row["class"] for row in rows} == {"normal", "tumour"}
  model_file.write_model_file(run, num_parameters=7)
  again = experiment.open_run(tmp_path)
  assert again.config.to_dict() == run.config.to_dict()
  assert again.scans == run.scans
  assert again.shape == run.shape
  assert again.class_weights == run.class_weights
  np.testing.assert_array_equal(again.targets, run.targets)


def test_model_file_says_whom_the_encoder_saw(cohort, tmp_path):
  run = resolve(cohort, tmp_path)
  model_file.write_model_file(run, num_parameters=7)
  model = json.loads((tmp_path / "model.json").read_text())
  rows = run.record_set.rows
  expected = {rows[i]["group_id"] for i in run.subset("train")}
  assert set(model["encoder_group_ids"]) == expected


def test_changed_config_is_refused_with_its_fields(cohort, tmp_path):
  resolve(cohort, tmp_path)
  resolve(cohort, tmp_path, "train.epochs=9", "checkpoint.keep=5")
  with pytest.raises(
    InputError, match=r"config.train.seed \(0 before, 1 now\)"
  ):
    resolve(cohort, tmp_path, "train.seed=1")


def test_a_run_from_before_a_field_existed_goes_on(cohort, tmp_path):
  resolve(cohort, tmp_path)
  path = tmp_path / "config.json"
  fields = json.loads(path.read_text())
  del fields["train"]["objective"], fields["model"]["attention"]
  fields["model"]["gone"] = 1
  path.write_text(json.dumps(fields))
  with pytest.raises(InputError, match=r"objective \('classify' before"):
    resolve(cohort, tmp_path, "train.objective=joint")
  resolve(cohort, tmp_path)
  assert json.loads(path.read_text())["train"]["objective"] == "classify"


def test_the_encoder_rate_of_earlier_runs_is_understood(cohort, tmp_path):
  run = resolve(cohort, tmp_path)
  path = tmp_path / "config.json"
  fields = json.loads(path.read_text())
  fields["optimizer"] = {
    **{"learning_rate": 1e-3, "encoder_rate": 1.0, "b1": 0.9, "b2": 0.99},
    **{"epsilon": 1e-8, "l2": 1e-4},
  }
  path.write_text(json.dumps(fields))
  assert workdir.read_config(path).to_dict() == run.config.to_dict()
  resolve(cohort, tmp_path)  # continues
  fields["optimizer"]["encoder_rate"] = 0.1
  path.write_text(json.dumps(fields))
  assert workdir.read_config(path).optimizer.rates == ("encoder: 0.1",)
  with pytest.raises(InputError, match=r"rates \(\('encoder: 0.1',\) before"):
    resolve(cohort, tmp_path)


def test_epochs_of_a_cosine_schedule_stay(cohort, tmp_path):
  cosine = "optimizer.schedule=cosine"
  resolve(cohort, tmp_path, cosine, "train.epochs=4")
  resolve(cohort, tmp_path, cosine, "train.epochs=4", "train.log_every_steps=9")
  with pytest.raises(InputError, match=r"epochs \(4 before, 5 now\).*cosine"):
    resolve(cohort, tmp_path, cosine, "train.epochs=5")


def test_checkpoints_of_nobody_knows_what_are_refused(cohort, tmp_path):
  (tmp_path / "checkpoints").mkdir()
  with pytest.raises(InputError, match="checkpoints but no config.json"):
    resolve(cohort, tmp_path)
  assert [path.name for path in tmp_path.iterdir()] == ["checkpoints"]


def test_packs_of_the_first_start_stay(cohort, tmp_path):
  first = resolve(cohort, tmp_path, "mesh.devices=2", devices=2)
  assert first.shape.packs == 2
  again = resolve(cohort, tmp_path, devices=1)
  assert again.shape == first.shape


def test_a_run_keeps_its_plan(tmp_path):
  folder = tmp_path / "records"
  helpers.write_cohort(folder, participants=60)
  first = resolve(folder, tmp_path / "run", "data.scans_per_step=1")
  assert first.config.data.steps_per_epoch == 35  # 36 scans: less filler
  assert first.shape.steps_per_epoch == 35
  again = resolve(folder, tmp_path / "run", "data.scans_per_step=1")
  assert again.config.to_dict() == first.config.to_dict()
  # As a run of before wrote it: it took the number nearest to what was asked.
  path = tmp_path / "run" / "config.json"
  fields = json.loads(path.read_text())
  del fields["data"]["steps_per_epoch"]
  path.write_text(json.dumps(fields))
  for _ in range(2):
    earlier = resolve(folder, tmp_path / "run", "data.scans_per_step=1")
    assert earlier.shape.steps_per_epoch == 36
  model_file.write_model_file(earlier, num_parameters=7)
  assert experiment.open_run(tmp_path / "run").shape == earlier.shape
  with pytest.raises(InputError, match="steps_per_epoch .0 before, 35 now"):
    resolve(
      folder,
      tmp_path / "run",
      "data.scans_per_step=1",
      "data.steps_per_epoch=35",
    )


def test_given_slices_leave_the_steps_to_follow(cohort, tmp_path):
  for _ in range(2):
    run = resolve(cohort, tmp_path, "data.pack_slices=16")
    assert run.config.data.steps_per_epoch is None
  with pytest.raises(InputError, match="follows from config.data.pack_slices"):
    resolve(
      cohort,
      tmp_path / "both",
      "data.pack_slices=16",
      "data.steps_per_epoch=3",
    )


@pytest.mark.parametrize(
  "override, message",
  [
    ("data.steps_per_epoch=99", "config.data.steps_per_epoch=99: 18 training"),
    ("data.packs=3", "config.data.packs=3: does not divide among 2 devices"),
    ("model.encoder.preset=huge", "config.model.encoder.preset='huge'"),
    ("train.epochs=0", "config.train.epochs=0: at least 1"),
    ("task.positive=sick", "config.task.positive='sick'"),
    ("task.classes=('a: normal', 'b: other')", "label 'glioma' of p001"),
    ("split.fractions=(0.9, 0.05, 0.2)", "config.split.fractions"),
    ("data.records=nowhere", "nowhere: no index.json"),
    ("data.records=", "config.data.records: unset"),
    ("model.head.readout=first", "config.model: .*readout"),
    ("train.class_weights=frequency", "config.train.class_weights='frequency'"),
    ("train.label_smoothing=1.0", "config.train.label_smoothing=1.0: less"),
    ("train.mixup=-1", "config.train.mixup=-1.0: at least 0"),
    ("data.sampling=class", "class_weights='inverse' and config.data.sampling"),
    ("task.negative=normal", "config.task.negative='normal': .* three"),
    ("model.output=hierarchical", "set config.task.negative"),
    ("model.head.num_layers=0", "config.model: .*num_layers"),
    ("model.head.budget=3", "config.model: .*budget"),
    ("augment.scale=1.0", "config.augment.scale=1.0: .* from 0 to 0.9"),
    ("augment.noise=-0.1", "config.augment.noise=-0.1: .* from 0 to 5"),
    ("augment.gamma=(0.7,)", "config.augment.gamma=.*two exponents"),
    ("augment.gamma=(1.5, 0.7)", "config.augment.gamma=.*lower exponent first"),
  ],
)
def test_what_does_not_fit_is_refused_and_leaves_nothing(
  cohort, tmp_path, override, message
):
  with pytest.raises(InputError, match=message):
    resolve(cohort, tmp_path / "run", override, devices=2)
  assert list(tmp_path.iterdir()) == []


def test_class_with_one_group_is_refused(tmp_path):
  rng = np.random.default_rng(0)
  scans = [
    helpers.random_record(
      rng, participant_id=f"p{i}", label="glioma" if i == 0 else "normal"
    )
    for i in range(9)
  ]
  helpers.write_records(tmp_path / "records", scans)
  with pytest.raises(InputError, match=r"class 'tumour' has no group.*1 in"):
    resolve(tmp_path / "records", tmp_path / "run")
  assert not (tmp_path / "run").exists()


def test_unknown_and_ignored_labels_take_no_part(tmp_path):
  rng = np.random.default_rng(0)
  labels = ["normal", "glioma"] * 6 + ["", "stroke"]
  scans = [
    helpers.random_record(rng, participant_id=f"p{i}", label=label)
    for i, label in enumerate(labels)
  ]
  helpers.write_records(tmp_path / "records", scans)
  run = resolve(
    tmp_path / "records", tmp_path / "run", "task.ignore=('stroke',)"
  )
  assert len(run.scans) == 12
  assert run.targets[-2:].tolist() == [-1, -1]


def test_class_weights_count_participants_not_scans(tmp_path):
  rng = np.random.default_rng(0)
  scans = []
  for i in range(20):
    label = "normal" if i % 2 else "glioma"
    # Three scans of every normal participant, one of every patient.
    for _ in range(3 if i % 2 else 1):
      scan = helpers.random_record(rng, participant_id=f"p{i}", label=label)
      scans.append(scan)
  helpers.write_records(tmp_path / "records", scans)
  run = resolve(tmp_path / "records", tmp_path / "run")
  assert run.class_weights == (1.0, 1.0)


@pytest.mark.parametrize(
  "overrides, message",
  [
    (
      ("train.logit_adjustment=1", "data.sampling=source"),
      "data.sampling='source' and config.train.logit_adjustment=1.0: both",
    ),
    (("train.mixup=1", "train.hard_negatives=3"), "a mix has no one class"),
    (("train.mixup=1", "model.output=hierarchical"), "only a linear"),
    (("train.label_smoothing=0.1", "train.loss=focal"), "leave one out"),
    (
      ("train.objective=reconstruct", "train.class_weights=inverse")
      + ("data.sampling=class",),
      "config.data.sampling='class': is of classes",
    ),
  ],
)
def test_remedies_that_do_not_go_together_are_refused(
  cohort, tmp_path, overrides, message
):
  with pytest.raises(InputError, match=message):
    resolve(cohort, tmp_path, "train.class_weights=none", *overrides)


def test_loss_and_sampling_are_of_the_training_participants(tmp_path):
  rng = np.random.default_rng(0)
  labels = ["normal"] * 20 + ["glioma"] * 10
  scans = [
    helpers.random_record(rng, participant_id=f"p{i}", label=label)
    for i, label in enumerate(labels)
  ]
  helpers.write_records(tmp_path / "records", scans)
  off = "train.class_weights=none"

  def settings_of(name, *overrides):
    run = resolve(tmp_path / "records", tmp_path / name, off, *overrides)
    return run, run.build()[2].loss

  # 12 and 6 of 30 are of the training split.
  run, loss = settings_of("adjusted", "train.logit_adjustment=2.0")
  np.testing.assert_allclose(
    loss.adjustment, 2 * np.log([2 / 3, 1 / 3]), rtol=1e-6
  )
  assert run.class_weights == (1.0, 1.0)
  np.testing.assert_allclose(run.validation_weights, [0.5, 2.0])
  run, loss = settings_of("mined", "train.hard_negatives=2")
  assert (loss.hard_negatives, loss.frequent) == (2, 0)
  assert run.validation_weights == (1.0, 1.0)
  assert run.sampling is None
  run, loss = settings_of(
    "sampled", "data.sampling=class", "train.loss=focal", "train.mixup=0.3"
  )
  assert (loss.focal_gamma, loss.mixup, loss.adjustment) == (2.0, 0.3, ())
  assert run.sampling is not None
  of_class = run.targets[run.subset("train")]
  np.testing.assert_allclose(run.sampling.expected[of_class == 0], 9 / 12)
  np.testing.assert_allclose(run.sampling.expected[of_class == 1], 9 / 6)
  np.testing.assert_allclose(run.validation_weights, [0.75, 1.5])
  model_file.write_model_file(run, num_parameters=7)
  again = experiment.open_run(tmp_path / "sampled")
  assert again.sampling.parts == run.sampling.parts
  assert again.build()[2] == run.build()[2]


def test_what_an_older_run_does_not_know_has_its_default(cohort, tmp_path):
  run = resolve(cohort, tmp_path)
  model_file.write_model_file(run, num_parameters=7)
  for name, gone in (
    ("config.json", (("task", "negative"), ("data", "sampling"))),
    ("model.json", (("model", "output"),)),
  ):
    path = tmp_path / name
    fields = json.loads(path.read_text())
    for section, field in gone:
      del fields[section][field]
    fields.pop("negative", None)
    path.write_text(json.dumps(fields))
  again = experiment.open_run(tmp_path)
  assert again.config.to_dict() == run.config.to_dict()
  assert trained.read_model_file(tmp_path)["model"]["output"] == "flat"
  assert again.negative is None


def test_run_of_other_records_is_refused(cohort, tmp_path):
  run = resolve(cohort, tmp_path)
  model_file.write_model_file(run, num_parameters=7)
  model = json.loads((tmp_path / "model.json").read_text())
  model["records_sha256"] = "0" * 64
  (tmp_path / "model.json").write_text(json.dumps(model))
  with pytest.raises(InputError, match="not the records this run"):
    experiment.open_run(tmp_path)
  with pytest.raises(InputError, match="not the records this run"):
    resolve(cohort, tmp_path)  # to continue it


@pytest.mark.parametrize("unit", ["participant_id", "group_id"])
def test_a_split_by_slices_is_refused(tmp_path, unit):
  """Slices of one person as scans of their own, on two sides of the split."""
  record_set = helpers.write_cohort(tmp_path / "records", participants=12)
  rows = [
    row | {"split": ["train", "train", "validation", "test"][i // 2 % 4]}
    for i, row in enumerate(map(dict, record_set.rows))
  ]
  rows[6][unit] = rows[0][unit]  # test and train
  path = tmp_path / "records" / "manifest.csv"
  records.write_csv(path, list(rows[0]), rows)
  with pytest.raises(InputError, match=f"{unit} 'p000' lies in the train and"):
    resolve(tmp_path / "records", tmp_path / "run")
  assert not (tmp_path / "run").exists()
