"""What another cohort must be like to be scored."""

import json
import pathlib
import types

import numpy as np
import pytest

import helpers
from brainjax import InputError, config
from brainjax.evaluation import external, external_checks


def write_model_file(folder, **facts):
  content = {
    "schema_version": 3,
    "model": {},
    "modalities": ["t1"],
    "preparation": {},
    "model_group_ids": ["p000"],
    "encoder_group_ids": [],
    "selection_group_ids": ["p001"],
  }
  (folder / "model.json").write_text(json.dumps(content | facts))


def change_index(record_set, change):
  path = record_set.path / "index.json"
  index = json.loads(path.read_text())
  change(index)
  path.write_text(json.dumps(index))
  return type(record_set)(record_set.path)


def cohort(folder, prefix):
  rng = np.random.default_rng(0)
  labels = ["normal", "glioma", ""]
  return helpers.write_records(
    folder,
    [
      helpers.random_record(rng, participant_id=f"{prefix}{i}", label=labels[i])
      for i in range(3)
    ],
  )


def run_of(tmp_path):
  own = cohort(tmp_path / "own", "p00")
  rows = [("0", "train"), ("1", "validation"), ("2", "test")]
  return types.SimpleNamespace(
    workdir=tmp_path,
    record_set=own,
    config=config.get_config(),
    classes=("normal", "tumour"),
    scans=[
      {"record_index": i, "split": split, "participant_id": f"p00{i}"}
      for i, split in rows
    ],
  )


def test_people_of_training_and_validation_are_refused(tmp_path):
  write_model_file(tmp_path)
  run = run_of(tmp_path)
  external_checks.check_unseen(run, cohort(tmp_path / "a", "q"))
  with pytest.raises(InputError, match="2 of its 3 scans are of people.*p000"):
    external_checks.check_unseen(run, cohort(tmp_path / "b", "p00"))


def test_people_of_training_are_known_under_another_group(tmp_path):
  write_model_file(
    tmp_path, model_group_ids=["family0"], selection_group_ids=["family1"]
  )
  with pytest.raises(InputError, match="2 of its 3 scans are of people.*p000"):
    external_checks.check_unseen(
      run_of(tmp_path), cohort(tmp_path / "b", "p00")
    )


def test_images_of_training_are_refused_under_any_name(tmp_path):
  write_model_file(tmp_path)
  run = run_of(tmp_path)

  def name_images(index):
    for i, entry in enumerate(index["records"]):
      entry["input_sha256"] = f"hash-{i}"

  run.record_set = change_index(run.record_set, name_images)
  other = change_index(
    cohort(tmp_path / "a", "q"),
    lambda index: index["records"][1].update(input_sha256="hash-0"),
  )
  with pytest.raises(InputError, match="1 of its 3 scans have the image.*q1"):
    external_checks.check_unseen(run, other)
  # That of a test scan was not seen.
  other = change_index(
    other, lambda index: index["records"][1].update(input_sha256="hash-2")
  )
  external_checks.check_unseen(run, other)


@pytest.mark.parametrize(
  ("field", "value", "message"),
  [
    ("modalities", ["t2"], r"preparation.modalities=\['t2'\]"),
    ("preparation", {"height": 64}, "preparation.height=64, .* with 128"),
    ("preparation", {"bias_field": {"method": "none"}}, "bias_field.method"),
  ],
)
def test_another_preparation_is_refused(tmp_path, field, value, message):
  write_model_file(tmp_path)
  other = cohort(tmp_path / "a", "q")
  external_checks.check_images(tmp_path, other)
  other = change_index(other, lambda index: index.update({field: value}))
  with pytest.raises(InputError, match=message):
    external_checks.check_images(tmp_path, other)


def test_how_records_are_stored_is_no_difference(tmp_path):
  write_model_file(tmp_path, preparation={"shard_scans": 64, "spacing": [1, 2]})
  other = change_index(
    cohort(tmp_path / "a", "q"),
    lambda index: index.update(
      preparation={"shard_scans": 7, "spacing": [1, 2]}
    ),
  )
  external_checks.check_images(tmp_path, other)


def test_labels_are_mapped_by_name(tmp_path):
  run, other = run_of(tmp_path), cohort(tmp_path / "a", "q")
  assert external_checks.targets_by_name(run, other).tolist() == [0, 1, -1]
  run.classes = ("tumour", "normal")
  assert external_checks.targets_by_name(run, other).tolist() == [1, 0, -1]
  run.config.task.ignore = ("glioma",)
  assert external_checks.targets_by_name(run, other).tolist() == [1, -1, -1]
  run.config.task.ignore = ()
  run.config.task.classes = ("normal: normal", "tumour: metastasis")
  with pytest.raises(InputError, match="label 'glioma' of q1 is in no class"):
    external_checks.targets_by_name(run, other)


@pytest.mark.parametrize(
  ("path", "name"),
  [
    ("/a/site B/records", "site-B"),
    ("/a/b.c", "b-c"),
    ("/a/ö/records", "records"),
  ],
)
def test_a_cohort_is_called_by_its_folder(path, name):
  assert external.external_name(pathlib.Path(path)) == name
