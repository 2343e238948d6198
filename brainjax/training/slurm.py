"""Jobs on SLURM, by submitit."""

import collections
import dataclasses
import os
import pathlib
import shutil
import subprocess
import time
from collections.abc import Mapping
from typing import Any

from brainjax import InputError
from brainjax.training import jobs as jobs_lib
from brainjax.training.jobs import End, Job


@dataclasses.dataclass(frozen=True)
class Slurm:
  """A place for `executor.run`.

  A job that runs out of time, or whose node is taken, saves and is queued
  again, three times at most.

  Attributes:
    folder: Of what submitit writes; every node sees it.
    options: Of `submitit.SlurmExecutor`, such as `{"partition": "gpu",
      "gpus_per_node": 1, "time": 240}` (minutes).
    at_once: Jobs at a time, at most.
    cluster: "slurm", or submitit's stand-in "local" where there is none.
  """

  folder: pathlib.Path
  options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  at_once: int = 256
  cluster: str = "slurm"

  def starter(self) -> "_OnSlurm":
    """Returns what starts jobs there.

    Raises:
      InputError: submitit or SLURM is missing, or an option is wrong.
    """
    try:
      import submitit
    except ModuleNotFoundError as error:
      raise InputError(
        "--executor=slurm: submitit is missing; install it with"
        " `pip install 'brainjax[slurm]'`"
      ) from error
    if self.cluster == "slurm" and not shutil.which("sbatch"):
      raise InputError(
        "--executor=slurm: no sbatch on this machine; start it where jobs are"
        " submitted, or use --executor=local"
      )
    options = {"array_parallelism": self.at_once, **self.options}
    options = {f"slurm_{name}": value for name, value in options.items()}
    executor = submitit.AutoExecutor(self.folder, cluster=self.cluster)
    try:
      executor.update_parameters(name="brainjax", **options)
    except (NameError, ValueError, AssertionError) as error:
      raise InputError(f"--slurm: {error}") from error
    return _OnSlurm(executor)


class _OnSlurm:
  """Hands over all jobs at once; SLURM has the queue."""

  def __init__(self, executor: Any):
    self._executor = executor

  def start(self, waiting: collections.deque[Job]) -> list["_Submitted"]:
    jobs = list(waiting)
    waiting.clear()
    if not jobs:
      return []
    handles = self._executor.map_array(_OnNode(os.getcwd()), jobs)
    return [_Submitted(*pair) for pair in zip(jobs, handles, strict=True)]


class _OnNode:
  """What submitit calls on a node."""

  def __init__(self, directory: str):
    self._directory = directory
    self._child: subprocess.Popen[bytes] | None = None
    self._began = 0.0

  def __call__(self, job: Job) -> End:
    os.chdir(self._directory)
    self._began = time.monotonic()
    self._child = jobs_lib.start(job, sorted(os.sched_getaffinity(0)), {})
    try:
      code = self._child.wait()
    finally:
      self._end_child()  # if this process is interrupted
    return jobs_lib.write_end(job, code, time.monotonic() - self._began)

  def checkpoint(self, job: Job) -> Any:
    """Saves, and has submitit queue the job again."""
    from submitit.helpers import DelayedSubmission

    self._end_child()
    if self._child is not None:  # the next start adds its time to this one's
      seconds = time.monotonic() - self._began
      jobs_lib.write_end(job, jobs_lib.STOPPED, seconds)
    return DelayedSubmission(_OnNode(self._directory), job)

  def _end_child(self) -> None:
    if self._child is None:
      return
    self._child.terminate()
    if self._child.returncode is None:
      # Not `wait`: a signal may have come in the midst of one, which has its
      # lock.
      os.waitid(os.P_PID, self._child.pid, os.WEXITED | os.WNOWAIT)


class _Submitted:
  """A job that submitit watches."""

  def __init__(self, job: Job, handle: Any):
    self._job, self._handle = job, handle

  def ended(self) -> bool:
    return self._handle.done()

  def end(self) -> End:
    if self._handle.exception() is None:
      return self._handle.result()
    file = self._handle.paths.stderr
    reason = f"SLURM says {self._handle.state}; see {file}"
    return End(self._job, 1, 0.0, reason)

  def stop(self) -> None:
    self._handle.cancel(check=False)

  def kill(self) -> None:
    self.stop()
