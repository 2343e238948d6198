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
from brainjax.preparation.workers import Job, Result, Results

_IN_FLIGHT = 2  # jobs handed out for each thread of a worker
_TIMEOUT_SECONDS = 20


def run_jobs(
  function: Callable[[Job], Result],
  jobs: Sequence[Job],
  *,
  address: str,
  name_of: Callable[[Job], str],
) -> Results[Result]:
  """Runs `function` on every job and yields (index, result) as they end.

  A job whose worker is lost is given to another one. Workers may come and go.

  Args:
    function: Of a module. Run twice on a job, it must do the work once.
    jobs: Small; paths in them are absolute.
    address: Of the scheduler, e.g. "tcp://host:8786".
    name_of: Names a job in an error.

  Raises:
    InputError: There is no such scheduler, it has no worker, or one of several
      threads or another version; or a job lost several workers.
  """
  distributed = _load_module()
  with _connected(distributed, address) as client:
    _check_workers(client, address)
    running = distributed.as_completed(loop=client.loop)
    index_of: dict[Any, int] = {}
    waiting = iter(enumerate(jobs))

    def fill() -> None:
      threads = sum(client.nthreads().values())
      for index, job in waiting:
        # By itself a cluster would take two jobs that are alike for one.
        future = client.submit(_in_one_thread, function, job, pure=False)
        index_of[future] = index
        running.add(future)
        if len(index_of) >= _IN_FLIGHT * max(threads, 1):
          return

    fill()
    for future in running:
      index = index_of.pop(future)
      try:
        result = future.result()
      except distributed.KilledWorker as error:
        raise InputError(
          f"{name_of(jobs[index])}: {error.allowed_failures + 1} workers of"
          f" {address} were lost at it, perhaps for want of memory; the same"
          " command continues"
        ) from error
      yield index, result
      fill()


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
