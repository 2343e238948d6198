"""The training loop: it orders calls and computes nothing.

A run is its workdir. Started again with the same command it continues from
the newest sound checkpoint, and ends with the same parameters and the same
log as if it had never stopped.
"""

import contextlib
import dataclasses
import functools
import math
import pathlib
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import ml_collections
import rich.console

import brainjax
from brainjax import InputError, lock
from brainjax import config as config_lib
from brainjax.checkpoint import Checkpoints
from brainjax.input import plan
from brainjax.training import experiment as experiment_lib
from brainjax.training import (
  heartbeat,
  logs,
  model_file,
  non_finite,
  processes,
  profiling,
  sharding,
  starting_point,
  tensorboard,
  trained,
  validation,
)
from brainjax.training import workdir as workdir_lib
from brainjax.training.runner import Runner


class Stopped(Exception):  # noqa: N818 (not an error: asked for by a signal)
  """The run was asked to stop, and did so after saving."""


@dataclasses.dataclass
class LoopState:
  """The loop's own part of a checkpoint.

  Attributes:
    best_loss: Lowest validation loss so far.
    best_step: Step of that loss; 0 before the first validation.
    stale_epochs: Epochs since then.
    stopped: Whether early stopping ended the run.
    window: Sums of the metrics that are not logged yet.
    non_finite: Counts of steps that were skipped, see `non_finite.Guard`.
  """

  best_loss: float = math.inf
  best_step: int = 0
  stale_epochs: int = 0
  stopped: bool = False
  window: dict[str, float] = dataclasses.field(default_factory=dict)
  non_finite: dict[str, int] = dataclasses.field(default_factory=dict)


def train(
  config: ml_collections.ConfigDict,
  workdir: pathlib.Path,
  *,
  console: rich.console.Console,
) -> None:
  """Trains until the last epoch or until the validation loss stops falling.

  Args:
    config: As the user gave it.
    workdir: Folder of the run; continued if it holds one.
    console: Where progress is shown.

  Raises:
    InputError: The config or the records are wrong, training diverged, or the
      workdir is in use or cannot be written.
    Stopped: SIGTERM or Ctrl-C; all is saved.
  """
  if config.train.tensorboard:
    tensorboard.load_module()  # which refuses to do without
  say = functools.partial(console.print, highlight=False, markup=False)
  with _folder_to_write(workdir, say) as folder, workdir_lib.saving(workdir):
    _train(config, workdir, folder, console, say)


@contextlib.contextmanager
def _folder_to_write(
  workdir: pathlib.Path, say: Callable[[str], None]
) -> Iterator[pathlib.Path]:
  """Yields the workdir, held; for all but the first process, a passing one."""
  if processes.is_first():
    with lock.hold(workdir, say):
      yield workdir
  else:
    with tempfile.TemporaryDirectory() as folder:
      yield pathlib.Path(folder)


def _train(
  config: ml_collections.ConfigDict,
  workdir: pathlib.Path,
  folder: pathlib.Path,
  console: rich.console.Console,
  say: Callable[[str], None],
) -> None:
  mesh = sharding.make_mesh(config.mesh.devices, config.mesh.slice_devices)
  experiment = experiment_lib.resolve(
    config, workdir, sharding.data_devices(mesh)
  )
  config, shape = experiment.config, experiment.shape
  num_steps = config.train.epochs * shape.steps_per_epoch
  with (
    processes.StopRequest() as stop,
    heartbeat.Heartbeat(
      folder / "heartbeat.json", steps_per_epoch=shape.steps_per_epoch
    ) as heart,
    Checkpoints(
      (workdir / "checkpoints").resolve(), keep=config.checkpoint.keep
    ) as checkpoints,
  ):
    heart.beat("compiling", 0)
    runner = Runner(experiment)
    restored = checkpoints.restore_latest(runner.abstract_state(), say)
    loop = LoopState()
    if restored:
      runner.adopt(restored.state)
      loop = LoopState(**restored.loop)
    first_step = restored.step if restored else 0
    heart.beat("compiling", first_step)
    if loop.stopped or first_step >= num_steps:
      say(f"{workdir}: already trained, {first_step} steps")
      return
    start = None
    if config.model.init_from and restored:
      start = trained.read_model_file(workdir)["start"]
    elif config.model.init_from:
      start = _start_from(runner, say)
    if processes.is_first():
      model_file.write_model_file(experiment, runner.num_parameters, start)
      workdir_lib.write_environment_file(workdir)
    say(_summary(experiment, runner.num_parameters))
    say(runner.where_slices_are)
    if first_step:
      say(f"continuing after step {first_step}")
    began = time.perf_counter()
    _ = runner.eval_step, runner.train_step  # compiled before step 1
    processes.wait_for_all("compiled")
    seconds = time.perf_counter() - began
    brainjax.release_freed_memory()
    say(f"compiled in {seconds:.0f} s")
    mirror = None
    if config.train.tensorboard:
      mirror = tensorboard.TensorBoard(
        folder / "tensorboard", first_step=first_step
      )
    with (
      logs.MetricLog(
        folder / "metrics.jsonl", first_step=first_step, mirror=mirror
      ) as log,
      logs.Display(
        console, num_steps=num_steps, first_step=first_step
      ) as display,
      logs.IdleClock() as idle,
      profiling.Profile(
        folder / "profile",
        config.train.profile_steps,
        first_step=first_step,
        say=display.say,
      ) as profile,
    ):
      _run(
        runner,
        loop,
        range(first_step, num_steps),
        checkpoints=checkpoints,
        log=log,
        display=display,
        idle=idle,
        heart=heart,
        profile=profile,
        stop=stop,
      )


def _start_from(runner: Runner, say: Callable[[str], None]) -> dict[str, Any]:
  """Starts from `model.init_from`, and returns what `model.json` says of it."""
  experiment = runner.experiment
  point = experiment.read_starting_point()
  variables, said = starting_point.start_from(
    point,
    {
      "params": runner.state.params,
      "batch_stats": runner.state.batch_stats,
    },
    experiment.classes,
  )
  runner.start_from(variables)
  say(said)
  return {
    "path": str(point.path),
    "sha256": point.sha256,
    **{
      name: list(getattr(point, name)) for name in starting_point.GROUP_FIELDS
    },
  }


def _run(
  runner: Runner,
  loop: LoopState,
  steps: range,
  *,
  checkpoints: Checkpoints,
  log: logs.MetricLog,
  display: logs.Display,
  idle: logs.IdleClock,
  heart: heartbeat.Heartbeat,
  profile: profiling.Profile,
  stop: processes.StopRequest,
) -> None:
  config = runner.experiment.config
  steps_per_epoch = runner.experiment.shape.steps_per_epoch
  window = logs.Window(loop.window)
  guard = non_finite.Guard(runner.experiment, loop.non_finite)
  batches = runner.training_batches(
    first_step=steps.start, num_steps=steps.stop
  )
  pending = None
  for step in range(steps.start + 1, steps.stop + 1):
    epoch_ends = step % steps_per_epoch == 0
    profile.begin(step)
    batch, waited = idle.next(batches)
    window.waited(waited)
    with (
      jax.transfer_guard("disallow"),
      jax.profiler.StepTraceAnnotation("train", step_num=step),
    ):
      runner.state, metrics = runner.train_step(runner.state, batch)
    idle.follow(metrics)
    guard.watch(step, batch)
    heart.beat("training", step)
    # Order matters: the step before is fetched while this one runs, and all
    # lines up to a step are written before its checkpoint.
    if pending:
      _log_step(*pending, window, log, display, runner, guard)
    pending = (step, metrics)
    profile.end(step, metrics)
    checkpoints.prove()
    stops = stop.requested(step)
    if not epoch_ends and not stops:
      continue
    _log_step(*pending, window, log, display, runner, guard)
    pending = None
    if epoch_ends:
      epoch = step // steps_per_epoch
      heart.beat("validating", step)
      validation_loss = validation.validate(runner, step, epoch, log, display)
      if not math.isfinite(validation_loss):
        raise InputError(
          f"{runner.experiment.workdir}: the validation loss after step {step}"
          " is not finite; lower config.optimizer.learning_rate and choose"
          " another --workdir"
        )
      # Ties go to the later step.
      best = validation_loss <= loop.best_loss
      if best:
        loop.best_loss, loop.best_step = validation_loss, step
      loop.stale_epochs = 0 if best else loop.stale_epochs + 1
      patience = config.train.patience_epochs
      loop.stopped = bool(patience) and loop.stale_epochs >= patience
      window = logs.Window(window.sums)
    ends = loop.stopped or step == steps.stop or stops
    due = epoch_ends and epoch % config.checkpoint.every_epochs == 0
    if ends or due or loop.best_step == step:
      loop.window, loop.non_finite = window.sums, guard.counts
      log.sync()
      checkpoints.save(
        step,
        runner.state,
        loop=dataclasses.asdict(loop),
        best_step=loop.best_step,
      )
    if loop.stopped:
      display.say(
        f"stopped: the validation loss has not fallen for"
        f" {loop.stale_epochs} epochs"
      )
      return
    if stops and step < steps.stop:
      checkpoints.finish()
      raise Stopped(
        f"stopped after step {step}; all is saved in"
        f" {runner.experiment.workdir}"
      )


def _log_step(step, metrics, window, log, display, runner, guard) -> None:
  experiment = runner.experiment
  metrics = jax.device_get(metrics)
  if guard.accepts(step, bool(metrics["finite"])):
    window.add(metrics)
  else:
    window.reject()
    display.say(
      f"step {step}: the loss or a gradient is not finite; skipped, as were"
      f" {guard.counts['skipped'] - 1} before it"
    )
  display.step(step)
  steps_per_epoch = experiment.shape.steps_per_epoch
  every = experiment.config.train.log_every_steps
  if step % every == 0 or step % steps_per_epoch == 0:
    line = window.close()
    if runner.throughput:
      line |= runner.throughput.line(line["perf/slices_per_second"])
    display.speed(line["perf/volumes_per_second"])
    log.write(
      {
        "step": step,
        "epoch": step / steps_per_epoch,
        "learning_rate": float(experiment.schedule(step - 1)),
        **line,
        **logs.memory(),
      }
    )


def _summary(experiment, num_parameters: int) -> str:
  config, shape = experiment.config, experiment.shape
  counts = ", ".join(
    f"{split} {len(experiment.subset(split))}"
    for split in ("train", "validation", "test")
  )
  lengths = experiment.record_set.lengths[experiment.subset("train")]
  seed, sampling = config.train.seed, experiment.sampling
  epoch = plan.epoch_plan(lengths, seed, 0, shape, sampling)
  fill = plan.pack_fill(epoch, lengths, shape.slices)
  features = experiment.record_set.encoder is not None
  parts = ["features of " * features + config.model.encoder.preset]
  if experiment.objective != "classify":
    parts.append("decoder")
  whole = config_lib.reads_volumes(config.model.encoder.preset)
  if experiment.objective != "reconstruct" and not whole:
    parts.append(config.model.head.name)
  return (
    f"{' + '.join(parts)}, {num_parameters:,} parameters; classes"
    f" {', '.join(experiment.classes)}; scans: {counts}\n"
    f"a step is {shape.packs} packs of {shape.slices} slices, {fill:.0%}"
    f" filled; {shape.steps_per_epoch} steps an epoch"
  )
