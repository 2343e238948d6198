"""Many processes: with a stand-in for the command line; see `stand_in/`."""

import collections
import contextlib
import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import pytest

from brainjax import InputError
from brainjax.training import executor, slurm
from brainjax.training.jobs import STOPPED, Job

STAND_IN = pathlib.Path(__file__).parent / "stand_in"


@pytest.fixture(autouse=True)
def _stand_in(monkeypatch):
  path = os.environ.get("PYTHONPATH", "")
  monkeypatch.setenv("PYTHONPATH", f"{STAND_IN}{os.pathsep}{path}")
  monkeypatch.setenv("JAX_PLATFORMS", "cpu")


def job(folder, verb, name=""):
  name = name or verb
  return Job(name, (verb, str(folder / f"{name}.txt")), folder / name)


def ends(jobs, place):
  return {end.job.name: end for end in executor.run(jobs, place)}


@pytest.mark.parametrize(
  "place", ["local", pytest.param("slurm", marks=pytest.mark.slow)]
)
def test_a_failing_job_stops_no_other(tmp_path, place):
  places = {
    "local": executor.Local(2),
    "slurm": slurm.Slurm(tmp_path / "submitit", cluster="local"),
  }
  wanted = [job(tmp_path, verb) for verb in ("fail", "die", "succeed")]
  found = ends(wanted, places[place])
  assert {name: end.code for name, end in found.items()} == {
    "fail": 2,
    "die": -signal.SIGKILL,
    "succeed": 0,
  }
  assert found["fail"].reason == "brainjax train: the reason"
  assert "memory" in found["die"].reason
  assert found["succeed"].reason == "" and found["succeed"].seconds > 0
  assert not any(end.kept for end in found.values())

  again = ends(wanted, places[place])
  assert [name for name, end in again.items() if end.kept] == ["succeed"]
  assert next(iter(again)) == "succeed"
  assert (tmp_path / "succeed.txt").read_text() == "done "
  assert again["fail"].seconds > found["fail"].seconds  # of both starts

  other = dataclasses.replace(wanted[-1], arguments=("fail", "other"))
  assert not ends([other], places[place])["succeed"].kept


def test_each_has_its_share_of_the_cores(tmp_path):
  cores = sorted(os.sched_getaffinity(0))
  if len(cores) < 2:
    pytest.skip("needs two cores")
  wanted = [job(tmp_path, "succeed", name) for name in "abc"]
  ends(wanted, executor.Local(2))
  said = [
    tuple(json.loads((each.folder / "output.txt").read_text()))
    for each in wanted
  ]
  half = len(cores) // 2
  assert set(said) == {tuple(cores[:half]), tuple(cores[half:])}


def wait_for(path, text):
  deadline = time.monotonic() + 120
  while not (path.is_file() and path.read_text() == text):
    assert time.monotonic() < deadline, path
    time.sleep(0.02)


def test_a_signal_lets_jobs_save(tmp_path):
  wanted = [job(tmp_path, "succeed"), *[job(tmp_path, "wait", n) for n in "ab"]]
  with pytest.raises(executor.Stopped, match="2 are not done"):
    for end in executor.run(wanted, executor.Local(1)):
      assert end.job.name == "succeed"
      os.kill(os.getpid(), signal.SIGTERM)
  assert not (tmp_path / "a.txt").exists()  # nothing is started any more

  def interrupt():
    for name in "ab":
      wait_for(tmp_path / f"{name}.txt", "waiting ")
    os.kill(os.getpid(), signal.SIGINT)

  before = signal.getsignal(signal.SIGTERM)
  with contextlib.closing(executor.run(wanted, executor.Local(3))) as found:
    assert next(found).kept
    threading.Thread(target=interrupt).start()
    with pytest.raises(executor.Stopped, match="2 are not done"):
      next(found)
  assert signal.getsignal(signal.SIGTERM) == before
  for name in "ab":
    assert (tmp_path / f"{name}.txt").read_text() == "waiting saved "
    written = json.loads((tmp_path / name / "ended.json").read_text())
    assert written["code"] == STOPPED


@pytest.mark.parametrize(
  "how", ["killed", pytest.param("hung up", marks=pytest.mark.slow)]
)
def test_jobs_end_with_who_started_them(tmp_path, how):
  code = (
    "import pathlib, sys\n"
    "from brainjax.training import executor, jobs\n"
    f"folder = pathlib.Path({str(tmp_path)!r})\n"
    "one = jobs.Job('wait', ('wait', str(folder / 'wait.txt')), folder)\n"
    "for _ in executor.run([one], executor.Local()): pass\n"
  )
  driver = subprocess.Popen([sys.executable, "-c", code])
  wait_for(tmp_path / "wait.txt", "waiting ")
  if how == "killed":
    driver.kill()
  else:
    driver.send_signal(signal.SIGHUP)
  driver.wait()
  wait_for(tmp_path / "wait.txt", "waiting saved ")


@pytest.mark.slow
def test_slurm_queues_again_what_runs_out_of_time(tmp_path):
  place = slurm.Slurm(tmp_path / "submitit", cluster="local")
  one = job(tmp_path, "wait")
  (running,) = place.starter().start(collections.deque([one]))
  wait_for(tmp_path / "wait.txt", "waiting ")
  process = int((one.folder / "output.txt").read_text())
  os.kill(process, signal.SIGUSR2)
  wait_for(tmp_path / "wait.txt", "waiting saved waiting ")
  running.stop()
  wait_for(tmp_path / "wait.txt", "waiting saved waiting saved ")
  assert running.end().code != 0


def test_what_cannot_be_is_refused(tmp_path, monkeypatch):
  with pytest.raises(InputError, match="no sbatch on this machine"):
    list(executor.run([], slurm.Slurm(tmp_path)))
  place = slurm.Slurm(tmp_path, {"partitoin": "gpu"}, cluster="local")
  with pytest.raises(InputError, match="--slurm: .*partitoin"):
    list(executor.run([], place))


def test_a_gpu_each(monkeypatch):
  monkeypatch.setattr(executor, "_gpus", lambda: ["0", "3"])
  (_, environment), (_, other) = executor._shares(2)
  assert environment == {"CUDA_VISIBLE_DEVICES": "0"}
  assert other == {"CUDA_VISIBLE_DEVICES": "3"}
  with pytest.raises(InputError, match="--jobs=3: there are 2 GPUs"):
    list(executor._shares(3))
