"""The same function on many jobs, in one process or in several."""

import concurrent.futures
import contextlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

import threadpoolctl

from brainjax import InputError

Job = TypeVar("Job")
Result = TypeVar("Result")
Results = Generator[tuple[int, Result], None, None]
KILLED = (
  "its worker was killed more than once, at last with no other scan beside it,"
  " for want of memory or by a fault of a library; look at the file, or prepare"
  " it on a machine with more memory"
)
_IN_FLIGHT = 2  # jobs handed out for each worker; the rest waits in a list


def run_jobs(
  function: Callable[[Job], Result],
  jobs: Sequence[Job],
  *,
  workers: int,
  name_of: Callable[[Job], str],
  was_begun: Callable[[Job], bool] = lambda job: False,
  give_up: Callable[[Job, str], Result] | None = None,
) -> Results[Result]:
  """Runs `function` on every job and yields (index, result) as they end.

  Workers end with this process, however it ends, and when the generator is
  closed; who may leave the loop early closes it (`contextlib.closing`).

  Args:
    function: Of a module, so that it can be sent.
    jobs: Small; what is large is read by the worker.
    workers: Processes; with 1, all is done in this one.
    name_of: Names a job in an error.
    was_begun: Whether a job that is not under way was begun: it is run last,
      by a worker of its own.
    give_up: (job, why) -> result of a job whose own worker was killed at it.

  Raises:
    InputError: A worker was killed, and there is no `give_up` or no job that
      was begun.
  """
  alone: list[int] = []
  waiting: list[int] = []
  for index, job in enumerate(jobs):
    (alone if was_begun(job) else waiting).append(index)
  if workers == 1 or len(jobs) < 2:
    for index in waiting:
      yield index, function(jobs[index])
    waiting = []
  while waiting:
    with _pool(min(workers, len(waiting))) as pool:
      most = _IN_FLIGHT * workers
      killed = yield from _run(pool, function, jobs, waiting, most)
    # One of them is to blame; the others were ended with its worker.
    begun = [i for i in killed if was_begun(jobs[i])]
    if killed and not (give_up and begun):
      names = [name_of(jobs[i]) for i in killed]
      raise InputError(
        "a worker was killed, perhaps for want of memory, at one of"
        f" {', '.join(names)}; the same command continues, with fewer"
        " --workers it needs less memory"
      )
    alone += begun
    waiting[:0] = [i for i in killed if i not in begun]
  while alone:
    assert give_up is not None
    with _pool(1) as pool:
      killed = yield from _run(pool, function, jobs, alone, 1)
    for index in killed:
      yield index, give_up(jobs[index], KILLED)


def _run(
  pool: concurrent.futures.ProcessPoolExecutor,
  function: Callable[[Job], Result],
  jobs: Sequence[Job],
  waiting: list[int],
  most: int,
) -> Generator[tuple[int, Result], None, list[int]]:
  """Runs the jobs of `waiting` and takes them off it, `most` at a time.

  Returns:
    Those that were under way when a worker was killed, which ends the pool.
  """
  running: dict[concurrent.futures.Future[Any], int] = {}
  try:
    while waiting or running:
      while waiting and len(running) < most:
        with _blocked(signal.SIGINT):
          future = pool.submit(function, jobs[waiting[0]])
        running[future] = waiting.pop(0)
      done, _ = concurrent.futures.wait(
        running, return_when=concurrent.futures.FIRST_COMPLETED
      )
      for future in sorted(done, key=running.__getitem__):
        result = future.result()
        yield running.pop(future), result
  except BrokenProcessPool:
    return sorted(running.values())
  return []


@contextlib.contextmanager
def _pool(workers: int) -> Iterator[concurrent.futures.ProcessPoolExecutor]:
  before = set(multiprocessing.active_children())
  pool = concurrent.futures.ProcessPoolExecutor(
    workers,
    # Not forked: a fork copies the locks of threads that it does not copy.
    mp_context=multiprocessing.get_context("spawn"),
    initializer=_start_worker,
  )
  try:
    yield pool
  except BaseException:
    # What is under way is lost, but nobody waits for it.
    for worker in set(multiprocessing.active_children()) - before:
      worker.terminate()
    raise
  finally:
    pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def _blocked(signal_number: signal.Signals) -> Iterator[None]:
  """Holds a signal back; processes that are started never get it.

  A terminal sends Ctrl-C to all, and the parent decides what it means.
  """
  earlier = signal.pthread_sigmask(signal.SIG_BLOCK, {signal_number})
  try:
    yield
  finally:
    signal.pthread_sigmask(signal.SIG_SETMASK, earlier)


def _start_worker() -> None:
  threadpoolctl.threadpool_limits(1)  # there is a worker a core
  # For jax, where a job uses it: no worker may take a whole accelerator.
  os.environ.update(JAX_PLATFORMS="cpu", NPROC="1")
  threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
  parent = multiprocessing.parent_process()
  assert parent is not None
  multiprocessing.connection.wait([parent.sentinel])
  os._exit(1)
