"""What a run says while it works: `metrics.jsonl` and the progress display."""

import concurrent.futures
import json
import os
import pathlib
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import rich.console
import rich.progress

from brainjax import records
from brainjax.training.tensorboard import TensorBoard

# Of a log line: its name, the sum and the count of which it is the quotient.
_MEANS = (
  ("loss", "loss", "weight"),
  ("accuracy", "correct", "labelled"),
  ("reconstruction", "reconstruction", "scans"),
)


class MetricLog:
  """`metrics.jsonl`, the log of record: one JSON object a line.

  Started again at an earlier step, it first drops what was logged after that
  step, so the file reads as if the run had never stopped.
  """

  def __init__(
    self,
    path: pathlib.Path,
    *,
    first_step: int,
    mirror: TensorBoard | None = None,
  ):
    """Opens the log to continue after `first_step` steps.

    Args:
      path: The file.
      first_step: Steps done.
      mirror: Given every line as well, and closed with the log.
    """
    self._mirror = mirror
    kept = [line for line in read_log(path) if line["step"] <= first_step]
    text = "".join(json.dumps(line) + "\n" for line in kept)
    records.write_text(path, text)
    self._file = open(path, "a")  # noqa: SIM115 (closed by __exit__)

  def write(self, line: dict[str, Any]) -> None:
    """Appends a line and hands it to the operating system."""
    self._file.write(json.dumps(line) + "\n")
    self._file.flush()
    if self._mirror:
      self._mirror.write(line)

  def sync(self) -> None:
    """Makes sure that all lines are on disk, as before a checkpoint."""
    os.fsync(self._file.fileno())

  def __enter__(self) -> "MetricLog":
    return self

  def __exit__(self, *exc_info) -> None:
    self._file.close()
    if self._mirror:
      self._mirror.close()


def read_log(path: pathlib.Path) -> list[dict[str, Any]]:
  """Reads `metrics.jsonl`; a line cut off by a kill is left out."""
  if not path.is_file():
    return []
  # A whole line ends in a newline; what follows the last one was cut off.
  *lines, _ = path.read_text().split("\n")
  return [json.loads(line) for line in lines]


class Window:
  """Sums of step metrics since the last log line.

  They are part of a checkpoint, so that a line is the same whether or not the
  run was interrupted inside its window. Times are not.

  Attributes:
    sums: Of each metric.
  """

  def __init__(self, sums: dict[str, float] | None = None):
    """Starts from the sums of a checkpoint, or from nothing."""
    self.sums = dict(sums or {})
    self._restart_clock()

  def add(self, metrics: dict[str, float]) -> None:
    """Adds one step's sums."""
    now = time.perf_counter()
    self._step_seconds.append(now - self._last_step)
    self._last_step = now
    for name, value in metrics.items():
      self.sums[name] = self.sums.get(name, 0.0) + float(value)
    self._volumes += float(metrics["scans"])
    self._slices += float(metrics["slices"])

  def reject(self) -> None:
    """Counts a step whose update was rejected; its sums are not finite."""
    self.sums["skipped"] = self.sums.get("skipped", 0) + 1

  def waited(self, seconds: float) -> None:
    """Counts time in which the devices had nothing to do but wait for data."""
    self._wait_seconds += seconds

  def close(self) -> dict[str, float]:
    """Returns the window's line and starts a new window."""
    seconds = max(time.perf_counter() - self._began, 1e-9)
    line = {
      f"train/{title}": self.sums[name] / self.sums[count]
      for title, name, count in _MEANS
      if self.sums.get(count) and name in self.sums
    }
    if "skipped" in self.sums:
      line["train/skipped"] = self.sums["skipped"]
    line |= {
      "perf/volumes_per_second": self._volumes / seconds,
      "perf/slices_per_second": self._slices / seconds,
      "perf/data_wait_fraction": self._wait_seconds / seconds,
    }
    if self._step_seconds:
      median, slow = np.percentile(self._step_seconds, (50, 90))
      line["perf/step_seconds_p50"] = float(median)
      line["perf/step_seconds_p90"] = float(slow)
    self.sums = {}
    self._restart_clock()
    return line

  def _restart_clock(self) -> None:
    self._began = self._last_step = time.perf_counter()
    self._step_seconds: list[float] = []
    self._wait_seconds = 0.0
    self._volumes = 0.0
    self._slices = 0.0


class IdleClock:
  """Times how long the devices stand idle because a batch is late.

  To wait for a batch while they still compute costs nothing. When they are
  done is seen by a thread, since the loop must run ahead of them.
  """

  def __init__(self):
    """No step is known yet, so the devices count as idle."""
    self._pool = concurrent.futures.ThreadPoolExecutor(1)
    self._done: concurrent.futures.Future[float] | None = None

  def next(self, batches: Iterator[Any]) -> tuple[Any, float]:
    """Returns the next batch, and the seconds the devices stood idle for it."""
    began = time.perf_counter()
    batch = next(batches)
    arrived = time.perf_counter()
    if self._done is None:
      return batch, arrived - began
    if not self._done.done():
      return batch, 0.0
    return batch, max(0.0, arrived - max(began, self._done.result()))

  def follow(self, metrics: Any) -> None:
    """Tells of the step just dispatched, whose results these will be."""
    self._done = self._pool.submit(_when_ready, metrics)

  def __enter__(self) -> "IdleClock":
    return self

  def __exit__(self, *exc_info) -> None:
    self._pool.shutdown()


def _when_ready(metrics: Any) -> float:
  jax.block_until_ready(metrics)
  return time.perf_counter()


def memory() -> dict[str, int]:
  """Returns what this process takes, as a part of a log line.

  `perf/host_bytes` is what it has in memory now, `perf/device_peak_bytes` the
  most that one of its devices has held, where jax can tell.
  """
  pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
  line = {"perf/host_bytes": pages * os.sysconf("SC_PAGE_SIZE")}
  stats = [device.memory_stats() or {} for device in jax.local_devices()]
  name = "peak_bytes_in_use"
  peaks = [each[name] for each in stats if name in each]
  if peaks:
    line["perf/device_peak_bytes"] = max(peaks)
  return line


class Display:
  """Progress of a run: a bar on a terminal, plain lines elsewhere."""

  def __init__(
    self, console: rich.console.Console, *, num_steps: int, first_step: int
  ):
    """Shows steps from `first_step` to `num_steps`."""
    self._console = console
    self._progress = rich.progress.Progress(
      rich.progress.TextColumn("{task.description}"),
      rich.progress.BarColumn(),
      rich.progress.MofNCompleteColumn(),
      rich.progress.TextColumn("{task.fields[speed]}"),
      rich.progress.TimeRemainingColumn(),
      console=console,
      disable=not console.is_terminal,
    )
    self._task = self._progress.add_task(
      "training", total=num_steps, completed=first_step, speed=""
    )

  def step(self, step: int) -> None:
    """Moves the bar to `step`."""
    self._progress.update(self._task, completed=step)

  def speed(self, volumes_per_second: float) -> None:
    """Shows the throughput."""
    self._progress.update(
      self._task, speed=f"{volumes_per_second:.1f} volumes/s"
    )

  def say(self, text: str) -> None:
    """Prints a line, above the bar if there is one."""
    self._progress.console.print(text, highlight=False, markup=False)

  def __enter__(self) -> "Display":
    self._progress.start()
    return self

  def __exit__(self, *exc_info) -> None:
    self._progress.stop()
