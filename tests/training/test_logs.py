import io
import json

import pytest
import rich.console

from brainjax.training import logs


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
