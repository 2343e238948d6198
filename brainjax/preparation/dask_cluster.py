"""The jobs of `workers.py`, on a Dask cluster.

Its workers read the scans and write what they make of them into the folder of
records, so they must see both under the same paths. Only jobs and facts travel
over the network.
"""

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import threadpoolctl

from brainjax import InputError
from brainjax.preparation import parts
from brainjax.preparation.workers import KILLED, Job, Result, Results

_IN_FLIGHT = 2  # jobs handed out for each thread of a worker
_TIMEOUT_SECONDS = 20


def run_jobs(
  function: Callable[[Job], Result],
  jobs: Sequence[Job],
  *,
  address: str,
  was_begun: Callable[[Job], bool],
  give_up: Callable[[Job, str], Result],
) -> Results[Result]:
  """Runs `function` on every job and yields (index, result) as they end.

  A job whose worker is lost is given to another one, until Dask takes it for
  what kills them. Workers may come and go.

  Args:
    function: Of a module. Run twice on a job, it must do the work once.
    jobs: Small; paths in them are absolute.
    address: Of the scheduler, e.g. "tcp://host:8786".
    was_begun: Whether a job that is not under way was begun: it is run last,
      with no other beside it.
    give_up: (job, why) -> result of a job that then too lost its workers.

  Raises:
    InputError: There is no such scheduler, it has no worker, or one of several
      threads or another version.
  """
  distributed = _load_module()
  alone: list[int] = []
  waiting: list[int] = []
  for index, job in enumerate(jobs):
    (alone if was_begun(job) else waiting).append(index)
  with _connected(distributed, address) as client:
    _check_workers(client, address)
    running = distributed.as_completed(loop=client.loop)
    index_of: dict[Any, int] = {}

    def submit(index: int) -> Any:
      # By itself a cluster would take two jobs that are alike for one.
      return client.submit(_in_one_thread, function, jobs[index], pure=False)

    def fill() -> None:
      most = _IN_FLIGHT * max(sum(client.nthreads().values()), 1)
      while waiting and len(index_of) < most:
        future = submit(waiting[0])
        index_of[future] = waiting.pop(0)
        running.add(future)

    fill()
    for future in running:
      index = index_of.pop(future)
      try:
        result = future.result()
      except distributed.KilledWorker:
        # Dask suspects what waited for a lost worker as well.
        (alone if was_begun(jobs[index]) else waiting).append(index)
      else:
        yield index, result
      fill()
    for index in alone:
      try:
        result = submit(index).result()
      except distributed.KilledWorker:
        result = give_up(jobs[index], KILLED)
      yield index, result


def _load_module() -> Any:
  try:
    import distributed
  except ImportError as error:
    raise InputError(
      "--dask: needs Dask; install it with `pip install 'brainjax[dask]'`"
    ) from error
  return distributed


@contextlib.contextmanager
def _connected(distributed: Any, address: str) -> Iterator[Any]:
  """Yields a client; what is under way is cancelled when it is left."""
  try:
    client = distributed.Client(
      address, timeout=_TIMEOUT_SECONDS, set_as_default=False
    )
  except (OSError, ValueError) as error:
    raise InputError(
      f"--dask={address}: no Dask scheduler answers; start `dask scheduler`"
      " and `dask worker ADDRESS --nthreads=1`, and give its address"
    ) from error
  try:
    yield client
  finally:
    client.close()  # which releases, and so cancels, what it submitted


def _check_workers(client: Any, address: str) -> None:
  try:
    client.wait_for_workers(1, timeout=_TIMEOUT_SECONDS)
  except TimeoutError as error:
    raise InputError(
      f"--dask={address}: the scheduler has no worker; start `dask worker"
      f" {address} --nthreads=1` on each machine"
    ) from error
  for worker, threads in client.nthreads().items():
    if threads != 1:
      raise InputError(
        f"--dask={address}: worker {worker} has {threads} threads; start it"
        " with --nthreads=1, and as many workers as cores"
      )
  try:
    versions = client.run(parts.versions)
  except ImportError as error:
    raise InputError(
      f"--dask={address}: a worker cannot load brainjax ({error}); install the"
      " same on all"
    ) from error
  for worker, version in versions.items():
    if list(version) != parts.versions():
      raise InputError(
        f"--dask={address}: worker {worker} has brainjax {version}, this is"
        f" {parts.versions()}; install the same on all"
      )


def _in_one_thread(function: Callable[[Job], Result], job: Job) -> Result:
  """Libraries of a worker's thread start none of their own.

  Nor does jax take a whole accelerator for one worker of several.
  """
  before = dict(os.environ)
  os.environ.update(JAX_PLATFORMS="cpu", NPROC="1")
  try:
    with threadpoolctl.threadpool_limits(1):
      return function(job)
  finally:  # for what else runs on the worker
    os.environ.clear()
    os.environ.update(before)
