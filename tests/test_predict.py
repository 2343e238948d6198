"""New scans through a run of which nothing is left but what predict needs."""

import csv
import dataclasses
import json
import os
import pathlib
import shutil
import subprocess
import sys

import jax
import matplotlib.image
import nibabel as nib
import numpy as np
import pytest

import dicom_files
import helpers
from brainjax import InputError, config, predict, records
from brainjax.checkpoint import Checkpoints
from brainjax.cohort import manifest as manifest_lib
from brainjax.evaluation import evaluate, external
from brainjax.preparation import prepare
from brainjax.training import experiment, model_file, trained
from brainjax.training.runner import Runner
from preparation import tiny_head

SPACING = (12.0, 12.0, 12.0)


def write_scan(path, *, tumour, seed, spacing_mm=SPACING):
  """Writes a stripped head in LPI order; the origin is its centre."""
  path.parent.mkdir(parents=True, exist_ok=True)
  array, _, there = tiny_head.tiny_head(spacing_mm, stripped=True, seed=seed)
  array = np.where(there & (not tumour), 100, array)[::-1, ::-1, ::-1]
  affine = np.diag([*(-np.array(spacing_mm)), 1.0])
  affine[:3, 3] = (np.array(array.shape) - 1) / 2 * spacing_mm
  nib.save(nib.Nifti1Image(array.astype(np.float32), affine), path)
  return path


@dataclasses.dataclass(frozen=True)
class Run:
  """A run, and what evaluate said of it.

  Attributes:
    workdir: Holds `model.json` and `checkpoints`, nothing else.
    scans: Folder of the files.
    test: Rows of evaluate's `predictions.csv`.
  """

  workdir: pathlib.Path
  scans: pathlib.Path
  test: list[dict[str, str]]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  """Of eight devices; its records, config and splits are gone."""
  folder = tmp_path_factory.mktemp("predict")
  rows = []
  for i in range(24):
    file = write_scan(folder / "scans" / f"p{i}.nii", tumour=i % 2, seed=i)
    label = ["normal", "glioma"][i % 2]
    row = {"participant_id": f"p{i}", "label": label, "t1": str(file)}
    rows.append(row)
  table = folder / "manifest.csv"
  manifest_lib.write_manifest(table, rows, list(rows[0]))
  section = tiny_head.settings(num_slices=6)
  prepare.prepare(table, folder / "records", section)
  config = helpers.micro_config(
    folder / "records",
    "mesh.devices=8",
    "data.scans_per_step=8",
    "data.intensity=nyul",
    "eval.resamples=20",
  )
  whole = folder / "whole"
  # As training leaves it after an epoch, without compiling the training step.
  runner = Runner(experiment.resolve(config, whole, 8))
  model_file.write_model_file(runner.experiment, runner.num_parameters)
  save(whole, runner.state)
  evaluate.evaluate(whole, "test")
  test = read_rows(whole / "predictions.csv")
  workdir = folder / "run"
  workdir.mkdir()
  shutil.copy(whole / "model.json", workdir)
  shutil.copytree(whole / "checkpoints", workdir / "checkpoints")
  shutil.rmtree(folder / "records")
  shutil.rmtree(whole)
  return Run(workdir, folder / "scans", test)


@pytest.fixture(scope="module")
def answers(run, tmp_path_factory):
  """Output of `predict` for the run's test scans."""
  out = tmp_path_factory.mktemp("answers") / "deep" / "out"
  files = [run.scans / f"{row['participant_id']}.nii" for row in run.test]
  predict.predict([run.workdir], manifest_of(run, files), out)
  return out


def test_a_dicom_folder_gives_the_answer_of_the_same_nifti_file(
  run, answers, tmp_path
):
  row = run.test[0]
  image = nib.load(run.scans / f"{row['participant_id']}.nii")
  array = (10 * image.get_fdata()).round().astype(np.int16)
  dicom_files.write_series(tmp_path / "scan.1", array, image.affine)
  out = tmp_path / "out"
  predict.predict([run.workdir], manifest_of(run, [tmp_path / "scan.1"]), out)
  (found,) = read_rows(out / "predictions.csv")
  assert found["participant_id"] == "scan.1"
  probability = float(found["proba_tumour"])
  assert probability == pytest.approx(float(row["proba_tumour"]), abs=0.02)
  for file in out.glob("*.[cj]s*"):
    assert not any(word in file.read_text() for word in ("Doe", "MRN", "2021"))


def manifest_of(run, scans=(), **images):
  return predict.manifest_of_scans([run.workdir], scans, images)


def save(workdir, state):
  """Writes the best checkpoint, and a later one of other parameters."""
  other = jax.jit(lambda tree: jax.tree.map(lambda x: x + 1, tree))(state)
  with Checkpoints(workdir / "checkpoints", keep=1) as checkpoints:
    loop = {"best_step": 3}
    checkpoints.save(3, state, loop=loop, best_step=3)
    checkpoints.save(5, other, loop=loop, best_step=3)


def read_rows(path):
  with open(path, newline="") as file:
    return list(csv.DictReader(file))


def another_run(run, folder, *, variables=None, **facts):
  """A run like another, with some facts and all parameters changed."""
  original = trained.load_trained(run.workdir)
  folder.mkdir(parents=True)
  if variables is None:
    variables = jax.tree.map(lambda leaf: 1.5 * leaf, original.variables)
  (folder / "model.json").write_text(json.dumps(original.facts | facts))
  save(folder, variables)
  return folder


def proba(row):
  return [float(row["proba_normal"]), float(row["proba_tumour"])]


def test_probabilities_are_those_of_evaluate(run, answers):
  rows = read_rows(answers / "predictions.csv")
  assert len(rows) == len(run.test) > 3
  for row, expected in zip(rows, run.test, strict=True):
    assert row["participant_id"] == expected["participant_id"]
    assert proba(row) == pytest.approx(proba(expected), abs=1e-5)
    assert row["predicted_label"] == expected["predicted_label"]
  assert np.ptp([proba(row)[0] for row in rows]) > 1e-3  # else all would pass


@pytest.mark.slow
def test_other_records_get_the_same_standard_scale(run, tmp_path):
  model = trained.load_trained(run.workdir)
  assert model.facts["intensity"]["method"] == "nyul"
  rows = [
    {
      "participant_id": row["participant_id"],
      "label": "",
      "t1": str(run.scans / f"{row['participant_id']}.nii"),
    }
    for row in run.test[:3]
  ]
  manifest_lib.write_manifest(tmp_path / "m.csv", rows, list(rows[0]))
  section = tiny_head.settings(num_slices=6)
  prepare.prepare(tmp_path / "m.csv", tmp_path / "other", section)
  found = external.score_scans(
    model,
    records.RecordSet(tmp_path / "other"),
    np.arange(3),
    config.get_config().data,
  )
  wanted = [proba(row) for row in run.test[:3]]
  np.testing.assert_allclose(np.exp(found), wanted, atol=1e-5)


@pytest.mark.slow
def test_one_device_is_enough(run, tmp_path):
  file = run.scans / f"{run.test[0]['participant_id']}.nii"
  (tmp_path / "bad.nii").write_text("no image")
  command = [sys.executable, "-m", "brainjax.cli", "predict", "--out=out"]
  result = subprocess.run(
    [*command, f"--workdir={run.workdir}", str(file), "bad.nii"],
    cwd=tmp_path,
    env=os.environ | {"JAX_NUM_CPU_DEVICES": "1"},
    capture_output=True,
    text=True,
    check=False,
    timeout=300,
  )
  assert result.returncode == 0, result.stderr
  assert result.stderr.splitlines() == [
    f"rejected: {tmp_path / 'bad.nii'}: "
    + read_rows(tmp_path / "out" / "rejected.csv")[0]["reason"]
  ]
  (row,) = read_rows(tmp_path / "out" / "predictions.csv")
  assert proba(row) == pytest.approx(proba(run.test[0]), abs=1e-5)
  for part in (file.stem, row["predicted_label"], "1 scan", predict.NOTICE):
    assert part in result.stdout


def test_json_says_where_each_slice_lies_in_the_file(run, answers):
  name = run.test[0]["participant_id"]
  content = json.loads((answers / f"{name}.json").read_text())
  (file,) = content["files"]["t1"]
  image = nib.load(file)
  centre = [(n - 1) / 2 for n in image.shape]
  assert len(content["slices"]) == 6
  for entry in content["slices"]:
    assert entry["file_axis"] == 2
    voxel = [*centre[:2], entry["file_index"], 1]
    assert entry["position_mm"] == pytest.approx((image.affine @ voxel)[2])
  positions = [entry["position_mm"] for entry in content["slices"]]
  assert positions == sorted(positions)
  (row,) = [
    r
    for r in read_rows(answers / "predictions.csv")
    if r["participant_id"] == name
  ]
  assert content["predicted_label"] == row["predicted_label"]
  assert list(content["probabilities"].values()) == pytest.approx(proba(row))
  assert content["warnings"] == []
  assert content["notice"] == predict.NOTICE


def test_json_says_which_model_answered(run, answers):
  name = run.test[0]["participant_id"]
  content = json.loads((answers / f"{name}.json").read_text())
  (model,) = content["runs"]
  model_file = run.workdir / "model.json"
  assert model["workdir"] == str(run.workdir)
  assert model["model_sha256"] == predict.records.sha256_of(model_file)
  assert model["step"] == 3
  manifest = run.workdir / "checkpoints" / "3.sha256.json"
  assert model["checkpoint_sha256"] == predict.records.sha256_of(manifest)
  assert content["environment"]["jax"] == jax.__version__


def test_pictures_are_whole(answers):
  names = {row["scan"] for row in read_rows(answers / "predictions.csv")}
  assert {path.stem for path in answers.glob("*.png")} == names
  assert {path.stem for path in answers.glob("*.json")} == names
  others = {p.name for p in answers.iterdir() if p.suffix == ".csv"}
  assert others == {"predictions.csv", "rejected.csv"}
  for path in answers.glob("*.png"):
    assert matplotlib.image.imread(path).shape[1] == 1280


def test_runs_answer_with_the_mean_of_their_probabilities(run, tmp_path):
  scans = manifest_of(run, [run.scans / "p0.nii"])
  workdirs = [run.workdir, another_run(run, tmp_path / "other")]
  alone = []
  for i, workdir in enumerate(workdirs):
    predict.predict([workdir], scans, tmp_path / f"{i}")
    alone.append(proba(read_rows(tmp_path / f"{i}" / "predictions.csv")[0]))
  predict.predict(workdirs, scans, tmp_path / "both")
  (row,) = read_rows(tmp_path / "both" / "predictions.csv")
  assert proba(row) == pytest.approx(np.mean(alone, axis=0), abs=1e-6)
  assert abs(alone[0][0] - alone[1][0]) > 1e-3
  content = json.loads((tmp_path / "both" / "p0.json").read_text())
  given = [list(r["probabilities"].values()) for r in content["runs"]]
  np.testing.assert_allclose(given, alone, atol=1e-6)


@pytest.mark.parametrize(
  "facts, message",
  [
    ({"classes": ("a", "b")}, r"its classes is \('a', 'b'\)"),
    ({"modalities": ("t2",)}, r"preparation.modalities is \('t2',\)"),
    ({"preparation": {"height": 17}}, r"preparation.height is 17, .* is 16"),
  ],
  ids=["classes", "modalities", "preparation"],
)
def test_runs_that_differ_do_not_answer_together(run, tmp_path, facts, message):
  original = trained.read_model_file(run.workdir)
  if "preparation" in facts:
    facts = {"preparation": original["preparation"] | facts["preparation"]}
  (tmp_path / "model.json").write_text(json.dumps(original | facts))
  scans = manifest_of(run, [run.scans / "p0.nii"])
  with pytest.raises(InputError, match=message):
    predict.predict([run.workdir, tmp_path], scans, tmp_path / "out")
  assert not (tmp_path / "out").exists()


def test_shard_size_is_no_difference(run, tmp_path):
  original = trained.read_model_file(run.workdir)
  preparation = original["preparation"] | {"shard_scans": 7}
  content = original | {"preparation": preparation}
  (tmp_path / "model.json").write_text(json.dumps(content))
  trained.shared_facts([run.workdir, tmp_path])


def test_manifest_labels_and_masks_are_not_looked_at(run, tmp_path):
  for name in ("mask.nii", "bad.nii"):
    (tmp_path / name).write_text("no image")
  good = run.scans / "p1.nii"
  rows = [
    {"participant_id": "a b", "t1": str(good), "mask": "mask.nii"},
    {"participant_id": "c", "t1": "bad.nii"},
  ]
  rows = [r | {"session_id": "1", "source": "here", "label": ""} for r in rows]
  columns = ["participant_id", "session_id", "label", "source", "t1", "mask"]
  manifest_lib.write_manifest(tmp_path / "m.csv", rows, columns)
  scans = manifest_lib.read_manifest(tmp_path / "m.csv")
  seen = []

  def progress(items):
    for item in items:
      seen.append(item)
      yield item

  out = tmp_path / "out"
  summary = predict.predict([run.workdir], scans, out, progress=progress)
  assert len(seen) == 2
  (row,) = read_rows(out / "predictions.csv")
  kept = [row[name] for name in ("participant_id", "session_id", "source")]
  assert kept == ["a b", "1", "here"]
  assert row["scan"] == "a_b_1"
  assert list(row)[3:6] == ["predicted_label", "proba_normal", "proba_tumour"]
  (rejected,) = read_rows(out / "rejected.csv")
  assert rejected == summary.rejected[0]
  assert rejected["participant_id"] == "c"
  assert rejected["file"] == str(tmp_path / "bad.nii")


def test_scan_unlike_the_training_set_is_warned_of(run, tmp_path):
  other = write_scan(
    tmp_path / "thin.nii", tumour=True, seed=0, spacing_mm=(12.0, 12.0, 8.0)
  )
  out = tmp_path / "out"
  summary = predict.predict([run.workdir], manifest_of(run, [other]), out)
  expected = (
    "voxels 8.00 mm apart bottom to top; the training set had 12.00 to 12.00 mm"
  )
  assert ("thin", expected) in summary.warnings
  assert expected in read_rows(out / "predictions.csv")[0]["warnings"]
  assert expected in json.loads((out / "thin.json").read_text())["warnings"]


def test_what_preparation_found_suspicious_is_warned_of(run, tmp_path):
  image = nib.load(run.scans / "p0.nii")
  false = image.affine @ np.diag([3.0, 3.0, 3.0, 1.0])
  nib.save(nib.Nifti1Image(image.get_fdata(), false), tmp_path / "p0.nii")
  scans = manifest_of(run, [tmp_path / "p0.nii"])
  summary = predict.predict([run.workdir], scans, tmp_path / "out")
  texts = [text for _, text in summary.warnings]
  assert "mm, may be false" in texts[0]
  assert texts[-1].startswith("the brain spans")
  (row,) = read_rows(tmp_path / "out" / "predictions.csv")
  assert row["warnings"] == " | ".join(texts)


def test_a_run_that_knows_no_training_scans_says_so(run, tmp_path):
  other = another_run(run, tmp_path / "other", reference=None)
  manifest = manifest_of(run, [run.scans / "p0.nii"])
  summary = predict.predict([run.workdir, other], manifest, tmp_path / "out")
  ((_, text),) = summary.warnings
  assert "nothing is known of the training scans" in text and "other" in text


def test_equal_names_get_files_of_their_own(run, tmp_path):
  files = [
    write_scan(tmp_path / folder / "T1.nii.gz", tumour=True, seed=i)
    for i, folder in enumerate(["x y", "x_y"])
  ]
  out = tmp_path / "out"
  predict.predict([run.workdir], manifest_of(run, files), out)
  rows = read_rows(out / "predictions.csv")
  assert [row["participant_id"] for row in rows] == ["x y_T1", "x_y_T1"]
  assert [row["scan"] for row in rows] == ["x_y_T1", "x_y_T1-2"]
  for row, file in zip(rows, files, strict=True):
    content = json.loads((out / f"{row['scan']}.json").read_text())
    assert content["files"]["t1"] == [str(file)]
    assert (out / f"{row['scan']}.png").is_file()


def test_nothing_is_written_if_no_scan_can_be_read(run, tmp_path):
  (tmp_path / "bad.nii").write_text("no image")
  files = [tmp_path / "bad.nii", tmp_path / "absent.nii"]
  with pytest.raises(InputError, match="bad.nii: .*; no scan could be pred"):
    predict.predict([run.workdir], manifest_of(run, files), tmp_path / "out")
  assert not (tmp_path / "out").exists()


def test_answers_never_replace_those_of_a_run(run):
  scans = manifest_of(run, [run.scans / "p0.nii"])
  with pytest.raises(InputError, match="--out=.*: it holds a run"):
    predict.predict([run.workdir], scans, run.workdir)


def test_out_that_is_a_file_is_refused(run, tmp_path):
  (tmp_path / "out").write_text("")
  scans = manifest_of(run, [run.scans / "p0.nii"])
  with pytest.raises(InputError, match="--out=.*choose another folder"):
    predict.predict([run.workdir], scans, tmp_path / "out")


@pytest.fixture(scope="module")
def run_of_two(run, tmp_path_factory):
  """A run of the modalities t1c and flair, with random parameters."""
  original = trained.load_trained(run.workdir)
  rng = np.random.default_rng(0)
  variables = jax.tree.map(np.copy, original.variables)
  kernel = variables["params"]["encoder"]["conv0"]["kernel"]
  variables["params"]["encoder"]["conv0"]["kernel"] = np.float32(
    rng.normal(0, 0.3, (*kernel.shape[:2], 2, kernel.shape[3]))
  )
  reference, scale = (
    original.facts[name] for name in ("reference", "intensity")
  )
  values = scale["values"]["t1"]
  ranges = {
    name.replace("t1", modality): range_
    for name, range_ in reference["ranges"].items()
    for modality in ("t1c", "flair")
  }
  workdir = another_run(
    run,
    tmp_path_factory.mktemp("two") / "run",
    variables=variables,
    modalities=("t1c", "flair"),
    slice_shape=(16, 16, 2),
    reference=reference | {"ranges": ranges},
    intensity=scale | {"values": dict.fromkeys(("t1c", "flair"), values)},
  )
  return dataclasses.replace(run, workdir=workdir)


def test_one_scan_of_several_modalities(run_of_two, tmp_path):
  files = {"t1c": run_of_two.scans / "p1.nii"}
  alone = manifest_of(run_of_two, **files)
  summary = predict.predict([run_of_two.workdir], alone, tmp_path / "one")
  no_flair = "no flair, unlike the scans of the training set"
  assert summary.warnings == (("p1", no_flair),)
  files["flair"] = run_of_two.scans / "p3.nii"
  both = manifest_of(run_of_two, **files)
  summary = predict.predict([run_of_two.workdir], both, tmp_path / "two")
  assert summary.warnings == ()
  content = json.loads((tmp_path / "two" / "p1.json").read_text())
  assert content["files"] == {k: [str(v)] for k, v in files.items()}
  one = read_rows(tmp_path / "one" / "predictions.csv")[0]
  two = read_rows(tmp_path / "two" / "predictions.csv")[0]
  assert abs(proba(one)[0] - proba(two)[0]) > 1e-6


def test_other_modalities_are_refused(run, run_of_two, tmp_path):
  file = run.scans / "p0.nii"
  with pytest.raises(InputError, match="--t2=.*takes t1$"):
    manifest_of(run, t2=file)
  with pytest.raises(InputError, match="--t1c=FILE --flair=FILE"):
    manifest_of(run_of_two, [file])
  with pytest.raises(InputError, match="columns are t1; .* takes t1c, flair"):
    scans = manifest_of(run, [file])
    predict.predict([run_of_two.workdir], scans, tmp_path / "out")


def test_a_run_without_a_whole_epoch_is_refused(run, tmp_path):
  shutil.copy(run.workdir / "model.json", tmp_path)
  scans = manifest_of(run, [run.scans / "p0.nii"])
  with pytest.raises(InputError, match="no checkpoint of a whole epoch yet"):
    predict.predict([tmp_path], scans, tmp_path / "out")
  assert [path.name for path in tmp_path.iterdir()] == ["model.json"]


def test_a_model_file_of_another_version_says_what_to_run(run, tmp_path):
  facts = trained.read_model_file(run.workdir) | {"schema_version": 1}
  (tmp_path / "model.json").write_text(json.dumps(facts))
  with pytest.raises(InputError, match="version 1.*run `brainjax train` again"):
    trained.load_trained(tmp_path)
