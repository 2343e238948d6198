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
_IN_FLIGHT = 2  # jobs handed out for each worker; the rest waits in a list


def run_jobs(
  function: Callable[[Job], Result],
  jobs: Sequence[Job],
  *,
  workers: int,
  name_of: Callable[[Job], str],
) -> Results[Result]:
  """Runs `function` on every job and yields (index, result) as they end.

  Workers end with this process, however it ends, and when the generator is
  closed; who may leave the loop early closes it (`contextlib.closing`).

  Args:
    function: Of a module, so that it can be sent.
    jobs: Small; what is large is read by the worker.
    workers: Processes; with 1, all is done in this one.
    name_of: Names a job in an error.

  Raises:
    InputError: A worker was killed.
  """
  if workers == 1 or len(jobs) < 2:
    for index, job in enumerate(jobs):
      yield index, function(job)
    return
  with _pool(min(workers, len(jobs))) as pool:
    waiting = iter(enumerate(jobs))
    running: dict[concurrent.futures.Future[Any], int] = {}
    while True:
      for index, job in waiting:
        with _blocked(signal.SIGINT):
          running[pool.submit(function, job)] = index
        if len(running) >= _IN_FLIGHT * workers:
          break
      if not running:
        return
      done, _ = concurrent.futures.wait(
        running, return_when=concurrent.futures.FIRST_COMPLETED
      )
      for future in sorted(done, key=running.__getitem__):
        try:
          result = future.result()
        except BrokenProcessPool as error:
          names = [name_of(jobs[i]) for i in sorted(running.values())]
          raise InputError(
            "a worker was killed, perhaps for want of memory, at one of"
            f" {', '.join(names)}; the same command continues, with fewer"
            " --workers it needs less memory"
          ) from error
        yield running.pop(future), result


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
