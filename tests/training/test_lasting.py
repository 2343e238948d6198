"""What a run survives, and what it says while it works."""

import errno
import io
import json
import os
import sys
import time
import types

import jax.numpy as jnp
import numpy as np
import pytest
import rich.console

import helpers
from brainjax import InputError, checkpoint, lock
from brainjax.checkpoint import Checkpoints
from brainjax.training import heartbeat, logs, train
from brainjax.training.runner import Runner


@pytest.fixture(scope="module")
def features(tmp_path_factory):
  folder = tmp_path_factory.mktemp("features") / "features"
  helpers.write_features(folder)
  return folder


def start(features, workdir, *overrides):
  """Trains a head, 4 epochs of 3 steps; returns what is printed."""
  config = helpers.micro_config(features, "train.log_every_steps=1", *overrides)
  console = rich.console.Console(file=io.StringIO(), width=1000)
  train.train(config, workdir, console=console)
  return console.file.getvalue()


def read_json(path):
  return json.loads(path.read_text())


def training_lines(workdir):
  lines = logs.read_log(workdir / "metrics.jsonl")
  return {line["step"]: line for line in lines if "learning_rate" in line}


@pytest.fixture
def poisoned(monkeypatch):
  """Steps whose losses shall not be finite, and the scans of every step."""
  training_batches = Runner.training_batches
  chosen, seen = set(), {}

  def poisoning(self, *, first_step, **kwargs):
    batches = training_batches(self, first_step=first_step, **kwargs)
    for step, batch in enumerate(batches, first_step + 1):
      indices = np.unique(batch["record_index"])
      seen[step] = indices[indices >= 0].tolist()
      if step in chosen:
        nan = jnp.full_like(batch["scale"], jnp.nan)
        batch = {**batch, "scale": nan}
      yield batch

  monkeypatch.setattr(Runner, "training_batches", poisoning)
  return chosen, seen


def test_a_step_that_is_not_finite_ends_the_run_and_names_its_scans(
  features, tmp_path, poisoned
):
  chosen, seen = poisoned
  chosen.add(5)
  with pytest.raises(InputError, match="step 5 is not finite.*non_finite.json"):
    start(features, tmp_path / "run")
  found = read_json(tmp_path / "run" / "non_finite.json")
  assert found["step"] == 5
  assert [batch["step"] for batch in found["batches"]] == [4, 5]
  for batch in found["batches"]:
    indices = [scan["record_index"] for scan in batch["scans"]]
    assert indices == seen[batch["step"]]
    for scan in batch["scans"]:
      assert scan["participant_id"] == f"p{scan['record_index']:03d}"
  assert read_json(tmp_path / "run" / "heartbeat.json")["phase"] == "stopped"
  # It may be continued with such steps skipped.
  said = start(features, tmp_path / "run", "train.non_finite=skip")
  assert "continuing after step 3" in said
  assert "step 5: the loss or a gradient is not finite; skipped" in said


def test_skipped_steps_are_counted_and_survive_a_restart(
  features, tmp_path, poisoned
):
  chosen, _ = poisoned
  chosen |= {2, 5}
  skip = "train.non_finite=skip"
  start(features, tmp_path / "run", skip, "train.epochs=1")
  start(features, tmp_path / "run", skip)
  lines = training_lines(tmp_path / "run")
  assert {s for s, line in lines.items() if "train/skipped" in line} == chosen
  assert {s for s, line in lines.items() if "train/loss" in line} == (
    set(range(1, 13)) - chosen
  )
  assert all(np.isfinite(list(line.values())).all() for line in lines.values())
  loop = checkpoint.latest_loop(tmp_path / "run" / "checkpoints")
  assert loop["non_finite"] == {"skipped": 2, "in_a_row": 0}


def test_too_many_skipped_steps_in_a_row_end_the_run(
  features, tmp_path, poisoned
):
  chosen, _ = poisoned
  chosen |= {2, 4, 5, 6, 7}
  settings = ("train.non_finite=skip", "train.most_skipped=2")
  with pytest.raises(InputError, match="step 6 is not finite.*3 in a row"):
    start(features, tmp_path / "run", *settings)


@pytest.mark.parametrize(
  "number", [errno.ENOSPC, pytest.param(errno.EROFS, marks=pytest.mark.slow)]
)
def test_a_full_disk_is_one_line_and_the_run_continues(
  features, tmp_path, monkeypatch, number
):
  write = logs.MetricLog.write

  def refusing(self, line):
    if line["step"] == 8:
      raise OSError(number, os.strerror(number))
    write(self, line)

  with monkeypatch.context() as patch:
    patch.setattr(logs.MetricLog, "write", refusing)
    with pytest.raises(InputError) as refused:
      start(features, tmp_path / "run")
  said = str(refused.value)
  assert said.startswith(f"{tmp_path / 'run'}: {os.strerror(number)}; make")
  assert "\n" not in said
  assert "continuing after step 6" in start(features, tmp_path / "run")


# tensorstore goes on telling an event loop that Orbax closed at an error.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_lost_folder_is_one_line(features, tmp_path, monkeypatch):
  monkeypatch.setattr(heartbeat, "_EVERY_SECONDS", 0.0)
  write = logs.MetricLog.write

  def losing(self, line):
    write(self, line)
    if line["step"] == 4:
      deadline = time.monotonic() + 60
      while list((tmp_path / "run" / "checkpoints").glob("*tmp*")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
      (tmp_path / "run").rename(tmp_path / "elsewhere")

  monkeypatch.setattr(logs.MetricLog, "write", losing)
  with pytest.raises(InputError) as refused:
    start(features, tmp_path / "run")
  assert str(refused.value).startswith(f"{tmp_path / 'run'}: No such file")
  assert not (tmp_path / "run").exists()


def test_other_errors_of_the_system_stay_what_they_are(
  features, tmp_path, monkeypatch
):
  def broken(self, line):
    raise BrokenPipeError(errno.EPIPE, "Broken pipe")

  monkeypatch.setattr(logs.MetricLog, "write", broken)
  with pytest.raises(BrokenPipeError):
    start(features, tmp_path / "run")


def test_a_checkpoint_that_is_being_written_is_proven_after_a_crash(
  features, tmp_path, monkeypatch
):
  class Crash(Exception):
    pass

  save = Checkpoints.save

  def crashing(self, step, *args, **kwargs):
    save(self, step, *args, **kwargs)
    if step == 6:
      raise Crash

  with monkeypatch.context() as patch:
    patch.setattr(Checkpoints, "save", crashing)
    with pytest.raises(Crash):
      start(features, tmp_path / "run")
  assert "continuing after step 6" in start(features, tmp_path / "run")


def test_a_damaged_checkpoint_is_named(features, tmp_path):
  start(features, tmp_path / "run", "train.epochs=2")
  folder = tmp_path / "run" / "checkpoints"
  (folder / "6.sha256.json").unlink()
  said = start(features, tmp_path / "run", "train.epochs=2")
  assert f"{folder / '6'}: the checkpoint is not finished; deleted" in said
  assert "continuing after step 3" in said


def test_two_runs_do_not_share_a_workdir(features, tmp_path):
  with (
    lock.hold(tmp_path / "run", print),
    pytest.raises(InputError, match=f"in use by process {os.getpid()}"),
  ):
    start(features, tmp_path / "run")
  with pytest.raises(InputError, match="config.train.epochs=0"):
    start(features, tmp_path / "run", "train.epochs=0")
  assert not (tmp_path / "run").exists()


def test_heartbeat_says_where_the_run_is(features, tmp_path, monkeypatch):
  phases = []
  write = heartbeat.records.write_text

  def watching(path, text):
    if path.name == "heartbeat.json":
      phases.append((json.loads(text)["phase"], json.loads(text)["step"]))
    write(path, text)

  monkeypatch.setattr(heartbeat.records, "write_text", watching)
  start(features, tmp_path / "run", "train.epochs=2")
  assert phases == [
    ("compiling", 0),
    ("training", 1),
    ("validating", 3),
    ("training", 4),
    ("validating", 6),
    ("done", 6),
  ]
  found = read_json(tmp_path / "run" / "heartbeat.json")
  assert found["pid"] == os.getpid() and found["epoch"] == 2.0


def test_log_lines_say_what_the_process_takes(features, tmp_path):
  start(features, tmp_path / "run", "train.epochs=1")
  for line in training_lines(tmp_path / "run").values():
    assert 1e8 < line["perf/host_bytes"] < 1e11
    assert 0 < line["perf/step_seconds_p50"] <= line["perf/step_seconds_p90"]


class SummaryWriter:
  """What we use of tensorboardX."""

  written: dict[str, list[tuple[str, float, int]]] = {}
  purged: list[int] = []

  def __init__(self, folder, *, purge_step):
    self.purged.append(purge_step)
    self.lines = self.written.setdefault(folder, [])

  def add_scalar(self, name, value, step):
    self.lines.append((name, value, step))

  def close(self):
    self.lines.append(("closed", 0, 0))


def test_tensorboard_gets_every_number_of_the_log(
  features, tmp_path, monkeypatch
):
  module = types.SimpleNamespace(SummaryWriter=SummaryWriter)
  monkeypatch.setitem(sys.modules, "tensorboardX", module)
  start(features, tmp_path / "run", "train.epochs=1")
  start(features, tmp_path / "run", "train.epochs=2", "train.tensorboard=True")
  (lines,) = SummaryWriter.written.values()
  assert list(SummaryWriter.written) == [str(tmp_path / "run" / "tensorboard")]
  assert SummaryWriter.purged == [4]
  *lines, last = lines
  assert last[0] == "closed"
  assert lines == [
    (name, value, line["step"])
    for line in logs.read_log(tmp_path / "run" / "metrics.jsonl")
    for name, value in line.items()
    if name != "step" and line["step"] > 3
  ]


def test_tensorboard_that_is_not_installed_is_said_at_once(
  features, tmp_path, monkeypatch
):
  monkeypatch.setitem(sys.modules, "tensorboardX", None)
  with pytest.raises(InputError, match=r"brainjax\[tensorboard\]"):
    start(features, tmp_path / "run", "train.tensorboard=True")
  assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("steps", ["(2,3)", "(2,99)"])
def test_chosen_steps_are_traced(features, tmp_path, steps):
  said = start(
    features, tmp_path / "run", "train.epochs=1", f"train.profile_steps={steps}"
  )
  folder = tmp_path / "run" / "profile"
  assert f"profile: {folder}; open it with" in said
  (trace,) = folder.rglob("*.xplane.pb")
  assert b"train" in trace.read_bytes()
  assert list(folder.rglob("*.trace.json.gz"))


@pytest.mark.parametrize("steps", ["(5,)", "(0,3)", "(5,4)", "(1.5,2)"])
def test_steps_that_cannot_be_traced_are_refused(features, tmp_path, steps):
  with pytest.raises(InputError, match="config.train.profile_steps"):
    start(features, tmp_path / "run", f"train.profile_steps={steps}")
