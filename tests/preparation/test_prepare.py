import csv
import itertools
import os
import pathlib
import signal
import subprocess
import sys

import numpy as np
import pytest
import tiny_head

from brainjax import InputError, records
from brainjax.cohort import manifest
from brainjax.preparation import prepare

SETTINGS = tiny_head.settings(shard_scans=2)


def _cohort(tmp_path, count=4, bad=(1,)):
  """Writes a manifest of some scans, of which some are no scans."""
  path = tiny_head.write_scans(tmp_path / "cohort", count=count)
  for i in bad:
    (tmp_path / "cohort" / f"p{i}.nii").write_text("no scan")
  return path


def _hashes(out):
  return {
    file.name: records.sha256_of(file)
    for file in sorted(out.glob("[!.]*"))
    if file.name != "manifest.csv"  # its paths are relative to the folder
  }


def test_folder_of_records_is_complete(tmp_path):
  path = tiny_head.write_scans(tmp_path / "c", count=5, with_mask=True)
  (tmp_path / "c" / "p1.nii").write_text("no scan")
  out = tmp_path / "deep" / "records"
  summary = prepare.prepare(path, out, SETTINGS)
  assert summary.num_records == 4 and not summary.already_done
  assert [row["participant_id"] for row in summary.rejected] == ["p1"]
  assert summary.text == (
    f"prepared: 4 scans in {out}; 1 rejected, listed in {out}/rejected.csv"
  )
  record_set = records.RecordSet(out)
  assert not (out / "parts").exists()
  assert not list(out.glob(".*"))
  ids = [row["participant_id"] for row in record_set.rows]
  assert ids == ["p0", "p2", "p3", "p4"]
  assert ids == [record.participant_id for record in record_set]
  assert [row["record_index"] for row in record_set.rows] == list("0123")
  assert [len(record.slices) for record in record_set] == [4] * 4
  assert record_set.lengths.tolist() == [4] * 4
  assert record_set.slice_shape == (16, 16, 1)
  assert record_set.index["modalities"] == ["t1"]
  assert record_set.index["preparation"] == SETTINGS.to_dict()
  for shard in record_set.index["shards"]:
    assert records.sha256_of(out / shard["file"]) == shard["sha256"]
  assert [e["shard"] for e in record_set.index["records"]] == [0, 1, 1, 2]
  # The folder's manifest is one itself, and names the same files.
  study = manifest.read_manifest(out / "manifest.csv")
  for row in study.rows:
    for column, name in (("t1", ".nii"), ("mask", "_mask.nii.gz")):
      (file,) = manifest.image_files(study, row, column)
      wanted = tmp_path / "c" / f"{row['participant_id']}{name}"
      assert file.samefile(wanted)


def test_rejected_scans_are_listed(tmp_path):
  out = tmp_path / "records"
  summary = prepare.prepare(_cohort(tmp_path), out, SETTINGS)
  with open(out / "rejected.csv", newline="") as file:
    rows = list(csv.DictReader(file))
  assert rows == list(summary.rejected)
  assert list(rows[0]) == ["participant_id", "session_id", "file", "reason"]
  assert rows[0]["file"].endswith("p1.nii")
  assert rows[0]["reason"].startswith("no NIfTI header")


def test_input_hash_follows_the_content(tmp_path):
  hashes = []
  for seed in (0, 0, 1):
    folder = tmp_path / str(len(hashes))
    path = tiny_head.write_scans(folder, count=1)
    if seed:
      content = bytearray((folder / "p0.nii").read_bytes())
      content[150] ^= 1  # the free text of the header
      (folder / "p0.nii").write_bytes(content)
    prepare.prepare(path, folder / "records", SETTINGS)
    index = records.RecordSet(folder / "records").index
    hashes.append(index["records"][0]["input_sha256"])
  assert hashes[0] == hashes[1] != hashes[2]


class _Killed(Exception):
  pass


def test_killed_before_or_after_any_file_it_ends_the_same(
  tmp_path, monkeypatch
):
  path = _cohort(tmp_path, count=4)
  wanted = tmp_path / "wanted"
  prepare.prepare(path, wanted, SETTINGS)
  replace, prepare_scan = os.replace, prepare.prepare_scan
  prepared = []

  def counting(*args):
    prepared.append(args)
    return prepare_scan(*args)

  monkeypatch.setattr(prepare, "prepare_scan", counting)
  for life in itertools.count():
    done = []

    def dying(source, target, life=life, done=done):
      if len(done) == life // 2 and life % 2 == 0:
        raise _Killed
      replace(source, target)
      done.append(target)
      if len(done) - 1 == life // 2:
        raise _Killed

    out = tmp_path / f"life{life}"
    prepared.clear()
    monkeypatch.setattr(os, "replace", dying)
    try:
      prepare.prepare(path, out, SETTINGS)
    except _Killed:
      pass
    else:
      break
    finally:
      monkeypatch.setattr(os, "replace", replace)
    stale = out / ".preparation.json.partial"
    if (out / "parts").is_dir():
      stale = out / "parts" / ".000003.safetensors.partial"
    stale.write_text("half a file")
    summary = prepare.prepare(path, out, SETTINGS)
    assert summary.num_records == 3
    assert len(prepared) <= 5  # one scan twice at most
    assert _hashes(out) == _hashes(wanted)
    assert not (out / "parts").exists()
  assert life == 2 * 15  # before and after each of 15 files


def test_killed_process_ends_the_same(tmp_path):
  path = _cohort(tmp_path, count=3, bad=())
  wanted, out = tmp_path / "wanted", tmp_path / "out"
  prepare.prepare(path, wanted, SETTINGS)
  code = f"""
import os, signal, sys
sys.path.insert(0, {str(pathlib.Path(__file__).parent)!r})
import tiny_head
from brainjax.preparation import prepare
replace = os.replace
def dying(source, target):
  if target.name == "000001.safetensors":
    os.kill(os.getpid(), signal.SIGKILL)
  replace(source, target)
os.replace = dying
prepare.prepare({str(path)!r}, {str(out)!r}, tiny_head.settings(shard_scans=2))
"""
  process = subprocess.run([sys.executable, "-c", code], timeout=120)
  assert process.returncode == -signal.SIGKILL
  left = {file.name for file in (out / "parts").iterdir()}
  assert left == {
    "000000.json",
    "000000.safetensors",
    ".000001.safetensors.partial",
  }
  prepare.prepare(path, out, SETTINGS)
  assert _hashes(out) == _hashes(wanted)


def test_finished_set_is_left_as_it_is(tmp_path, monkeypatch):
  path, out = _cohort(tmp_path), tmp_path / "records"
  first = prepare.prepare(path, out, SETTINGS)
  before = {f: f.stat().st_mtime_ns for f in out.iterdir()}
  (out / "parts").mkdir()  # killed just before the end
  monkeypatch.setattr(prepare, "prepare_scan", lambda *_: pytest.fail("again"))
  again = prepare.prepare(path, out, SETTINGS)
  assert again.already_done and again.text.startswith("already prepared")
  assert again.rejected == first.rejected
  assert {f: f.stat().st_mtime_ns for f in out.iterdir()} == before


@pytest.mark.parametrize("finished", [True, False])
def test_folder_of_other_settings_is_refused(tmp_path, finished):
  path, out = _cohort(tmp_path), tmp_path / "records"
  prepare.prepare(path, out, SETTINGS)
  if not finished:
    (out / "index.json").unlink()
  other = tiny_head.settings(shard_scans=2, height=8, plane="coronal")
  with pytest.raises(InputError, match="another --out") as raised:
    prepare.prepare(path, out, other)
  message = str(raised.value)
  assert message.startswith(f"{out}: ")
  assert "config.preparation.height was 16, is 8" in message
  assert "config.preparation.plane was 'axial', is 'coronal'" in message
  assert "width" not in message
  with open(path, "a") as file:
    file.write("\n")
  with pytest.raises(InputError, match=r"content of manifest\.csv changed"):
    prepare.prepare(path, out, SETTINGS)


def test_folder_of_something_else_is_refused(tmp_path):
  path, out = _cohort(tmp_path), tmp_path / "home"
  out.mkdir()
  (out / "thesis.txt").write_text("precious")
  with pytest.raises(InputError, match=r"home: it holds thesis\.txt"):
    prepare.prepare(path, out, SETTINGS)
  with pytest.raises(InputError, match=r"thesis\.txt: .*another --out"):
    prepare.prepare(path, out / "thesis.txt", SETTINGS)
  assert [file.name for file in out.iterdir()] == ["thesis.txt"]


def test_nothing_is_left_when_no_scan_could_be_prepared(tmp_path):
  path = _cohort(tmp_path, count=3, bad=(0, 1, 2))
  out, empty = tmp_path / "records", tmp_path / "empty"
  empty.mkdir()
  for folder in (out, empty):
    with pytest.raises(InputError) as raised:
      prepare.prepare(path, folder, SETTINGS)
    message = str(raised.value)
    assert message.startswith(f"{tmp_path / 'cohort' / 'p0.nii'}: no NIfTI")
    assert message.endswith(f"; no scan of {path} could be prepared")
  assert not out.exists()
  assert not list(empty.iterdir())


def test_a_shard_without_a_record_has_no_file(tmp_path):
  path = _cohort(tmp_path, count=6, bad=(2, 3))
  prepare.prepare(path, tmp_path / "records", SETTINGS)
  record_set = records.RecordSet(tmp_path / "records")
  files = [shard["file"] for shard in record_set.index["shards"]]
  assert files == ["shard-00000.arrayrecord", "shard-00002.arrayrecord"]
  ids = [record.participant_id for record in record_set]
  assert ids == ["p0", "p1", "p4", "p5"]


def test_shards_do_not_change_the_records(tmp_path):
  path = _cohort(tmp_path, count=5)
  contents = []
  for size in (1, 3, 64):
    out = tmp_path / str(size)
    prepare.prepare(path, out, tiny_head.settings(shard_scans=size))
    contents.append([records.encode(r) for r in records.RecordSet(out)])
  assert contents[0] == contents[1] == contents[2]


def test_progress_sees_every_row(tmp_path):
  seen = []

  def progress(rows):
    assert len(rows) == 4
    for row in rows:
      yield row
      seen.append(row)

  prepare.prepare(
    _cohort(tmp_path), tmp_path / "out", SETTINGS, progress=progress
  )
  assert seen == [0, 1, 2, 3]


def test_wrong_settings_make_no_folder(tmp_path):
  with pytest.raises(InputError, match=r"config\.preparation\.plane"):
    prepare.prepare(
      _cohort(tmp_path), tmp_path / "out", tiny_head.settings(plane="up")
    )
  assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("count", [1, 3])
def test_records_are_the_same_on_every_run(tmp_path, count):
  path = _cohort(tmp_path, count=count, bad=())
  for name in "ab":
    prepare.prepare(path, tmp_path / name, SETTINGS)
  assert _hashes(tmp_path / "a") == _hashes(tmp_path / "b")
  record = records.RecordSet(tmp_path / "a")[0]
  assert np.ptp(record.slices) > 0
