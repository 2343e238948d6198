import json
import os
import signal
import subprocess
import sys

import pytest

from brainjax import InputError, lock

HOLDER = """
import pathlib, sys, time
from brainjax import lock
with lock.hold(pathlib.Path(sys.argv[1]), print):
  print("held", flush=True)
  time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
  """Another process that holds a folder."""
  process = subprocess.Popen(
    [sys.executable, "-c", HOLDER, tmp_path / "run"], stdout=subprocess.PIPE
  )
  assert process.stdout.readline() == b"held\n"
  yield process
  process.kill()
  process.communicate()


def test_a_second_process_is_told_who_holds_the_folder(tmp_path, holder):
  with (
    pytest.raises(InputError) as refused,
    lock.hold(tmp_path / "run", print),
  ):
    pass
  said = str(refused.value)
  assert said.startswith(f"{tmp_path / 'run'}: in use by process {holder.pid}")
  assert f" on {os.uname().nodename} since 20" in said and "\n" not in said
  assert holder.poll() is None and (tmp_path / "run" / ".lock").is_file()


def test_a_process_that_was_killed_holds_nothing(tmp_path, holder):
  holder.send_signal(signal.SIGKILL)
  holder.wait()
  assert (tmp_path / "run" / ".lock").is_file()
  with lock.hold(tmp_path / "run", print):
    signed = json.loads((tmp_path / "run" / ".lock").read_text())
  assert signed["pid"] == os.getpid()


def test_it_leaves_what_it_found(tmp_path):
  with lock.hold(tmp_path / "new", print):
    pass
  with lock.hold(tmp_path, print):
    pass
  assert list(tmp_path.iterdir()) == []
  with lock.hold(tmp_path / "run", print):
    (tmp_path / "run" / "file").touch()
  assert [p.name for p in (tmp_path / "run").iterdir()] == ["file"]


def test_a_file_that_was_removed_is_no_lock(tmp_path, monkeypatch):
  """Another process ends between our opening of its file and our locking."""
  flock, calls = lock.fcntl.flock, []

  def late(file, operation):
    if not calls:
      (tmp_path / ".lock").unlink()
    calls.append(operation)
    flock(file, operation)

  monkeypatch.setattr(lock.fcntl, "flock", late)
  with lock.hold(tmp_path, print):
    assert (tmp_path / ".lock").is_file()
  assert len(calls) == 2


def test_without_locks_it_is_said(tmp_path, monkeypatch):
  def refuse(file, operation):
    raise OSError(lock.errno.ENOLCK, "No locks available")

  monkeypatch.setattr(lock.fcntl, "flock", refuse)
  said = []
  with lock.hold(tmp_path, said.append):
    pass
  assert len(said) == 1 and said[0].startswith(f"{tmp_path}: no locks")


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
  (tmp_path / "file").touch()
  with pytest.raises(InputError, match="choose another"):
    with lock.hold(tmp_path / "file", print):
      pass
