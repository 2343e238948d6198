"""A command of brainjax as a process: how it starts and how it ended."""

import ctypes
import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence

from brainjax import records

STOPPED = 75  # the exit status of a command that a signal stopped
ENDED_FILE = "ended.json"
OUTPUT_FILE = "output.txt"
_PR_SET_PDEATHSIG = 1  # of linux/prctl.h


@dataclasses.dataclass(frozen=True)
class Job:
  """A command to run.

  Attributes:
    name: What the user calls it; no two of a study are alike.
    arguments: Those of `brainjax`, the verb first.
    folder: Of `output.txt`, all that it prints, and `ended.json`.
    inputs: sha256 of what lies at the paths of the arguments.
  """

  name: str
  arguments: tuple[str, ...]
  folder: pathlib.Path
  inputs: str = ""


@dataclasses.dataclass(frozen=True)
class End:
  """How a job ended.

  Attributes:
    job: Which.
    code: Exit status; 0 = well, `STOPPED` = by a signal, after saving, and
      negative = killed by the signal of that number.
    seconds: It took, all its starts together.
    reason: The last line it printed, if it did not end well.
    kept: Whether that was before it was asked for now.
  """

  job: Job
  code: int
  seconds: float
  reason: str
  kept: bool = False


def start(
  job: Job, cores: Sequence[int], environment: Mapping[str, str]
) -> subprocess.Popen[bytes]:
  """Starts a job, which SIGTERM reaches when this process ends.

  Args:
    job: What to start; its folder is made if absent.
    cores: It may run on.
    environment: Variables to set, beside those of this process.
  """
  job.folder.mkdir(parents=True, exist_ok=True)
  numbers = ",".join(map(str, cores))
  with open(job.folder / OUTPUT_FILE, "ab") as output:
    return subprocess.Popen(
      [sys.executable, "-m", __name__, numbers, *job.arguments],
      env={**os.environ, **environment, "PYTHONUNBUFFERED": "1"},
      stdin=subprocess.DEVNULL,
      stdout=output,
      stderr=subprocess.STDOUT,
      start_new_session=True,  # Ctrl-C is for the process that started it
    )


def ended_before(job: Job) -> End | None:
  """Returns how a job of these inputs ended the last time, if it did."""
  path = job.folder / ENDED_FILE
  if not path.is_file():
    return None
  found = json.loads(path.read_text())
  before = found["arguments"], found.get("inputs", "")
  if before != (list(job.arguments), job.inputs):
    return None
  return End(job, found["code"], found["seconds"], found["reason"], kept=True)


def write_end(job: Job, code: int, seconds: float) -> End:
  """Writes `ended.json`; `seconds` are those since the last start."""
  earlier = ended_before(job)
  if earlier is not None:
    seconds += earlier.seconds
  end = End(job, code, seconds, _reason(job, code))
  content = {"arguments": job.arguments, "inputs": job.inputs, "code": code}
  content |= {"seconds": seconds, "reason": end.reason}
  text = json.dumps(content, indent=2) + "\n"
  records.write_text(job.folder / ENDED_FILE, text)
  return end


def _reason(job: Job, code: int) -> str:
  if code == 0:
    return ""
  if code == -signal.SIGKILL:
    return "killed, perhaps for want of memory"
  if code < 0:
    return f"killed by {signal.Signals(-code).name}"
  output = (job.folder / OUTPUT_FILE).read_text(errors="replace")
  lines = [line for line in output.splitlines() if line.strip()]
  return lines[-1].strip() if lines else f"exit status {code}"


def _become(cores: str, *arguments: str) -> None:
  """Turns this process into the command; what it sets outlives the exec."""
  os.sched_setaffinity(0, map(int, cores.split(",")))
  # Whoever started it may be killed, and another one started.
  ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
  # Before the time is up, SLURM sends it to all, but means submitit.
  signal.signal(signal.SIGUSR2, signal.SIG_IGN)
  os.execv(sys.executable, [sys.executable, "-m", "brainjax.cli", *arguments])


if __name__ == "__main__":
  _become(*sys.argv[1:])
