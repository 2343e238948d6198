import io
import json
import threading
import time
import types

import ml_collections
import numpy as np
import pytest
import rich.console

from brainjax.training import heartbeat, logs, profiling, train


def test_log_continues_as_if_it_had_never_stopped(tmp_path):
  path = tmp_path / "metrics.jsonl"
  with logs.MetricLog(path, first_step=0) as log:
    for step in (1, 2, 3):
      log.write({"step": step})
  with open(path, "a") as file:
    file.write('{"step": 4, "lo')
  with logs.MetricLog(path, first_step=2) as log:
    log.write({"step": 3, "again": True})
  assert logs.read_log(path) == [
    {"step": 1},
    {"step": 2},
    {"step": 3, "again": True},
  ]


def test_window_is_the_same_with_a_checkpoint_inside_it():
  steps = [
    {
      "loss": 0.1 * i * i,
      "weight": i,
      "correct": 1,
      "labelled": 2,
      "scans": 2,
      "slices": 9,
    }
    for i in range(1, 5)
  ]
  whole = logs.Window()
  for metrics in steps:
    whole.add(metrics)
  before = logs.Window()
  for metrics in steps[:2]:
    before.add(metrics)
  after = logs.Window(json.loads(json.dumps(before.sums)))
  for metrics in steps[2:]:
    after.add(metrics)
  one, other = whole.close(), after.close()
  for name in ("train/loss", "train/accuracy"):
    assert one[name] == other[name]
  assert one["train/loss"] == pytest.approx(3.0 / 10)
  assert one["train/accuracy"] == pytest.approx(4 / 8)
  assert whole.sums == {}


def test_display_prints_plain_lines_where_there_is_no_terminal():
  output = io.StringIO()
  console = rich.console.Console(file=output)
  with logs.Display(console, num_steps=4, first_step=0) as display:
    display.step(1)
    display.speed(3.0)
    display.say("epoch 1")
  assert output.getvalue() == "epoch 1\n"


class Results:
  """What a step will give; ready when somebody says so."""

  def __init__(self):
    self.ready = threading.Event()

  def block_until_ready(self):
    assert self.ready.wait(20)
    return self


@pytest.fixture
def clock(monkeypatch):
  """A clock that stands still until it is moved."""
  clock = types.SimpleNamespace(now=100.0)
  monkeypatch.setattr(time, "perf_counter", lambda: clock.now)
  return clock


def test_the_wait_for_the_first_batch_is_idle_time(clock):
  def source():
    clock.now += 3
    yield "batch"

  with logs.IdleClock() as idle:
    assert idle.next(source()) == ("batch", 3.0)


def test_a_wait_beside_a_step_that_still_runs_is_not(clock):
  def source():
    clock.now += 3
    yield "batch"

  results = Results()
  with logs.IdleClock() as idle:
    idle.follow({"loss": results})
    assert idle.next(source()) == ("batch", 0.0)
    results.ready.set()


def test_a_wait_counts_from_the_end_of_the_step(clock):
  results = Results()
  with logs.IdleClock() as idle:

    def source():
      clock.now += 3  # seconds that the step still takes
      results.ready.set()
      deadline = time.monotonic() + 20
      while not idle._done.done() and time.monotonic() < deadline:
        time.sleep(0.01)
      clock.now += 2
      yield "batch"
      clock.now += 4
      yield "another"

    batches = source()
    idle.follow({"loss": results})
    assert idle.next(batches) == ("batch", 2.0)
    # Nothing was dispatched in between: all of it is idle time.
    assert idle.next(batches) == ("another", 4.0)


@pytest.mark.parametrize("slow", ["source", "step"])
def test_the_loop_logs_the_share_of_idle_time(tmp_path, slow):
  sums = ("loss", "weight", "correct", "labelled", "scans", "slices", "finite")

  def source(first_step, num_steps):
    for _ in range(first_step, num_steps):
      time.sleep(0.05 * (slow == "source"))
      yield {"record_index": None}

  def step(state, batch):
    time.sleep(0.05 * (slow == "step"))
    return state, dict.fromkeys(sums, np.float32(1))

  config = ml_collections.ConfigDict()
  config.train = {"log_every_steps": 2}
  runner = types.SimpleNamespace(
    experiment=types.SimpleNamespace(
      config=config,
      shape=types.SimpleNamespace(steps_per_epoch=100),
      schedule=lambda step: 1.0,
    ),
    training_batches=source,
    train_step=step,
    throughput=None,
    state=None,
  )
  console = rich.console.Console(file=io.StringIO())
  log_file = tmp_path / "metrics.jsonl"
  with (
    logs.MetricLog(log_file, first_step=0) as log,
    logs.Display(console, num_steps=7, first_step=0) as display,
    logs.IdleClock() as idle,
  ):
    train._run(
      runner,
      train.LoopState(),
      range(7),
      checkpoints=types.SimpleNamespace(prove=lambda: None),
      log=log,
      display=display,
      idle=idle,
      heart=heartbeat.Heartbeat(tmp_path / "heart", steps_per_epoch=100),
      profile=profiling.Profile(tmp_path, (), first_step=0, say=print),
      stop=types.SimpleNamespace(requested=lambda step: False),
    )
  lines = logs.read_log(log_file)
  assert len(lines) == 3
  for line in lines:
    share = line["perf/data_wait_fraction"]
    assert share > 0.6 if slow == "source" else share < 0.4
