"""The processes of a run: how they meet, agree and stop.

jax's own runtime connects them. All compute; the first one writes files and
speaks.
"""

import itertools
import os
import signal
from typing import Any

import jax
from jax.experimental import multihost_utils
from orbax.checkpoint import multihost

from brainjax import InputError

_LONGEST_WAIT_MS = 3_600_000  # an hour
_PLACES = itertools.count()  # a barrier's name may be used once


def join(spec: str) -> None:
  """Joins this process to the others of a run, before jax is used.

  Args:
    spec: "auto", where jax finds the others by itself (SLURM, Open MPI,
      Kubernetes, Cloud TPU); or "HOST:PORT,N,I", the address of the first of N
      processes, of which this is number I.

  Raises:
    InputError: The address cannot be read, or nobody answers.
  """
  try:
    if spec == "auto":
      jax.distributed.initialize()
      return
    address, count, index = spec.split(",")
    jax.distributed.initialize(address, int(count), int(index))
  except (ValueError, RuntimeError) as error:
    raise InputError(
      f"--distributed={spec}: {error}; give HOST:PORT,N,I (the address of the"
      " first of N processes, and which this is, from 0), or auto under SLURM,"
      " Open MPI, Kubernetes or on a TPU VM"
    ) from error


def is_first() -> bool:
  """Whether this process is the one that writes files and speaks."""
  return jax.process_index() == 0


def wait_for_all(place: str) -> None:
  """Returns when all processes have come to this place.

  Unlike a collective, which on CPUs gives up after half a minute, it waits for
  as long as one may compile.
  """
  wait = multihost.get_barrier_sync_fn()
  if wait is not None:
    wait(key=f"{place} {next(_PLACES)}", timeout_ms=_LONGEST_WAIT_MS)


def fetch(tree: Any) -> Any:
  """Returns arrays as numpy, whole, in every process."""
  if jax.process_count() == 1:
    return jax.device_get(tree)
  return multihost_utils.process_allgather(tree, tiled=True)


class StopRequest:
  """Turns SIGTERM and Ctrl-C into a request the loop reads between steps.

  With several processes, a signal to one is a request to all, which they
  answer after the same step.
  """

  def __init__(self):
    """Listens from `__enter__` to `__exit__`."""
    self._asked = False

  def requested(self, step: int) -> bool:
    """Whether to stop after a step; every process asks after every step."""
    if jax.process_count() > 1:
      # jax listens for SIGTERM itself, and has the processes agree.
      return multihost_utils.reached_preemption_sync_point(step)
    return self._asked

  def __enter__(self) -> "StopRequest":
    if jax.process_count() > 1:
      handlers = {signal.SIGINT: self._pass_on}
    else:
      handlers = {s: self._ask for s in (signal.SIGTERM, signal.SIGINT)}
    self._previous = {s: signal.signal(s, h) for s, h in handlers.items()}
    return self

  def __exit__(self, *exc_info) -> None:
    for number, handler in self._previous.items():
      signal.signal(number, handler)

  def _ask(self, number, frame) -> None:
    self._asked = True

  def _pass_on(self, number, frame) -> None:
    os.kill(os.getpid(), signal.SIGTERM)
