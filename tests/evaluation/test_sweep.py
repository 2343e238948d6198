import csv
import json
import os
import pathlib
import shlex
import signal
import subprocess
import sys
import time

import pytest

import helpers
from brainjax import InputError, cli
from brainjax.evaluation import figures, sweep, sweep_figure
from brainjax.training import jobs

ROOT = pathlib.Path(__file__).parent.parent.parent
SMOKE = str(ROOT / "configs" / "sweeps" / "smoke.py")
RATES = ("learning_rate-0.001", "learning_rate-0.01")
RATE = "optimizer.learning_rate"


class Pretence:
  """A place where runs end at once, with the scores they are given."""

  def __init__(self, scores):
    self.scores = scores
    self.started = []

  def starter(self):
    return self

  def start(self, waiting):
    started = []
    while waiting:
      job = waiting.popleft()
      self.started.append(job.name)
      job.folder.mkdir(parents=True, exist_ok=True)
      started.append(_Ended(job, self._code(job)))
    return started

  def _code(self, job):
    score = self.scores.get(job.name)
    if score is None:
      (job.folder / "output.txt").write_text("it begins\nno room: 1 > 0\n")
      return 2
    files = {
      "metrics.json": {"validation": {"roc_auc": score, "brier": score}},
      "metrics.jsonl": {"epoch": 3.0, "step": 9},
      "model.json": {"num_parameters": 77},
      "config.json": {"the": "config"},
    }
    for name, content in files.items():
      (job.folder / name).write_text(json.dumps(content) + "\n")
    return 0


class _Ended:
  def __init__(self, job, code):
    self._job, self._code = job, code

  def ended(self):
    return True

  def end(self):
    return jobs.write_end(self._job, self._code, 12.0)

  def stop(self):
    pass

  kill = stop


def score(value, low, high):
  return {"value": value, "low": low, "high": high}


def read_table(folder):
  with open(folder / "sweep.csv", newline="") as file:
    return list(csv.DictReader(file))


def test_the_table_has_a_row_a_run_and_the_best_its_commands(tmp_path):
  asked = sweep.read_sweep(SMOKE, tmp_path, ["train.epochs=2"])
  place = Pretence({RATES[1]: score(0.7, 0.6, 0.8)})
  told = []
  sweep.run(asked, place, tell=told.append)
  failed, done = read_table(tmp_path)
  assert [row["run"] for row in told] == list(RATES)
  assert failed["status"] == "failed" and failed["reason"] == "no room: 1 > 0"
  assert failed["value"] == "" and failed[RATE] == "0.001"
  assert done["status"] == "done" and done["reason"] == ""
  assert (done["value"], done["low"], done["high"]) == ("0.7", "0.6", "0.8")
  assert (done["epochs"], done["parameters"]) == ("3.0", "77")
  assert (done["seconds"], done[RATE]) == ("12.0", "0.01")

  best = json.loads((tmp_path / "best.json").read_text())
  assert best["run"] == RATES[1] and best["config"] == {"the": "config"}
  assert best["fields"] == {RATE: 0.01}
  for verb, command in best["commands"].items():
    program, *arguments = shlex.split(command)
    args, overrides = cli.make_parser().parse_known_args(arguments)
    assert (program, args.verb) == ("brainjax", verb)
    assert args.workdir == tmp_path / "runs" / RATES[1]
    if verb == "train":
      assert overrides == [
        "--config.train.epochs=2",
        "--config.optimizer.learning_rate=0.01",
      ]


def test_started_again_it_does_what_is_left(tmp_path):
  asked = sweep.read_sweep(SMOKE, tmp_path)
  with pytest.raises(InputError, match="no run has .*; the first says: no roo"):
    sweep.run(asked, Pretence({}), tell=lambda row: None)
  scores = {RATES[0]: score(0.5, None, None)}
  sweep.run(asked, Pretence(scores), tell=lambda row: None)
  scores[RATES[1]] = score(0.6, None, None)
  place = Pretence(scores)
  rows = sweep.run(asked, place, tell=lambda row: None)
  assert place.started == [RATES[1]]
  assert [row["value"] for row in rows] == [0.5, 0.6]
  assert rows[1]["seconds"] == 36.0  # of its three starts


def test_a_run_of_another_config_or_other_records_is_not_kept(tmp_path):
  file = tmp_path / "search.py"
  text = pathlib.Path(SMOKE).read_text()
  helpers.write_features(tmp_path / "records", participants=4)
  scores = dict.fromkeys(RATES, score(0.5, None, None))

  def started():
    asked = sweep.read_sweep(
      str(file), tmp_path / "sweep", [f"data.records={tmp_path / 'records'}"]
    )
    place = Pretence(scores)
    sweep.run(asked, place, tell=lambda row: None)
    return place.started

  file.write_text(text)
  assert started() == list(RATES)
  assert started() == []
  file.write_text(text.replace("epochs = 3", "epochs = 4"))
  assert started() == list(RATES)
  helpers.write_features(tmp_path / "records", participants=4, seed=1)
  assert started() == list(RATES)


def test_best_by_the_metric(tmp_path):
  asked = sweep.read_sweep(SMOKE, tmp_path)
  rows = [
    {"run": name, "value": value, "low": low, "high": high, "reason": ""}
    for name, value, low, high in [
      ("a", 0.8, 0.7, 0.9),
      ("b", 0.8, 0.6, 0.9),
      ("c", 0.69, 0.6, 0.9),
      ("d", None, None, None),
    ]
  ]
  assert sweep.best_row(asked, rows)["run"] == "a"
  assert sweep.not_told_apart(rows[0], rows) == ["b"]
  assert sweep.not_told_apart(rows[3], rows) == []
  lower = sweep.Sweep("", tmp_path, (), "brier", asked.points)
  assert sweep.best_row(lower, rows)["run"] == "c"


@pytest.mark.parametrize(
  "spec, overrides, named",
  [
    ("configs/smoke.py", [], "does not define get_search"),
    (SMOKE, ["optimizer.learning_rate=1"], "varies it"),
    (SMOKE, ["train.epoch=1"], "train.epochs"),
  ],
)
def test_what_is_no_sweep_is_refused(
  tmp_path, monkeypatch, spec, overrides, named
):
  monkeypatch.chdir(ROOT)
  with pytest.raises(InputError, match=named):
    sweep.read_sweep(spec, tmp_path, overrides)


def test_every_sweep_in_configs_can_be_read(tmp_path):
  files = sorted((ROOT / "configs" / "sweeps").glob("*.py"))
  assert len(files) >= 2
  for file in files:
    assert len(sweep.read_sweep(str(file), tmp_path).points) >= 2


def rows_of(values, **columns):
  return [
    {
      "run": str(i),
      "metric": "roc_auc",
      "value": value,
      "low": None if value is None else value - 0.1,
      "high": None if value is None else value + 0.1,
      "seconds": 10.0 + i,
      **{name: column[i] for name, column in columns.items()},
    }
    for i, value in enumerate(values)
  ]


def test_the_picture_has_a_panel_a_field(tmp_path):
  rows = rows_of(
    [0.5, 0.6, 0.7, None],
    **{
      RATE: [1e-4, 1e-3, 1e-2, 1],
      "optimizer.name": ["adam", "sgd", "sgd", ""],
    },
  )
  figure = sweep_figure.sweep_figure(rows, [RATE, "optimizer.name"], "2")
  rate, name, seconds = figure.axes
  assert (rate.get_xlabel(), rate.get_xscale()) == ("learning_rate", "log")
  assert name.get_xlabel() == "optimizer.name"
  assert [tick.get_text() for tick in name.get_xticklabels()] == ["adam", "sgd"]
  assert seconds.get_xlabel() == "training seconds"
  drawn = sorted(
    (float(x), float(y))
    for line in rate.lines
    for x, y in zip(*line.get_data(), strict=True)
    if len(line.get_xdata()) == 1
  )
  assert drawn == [(1e-4, 0.5), (1e-3, 0.6), (1e-2, 0.7)]
  assert "1 of 4" in figure.get_suptitle()
  figures.save_png(figure, tmp_path / "sweep.png")


def brainjax(*arguments):
  return subprocess.Popen(
    [sys.executable, "-m", "brainjax.cli", *arguments],
    env=os.environ | {"JAX_NUM_CPU_DEVICES": "1"},
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )


@pytest.mark.slow
def test_a_sweep_leaves_the_test_split_alone(tmp_path):
  helpers.write_features(tmp_path / "features")
  command = (
    "sweep",
    f"--config={SMOKE}",
    f"--workdir={tmp_path / 'sweep'}",
    f"--config.data.records={tmp_path / 'features'}",
  )
  stopped = brainjax(*command)
  first = tmp_path / "sweep" / "runs" / RATES[0]
  while not (first / "ended.json").is_file() and stopped.poll() is None:
    time.sleep(0.05)
  stopped.send_signal(signal.SIGTERM)
  output, _ = stopped.communicate(timeout=300)
  assert stopped.returncode == 75, output
  assert (first / "ended.json").is_file()
  kept = (first / "metrics.jsonl").stat().st_mtime_ns

  again = brainjax(*command)
  output, _ = again.communicate(timeout=500)
  assert again.returncode == 0, output
  assert (first / "metrics.jsonl").stat().st_mtime_ns == kept
  assert [row["status"] for row in read_table(tmp_path / "sweep")] == [
    "done"
  ] * 2
  assert (tmp_path / "sweep" / "sweep.png").stat().st_size > 1000
  splits = set()
  for name in RATES:
    folder = tmp_path / "sweep" / "runs" / name
    splits.add((folder / "splits.csv").read_text())
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics.keys() == {"schema_version", "validation"}
    for file in ("predictions.csv", "predictions_participant.csv"):
      with open(folder / file, newline="") as rows:
        assert {row["split"] for row in csv.DictReader(rows)} == {"validation"}
  assert len(splits) == 1
  best = json.loads((tmp_path / "sweep" / "best.json").read_text())
  assert f"--workdir={tmp_path / 'sweep' / 'runs' / best['run']}" in output
