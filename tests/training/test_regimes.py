"""Runs that reconstruct, and runs that start from them."""

import csv
import io
import itertools
import json
import pathlib
import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rich.console
from sklearn import decomposition

import helpers
from brainjax import InputError, predict, records
from brainjax.cohort import manifest
from brainjax.evaluation import evaluate, report
from brainjax.records import unpack_bits
from brainjax.training import (
  encode,
  experiment,
  model_file,
  scans,
  starting_point,
  step,
  train,
  trained,
)
from brainjax.training import runner as runner_lib
from brainjax.training.runner import Runner

PRETRAIN = (
  "train.objective=reconstruct",
  "train.epochs=3",
  "model.decoder.code_channels=2",
  "optimizer.learning_rate=1e-2",
)
FROZEN = "model.encoder.statistics=frozen", "optimizer.rates=('encoder: 0',)"


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
  """Writes scans of two classes, and two whose label is unknown."""
  folder = tmp_path_factory.mktemp("cohort") / "records"
  rng = np.random.default_rng(0)
  labels = ["", *["normal", "glioma"] * 6, "", *["normal", "glioma"] * 6]
  helpers.write_records(
    folder,
    [
      helpers.random_record(
        rng,
        num_slices=int(rng.integers(1, 5)),
        label=label,
        participant_id=f"p{i:03d}",
        brightness=0.8 * (label == "glioma"),
      )
      for i, label in enumerate(labels)
    ],
  )
  return folder


def start(config, workdir):
  output = io.StringIO()
  console = rich.console.Console(file=output, width=1000)
  train.train(config, workdir, console=console)
  return output.getvalue()


@pytest.fixture(scope="module")
def pretrained(cohort, tmp_path_factory):
  workdir = tmp_path_factory.mktemp("runs") / "pretrained"
  printed = start(helpers.micro_config(cohort, *PRETRAIN), workdir)
  assert "micro + decoder" in printed and "squared error" in printed
  return workdir


def read_json(path):
  return json.loads(path.read_text())


def test_pretraining_uses_scans_of_unknown_label(cohort, pretrained):
  with open(pretrained / "splits.csv", newline="") as file:
    rows = list(csv.DictReader(file))
  assert len(rows) == 26
  assert [row["class"] for row in rows].count("") == 2
  classify = experiment.resolve(
    helpers.micro_config(cohort), pretrained.parent / "classify", 1
  )
  # The unknown ones move nobody else, so that a head may follow.
  by_person = {row["participant_id"]: row["split"] for row in rows}
  assert len(classify.scans) == 24
  for scan in classify.scans:
    assert by_person[scan["participant_id"]] == scan["split"]


def test_pretraining_logs_a_falling_error(pretrained):
  text = (pretrained / "metrics.jsonl").read_text()
  lines = [json.loads(line) for line in text.splitlines()]
  losses = [x["validation/loss"] for x in lines if "validation/loss" in x]
  assert len(losses) == 3 and losses[-1] < losses[0] / 2
  assert not any("train/accuracy" in x for x in lines)
  assert set(trained.load_trained(pretrained).variables["params"]) == {
    "encoder",
    "decoder",
  }


def test_the_validation_error_is_that_of_the_brain(cohort, pretrained):
  run = experiment.open_run(pretrained)
  runner = Runner(run)
  subset = run.scored("validation")
  found = runner.score(subset)[:, 0]
  drawn = dict(runner.reconstruct(subset))
  for index, value in zip(subset, found, strict=True):
    slices = run.record_set[int(index)].intensities()
    brain = slices != 0
    error = np.square(slices - drawn[int(index)]["drawn"])[brain].mean()
    assert value == pytest.approx(error, rel=1e-4)


def flat(run, index):
  record = run.record_set[int(index)]
  return record.intensities().reshape(len(record.slices), -1)


def test_scores_and_page_of_an_auto_encoder(pretrained):
  scores = evaluate.evaluate(pretrained, "test")
  found = scores["reconstruction"]
  assert found["code_size"] == 2 * 2 * 2
  assert found["pca_coefficients"] == 8
  assert found["n"] == scores["n"] == 5
  run = experiment.open_run(pretrained)
  with np.load(pretrained / "reconstructions_test.npz") as kept:
    names = [name for name in kept if name.isdigit()]
    drawn = {name: kept[name] for name in kept}
  assert len(names) == 4
  for name in names:
    record = run.record_set[int(name)]
    assert (
      drawn[name].shape == drawn[f"{name}_pca"].shape == (record.slices.shape)
    )
  fitted = decomposition.PCA(8, svd_solver="full").fit(
    np.concatenate([flat(run, index) for index in run.subset("train")])
  )
  for name in names:
    codes = fitted.transform(flat(run, int(name)))
    np.testing.assert_allclose(
      drawn[f"{name}_pca"].reshape(len(codes), -1),
      fitted.inverse_transform(codes),
      atol=1e-4,
    )
  page = report.write_report([pretrained]).read_text()
  assert "a PCA with 8 coefficients" in " ".join(page.split())
  assert "embeddings of the auto-encoder" in page
  assert (pretrained / "figures" / "reconstructions.png").is_file()
  with pytest.raises(InputError, match="classifies nothing"):
    report.write_report([pretrained, pretrained])


def test_psnr_is_that_of_the_definition(pretrained):
  evaluate.evaluate(pretrained, "validation")
  run = experiment.open_run(pretrained)
  subset = run.scored("validation")
  runner = Runner(run)
  runner_lib.restore_best(runner)
  values = []
  for index, outputs in runner.reconstruct(subset):
    record = run.record_set[index]
    brain = unpack_bits(record.brain_mask, record.slices.shape[2])
    wanted, drawn = record.intensities()[brain], outputs["drawn"][brain]
    peak = wanted.max() - wanted.min()
    error = np.mean((wanted.astype(np.float64) - drawn) ** 2)
    values.append(20 * np.log10(peak / np.sqrt(error)))
  found = read_json(pretrained / "metrics.json")["validation"]
  assert found["reconstruction"]["psnr"]["value"] == pytest.approx(
    np.mean(values), rel=1e-4
  )


@pytest.mark.slow  # another run
def test_a_frozen_encoder_stays_as_it_was(cohort, pretrained, tmp_path):
  config = helpers.micro_config(
    cohort,
    f"model.init_from={pretrained}",
    *FROZEN,
    "train.epochs=2",
    "optimizer.ema_decay=0.9",  # which answers, and starts from there too
  )
  printed = start(config, tmp_path / "run")
  assert "(encoder) start from" in printed
  assert "drawn at random: classifier, head" in printed
  assert "not used of it: decoder" in printed
  before = trained.load_trained(pretrained)
  after = trained.load_trained(tmp_path / "run")
  for kind in ("params", "batch_stats"):
    jax.tree.map(
      np.testing.assert_array_equal,
      before.variables[kind]["encoder"],
      after.variables[kind]["encoder"],
    )
  assert after.facts["encoder_group_ids"] == before.facts["encoder_group_ids"]
  assert after.facts["start"]["sha256"] == before.checkpoint_sha256


@pytest.mark.parametrize("frozen", [True, False])
def test_whom_the_encoder_was_fitted_on(cohort, pretrained, tmp_path, frozen):
  config = helpers.micro_config(
    cohort, f"model.init_from={pretrained}", *(FROZEN if frozen else ())
  )
  run = experiment.resolve(config, tmp_path, 1)
  names = ("encoder_group_ids", "model_group_ids", "selection_group_ids")
  start = {"path": "a", "sha256": "f"} | {name: [name] for name in names}
  model_file.write_model_file(run, 7, start)
  here = {
    split: {s["group_id"] for s in run.scans if s["split"] == split}
    for split in ("train", "validation")
  }
  found = read_json(tmp_path / "model.json")
  encoder = {names[0]} | (set() if frozen else here["train"])
  assert found[names[0]] == sorted(encoder)
  assert found[names[1]] == sorted({*names[:2], *here["train"]})
  assert found[names[2]] == sorted({names[2], *here["validation"]})


def test_attention_in_the_plane_is_part_of_what_describes_a_slice(
  cohort, pretrained, tmp_path
):
  config = helpers.micro_config(
    cohort,
    f"model.init_from={pretrained}",
    *FROZEN,
    "model.attention.in_plane=distance",
  )
  run = experiment.resolve(config, tmp_path, 1)
  assert not run.encoder_is_frozen


def test_an_encoder_that_has_seen_them_is_refused(cohort, pretrained, tmp_path):
  config = helpers.micro_config(
    cohort, f"model.init_from={pretrained}", "split.seed=1"
  )
  with pytest.raises(InputError, match="was fitted on") as refused:
    experiment.resolve(config, tmp_path / "run", 1)
  assert "\n" not in str(refused.value)
  assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
  ("override", "message"),
  [
    ("model.encoder.preset=tiny", "config.model: slices of 16x16 pixels are"),
    ("model.init_from=/nowhere", "cannot read"),
  ],
)
def test_what_cannot_start_is_refused(
  cohort, pretrained, tmp_path, override, message
):
  config = helpers.micro_config(
    cohort, f"model.init_from={pretrained}", override
  )
  with pytest.raises(InputError, match=message) as refused:
    experiment.resolve(config, tmp_path / "run", 1)
  assert "\n" not in str(refused.value)


def test_modules_are_taken_whole_or_not_at_all():
  def tree(seed, **sizes):
    rng = np.random.default_rng(seed)
    modules = {n: {"kernel": rng.normal(size=(s, 2))} for n, s in sizes.items()}
    return {"params": modules, "batch_stats": {"encoder": {"mean": np.ones(3)}}}

  def point(**sizes):
    return starting_point.StartingPoint(
      pathlib.Path("runs/a"), "f" * 64, tree(0, **sizes), classes=("a", "b")
    )

  wanted = tree(1, classifier=5, encoder=3, head=4)  # jax sorts names
  same = point(encoder=3, head=4, classifier=5)
  found, said = starting_point.start_from(same, wanted, ("a", "b"))
  assert list(found["params"]) == ["classifier", "encoder", "head"]
  assert said.startswith("24 parameters (classifier, encoder, head) start")
  found, said = starting_point.start_from(same, wanted, ("b", "a"))
  assert list(found["params"]) == ["encoder", "head"]
  assert said.endswith("drawn at random: classifier")
  other_head = point(encoder=3, head=6, classifier=5)
  found, said = starting_point.start_from(other_head, wanted, ("a", "b"))
  assert list(found["params"]) == ["encoder"]
  with pytest.raises(InputError, match=r"\(encoder\['kernel'\] is \(2, 2\)"):
    starting_point.start_from(point(encoder=2), wanted, ("a", "b"))
  deeper = point(encoder=3)
  deeper.variables["params"]["encoder"]["more"] = np.ones(1)
  with pytest.raises(InputError, match="more layers in encoder"):
    starting_point.start_from(deeper, wanted, ("a", "b"))


@pytest.mark.parametrize(
  ("overrides", "message"),
  [
    (FROZEN, "rates: 'encoder: 0.0' would leave it"),
    (("optimizer.rates=('encoder: 0.1',)",), "'encoder: 0.1' would leave it"),
    (("optimizer.rates=('encodr: 2',)",), "'encodr' fits no parameter"),
    (("optimizer.ema_decay=1",), "ema_decay=1.0: at least 0, and below 1"),
    (("optimizer.clip_norm=0",), "clip_norm=0.0: give more than 0"),
    (("optimizer.name=adagrad",), "'adagrad': choose one of .*'lamb'"),
    (
      ("optimizer.schedule=cosine", "optimizer.warmup_epochs=4"),
      "warmup_epochs=4.0: give fewer than config.train.epochs=4",
    ),
    (("model.decoder.code_channels=0",), "code_channels=0: at least 1"),
    (("model.decoder.widths=(8,0)",), "each at least 1"),
    (("train.reconstruction_weights=('a',1)",), "give two numbers"),
    (
      ("train.objective=reconstruct", "model.attention.slice_axis=distance"),
      "classifies nothing",
    ),
    (("train.objective=reconstruct", "task.positive="), "name one of the two"),
  ],
)
def test_what_does_not_go_together_is_refused(
  cohort, tmp_path, overrides, message
):
  config = helpers.micro_config(cohort, *overrides)
  with pytest.raises(InputError, match=message) as refused:
    experiment.resolve(config, tmp_path / "run", 1)
  assert "\n" not in str(refused.value)
  assert not (tmp_path / "run").exists()


def test_a_cohort_without_labels_can_be_reconstructed(tmp_path):
  rng = np.random.default_rng(0)
  helpers.write_records(
    tmp_path / "records",
    [
      helpers.random_record(rng, label="", participant_id=f"p{i}")
      for i in range(8)
    ],
  )
  config = helpers.micro_config(tmp_path / "records", *PRETRAIN)
  run = experiment.resolve(config, tmp_path / "run", 1)
  model_file.write_model_file(run, 7)
  text = (tmp_path / "run" / "model.json").read_text()
  assert "Infinity" not in text and len(run.scored("test")) > 0


def test_a_split_of_the_manifest_holds_for_unknown_labels_too():
  rows = [
    {
      "participant_id": f"p{i}",
      "session_id": "",
      "group_id": f"p{i}",
      "label": label,
      "fold": str(fold),
    }
    for i, (label, fold) in enumerate(
      [("normal", 0), ("glioma", 1), ("normal", 2), ("", 1)]
    )
  ]
  record_set: Any = types.SimpleNamespace(rows=rows)
  config = helpers.micro_config(
    pathlib.Path(), *PRETRAIN, "split.folds=3", "split.fold=1"
  )
  found = scans.assign_scans(config, record_set)
  assert [scan["split"] for scan in found] == [
    "train",
    "test",
    "validation",
    "test",
  ]


@pytest.mark.parametrize(
  "unlabelled, allowed",
  [("aaaa", {"test"}), ("bbbb", {"train", "validation"}), ("ab", None)],
)
def test_unknown_labels_need_not_be_of_the_source_that_tests(
  unlabelled, allowed
):
  rows = [
    {
      "participant_id": f"p{i}",
      "session_id": "",
      "group_id": f"p{i}",
      "label": label,
      "source": source,
    }
    for i, (label, source) in enumerate(
      [
        *itertools.product(("normal", "glioma"), "aabbbccc"),
        *(("", source) for source in unlabelled),
      ]
    )
  ]
  record_set: Any = types.SimpleNamespace(rows=rows)
  config = helpers.micro_config(pathlib.Path(), *PRETRAIN, "split.source=a")
  found = scans.assign_scans(config, record_set)
  for scan in found:
    assert (scan["split"] == "test") == (scan["source"] == "a")
  if allowed:
    assert {scan["split"] for scan in found if not scan["label"]} == allowed


def test_an_auto_encoder_has_no_answer(pretrained, tmp_path):
  path = tmp_path / "manifest.csv"
  records.write_csv(
    path,
    ["participant_id", "label", "t1"],
    [{"participant_id": "a", "t1": "a.nii"}],
  )
  (tmp_path / "a.nii").touch()
  with pytest.raises(InputError, match="which has no answer"):
    predict.predict(
      [pretrained], manifest.read_manifest(path), tmp_path / "out"
    )


def test_features_of_an_auto_encoder(pretrained, tmp_path):
  summary = encode.encode(pretrained, tmp_path / "features")
  assert summary.num_scans == 26
  index = read_json(tmp_path / "features" / "index.json")
  seen = trained.load_trained(pretrained).facts["encoder_group_ids"]
  assert tuple(index["encoder"]["encoder_group_ids"]) == seen


@pytest.mark.slow
def test_joint_training_weighs_the_two_losses(cohort, tmp_path):
  run = experiment.resolve(
    helpers.micro_config(
      cohort,
      "train.objective=joint",
      "train.reconstruction_weights=(2.0, 0.5)",
      "train.anneal_epochs=2",
      "model.dropout=0.0",
      "augment.flip=False",
      "augment.rotation_degrees=0.0",
      "augment.scale=0.0",
      "augment.translation=0.0",
    ),
    tmp_path,
    1,
  )
  steps = run.shape.steps_per_epoch
  runner = Runner(run)
  batch = next(iter(runner.training_batches(first_step=0, num_steps=1)))
  model, _, settings = run.build()
  assert settings.anneal_steps == 2 * steps

  class _Gradients:
    """An optimizer that hands the gradients out."""

    def init(self, params):
      return params

    def update(self, gradients, state, params):
      return jax.tree.map(jnp.zeros_like, gradients), gradients

  optimizer: Any = _Gradients()
  take = jax.jit(step.make_train_step(model, optimizer, settings))
  first = step.init_state(model, optimizer, settings, batch)
  found = []
  for at in (0, steps, 2 * steps, 9 * steps):
    after, metrics = take(first.replace(step=jnp.int32(at)), batch)
    # Only the squared error moves what only the decoder has.
    found.append(float(after.opt_state["decoder"]["bias"][0]))
    assert {"loss", "reconstruction", "correct", "labelled"} <= set(metrics)
  np.testing.assert_allclose(
    np.divide(found, found[0]), [1, 1.25 / 2, 0.25, 0.25], rtol=1e-4
  )
