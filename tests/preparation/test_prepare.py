import csv
import itertools
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import nibabel as nib
import numpy as np
import pytest
import tiny_head

from brainjax import InputError, records
from brainjax.cohort import manifest
from brainjax.preparation import begun, bias_field, parts, prepare, workers
from brainjax.preparation.volume import ScanError
from dicom_files import write_series

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
    if file.is_file()
    and file.name != "manifest.csv"  # its paths are relative to the folder
  }


def test_folder_of_records_is_complete(tmp_path):
  path = tiny_head.write_scans(tmp_path / "c", count=5, with_mask=True)
  (tmp_path / "c" / "p1.nii").write_text("no scan")
  out = tmp_path / "deep" / "records"
  summary = prepare.prepare(path, out, SETTINGS)
  assert summary.num_records == 4 and summary.counts == {"new": 5}
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
  settings = json.loads(SETTINGS.to_json())
  assert record_set.index["preparation"] == settings
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
  replace, prepare_scan = os.replace, parts.prepare_scan
  prepared = []

  def counting(*args, **options):
    prepared.append(args)
    return prepare_scan(*args, **options)

  monkeypatch.setattr(parts, "prepare_scan", counting)
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
    out.mkdir(exist_ok=True)  # as it was, if there was nothing in it
    stale = out / ".preparation.json.partial"
    if (out / "parts").is_dir():
      stale = out / "parts" / ".0.safetensors.partial"
    stale.write_text("half a file")
    summary = prepare.prepare(path, out, SETTINGS)
    assert summary.num_records == 3
    # One scan twice at most, and the rejected one once more.
    assert len(prepared) <= 6
    assert _hashes(out) == _hashes(wanted)
    assert not (out / "parts").exists()
    assert not list(out.rglob("*.partial"))
  # Before and after each rename: of preparation.json, 7 files of 4 scans, 6
  # new files, and those when they are moved in.
  assert life == 2 * (1 + 7 + 6 + 6)


@pytest.mark.parametrize("num_workers", [1, 2])
def test_killed_process_ends_the_same(tmp_path, num_workers):
  path = _cohort(tmp_path, count=6, bad=())
  wanted, out = tmp_path / "wanted", tmp_path / "out"
  prepare.prepare(path, wanted, SETTINGS)
  script = tmp_path / "main.py"
  script.write_text(f"""
import os, signal, sys
sys.path.insert(0, {str(pathlib.Path(__file__).parent)!r})
import tiny_head
from brainjax.preparation import prepare
def dying(results, total):
  for number, result in enumerate(results, 1):
    yield result
    if number == 3:
      os.kill(os.getpid(), signal.SIGKILL)
if __name__ == "__main__":
  prepare.prepare(
    {str(path)!r}, {str(out)!r}, tiny_head.settings(shard_scans=2),
    num_workers={num_workers}, progress=dying,
  )
""")
  process = subprocess.run([sys.executable, script], timeout=120)
  assert process.returncode == -signal.SIGKILL
  assert len(list((out / "parts").glob("*.json"))) >= 3
  summary = prepare.prepare(path, out, SETTINGS)
  assert summary.counts["kept"] >= 3
  assert _hashes(out) == _hashes(wanted)


def test_killed_worker_is_named_and_loses_nothing(tmp_path, monkeypatch):
  path, out = _cohort(tmp_path, count=4, bad=()), tmp_path / "out"
  monkeypatch.setattr(begun, "prepare_row", _kill_worker)
  with pytest.raises(InputError, match="killed, .*p2.*same command") as raised:
    prepare.prepare(path, out, SETTINGS, num_workers=2)
  assert "p0" not in str(raised.value)
  monkeypatch.undo()
  summary = prepare.prepare(path, out, SETTINGS, num_workers=2)
  assert summary.num_records == 4 and summary.counts["kept"] >= 1


prepare_row = parts.prepare_row


def _kill_worker(job):
  if job.manifest.rows[0]["participant_id"] == "p2":
    deadline = time.monotonic() + 60
    while len(list((job.out / "parts").glob("*.json"))) < 2:
      assert time.monotonic() < deadline
      time.sleep(0.05)
    time.sleep(0.5)  # until the parent has heard of those before
    os.kill(os.getpid(), signal.SIGKILL)
  return prepare_row(job)


def test_a_job_that_kills_its_workers_is_given_up_alone(tmp_path):
  script = tmp_path / "main.py"
  script.write_text("""
import os, pathlib, signal, sys
from brainjax.preparation import workers
folder = pathlib.Path(sys.argv[1])
def run(job):
  (folder / f"{job}.begun").touch()
  if job == 2:
    os.kill(os.getpid(), signal.SIGKILL)
  (folder / f"{job}.begun").unlink()
  with open(folder / "done", "a") as file:
    print(job, os.getpid() == int(sys.argv[2]), file=file)
  return job
def was_begun(job):
  return (folder / f"{job}.begun").exists()
if __name__ == "__main__":
  sys.argv.append(str(os.getpid()))
  for num in (2, 1):
    print(sorted(workers.run_jobs(
      run, range(5), workers=num, name_of=str, was_begun=was_begun,
      give_up=lambda job, why: why == workers.KILLED and "given up",
    )))
""")
  process = subprocess.run(
    [sys.executable, script, tmp_path],
    timeout=120,
    capture_output=True,
    text=True,
  )
  expected = [(i, "given up" if i == 2 else i) for i in range(5)]
  assert process.stdout.splitlines() == [str(expected)] * 2, process.stderr
  # The second time all but that one are done by the process itself.
  done = (tmp_path / "done").read_text().splitlines()
  assert done[-4:] == [f"{i} True" for i in (0, 1, 3, 4)]


@pytest.mark.slow
def test_a_scan_that_kills_its_workers_is_rejected_and_ends_nothing(
  tmp_path, monkeypatch
):
  path, out = _cohort(tmp_path, count=4, bad=()), tmp_path / "out"
  monkeypatch.setattr(begun, "prepare_row", _killed_at_p2)
  summary = prepare.prepare(path, out, SETTINGS, num_workers=2)
  ((file, reason),) = ((r["file"], r["reason"]) for r in summary.rejected)
  assert file.endswith("p2.nii") and reason == workers.KILLED
  assert summary.num_records == 3 and summary.counts == {"new": 4}
  ids = [row["participant_id"] for row in records.RecordSet(out).rows]
  assert ids == ["p0", "p1", "p3"]
  # Of another time: not within this process, which it would end.
  summary = prepare.prepare(path, out, SETTINGS, num_workers=1)
  assert [row["reason"] for row in summary.rejected] == [workers.KILLED]
  assert summary.counts == {"kept": 4}
  # Where it kills nobody, as on a machine with more memory, it is prepared.
  monkeypatch.undo()
  summary = prepare.prepare(path, out, SETTINGS, num_workers=1)
  assert summary.num_records == 4 and not summary.rejected
  assert summary.counts == {"kept": 3, "rejected before": 1}


begun_row = begun.prepare_row


def _killed_at_p2(job):
  """Of the first time, p3 is under way as well."""
  name = job.manifest.rows[0]["participant_id"]
  if name == "p2":
    parts.prepare_row = _kill
  if name == "p3" and not (job.out.parent / "again").exists():
    parts.prepare_row = _wait
  return begun_row(job)


def _kill(job):
  folder, again = job.out / "parts", job.out.parent / "again"
  deadline = time.monotonic() + 60
  while not again.exists() and (
    len(list(folder.glob("*.json"))) < 2
    or len(list(folder.glob("*.begun"))) < 2
  ):
    assert time.monotonic() < deadline
    time.sleep(0.05)
  again.touch()
  os.kill(os.getpid(), signal.SIGKILL)


def _wait(job):
  time.sleep(60)


def test_countend_with_their_parent(tmp_path):
  script = tmp_path / "main.py"
  script.write_text("""
import os, signal, time
from brainjax.preparation import workers
def slow(job):
  print("started", flush=True)
  time.sleep(120)
if __name__ == "__main__":
  for _ in workers.run_jobs(slow, [0, 1], workers=2, name_of=str):
    pass
""")
  with subprocess.Popen(
    [sys.executable, script], stdout=subprocess.PIPE, text=True
  ) as parent:
    assert parent.stdout
    for _ in range(2):
      parent.stdout.readline()
    parent.kill()
    # The pipe is closed when the last process that holds it has ended.
    assert parent.stdout.read() == ""


def test_interrupt_does_not_wait_for_workers(tmp_path):
  script = tmp_path / "main.py"
  script.write_text("""
import contextlib, os, signal, time
from brainjax.preparation import workers
def slow(job):
  if job:
    time.sleep(60)
if __name__ == "__main__":
  jobs = workers.run_jobs(slow, [0, 1, 1], workers=2, name_of=str)
  with contextlib.closing(jobs):
    for _ in jobs:
      os.killpg(0, signal.SIGINT)  # as a terminal does
""")
  process = subprocess.run(
    [sys.executable, script],
    timeout=120,
    start_new_session=True,
    capture_output=True,
    text=True,
  )
  assert process.returncode == -signal.SIGINT
  assert process.stderr.count("Traceback") == 1  # the parent's


def test_full_disk_loses_nothing(tmp_path):
  path, out = _cohort(tmp_path, count=3, bad=()), tmp_path / "out"
  wanted = tmp_path / "wanted"
  prepare.prepare(path, wanted, SETTINGS)
  sizes = [f.stat().st_size for f in wanted.iterdir() if f.is_file()]
  script = tmp_path / "main.py"
  script.write_text(f"""
import resource, sys
sys.path.insert(0, {str(pathlib.Path(__file__).parent)!r})
import tiny_head
from brainjax import InputError
from brainjax.preparation import prepare
limit = int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
  prepare.prepare(
    {str(path)!r}, {str(out)!r}, tiny_head.settings(shard_scans=2)
  )
except InputError as error:
  print(error)
""")
  for limit in (100, 2000, max(sizes) - 1):
    process = subprocess.run(
      [sys.executable, script, str(limit)],
      timeout=60,
      capture_output=True,
      text=True,
      check=True,
    )
    assert process.stdout.count("\n") == 1
    assert process.stdout.startswith(str(out))
    assert "File too large" in process.stdout
    if limit == 100:  # not even preparation.json
      assert "preparation.json: " in process.stdout
      continue
    assert process.stdout.startswith(f"{out}: ")
    assert "same command" in process.stdout
    assert not list(out.rglob("*.partial"))
  summary = prepare.prepare(path, out, SETTINGS)
  assert summary.counts == {"kept": 3}
  assert _hashes(out) == _hashes(wanted)


@pytest.mark.parametrize("num_workers", [1, 2])
def test_finished_set_is_left_as_it_is(tmp_path, num_workers):
  path, out = _cohort(tmp_path), tmp_path / "records"
  first = prepare.prepare(path, out, SETTINGS, num_workers=num_workers)
  before = {f: f.stat().st_mtime_ns for f in out.glob("shard*")}
  hashes = _hashes(out)
  (out / "parts").mkdir()  # killed just before the end
  said = []
  again = prepare.prepare(
    path, out, SETTINGS, num_workers=num_workers, say=said.append
  )
  assert again.text.startswith("already prepared: 3 scans")
  assert not said
  assert again.rejected == first.rejected
  assert {f: f.stat().st_mtime_ns for f in out.glob("shard*")} == before
  assert _hashes(out) == hashes


N4 = {"method": "sitk", "iterations": (2,)}


def _again(path, out, *, shard_scans=2, **fields):
  """Prepares once more; returns what was said, and the counts."""
  settings = tiny_head.settings(shard_scans=shard_scans, **fields)
  said = []
  summary = prepare.prepare(path, out, settings, say=said.append)
  fresh = out.with_name("fresh")
  prepare.prepare(path, fresh, settings)
  assert _hashes(fresh) == _hashes(out)
  shutil.rmtree(fresh)
  return said, summary.counts


def test_changed_settings_redo_only_what_they_must(tmp_path, monkeypatch):
  path, out = _cohort(tmp_path), tmp_path / "records"
  prepare.prepare(path, out, tiny_head.settings(shard_scans=2, bias_field=N4))
  fit, fitted = bias_field.fit_bias_field, []

  def counting(volume, **options):
    fitted.append(volume)
    return fit(volume, **options)

  monkeypatch.setattr(bias_field, "fit_bias_field", counting)
  said, counts = _again(path, out, shard_scans=3, bias_field=N4)
  assert said == [
    "config.preparation.shard_scans was 2, is 3: the scans are kept, in other"
    " shards"
  ]
  assert counts == {"kept": 4}
  fitted.clear()
  said, counts = _again(path, out, height=12, bias_field=N4)
  assert said[0].startswith("config.preparation.height was 16, is 12; ")
  assert said[0].endswith(
    "every scan is prepared again, its bias field is kept"
  )
  assert counts == {"with changed settings": 4}
  assert len(fitted) == 3  # for the fresh folder
  fitted.clear()
  said, counts = _again(path, out, bias_field=N4 | {"tolerance": 0.5})
  assert "bias_field.tolerance was 0.001, is 0.5" in said[0]
  assert said[0].endswith("every scan is prepared again")
  assert len(fitted) == 6
  assert len(list((out / "bias_fields").iterdir())) == 3


def test_changed_scans_alone_are_prepared_again(tmp_path):
  path, out = _cohort(tmp_path), tmp_path / "records"
  prepare.prepare(path, out, SETTINGS)
  shutil.copy(tmp_path / "cohort" / "p3.nii", tmp_path / "cohort" / "p1.nii")
  said, counts = _again(path, out)
  assert (said, counts) == ([], {"kept": 3, "with changed files": 1})
  study = manifest.read_manifest(path)
  rows = [dict(row) for row in study.rows]
  rows[0]["label"] = "normal"
  rows[2]["spacing_mm"] = "10;10;12"
  del rows[3]
  rows.append(rows[0] | {"participant_id": "new", "t1": "new.nii"})
  shutil.copy(tmp_path / "cohort" / "p0.nii", tmp_path / "cohort" / "new.nii")
  manifest.write_manifest(path, rows, [*study.columns, "spacing_mm"])
  said, counts = _again(path, out)
  assert len(said) == 1 and said[0].startswith("manifest.csv changed")
  assert counts == {"kept": 2, "with another spacing_mm": 1, "new": 1}
  record_set = records.RecordSet(out)
  assert record_set[0].label == record_set.rows[0]["label"] == "normal"
  spacing = record_set[2].geometry["file_spacing_mm"]
  np.testing.assert_allclose(spacing, [10, 10, 12])


def test_a_file_that_could_not_be_read_is_tried_again(tmp_path, monkeypatch):
  path, out = _cohort(tmp_path, bad=()), tmp_path / "records"
  sha256_of = records.sha256_of

  def failing(file):
    if pathlib.Path(file).name == "p1.nii":
      raise PermissionError(13, "Permission denied", str(file))
    return sha256_of(file)

  monkeypatch.setattr(records, "sha256_of", failing)
  summary = prepare.prepare(path, out, SETTINGS)
  (row,) = summary.rejected
  assert row["file"].endswith("p1.nii")
  assert row["reason"] == "Permission denied"
  monkeypatch.undo()
  summary = prepare.prepare(path, out, SETTINGS)
  assert summary.counts == {"kept": 3, "with changed files": 1}
  assert summary.num_records == 4 and not summary.rejected


def test_a_rejected_scan_is_tried_again(tmp_path, monkeypatch):
  path, out = _cohort(tmp_path, bad=()), tmp_path / "records"
  prepare_scan = parts.prepare_scan

  def failing(manifest, row, config, **options):
    if row["participant_id"] == "p1":
      raise ScanError(pathlib.Path("p1.nii"), "damaged: too many open files")
    return prepare_scan(manifest, row, config, **options)

  monkeypatch.setattr(parts, "prepare_scan", failing)
  assert prepare.prepare(path, out, SETTINGS).num_records == 3
  assert prepare.prepare(path, out, SETTINGS).counts == {"kept": 4}
  monkeypatch.undo()
  found = prepare.forecast(path, out, SETTINGS)
  assert found.redone == (("p1", "", "rejected before"),)
  summary = prepare.prepare(path, out, SETTINGS)
  assert summary.counts == {"kept": 3, "rejected before": 1}
  assert summary.num_records == 4 and not summary.rejected


def test_other_code_prepares_every_scan_again(tmp_path, monkeypatch):
  path, out = _cohort(tmp_path, count=2, bad=()), tmp_path / "records"
  prepare.prepare(path, out, SETTINGS)
  monkeypatch.setattr(parts, "PREPARATION_VERSION", 0)
  said, counts = _again(path, out)
  assert said[0].startswith("made by another version of brainjax")
  assert counts == {"with changed settings": 2}


def test_killed_as_it_cleans_up_another_manifest_goes_on(tmp_path, monkeypatch):
  path, out = _cohort(tmp_path, bad=()), tmp_path / "records"
  rmtree = shutil.rmtree

  def dying(folder, **options):
    if folder == out / "parts":
      for record in folder.glob("*.safetensors"):
        record.unlink()
      raise _Killed
    rmtree(folder, **options)

  monkeypatch.setattr(shutil, "rmtree", dying)
  with pytest.raises(_Killed):
    prepare.prepare(path, out, SETTINGS)
  monkeypatch.undo()
  study = manifest.read_manifest(path)
  manifest.write_manifest(path, study.rows[1:], study.columns)
  assert _again(path, out)[1] == {"kept": 3}


def test_each_series_of_a_folder_has_its_bias_field(tmp_path):
  affine = np.diag([12.0, 12.0, 12.0, 1.0])
  for seed, name in enumerate(("t1", "t2")):
    array, *_ = tiny_head.tiny_head((12.0,) * 3, stripped=True, seed=seed)
    write_series(
      tmp_path / "scan",
      array.clip(0).astype("<u2"),
      affine,
      prefix=name,
      SeriesDescription=f"AX {name}",
    )
  path, out = tmp_path / "manifest.csv", tmp_path / "records"
  for name in ("t1", "t2"):
    row = {"participant_id": "p", "label": "", name: "scan"}
    manifest.write_manifest(path, [row], list(row))
    _again(path, out, bias_field=N4)  # as in a fresh folder


def test_earlier_records_stay_until_the_new_ones_are_there(tmp_path):
  path, out = _cohort(tmp_path), tmp_path / "records"
  prepare.prepare(path, out, SETTINGS)
  before = _hashes(out)
  del before["preparation.json"]

  def stopping(results, total):
    yield next(iter(results))
    raise KeyboardInterrupt

  other = tiny_head.settings(shard_scans=2, height=12)
  with pytest.raises(KeyboardInterrupt):
    prepare.prepare(path, out, other, progress=stopping)
  after = _hashes(out)
  del after["preparation.json"]
  assert before == after and len(records.RecordSet(out)) == 3
  # And back again: nothing is lost by the detour.
  assert prepare.prepare(path, out, SETTINGS).counts == {"kept": 4}


def test_suspicious_scans_are_listed(tmp_path):
  path = tiny_head.write_scans(tmp_path / "c", count=2)
  array = nib.load(tmp_path / "c" / "p1.nii").get_fdata().copy()
  thin = nib.Nifti1Image(array, np.diag([12, 12, 1, 1]))
  nib.save(thin, tmp_path / "c" / "p1.nii")
  out = tmp_path / "records"
  summary = prepare.prepare(path, out, SETTINGS)
  assert summary.text.endswith(f"; 1 warnings, listed in {out}/warnings.csv")
  (row,) = summary.warnings
  assert row["participant_id"] == "p1"
  assert "mm from bottom to top, not 60 to 260" in row["warning"]
  assert "12 x 12 x 1 mm" in row["warning"]
  study = manifest.read_manifest(path)
  rows = [dict(row) for row in study.rows]
  rows[1]["spacing_mm"] = "12;12;12"
  manifest.write_manifest(path, rows, [*study.columns, "spacing_mm"])
  summary = prepare.prepare(path, out, SETTINGS)
  assert not summary.warnings
  assert summary.counts == {"kept": 1, "with another spacing_mm": 1}
  first, second = records.RecordSet(out)
  assert first.geometry["row"] == second.geometry["row"]


def test_folder_of_something_else_is_refused(tmp_path):
  path, out = _cohort(tmp_path), tmp_path / "home"
  out.mkdir()
  (out / "thesis.txt").write_text("precious")
  with pytest.raises(InputError, match=r"home: it holds thesis\.txt"):
    prepare.prepare(path, out, SETTINGS)
  with pytest.raises(InputError, match=r"thesis\.txt: .*choose another"):
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
  assert files == ["shard-00000.zip", "shard-00002.zip"]
  ids = [record.participant_id for record in record_set]
  assert ids == ["p0", "p1", "p4", "p5"]


def test_only_shards_are_replaced(tmp_path):
  path, out = _cohort(tmp_path, count=3, bad=()), tmp_path / "records"
  prepare.prepare(path, out, SETTINGS)
  for name in ("shard-00001.arrayrecord", "shard-notes.txt"):
    (out / name).touch()
  prepare.prepare(path, out, tiny_head.settings(shard_scans=3))
  shards = sorted(file.name for file in out.glob("shard-*"))
  assert shards == ["shard-00000.zip", "shard-notes.txt"]


def test_a_lost_shard_is_made_again(tmp_path):
  path, out = _cohort(tmp_path, count=4, bad=()), tmp_path / "records"
  settings = tiny_head.settings(shard_scans=2)
  prepare.prepare(path, out, settings)
  before = _hashes(out)
  (out / "shard-00001.zip").unlink()
  summary = prepare.prepare(path, out, settings)
  assert summary.counts == {"kept": 2, "new": 2}
  assert _hashes(out) == before


def test_shards_do_not_change_the_records(tmp_path, monkeypatch):
  path = _cohort(tmp_path, count=5)
  monkeypatch.setattr(records, "_OPEN_SHARDS", 2)
  contents = []
  for size in (1, 3, 64):
    out = tmp_path / str(size)
    prepare.prepare(path, out, tiny_head.settings(shard_scans=size))
    contents.append([records.encode(r) for r in records.RecordSet(out)])
  assert contents[0] == contents[1] == contents[2]


def test_progress_sees_every_row(tmp_path):
  seen = []

  def progress(rows, total):
    assert total == 4
    for index, done in rows:
      yield index, done
      seen.append(index)

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


@pytest.mark.slow
def test_countestimate_the_same_bias_fields(tmp_path):
  path = _cohort(tmp_path, count=3, bad=())
  fields = {}
  for count, method in ((2, "sitk"), (2, "jax"), (1, "jax")):
    out = tmp_path / f"by_{count}"
    settings = tiny_head.settings(bias_field=N4 | {"method": method})
    prepare.prepare(path, out, settings, num_workers=count)
    fields[count, method] = {
      file.name: file.read_bytes() for file in (out / "bias_fields").iterdir()
    }
  assert len(fields[2, "sitk"]) == len(fields[1, "jax"]) == 3
  assert not fields[2, "sitk"].keys() & fields[2, "jax"].keys()
  assert fields[2, "jax"] == fields[1, "jax"]
  assert _hashes(tmp_path / "by_1") == _hashes(tmp_path / "by_2")


def test_settings_that_are_not_used_make_no_other_key(tmp_path):
  table = manifest.read_manifest(_cohort(tmp_path, count=1, bad=()))

  def key(**fields):
    config = tiny_head.settings(**fields)
    return parts._settings_of(parts.Job(table, config, tmp_path, ()))

  region, field = {"t2": 0.5}, {"grid_mm": 5.0}
  assert key() == key(every_mm=3.0, region=region, bias_field=field)
  assert key(slices="all") == key(slices="all", num_slices=3)
  assert key() != key(num_slices=3)
  assert key(slices="every") != key(slices="every", every_mm=3.0)
  assert key(crop="region") != key(crop="region", region=region)
  assert key(bias_field=N4) != key(bias_field=N4 | field)
