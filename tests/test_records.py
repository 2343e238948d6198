import concurrent.futures
import dataclasses
import json
import zipfile

import numpy as np
import pytest
import safetensors.numpy

import helpers
from brainjax import InputError, records


@pytest.mark.parametrize("dtype", ["uint8", "int16"])
def test_encode_decode_is_exact(dtype):
  rng = np.random.default_rng(0)
  record = helpers.random_record(rng, width=13, dtype=dtype)
  record = dataclasses.replace(
    record, mask=record.brain_mask // 2, geometry={"plane": "axial"}
  )
  data = records.encode(record)
  restored = records.decode(data)
  assert records.encode(restored) == data
  for field in dataclasses.fields(record):
    np.testing.assert_array_equal(
      getattr(restored, field.name), getattr(record, field.name)
    )


def test_background_code_is_exactly_zero():
  record = helpers.random_record(np.random.default_rng(0))
  record.slices[0] = record.zero_code
  assert (record.intensities()[0] == 0).all()
  assert record.intensities().min() >= -5
  assert abs(record.intensities()[1:].std() - 1) < 0.05


def test_record_refuses_disagreeing_shapes():
  record = helpers.random_record(np.random.default_rng(0))
  with pytest.raises(ValueError, match="positions_mm"):
    dataclasses.replace(record, positions_mm=np.zeros(1, np.float32))


@pytest.mark.parametrize("text", [b"{}      ", b"[]      ", b"7       "])
def test_decode_refuses_other_bytes(text):
  with pytest.raises(ValueError, match="not a brainjax record"):
    records.decode(b"\x08\0\0\0\0\0\0\0" + text)


@pytest.mark.parametrize("kept", [0, 4, 100, -1])
def test_decode_refuses_a_part_of_a_record(kept):
  data = records.encode(helpers.random_record(np.random.default_rng(0)))
  with pytest.raises(ValueError, match="not a brainjax record"):
    records.decode(data[:kept])


def test_what_is_small_does_not_keep_the_slices_in_memory():
  record = records.decode(
    records.encode(helpers.random_record(np.random.default_rng(0)))
  )
  for array in (record.positions_mm, record.present, record.landmarks):
    assert array.base is None
  assert record.slices.base is not None


def test_decode_agrees_with_the_library():
  record = helpers.random_record(np.random.default_rng(0), width=13)
  data = records.encode(record)
  for name, expected in safetensors.numpy.load(data).items():
    found = getattr(records.decode(data), name)
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


def test_bits_round_trip():
  mask = np.random.default_rng(0).random((2, 5, 13)) > 0.5
  bits = records.pack_bits(mask)
  assert bits.shape == (2, 5, 2)
  np.testing.assert_array_equal(records.unpack_bits(bits, 13), mask)


def test_record_set_reads_each_record(tmp_path):
  rng = np.random.default_rng(0)
  scans = [
    helpers.random_record(rng, num_slices=n, participant_id=f"p{n}")
    for n in (3, 1, 2)
  ]
  record_set = helpers.write_records(tmp_path / "records", scans)
  assert record_set.lengths.tolist() == [3, 1, 2]
  assert record_set.slice_shape == (16, 16, 1)
  for i, scan in enumerate(scans):
    assert record_set[i].participant_id == scan.participant_id
    np.testing.assert_array_equal(record_set[i].slices, scan.slices)


def test_a_damaged_record_is_refused_each_time_and_the_others_are_read(
  tmp_path,
):
  rng = np.random.default_rng(0)
  scans = [helpers.random_record(rng, height=32, width=32) for _ in range(3)]
  record_set = helpers.write_records(tmp_path, scans)
  file = tmp_path / record_set.index["shards"][0]["file"]
  data = bytearray(file.read_bytes())
  second = data.find(scans[1].slices[0].tobytes()[:16])
  assert second > 0
  data[second] ^= 1
  file.write_bytes(data)
  for _ in range(2):
    for index in (0, 2):
      np.testing.assert_array_equal(
        record_set[index].slices, scans[index].slices
      )
    with pytest.raises(InputError, match="record 1 fails its checksum"):
      record_set[1]


@pytest.mark.parametrize("kept", [0, 40, -1])
def test_a_part_of_a_shard_is_refused(tmp_path, kept):
  scans = [helpers.random_record(np.random.default_rng(0))]
  record_set = helpers.write_records(tmp_path, scans)
  file = tmp_path / record_set.index["shards"][0]["file"]
  file.write_bytes(file.read_bytes()[:kept])
  with pytest.raises(InputError, match="shard-00000.zip: damaged: "):
    record_set[0]


def test_a_shard_is_a_zip_file_of_safetensors(tmp_path):
  scans = [helpers.random_record(np.random.default_rng(i)) for i in range(2)]
  record_set = helpers.write_records(tmp_path, scans)
  with zipfile.ZipFile(tmp_path / "shard-00000.zip") as archive:
    assert archive.namelist() == ["000000.safetensors", "000001.safetensors"]
    assert archive.testzip() is None
    arrays = safetensors.numpy.load(archive.read("000001.safetensors"))
  np.testing.assert_array_equal(arrays["slices"], scans[1].slices)
  sha256 = record_set.index["shards"][0]["sha256"]
  helpers.write_records(tmp_path, scans)
  assert records.RecordSet(tmp_path).index["shards"][0]["sha256"] == sha256


def test_threads_read_at_once(tmp_path):
  scans = [helpers.random_record(np.random.default_rng(i)) for i in range(8)]
  record_set = helpers.write_records(tmp_path, scans)
  with concurrent.futures.ThreadPoolExecutor(4) as threads:
    for index, record in enumerate(
      threads.map(record_set.__getitem__, 40 * [*range(8)])
    ):
      np.testing.assert_array_equal(record.slices, scans[index % 8].slices)


def test_record_set_of_another_schema_names_the_command(tmp_path):
  scans = [helpers.random_record(np.random.default_rng(0))]
  helpers.write_records(tmp_path, scans)
  index = json.loads((tmp_path / "index.json").read_text())
  index["schema_version"] = 0
  (tmp_path / "index.json").write_text(json.dumps(index))
  with pytest.raises(InputError, match="brainjax prepare"):
    records.RecordSet(tmp_path)


def test_unfinished_folder_names_the_command(tmp_path):
  with pytest.raises(InputError, match="brainjax prepare"):
    records.RecordSet(tmp_path)


def test_replacing_leaves_the_old_file_when_the_body_fails(tmp_path):
  path = tmp_path / "file.txt"
  records.write_text(path, "old")
  with pytest.raises(RuntimeError), records.replacing(path) as partial:
    partial.write_text("half")
    raise RuntimeError
  assert path.read_text() == "old"
  assert list(tmp_path.iterdir()) == [path]


def test_two_writers_of_one_file_do_not_meet(tmp_path):
  path = tmp_path / "file.txt"
  with records.replacing(path) as first, records.replacing(path) as second:
    first.write_text("first")
    second.write_text("second")
  assert path.read_text() == "first"  # whoever ends last
  assert list(tmp_path.iterdir()) == [path]


def features_of(record, num_features, seed=0):
  """The record with random features in the place of its slices."""
  num_slices = len(record.slices)
  rng = np.random.default_rng(seed)
  features = rng.normal(size=(num_slices, 1, 1, num_features))
  return dataclasses.replace(
    record,
    slices=features.astype(np.float32),
    scale=1.0,
    brain_mask=records.pack_bits(np.ones((num_slices, 1, 1), bool)),
  )


def test_features_are_kept_to_the_bit():
  record = helpers.random_record(np.random.default_rng(0))
  record = features_of(record, 20)
  assert record.present.shape == (1,)  # of modalities, not of features
  restored = records.decode(records.encode(record))
  assert restored.slices.dtype == np.float32
  np.testing.assert_array_equal(restored.slices, record.slices)
  np.testing.assert_array_equal(restored.intensities(), record.slices)
  with pytest.raises(ValueError, match="landmarks"):
    dataclasses.replace(record, present=np.ones(2, np.uint8))


def test_features_find_the_images_they_were_made_from(tmp_path):
  scan = helpers.random_record(np.random.default_rng(0))
  images = helpers.write_records(tmp_path / "records", [scan])
  assert images.encoder is None and images.images() is images
  helpers.write_records(tmp_path / "features", [features_of(scan, 4)])
  index_file = tmp_path / "features" / "index.json"
  encoder = {"records": str(images.path), "records_sha256": images.sha256}
  content = json.loads(index_file.read_text()) | {"encoder": encoder}
  index_file.write_text(json.dumps(content))
  features = records.RecordSet(tmp_path / "features")
  assert features.images().path == images.path
  shard = tmp_path / "records" / "shard-00000.zip"
  shard.rename(tmp_path / "elsewhere")
  with pytest.raises(InputError, match="shard-00000.zip: missing"):
    features.images()
  encoder["records_sha256"] = "0"
  index_file.write_text(json.dumps(content))
  with pytest.raises(InputError, match="not the records that the features"):
    records.RecordSet(tmp_path / "features").images()
