"""A trace of chosen steps, by jax.profiler."""

import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax


class Profile:
  """Traces some steps of this start into a folder."""

  def __init__(
    self,
    folder: pathlib.Path,
    steps: Sequence[int],
    *,
    first_step: int,
    say: Callable[[str], None],
  ):
    """Traces nothing yet.

    Args:
      folder: Of the traces; a folder by its date is made for each.
      steps: First and last one, counted from this start on; () = none.
      first_step: Steps done before this start.
      say: Told where the trace is.
    """
    self._folder, self._say = folder, say
    self._first, self._last = [first_step + step for step in steps] or (0, 0)
    self._tracing = False

  def begin(self, step: int) -> None:
    """To be called before the data of a step is waited for."""
    if step == self._first:
      jax.profiler.start_trace(self._folder)
      self._tracing = True

  def end(self, step: int, outputs: Any) -> None:
    """To be called when a step is under way; waits for it if it is the last."""
    if self._tracing and step == self._last:
      jax.block_until_ready(outputs)
      self._stop()

  def _stop(self) -> None:
    self._tracing = False
    jax.profiler.stop_trace()
    self._say(
      f"profile: {self._folder}; open it with `xprof {self._folder}` (pip"
      " install xprof), or its *.trace.json.gz at https://ui.perfetto.dev"
    )

  def __enter__(self) -> "Profile":
    return self

  def __exit__(self, *exc_info) -> None:
    if self._tracing:  # the run ends before the last step to trace
      self._stop()
