"""The command line as a user meets it: words in, words and a status out."""

import csv
import gzip
import inspect
import json
import logging
import os
import pathlib
import subprocess
import sys
import types

import nibabel as nib
import numpy as np
import pytest

import helpers
from brainjax import cli
from brainjax.cohort import layouts
from brainjax.commands.cohort import LAYOUT_OF_OPTION
from brainjax.training import experiment, model_file

ROOT = pathlib.Path(__file__).parent.parent
SMOKE = str(ROOT / "configs" / "smoke.py")


def brainjax(*args, cwd=None, devices=1):
  return subprocess.run(
    [sys.executable, "-m", "brainjax.cli", *map(str, args)],
    capture_output=True,
    text=True,
    cwd=cwd,
    env=os.environ | {"JAX_NUM_CPU_DEVICES": str(devices)},
    timeout=300,
    check=False,
  )


@pytest.fixture
def here(tmp_path, monkeypatch, capfd):
  """The same in this process and in `tmp_path`; faster, for what is refused.

  A command of train, of predict and of prepare stays with `brainjax`.
  """
  loggers = [logging.getLogger(name) for name in ("", "absl", "nibabel.global")]
  levels = [logger.level for logger in loggers]
  monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)

  def run(*args):
    monkeypatch.chdir(tmp_path)
    capfd.readouterr()
    try:
      code = cli.main([str(arg) for arg in args])
    except SystemExit as end:
      code = end.code
    return subprocess.CompletedProcess(args, code, *capfd.readouterr())

  yield run
  for logger, level in zip(loggers, levels, strict=True):
    logger.setLevel(level)


def volume(shape=(12, 12, 8), seed=0):
  """A bright ball in noise."""
  rng = np.random.default_rng(seed)
  grid = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij")
  ball = sum(axis**2 for axis in grid) < 0.6
  return (rng.uniform(0, 5, shape) + 100 * ball).astype(np.float32)


def save(path, array, affine=None):
  image = nib.Nifti1Image(array, np.eye(4) if affine is None else affine)
  nib.save(image, path)


def write_manifest(folder, rows):
  with open(folder / "manifest.csv", "w", newline="") as file:
    writer = csv.DictWriter(file, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)


def row(name, participant_id="p0", label="normal"):
  return {"participant_id": participant_id, "label": label, "t1": name}


def one_scan(folder, name, make):
  make(folder / name)
  write_manifest(folder, [row(name)])


def truncated(path):
  save(path, volume())
  path.write_bytes(path.read_bytes()[:-200])


def singular(path):
  data = bytearray(nib.Nifti1Image(volume(), np.eye(4)).to_bytes())
  data[252:254] = bytes(2)  # qform_code: none
  data[312:328] = bytes(16)  # srow_z, the third row of the sform
  path.write_bytes(gzip.compress(bytes(data)))


def with_value(value):
  def make(path):
    array = volume()
    array[5, 5, 5] = value
    save(path, array)

  return make


BAD_SCANS = {
  "truncated": ("bad.nii.gz", truncated),
  "text": ("bad.nii", lambda path: path.write_text("not an image")),
  "empty_file": ("bad.nii.gz", lambda path: path.write_bytes(b"")),
  "empty_folder": ("bad", lambda path: path.mkdir()),
  "four_dimensions": (
    "bad.nii.gz",
    lambda path: save(path, np.stack([volume()] * 2, -1)),
  ),
  "all_zeros": ("bad.nii.gz", lambda path: save(path, 0 * volume())),
  "nan": ("bad.nii.gz", with_value(np.nan)),
  "infinite": ("bad.nii.gz", with_value(np.inf)),
  "singular_affine": ("bad.nii.gz", singular),
}


@pytest.mark.parametrize("kind", BAD_SCANS)
def test_bad_scan_ends_prepare(tmp_path, here, kind):
  name, make = BAD_SCANS[kind]
  one_scan(tmp_path, name, make)
  before = set(tmp_path.rglob("*"))
  command = "prepare", "manifest.csv", "--out", "out"
  # Of this one nibabel has something to say as well.
  apart = kind == "singular_affine"
  result = brainjax(*command, cwd=tmp_path) if apart else here(*command)
  assert_refused(result, name)
  assert set(tmp_path.rglob("*")) == before


BAD_MANIFESTS = {
  "missing_column": (
    [{"participant_id": "p0", "t1": "ok.nii.gz"}],
    "label",
  ),
  "duplicated_row": ([row("ok.nii.gz"), row("ok.nii.gz")], "manifest.csv"),
  "missing_file": ([row("absent.nii.gz")], "absent.nii.gz"),
}


@pytest.mark.parametrize("kind", BAD_MANIFESTS)
def test_bad_manifest_ends_prepare(tmp_path, here, kind):
  rows, named = BAD_MANIFESTS[kind]
  save(tmp_path / "ok.nii.gz", volume())
  write_manifest(tmp_path, rows)
  before = set(tmp_path.rglob("*"))
  assert_refused(here("prepare", "manifest.csv", "--out", "out"), named)
  assert set(tmp_path.rglob("*")) == before


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
  folder = tmp_path_factory.mktemp("cohort") / "records"
  helpers.write_cohort(folder)
  return folder


@pytest.fixture(scope="module")
def lonely_cohort(tmp_path_factory):
  """A cohort whose only patient cannot be in three splits."""
  folder = tmp_path_factory.mktemp("lonely") / "records"
  rng = np.random.default_rng(0)
  helpers.write_records(
    folder,
    [
      helpers.random_record(
        rng, participant_id=f"p{i}", label="normal" if i else "glioma"
      )
      for i in range(9)
    ],
  )
  return folder


BAD_TRAINING = {
  "typo": (["--config.optimizer.learning_rat=1"], "optimizer.learning_rate"),
  "packs": (["--config.data.packs=3"], "config.data.packs"),
  "no_records": (["--config.data.records=absent"], "absent"),
  "unknown_argument": (["--epochs=3"], "--epochs"),
}


@pytest.mark.parametrize("kind", BAD_TRAINING)
def test_bad_config_ends_train(tmp_path, cohort, here, kind):
  arguments, named = BAD_TRAINING[kind]
  command = (
    "train",
    f"--config={SMOKE}",
    "--workdir=run",
    f"--config.data.records={cohort}",
    *arguments,
  )
  apart = kind == "packs"
  result = (
    brainjax(*command, cwd=tmp_path, devices=2) if apart else here(*command)
  )
  assert_refused(result, named)
  assert list(tmp_path.iterdir()) == []


def test_class_with_one_subject_ends_train(tmp_path, lonely_cohort, here):
  result = here(
    "train",
    f"--config={SMOKE}",
    "--workdir=run",
    "--config.mesh.devices=1",
    f"--config.data.records={lonely_cohort}",
  )
  assert_refused(result, "config.split", "tumour")
  assert list(tmp_path.iterdir()) == []


def test_workdir_of_another_config_is_refused(tmp_path, cohort, here):
  config = helpers.micro_config(cohort)
  experiment.resolve(config, tmp_path / "run", 1)
  before = {path: path.read_bytes() for path in (tmp_path / "run").iterdir()}
  result = here(
    "train",
    f"--config={SMOKE}",
    "--workdir=run",
    "--config.mesh.devices=1",
    f"--config.data.records={cohort}",
  )
  assert_refused(result, "config.optimizer.learning_rate", "run")
  after = {path: path.read_bytes() for path in (tmp_path / "run").iterdir()}
  assert after == before


BAD_PREDICTION = {
  "missing_workdir": (["--workdir=absent", "a.nii"], ["absent/model.json"]),
  "unfinished_run": (["--workdir=run", "a.nii"], ["run/checkpoints"]),
  "other_modality": (["--workdir=run", "--t2=a.nii"], ["--t2", "t1"]),
  "differing_runs": (
    ["--workdir=run", "--workdir=other", "a.nii"],
    ["other", "classes"],
  ),
  "no_scan": (["--workdir=run"], ["SCAN", "--manifest"]),
}


@pytest.mark.parametrize("kind", BAD_PREDICTION)
def test_bad_command_ends_predict(tmp_path, cohort, here, kind):
  arguments, named = BAD_PREDICTION[kind]
  config = helpers.micro_config(cohort)
  run = experiment.resolve(config, tmp_path / "run", 1)
  model_file.write_model_file(run, num_parameters=7)
  model = json.loads((tmp_path / "run" / "model.json").read_text())
  (tmp_path / "other").mkdir()
  changed = json.dumps(model | {"classes": ["tumour", "normal"]})
  (tmp_path / "other" / "model.json").write_text(changed)
  save(tmp_path / "a.nii", volume())
  before = set(tmp_path.rglob("*"))
  command = "predict", "--out=out", *arguments
  apart = kind == "unfinished_run"
  result = brainjax(*command, cwd=tmp_path) if apart else here(*command)
  assert_refused(result, *named)
  assert set(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
  "arguments",
  [
    ["evaluate", "--workdir=run"],
    ["encode", "--workdir=run", "--out=features"],
    ["report", "run"],
    ["dance"],
    [],
  ],
  ids=str,
)
def test_other_wrong_commands_are_one_line(tmp_path, here, arguments):
  assert_refused(here(*arguments) if arguments else brainjax(cwd=tmp_path))
  assert list(tmp_path.iterdir()) == []


def test_info_names_the_folder_of_compiled_code(here):
  folder = os.environ["JAX_COMPILATION_CACHE_DIR"]
  assert f"compiled code is kept in: {folder}\n" in here("info").stdout


def test_only_what_follows_from_a_failed_save_is_left_out(monkeypatch):
  shown = []
  monkeypatch.setattr(sys, "__unraisablehook__", shown.append)
  errors = [
    types.SimpleNamespace(exc_value=RuntimeError(said))
    for said in ("Event loop is closed", "something else")
  ]
  for error in errors:
    cli._unraisable(error)
  assert shown == errors[1:]


def test_an_option_of_another_layout_is_refused(tmp_path, here):
  command = ["cohort", "bids", "ds", "--out", "m.csv", "--unit", "run"]
  assert_refused(here(*command), "--unit", "figshare", "bids")
  assert list(tmp_path.iterdir()) == []


def test_every_layout_can_be_asked_for(capsys):
  with pytest.raises(SystemExit):
    cli.make_parser().parse_args(["cohort", "--help"])
  printed = " ".join(capsys.readouterr().out.split())
  assert ", ".join(layouts.LAYOUTS) in printed
  parameters = {
    name: layout
    for layout, read in layouts.LAYOUTS.items()
    for name in inspect.signature(read).parameters
    if name not in ("root", "paths", "progress", "out")
  }
  assert parameters == LAYOUT_OF_OPTION


@pytest.mark.slow
def test_scan_to_report(tmp_path):
  """Files on disk to a report, by the commands of the README."""
  rng = np.random.default_rng(0)
  for label in ("normal", "glioma"):
    (tmp_path / "scans" / label).mkdir(parents=True)
    for i in range(6):
      array = volume(shape=(20, 20, int(rng.integers(8, 12))), seed=i)
      if label == "glioma":
        array[8:12, 8:12, 4:6] = 200
      save(tmp_path / "scans" / label / f"{label}{i}.nii.gz", array)
  (tmp_path / "scans" / "normal" / "broken.nii.gz").write_bytes(b"")

  def succeed(*args):
    result = brainjax(*args, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    return result

  printed = succeed("cohort", "folders", "scans", "--out", "manifest.csv")
  assert "13 scans" in printed.stdout
  assert "glioma" in printed.stdout and "unreadable" in printed.stdout
  settings = [f"--config={SMOKE}", "--config.data.records=records"]
  printed = succeed("prepare", "manifest.csv", "--out", "records", *settings)
  assert "broken.nii.gz" in printed.stderr
  assert "broken" in (tmp_path / "records" / "rejected.csv").read_text()
  train = ["train", *settings, "--workdir=run", "--config.train.epochs=1"]
  assert "epoch   1" in succeed(*train).stdout
  encode = ["encode", "--workdir=run", "--out=features"]
  assert "features: 12 scans, " in succeed(*encode).stdout
  succeed("evaluate", "--workdir=run")
  succeed("report", "run")
  page = (tmp_path / "run" / "report.html").read_text()
  assert "test" in page and "data:image/png;base64" in page
  with open(tmp_path / "run" / "predictions.csv") as file:
    predicted = [line["participant_id"] for line in csv.DictReader(file)]
  assert len(predicted) == len(set(predicted)) > 0


def assert_refused(result, *named):
  lines = result.stderr.splitlines()
  assert result.returncode == 2, result.stderr
  assert len(lines) == 1, result.stderr
  for name in named:
    assert name in lines[0]
