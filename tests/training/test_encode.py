"""Features of a run's encoder, and heads that are trained on them."""

import dataclasses
import functools
import json
import shutil

import jax
import numpy as np
import pytest

import helpers
from brainjax import InputError, records
from brainjax.models import build
from brainjax.training import encode, experiment, trained


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
  """Scans of 1 to 5 slices, the last of which takes no part in training."""
  folder = tmp_path_factory.mktemp("cohort") / "records"
  rng = np.random.default_rng(0)
  labels = ["normal", "glioma"] * 12 + [""]
  return helpers.write_records(
    folder,
    [
      helpers.random_record(
        rng,
        num_slices=int(rng.integers(1, 6)) if label else 7,
        label=label,
        participant_id=f"p{i:03d}",
        brightness=0.4 * (label == "glioma"),
      )
      for i, label in enumerate(labels)
    ],
  )


@pytest.fixture(scope="module")
def workdir(cohort, tmp_path_factory):
  folder = tmp_path_factory.mktemp("encoder") / "run"
  helpers.write_run(helpers.micro_config(cohort.path), folder)
  return folder


@pytest.fixture(scope="module")
def features(workdir, tmp_path_factory):
  """A folder of several shards."""
  out = tmp_path_factory.mktemp("features") / "features"
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(encode, "_SHARD_SCANS", 10)
    summary = encode.encode(workdir, out)
  assert summary == encode.Summary(
    num_scans=25,
    num_slices=int(records.RecordSet(out).lengths.sum()),
    num_features=records.RecordSet(out).slice_shape[-1],
    new=True,
  )
  return records.RecordSet(out)


def encode_alone(run, record):
  """The features of one scan, with nothing beside it."""
  num_slices = len(record.slices)
  apply = functools.partial(
    run.model.apply, packs=1, train=False, method="encode"
  )
  return jax.jit(apply)(
    run.variables, record.intensities(), np.ones(num_slices, bool)
  )


def test_every_scan_has_the_features_it_has_alone(cohort, workdir, features):
  run = trained.load_trained(workdir)
  assert len(features) == len(cohort) == 25
  assert len(features.index["shards"]) == 3
  np.testing.assert_array_equal(features.lengths, cohort.lengths)
  for i in (0, 7, 10, 19, 24):
    found, source = features[i], cohort[i]
    assert found.slices.dtype == np.float32
    np.testing.assert_allclose(
      found.slices[:, 0, 0], encode_alone(run, source), atol=1e-6
    )
    for field in ("positions_mm", "participant_id", "group_id", "label"):
      np.testing.assert_array_equal(
        getattr(found, field), getattr(source, field)
      )
  assert np.ptp(np.concatenate([features[i].slices for i in range(25)])) > 0.01


def test_index_says_whose_features_of_what(cohort, workdir, features):
  run = trained.load_trained(workdir)
  scans = experiment.open_run(workdir).scans
  assert features.encoder == {
    "workdir": str(workdir),
    "preset": "micro",
    "step": run.step,
    "checkpoint_sha256": run.checkpoint_sha256,
    **{
      f"{name}_group_ids": sorted(
        scan["group_id"] for scan in scans if scan["split"] == split
      )
      for name, split in (("encoder", "train"), ("selection", "validation"))
    },
    "records": str(cohort.path),
    "records_sha256": cohort.sha256,
    "slice_shape": [16, 16, 1],
    "dtype": "uint8",
  }
  assert features.index["modalities"] == ["t1"]
  for entry, source in zip(
    features.index["records"], cohort.index["records"], strict=True
  ):
    assert entry["input_sha256"] == source["input_sha256"]
  for row, source in zip(features.rows, cohort.rows, strict=True):
    image = (features.path / row["t1"]).resolve()
    assert image == (cohort.path / source["t1"]).resolve()
    assert {**row, "t1": ""} == {**source, "t1": ""}


def test_features_are_f32_whatever_the_encoder_computes_in(workdir, features):
  run = trained.load_trained(workdir)
  section = run.facts["model"]
  half = build.build_classifier(
    preset="micro",
    statistics="batch",
    head=section["head"],
    dropout=0.5,
    dtype="bfloat16",
    num_classes=2,
  )
  run = dataclasses.replace(run, model=half)
  subset = np.array([0])
  ((index, z),) = encode.encode_scans(run, experiment.open_run(workdir), subset)
  assert index == 0 and z.dtype == np.float32
  difference = np.abs(z - features[0].slices[:, 0, 0]).max()
  assert 1e-6 < difference < 0.1


def test_finished_features_are_left_as_they_are(workdir, features, monkeypatch):
  def content():
    return {
      path.name: (path.read_bytes(), path.stat().st_mtime_ns)
      for path in features.path.iterdir()
    }

  before = content()
  monkeypatch.setattr(encode, "encode_scans", None)
  assert not encode.encode(workdir, features.path).new
  assert content() == before


class Source:
  """Stands for a run and its experiment; counts what is encoded."""

  def __init__(self, record_set):
    self.record_set, self.encoded = record_set, []

  def encode_scans(self, run, experiment, subset):
    for i in subset:
      self.encoded.append(i)
      record = self.record_set[int(i)]
      yield int(i), record.intensities().mean((1, 2)).repeat(3, 1)

  def write(self, out):
    encode._write(self, self, {"checkpoint_sha256": "1" * 64}, out, None)


@pytest.fixture
def source(cohort, monkeypatch):
  source = Source(cohort)
  monkeypatch.setattr(encode, "_SHARD_SCANS", 10)
  monkeypatch.setattr(encode, "encode_scans", source.encode_scans)
  return source


@pytest.fixture
def interrupted(source, tmp_path, monkeypatch):
  """What a call leaves that was interrupted in its third shard."""
  write_shard = records.write_shard

  def interrupt(path, content):
    if path.name == "shard-00002.zip":
      raise KeyboardInterrupt
    return write_shard(path, content)

  with monkeypatch.context() as patch:
    patch.setattr(records, "write_shard", interrupt)
    with pytest.raises(KeyboardInterrupt):
      source.write(tmp_path / "out")
  assert list(tmp_path.iterdir()) == [tmp_path / ".out.partial"]
  source.encoded.clear()
  return tmp_path / ".out.partial"


def flip_a_byte(partial):
  file = partial / "shard-00001.zip"
  data = bytearray(file.read_bytes())
  data[len(data) // 2] ^= 1
  file.write_bytes(data)


def tell_of_another_encoder(partial):
  file = partial / "finished.json"
  state = json.loads(file.read_text())
  state["made_by"]["checkpoint_sha256"] = "0" * 64
  file.write_text(json.dumps(state))


@pytest.mark.parametrize(
  ("change", "encoded"),
  [
    (lambda partial: None, 5),
    (flip_a_byte, 15),
    (lambda partial: (partial / "shard-00001.zip").unlink(), 15),
    (tell_of_another_encoder, 25),
    (lambda partial: (partial / "finished.json").unlink(), 25),
  ],
)
def test_an_interrupted_call_continues_with_what_it_had_finished(
  source, interrupted, tmp_path, change, encoded
):
  change(interrupted)
  (interrupted / ".shard-00002.zip.0.partial").touch()
  source.write(tmp_path / "out")
  assert len(source.encoded) == encoded
  assert not interrupted.exists()
  source.write(tmp_path / "whole")
  out, whole = (records.RecordSet(tmp_path / n) for n in ("out", "whole"))
  assert out.index == whole.index
  names = {path.name for path in out.path.iterdir()}
  assert names == {path.name for path in whole.path.iterdir()}


def test_a_lost_shard_is_named(workdir, features, tmp_path):
  out = tmp_path / "out"
  shutil.copytree(features.path, out)
  (out / "shard-00001.zip").unlink()
  with pytest.raises(InputError, match="shard-00001.zip: missing; remove"):
    encode.encode(workdir, out)


def test_a_full_disk_is_one_line(workdir, tmp_path, monkeypatch):
  def full(path, content):
    raise OSError(28, "No space left on device")

  monkeypatch.setattr(records, "write_shard", full)
  with pytest.raises(InputError, match="--out=.*No space left"):
    encode.encode(workdir, tmp_path / "out")
  assert list(tmp_path.iterdir()) == []


def test_what_is_not_these_features_is_never_touched(
  cohort, workdir, features, tmp_path
):
  (tmp_path / "file").touch()
  (tmp_path / "out").mkdir()
  (tmp_path / "out" / "notes.txt").touch()
  for folder in (tmp_path / "file", tmp_path / "out", cohort.path):
    with pytest.raises(InputError, match="not made by `brainjax encode`"):
      encode.encode(workdir, folder)
  index = json.loads((features.path / "index.json").read_text())
  index["encoder"]["step"] = 99
  content = (features.path / "manifest.csv").read_bytes()
  (tmp_path / "out" / "manifest.csv").write_bytes(content)
  (tmp_path / "out" / "index.json").write_text(json.dumps(index))
  with pytest.raises(InputError, match="step was 99, is .; choose another"):
    encode.encode(workdir, tmp_path / "out")
