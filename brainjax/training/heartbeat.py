"""`heartbeat.json`: where a run is, for a scheduler or for `watch cat`.

    {"phase": "training", "step": 120, "epoch": 4.0, "time": ..., "pid": ...}

A run that was killed leaves the phase it was in, with a time that has passed.
"""

import contextlib
import json
import pathlib
import time

from brainjax import lock, records

_EVERY_SECONDS = 5.0


class Heartbeat:
  """The file, rewritten when the phase changes and every few seconds.

  As a context, it says "done" at the end, and "stopped" after an exception.
  """

  def __init__(self, path: pathlib.Path, *, steps_per_epoch: int):
    """Says nothing yet.

    Args:
      path: The file.
      steps_per_epoch: Steps of an epoch.
    """
    self._path = path
    self._steps_per_epoch = steps_per_epoch
    self._phase, self._step = "", 0
    self._written = 0.0

  def beat(self, phase: str, step: int) -> None:
    """Says where the run is.

    Args:
      phase: "compiling" | "training" | "validating" | "done" | "stopped".
      step: Steps done.

    Raises:
      OSError: The file cannot be written.
    """
    self._step = step
    due = time.monotonic() - self._written >= _EVERY_SECONDS
    if phase == self._phase and not due:
      return
    self._phase, self._written = phase, time.monotonic()
    content = {
      "phase": phase,
      "step": step,
      "epoch": step / self._steps_per_epoch,
      "time": lock.now(),
      **lock.identity(),
    }
    records.write_text(self._path, json.dumps(content) + "\n")

  def __enter__(self) -> "Heartbeat":
    return self

  def __exit__(self, exc_type, *exc_info) -> None:
    if exc_type is None:
      self.beat("done", self._step)
      return
    # What ended the run is to be heard, and perhaps it was this folder.
    with contextlib.suppress(OSError):
      self.beat("stopped", self._step)
