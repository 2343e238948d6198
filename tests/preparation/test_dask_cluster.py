"""Preparation on a Dask cluster, of processes on this machine."""

import json
import os
import subprocess
import sys
import time

import pytest
import tiny_head

from brainjax import InputError, records
from brainjax.cohort import manifest
from brainjax.preparation import dask_cluster, parts, prepare, workers

distributed = pytest.importorskip("distributed")

SETTINGS = tiny_head.settings(shard_scans=3)
# Says each time a scan is prepared; of p3, lasts until the worker is killed,
# or kills it.
SLOW = """
import os, pathlib, signal, sys, time
import brainjax.preparation.parts as parts
whole = parts.prepare_scan
log = pathlib.Path(sys.argv.pop(1))

def prepare_scan(manifest, row, config, **kwargs):
  name = row["participant_id"]
  if (log / "deadly").exists():
    time.sleep(0.3)  # until others wait behind it
    if name == "p3":
      os.kill(os.getpid(), signal.SIGKILL)
  first = not (log / "killed").exists()
  if name == "p3" and first:
    (log / "pid").write_text(str(os.getpid()))
    time.sleep(600)
  result = whole(manifest, row, config, **kwargs)
  with open(log / "done", "a") as file:
    print(name, file=file)
  return result

parts.prepare_scan = prepare_scan
from distributed.cli.dask_worker import main
main()
"""


def _start(command, folder, failures):
  name = "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES"
  with open(folder / "log", "a") as log:
    return subprocess.Popen(
      [sys.executable, *command],
      stdout=log,
      stderr=log,
      env=os.environ | {name: str(failures)},
    )


@pytest.fixture
def cluster(tmp_path, request):
  """Yields its address, and its folder.

  A parameter says how many workers a job may lose before Dask gives it up.
  """
  failures = getattr(request, "param", 3)
  folder = tmp_path / "cluster"
  folder.mkdir()
  file = folder / "scheduler.json"
  scheduler = (
    *("-m", "distributed.cli.dask_scheduler", "--port=0", "--no-dashboard"),
    *("--host=127.0.0.1", f"--scheduler-file={file}"),
  )
  (folder / "slow.py").write_text(SLOW)
  worker = (
    *(str(folder / "slow.py"), str(folder), f"--scheduler-file={file}"),
    *("--no-nanny", "--nthreads=1", f"--local-directory={folder}"),
    "--no-dashboard",
  )
  started = [_start(scheduler, folder, failures)]
  started += [_start(worker, folder, failures) for _ in range(2)]
  try:
    _wait_for(file)
    address = json.loads(file.read_text())["address"]
    with distributed.Client(address, set_as_default=False) as client:
      client.wait_for_workers(2, timeout=60)
    yield address, folder
  finally:
    for process in reversed(started):
      process.kill()
      process.wait()


def _wait_for(file, seconds=60.0):
  end = time.monotonic() + seconds
  while not (file.is_file() and file.read_text()):
    assert time.monotonic() < end, f"{file} does not appear"
    time.sleep(0.05)


@pytest.mark.slow
def test_a_killed_worker_loses_nothing_and_nothing_is_done_twice(
  tmp_path, cluster
):
  address, folder = cluster
  path = tiny_head.write_scans(tmp_path / "c", count=8)
  killer = (
    "import os, pathlib, signal, sys, time\n"
    "folder = pathlib.Path(sys.argv[1])\n"
    "while not (folder / 'pid').is_file() or not"
    " (folder / 'pid').read_text(): time.sleep(0.05)\n"
    "time.sleep(1)\n"  # the other worker goes on meanwhile
    "(folder / 'killed').touch()\n"
    "os.kill(int((folder / 'pid').read_text()), signal.SIGKILL)\n"
  )
  process = subprocess.Popen([sys.executable, "-c", killer, str(folder)])
  out = tmp_path / "out"
  summary = prepare.prepare(path, out, SETTINGS, cluster=address)
  assert process.wait() == 0
  assert summary.counts == {"new": 8} and not summary.rejected
  assert sorted((folder / "done").read_text().split()) == [
    f"p{i}" for i in range(8)
  ]
  alone = tmp_path / "alone"
  prepare.prepare(path, alone, SETTINGS)
  for shard in sorted(out.glob("shard-*")):
    assert records.sha256_of(shard) == records.sha256_of(alone / shard.name)
  assert len(records.RecordSet(out)) == 8


@pytest.mark.slow
@pytest.mark.parametrize("cluster", [0], indirect=True)
def test_a_scan_that_kills_its_workers_is_rejected_and_ends_nothing(
  tmp_path, cluster
):
  address, folder = cluster
  (folder / "deadly").touch()
  path, out = tiny_head.write_scans(tmp_path / "c", count=8), tmp_path / "out"
  summary = prepare.prepare(path, out, SETTINGS, cluster=address)
  ((file, reason),) = ((r["file"], r["reason"]) for r in summary.rejected)
  assert file.endswith("p3.nii") and reason == workers.KILLED
  others = [f"p{i}" for i in range(8) if i != 3]
  assert [
    row["participant_id"] for row in records.RecordSet(out).rows
  ] == others
  # Neither are those that waited behind it on the lost worker.
  assert sorted((folder / "done").read_text().split()) == others
  # Started again where it kills nobody, it is prepared, and it alone.
  summary = prepare.prepare(path, out, SETTINGS)
  assert summary.counts == {"kept": 7, "rejected before": 1}
  assert summary.num_records == 8 and not summary.rejected


def test_a_finished_job_is_not_done_again(tmp_path, monkeypatch):
  path = tiny_head.write_scans(tmp_path / "c", count=1)
  (tmp_path / "out" / "parts").mkdir(parents=True)
  job = parts.Job(manifest.read_manifest(path), SETTINGS, tmp_path / "out", ())
  first = parts.prepare_row(job)
  assert first.why == "new" and first.found.file.is_file()

  def again(*args, **kwargs):
    raise AssertionError("prepared twice")

  monkeypatch.setattr(parts, "prepare_scan", again)
  assert parts.prepare_row(job) == first


class _Client:
  """Of a cluster with one worker."""

  def __init__(self, threads=1, version=None):
    self.threads, self.version = threads, version

  def wait_for_workers(self, count, timeout):
    pass

  def nthreads(self):
    return {"w": self.threads}

  def run(self, function):
    if self.version is None:
      raise ModuleNotFoundError("No module named 'brainjax'")
    return {"w": self.version}


@pytest.mark.parametrize(
  "client, message",
  [
    (_Client(threads=4), "worker w has 4 threads; start it with --nthreads=1"),
    (_Client(), "cannot load brainjax .No module named"),
    (_Client(version=["0", 1, 1]), "worker w has brainjax .'0', 1, 1."),
  ],
)
def test_a_worker_that_would_do_otherwise_is_refused(client, message):
  with pytest.raises(InputError, match=f"--dask=tcp://x: .*{message}"):
    dask_cluster._check_workers(client, "tcp://x")
  dask_cluster._check_workers(_Client(version=parts.versions()), "tcp://x")


def test_a_job_leaves_the_environment_of_its_worker(monkeypatch):
  monkeypatch.setenv("JAX_PLATFORMS", "cuda")
  monkeypatch.delenv("NPROC", raising=False)
  seen = dask_cluster._in_one_thread(
    lambda job: (os.environ["JAX_PLATFORMS"], os.environ["NPROC"]), None
  )
  assert seen == ("cpu", "1")
  assert os.environ["JAX_PLATFORMS"] == "cuda" and "NPROC" not in os.environ


def test_no_scheduler_is_one_line(tmp_path, monkeypatch):
  monkeypatch.setattr(dask_cluster, "_TIMEOUT_SECONDS", 0.5)
  path = tiny_head.write_scans(tmp_path / "c", count=1)
  with pytest.raises(InputError, match="no Dask scheduler answers"):
    prepare.prepare(
      path, tmp_path / "out", SETTINGS, cluster="tcp://127.0.0.1:9"
    )
