"""What is missing is said in one line, and stands in nobody's way."""

import json

import pytest
from tiny_run import write_workdir

from brainjax import InputError
from brainjax.evaluation import evaluate, run_files


@pytest.mark.parametrize(
  "name",
  (
    *run_files.TRAIN_FILES,
    "metrics.json",
    *run_files.PREDICTION_FILES,
  ),
)
def test_missing_file_names_the_command(tmp_path, name):
  workdir = write_workdir(tmp_path / "run")
  assert workdir / name in run_files.read_run(workdir).files
  (workdir / name).unlink()
  verb = "train" if name in run_files.TRAIN_FILES else "evaluate"
  with pytest.raises(
    InputError, match=f"{name}: missing; run `brainjax {verb}"
  ):
    run_files.read_run(workdir)


def test_metrics_of_another_version(tmp_path):
  assert run_files.METRICS_VERSION == evaluate.SCHEMA_VERSION
  workdir = write_workdir(tmp_path / "run")
  (workdir / "metrics.json").write_text('{"schema_version": 0, "test": {}}')
  with pytest.raises(InputError, match="schema version 0, .*run `brainjax"):
    run_files.read_run(workdir)


def test_records_and_the_tables_beside_them(tmp_path):
  workdir = write_workdir(tmp_path / "run")
  record_set, problem = run_files.open_records(run_files.read_run(workdir))
  assert record_set is not None and problem == ""
  folder = workdir / "records"
  (folder / "warnings.csv").touch()
  assert run_files.record_files(record_set) == [
    folder / name for name in ("index.json", "manifest.csv", "warnings.csv")
  ]


@pytest.mark.parametrize(
  ("lost", "said"),
  [
    ("index.json", "no index.json; run `brainjax prepare"),
    ("manifest.csv", "manifest.csv"),
    ("shard-00000.zip", "shard-00000.zip: missing"),
  ],
)
def test_records_that_lost_a_file(tmp_path, lost, said):
  workdir = write_workdir(tmp_path / "run")
  (workdir / "records" / lost).unlink()
  record_set, problem = run_files.open_records(run_files.read_run(workdir))
  assert record_set is None and said in problem


def test_records_of_another_run(tmp_path):
  workdir = write_workdir(tmp_path / "run")
  model = json.loads((workdir / "model.json").read_text())
  changed = json.dumps(model | {"records_sha256": "0"})
  (workdir / "model.json").write_text(changed)
  record_set, problem = run_files.open_records(run_files.read_run(workdir))
  assert record_set is None and "not the records of this run" in problem
