import hashlib
import io
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import jax
import jax.monitoring
import numpy as np
import pytest
import rich.console

import helpers
from brainjax import InputError
from brainjax.checkpoint import Checkpoints
from brainjax.evaluation import evaluate
from brainjax.training import experiment, logs, train, trained
from brainjax.training.runner import Runner, restore_best

ROOT = pathlib.Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
  folder = tmp_path_factory.mktemp("cohort") / "records"
  helpers.write_cohort(folder)
  return folder


@pytest.fixture(scope="module")
def features(tmp_path_factory):
  """For what does not depend on the encoder, which takes long to compile."""
  folder = tmp_path_factory.mktemp("features") / "features"
  helpers.write_features(folder)
  return folder


def run_train(config, workdir):
  console = rich.console.Console(file=io.StringIO(), width=1000)
  train.train(config, workdir, console=console)
  return console.file.getvalue()


def parameters_sha256(workdir):
  """Hashes the parameters of the last checkpoint."""
  runner = Runner(experiment.open_run(workdir))
  with Checkpoints(workdir / "checkpoints", keep=2) as checkpoints:
    restored = checkpoints.restore_latest(runner.abstract_state(), print)
  digest = hashlib.sha256()
  for leaf in jax.tree.leaves(restored.state):
    digest.update(np.asarray(leaf).tobytes())
  return restored.step, digest.hexdigest()


def log_without_times(workdir):
  return [
    {k: v for k, v in line.items() if not k.startswith("perf/")}
    for line in logs.read_log(workdir / "metrics.jsonl")
  ]


def outcome(workdir):
  evaluate.evaluate(workdir, "test")
  predictions = (workdir / "predictions.csv").read_bytes()
  return (
    parameters_sha256(workdir),
    log_without_times(workdir),
    hashlib.sha256(predictions).hexdigest(),
  )


@pytest.fixture(scope="module")
def uninterrupted(cohort, tmp_path_factory):
  workdir = tmp_path_factory.mktemp("uninterrupted") / "run"
  run_train(helpers.micro_config(cohort), workdir)
  return outcome(workdir)


def test_log_holds_every_epoch(uninterrupted):
  (step, _), lines, _ = uninterrupted
  validated = [line["step"] for line in lines if "validation/loss" in line]
  assert validated == [3, 6, 9, 12]
  assert step == 12
  trained = [line for line in lines if "train/loss" in line]
  assert [line["step"] for line in trained] == [2, 3, 4, 6, 8, 9, 10, 12]
  assert all(np.isfinite(line["train/loss"]) for line in trained)


def run_with_a_crash(config, workdir, monkeypatch, crash_at):
  """Trains, crashes before a step, and starts again."""

  class Crash(Exception):
    pass

  batches = Runner.training_batches

  def crashing(self, **kwargs):
    for i, batch in enumerate(batches(self, **kwargs)):
      if i == crash_at:
        raise Crash
      yield batch

  with monkeypatch.context() as patch:
    patch.setattr(Runner, "training_batches", crashing)
    with pytest.raises(Crash):
      run_train(config, workdir)
  run_train(config, workdir)


@pytest.mark.parametrize(
  "crash_at", [pytest.param(2, marks=pytest.mark.slow), 7]
)
def test_a_crash_and_a_restart_change_nothing(
  cohort, tmp_path, monkeypatch, uninterrupted, crash_at
):
  config = helpers.micro_config(cohort)
  run_with_a_crash(config, tmp_path / "run", monkeypatch, crash_at)
  assert outcome(tmp_path / "run") == uninterrupted
  for line in logs.read_log(tmp_path / "run" / "metrics.jsonl"):
    said = {"perf/flops_per_second", "perf/bytes_per_second"} & line.keys()
    assert len(said) == (2 if "train/loss" in line else 0)


@pytest.mark.slow
def test_average_and_schedule_survive_a_crash_and_the_average_answers(
  cohort, tmp_path, monkeypatch
):
  config = helpers.micro_config(
    cohort,
    "train.epochs=2",
    "train.log_every_steps=1",
    "optimizer.schedule=cosine",
    "optimizer.warmup_epochs=1",
    "optimizer.clip=global_norm",
    "optimizer.ema_decay=0.9",
  )
  run_train(config, tmp_path / "whole")
  run_with_a_crash(config, tmp_path / "run", monkeypatch, crash_at=4)
  assert outcome(tmp_path / "run") == outcome(tmp_path / "whole")
  rates = [
    line["learning_rate"]
    for line in log_without_times(tmp_path / "run")
    if "learning_rate" in line
  ]
  # Three steps of warm-up, then down to a hundredth.
  wanted = [1 / 3, 2 / 3, 1, 1, 0.01 + 0.99 / 2, 0.01]
  np.testing.assert_allclose(rates, 1e-3 * np.array(wanted), rtol=1e-6)
  runner = Runner(experiment.open_run(tmp_path / "run"))
  restore_best(runner)
  used = trained.load_trained(tmp_path / "run").variables
  jax.tree.map(np.testing.assert_array_equal, used, runner.state.averages)
  for kind, answering in used.items():
    last = jax.tree.leaves(getattr(runner.state, kind))[-1]
    assert np.abs(jax.tree.leaves(answering)[-1] - last).max() > 1e-5
  subset = runner.experiment.subset("test")
  scores = runner.score(subset)
  runner.state = runner.state.replace(**used)
  np.testing.assert_array_equal(runner.score(subset), scores)


def test_sigterm_saves_inside_an_epoch_and_continues(
  cohort, tmp_path, monkeypatch, uninterrupted
):
  batches = Runner.training_batches

  def interrupting(self, **kwargs):
    for i, batch in enumerate(batches(self, **kwargs)):
      if i == 4:
        os.kill(os.getpid(), signal.SIGTERM)
      yield batch

  config = helpers.micro_config(cohort)
  with monkeypatch.context() as patch:
    patch.setattr(Runner, "training_batches", interrupting)
    with pytest.raises(train.Stopped, match="after step 5"):
      run_train(config, tmp_path / "run")
  assert "continuing after step 5" in run_train(config, tmp_path / "run")
  assert outcome(tmp_path / "run") == uninterrupted


def test_finished_run_does_nothing_and_more_epochs_continue(cohort, tmp_path):
  workdir = tmp_path / "run"
  run_train(helpers.micro_config(cohort, "train.epochs=1"), workdir)
  before = log_without_times(workdir)
  config = helpers.micro_config(cohort, "train.epochs=1")
  assert "already trained, 3 steps" in run_train(config, workdir)
  config = helpers.micro_config(cohort, "train.epochs=2")
  assert "continuing after step 3" in run_train(config, workdir)
  after = log_without_times(workdir)
  assert after[: len(before)] == before
  assert after[-1]["step"] == 6


def test_early_stopping_keeps_the_best(features, tmp_path):
  # So large a step that the validation loss soon rises.
  config = helpers.micro_config(
    features,
    "train.patience_epochs=2",
    "train.epochs=40",
    "optimizer.learning_rate=0.1",
  )
  printed = run_train(config, tmp_path)
  assert "stopped: the validation loss has not fallen for 2 epochs" in printed
  losses = {
    line["step"]: line["validation/loss"]
    for line in log_without_times(tmp_path)
    if "validation/loss" in line
  }
  best = min(losses, key=losses.get)
  assert max(losses) == best + 2 * 3 < 40 * 3
  runner = Runner(experiment.open_run(tmp_path))
  assert restore_best(runner) == best
  subset = runner.experiment.subset("validation")
  log_probabilities = runner.score(subset)
  targets = runner.experiment.targets[subset]
  weights = np.array(runner.experiment.class_weights)[targets]
  losses_found = -log_probabilities[np.arange(len(subset)), targets]
  loss = (losses_found * weights).sum() / weights.sum()
  assert loss == pytest.approx(losses[best], abs=1e-7)
  assert "already trained" in run_train(config, tmp_path)


def test_scores_every_scan_once_whatever_the_order(cohort, tmp_path):
  run_train(helpers.micro_config(cohort, "train.epochs=1"), tmp_path)
  runner = Runner(experiment.open_run(tmp_path))
  restore_best(runner)
  subset = np.arange(30)
  scores = runner.score(subset)
  assert scores.shape == (30, 2)
  shuffled = np.random.default_rng(0).permutation(subset)
  np.testing.assert_allclose(
    runner.score(shuffled), scores[shuffled], atol=1e-6
  )


def test_divergence_ends_with_one_clear_line(features, tmp_path):
  config = helpers.micro_config(features, "optimizer.learning_rate=3e38")
  with pytest.raises(InputError, match="step .* not finite.*learning_rate"):
    run_train(config, tmp_path)


def test_nothing_is_compiled_after_the_first_step(
  cohort, tmp_path, monkeypatch
):
  compiled = []
  jax.monitoring.register_event_duration_secs_listener(
    lambda event, *args, **kwargs: (
      compiled.append(event) if "backend_compile" in event else None
    )
  )
  counts = {}
  write = logs.MetricLog.write

  def counting(self, line):
    counts[line["step"]] = len(compiled)
    write(self, line)

  monkeypatch.setattr(logs.MetricLog, "write", counting)
  config = helpers.micro_config(cohort, "train.log_every_steps=1")
  run_train(config, tmp_path)
  assert set(counts) == set(range(1, 13))
  assert len(set(counts.values())) == 1


@pytest.mark.parametrize(
  "num_kills",
  [
    pytest.param(2, marks=pytest.mark.slow),
    pytest.param(19, marks=pytest.mark.soak),
  ],
)
def test_sigkill_at_random_steps_changes_nothing(cohort, tmp_path, num_kills):
  """So many kills -9, and one more while a checkpoint is being written."""
  command = [
    sys.executable,
    "-m",
    "brainjax.cli",
    "train",
    f"--config={ROOT / 'configs' / 'smoke.py'}",
    f"--config.data.records={cohort}",
    f"--config.train.epochs={4 + 2 * num_kills}",
    "--config.train.log_every_steps=1",
  ]
  environment = os.environ | {"JAX_NUM_CPU_DEVICES": "1"}

  def start(name):
    return subprocess.Popen(
      [*command, f"--workdir={tmp_path / name}"],
      env=environment,
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
    )

  def finish(name):
    process = start(name)
    output, _ = process.communicate(timeout=900)
    assert process.returncode == 0, output

  def kill_when(name, condition):
    process = start(name)
    deadline = time.monotonic() + 600
    while not condition():
      assert process.poll() is None, process.communicate()[0]
      assert time.monotonic() < deadline, (
        tmp_path / name / "heartbeat.json"
      ).read_text()
      time.sleep(0.005)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL

  def steps_logged(name):
    lines = logs.read_log(tmp_path / name / "metrics.jsonl")
    return max((line["step"] for line in lines), default=0)

  finish("whole")
  total = steps_logged("whole")
  rng = np.random.default_rng(2026)
  steps = rng.choice(np.arange(2, total - 8), num_kills, replace=False)
  checkpoints = tmp_path / "killed" / "checkpoints"

  for step in sorted(steps):
    kill_when("killed", lambda step=step: steps_logged("killed") >= step)
  before = set(checkpoints.glob("*"))
  kill_when(
    "killed",
    lambda: any("tmp" in p.name for p in set(checkpoints.glob("*")) - before),
  )
  half_written = {
    path.name
    for path in set(checkpoints.glob("*")) - before
    if not path.with_name(f"{path.name}.sha256.json").exists()
  }
  assert half_written
  finish("killed")
  assert outcome(tmp_path / "killed") == outcome(tmp_path / "whole")
  assert json.loads((tmp_path / "killed" / "metrics.json").read_text())
