"""One writer a folder: a lock that the kernel frees when its process ends.

A process that is killed leaves nothing to clean: the file `.lock` may stay,
but without a process that holds it, it means nothing.

On NFS the lock reaches other machines where the server runs its lock service;
a mount with `nolock`, or Lustre with `localflock`, keeps it to one machine.
"""

import contextlib
import datetime
import errno
import fcntl
import json
import os
import pathlib
import socket
from collections.abc import Callable, Iterator
from typing import TextIO

from brainjax import InputError

FILE = ".lock"
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


@contextlib.contextmanager
def hold(folder: pathlib.Path, say: Callable[[str], None]) -> Iterator[None]:
  """Holds a folder, so that no other process writes into it meanwhile.

  Args:
    folder: Made if absent, and removed again if nothing comes to lie in it.
    say: Told if the file system has no locks, so that none is held.

  Raises:
    InputError: Another process holds it, or it cannot be written.
  """
  made = not folder.exists()
  try:
    file = _take(folder, say)
  except OSError as error:
    raise InputError(
      f"{folder}: {error.strerror}; choose another folder"
    ) from error
  try:
    yield
  finally:
    # Order matters: once it is closed, another process may hold it.
    (folder / FILE).unlink(missing_ok=True)
    if made and folder.is_dir() and not any(folder.iterdir()):
      folder.rmdir()
    file.close()


def identity() -> dict[str, str | int]:
  """Returns who this process is: `{"pid", "host"}`."""
  return {"pid": os.getpid(), "host": socket.gethostname()}


def now() -> str:
  """Returns the time in UTC, ISO 8601 to the second."""
  return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _take(folder: pathlib.Path, say: Callable[[str], None]) -> TextIO:
  """Returns the open, locked and signed file."""
  path = folder / FILE
  while True:
    folder.mkdir(parents=True, exist_ok=True)
    file = open(path, "a+")  # noqa: SIM115 (closed by hold)
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      with file:
        raise InputError(
          f"{folder}: in use by {_holder(file)}; wait for it, stop it, or"
          " choose another folder"
        ) from None
    except OSError as error:
      if error.errno not in _NO_LOCKS:
        raise
      say(
        f"{folder}: no locks on this file system ({error.strerror}); see to it"
        " that nothing else writes there"
      )
    # Another process may have let go of the file, and removed it, meanwhile.
    if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
      break
    file.close()
  file.truncate(0)
  file.write(json.dumps({**identity(), "time": now()}) + "\n")
  file.flush()
  return file


def _holder(file: TextIO) -> str:
  file.seek(0)
  try:
    holder = json.loads(file.read())
  except ValueError:  # it is just signing
    return "another process"
  return "process {pid} on {host} since {time}".format(**holder)
