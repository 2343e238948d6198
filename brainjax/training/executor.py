"""Many commands of brainjax, each a process of its own, here or on SLURM.

    wanted = [
      jobs.Job(name, ("train", f"--config={file}", ...), folder)
      for name, file, folder in ...
    ]
    with contextlib.closing(executor.run(wanted, executor.Local(2))) as ends:
      for end in ends:  # as they end, one after another
        say(f"{end.job.name}: {end.reason or 'done'}, {end.seconds:.0f} s")

Run again, a job that ended well with the same arguments and inputs is kept; the
others start again, and it is for the command to continue what it began.
Commands that save on SIGTERM and end, as `train` does, thus lose nothing.
"""

import collections
import dataclasses
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import Protocol

from brainjax import InputError
from brainjax.training import jobs as jobs_lib
from brainjax.training.jobs import End, Job

_POLL_SECONDS = 0.1


@dataclasses.dataclass(frozen=True)
class Local:
  """This machine.

  Attributes:
    at_once: Jobs at a time; each has its share of the cores and GPUs.
  """

  at_once: int = 1

  def starter(self) -> "_Here":
    """Returns what starts jobs here."""
    return _Here(self)


class Stopped(Exception):  # noqa: N818 (not an error: asked for by a signal)
  """A signal came; what was under way was asked to save, and has ended."""


class Running(Protocol):
  """A job under way."""

  def ended(self) -> bool:
    """Whether it has ended."""
    ...

  def end(self) -> End:
    """How it ended; asked once, after `ended`."""
    ...

  def stop(self) -> None:
    """Asks it to save and end."""
    ...

  def kill(self) -> None:
    """Ends it at once, if that can be done."""
    ...


class Starter(Protocol):
  """Takes jobs off those that wait, as many as may start now."""

  def start(self, waiting: collections.deque[Job]) -> Sequence[Running]:
    """Starts some of them, perhaps none."""
    ...


class Place(Protocol):
  """Where jobs run: `Local`, or `slurm.Slurm`."""

  def starter(self) -> Starter:
    """Returns what starts jobs there; `InputError` if nothing can."""
    ...


def run(jobs: Sequence[Job], place: Place) -> Generator[End, None, None]:
  """Runs jobs and yields how they end, first those that ended before.

  A job that fails stops no other. Jobs are asked to end when this process
  ends, however it does, and when the generator is closed; who may leave the
  loop early closes it (`contextlib.closing`). For the main thread.

  Args:
    jobs: All that are wanted.
    place: Where.

  Raises:
    InputError: There is no such place, or it is too small.
    Stopped: SIGTERM, SIGHUP or Ctrl-C. A second one does not wait for what is
      under way to save.
  """
  starter = place.starter()
  waiting: collections.deque[Job] = collections.deque()
  for job in jobs:
    end = jobs_lib.ended_before(job)
    if end is not None and end.code == 0:
      yield end
    else:
      waiting.append(job)
  running: list[Running] = []
  with _StopRequest() as stop:
    try:
      while waiting or running:
        running += starter.start(waiting)
        for each in [each for each in running if each.ended()]:
          running.remove(each)
          yield each.end()
        if stop.asked:
          break
        time.sleep(_POLL_SECONDS)
    finally:
      _stop(running, stop)
    if waiting or running:
      raise Stopped(f"stopped: {len(waiting) + len(running)} are not done")


def _stop(running: Sequence[Running], stop: "_StopRequest") -> None:
  asked = stop.asked
  for each in running:
    each.stop()
  while not all([each.ended() for each in running]):
    if stop.asked > asked:
      asked = stop.asked
      for each in running:
        each.kill()
    time.sleep(_POLL_SECONDS)


class _Here:
  """Slots of this machine, each with its share of it."""

  def __init__(self, place: Local):
    self._free = list(_shares(place.at_once))

  def start(self, waiting: collections.deque[Job]) -> list[Running]:
    started: list[Running] = []
    while waiting and self._free:
      share = self._free.pop(0)
      started.append(_Process(waiting.popleft(), share, self._free))
    return started


_Share = tuple[Sequence[int], Mapping[str, str]]  # cores, and the environment


def _shares(count: int) -> Iterator[_Share]:
  """Yields a share of the cores and GPUs for each of `count` jobs."""
  cores, gpus = sorted(os.sched_getaffinity(0)), _gpus()
  if gpus and count > len(gpus):
    raise InputError(
      f"--jobs={count}: there are {len(gpus)} GPUs, and a job needs one; set"
      f" --jobs={len(gpus)}"
    )
  for i in range(count):
    first, last = (len(cores) * j // count for j in (i, i + 1))
    mine = cores[first:last] or [cores[first]]
    yield (
      mine,
      {"CUDA_VISIBLE_DEVICES": ",".join(gpus[i::count])} if gpus else {},
    )


def _gpus() -> list[str]:
  """Returns what CUDA calls the GPUs that this process may use."""
  if os.environ.get("JAX_PLATFORMS") == "cpu" or not shutil.which("nvidia-smi"):
    return []
  if "CUDA_VISIBLE_DEVICES" in os.environ:
    return [gpu for gpu in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if gpu]
  listed = subprocess.run(
    ["nvidia-smi", "--list-gpus"], capture_output=True, text=True, check=False
  )
  return [str(i) for i, _ in enumerate(listed.stdout.splitlines())]


class _Process:
  """A process of this machine; it frees its share when it has ended."""

  def __init__(self, job: Job, share: _Share, free: list[_Share]):
    self._job, self._share, self._free = job, share, free
    self._end: End | None = None
    self._began = time.monotonic()
    self._process = jobs_lib.start(job, *share)

  def ended(self) -> bool:
    code = self._process.poll()
    if code is not None and self._end is None:
      seconds = time.monotonic() - self._began
      self._end = jobs_lib.write_end(self._job, code, seconds)
      self._free.append(self._share)
    return self._end is not None

  def end(self) -> End:
    assert self._end is not None
    return self._end

  def stop(self) -> None:
    self._process.terminate()

  def kill(self) -> None:
    self._process.kill()


class _StopRequest:
  """Counts the signals that ask to stop."""

  def __init__(self):
    self.asked = 0

  def __enter__(self) -> "_StopRequest":
    signals = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    self._previous = {s: signal.signal(s, self._ask) for s in signals}
    return self

  def __exit__(self, *exc_info) -> None:
    for number, handler in self._previous.items():
      signal.signal(number, handler)

  def _ask(self, number, frame) -> None:
    self.asked += 1
