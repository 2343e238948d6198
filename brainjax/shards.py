"""The shard: a ZIP file of records, of which reading one is a single copy.

Its members are stored as they are, `000000.safetensors` and so on; any ZIP
program lists, tests and unpacks them. Compressed they would take a third of
the space, and more than twice the time to read.
"""

import os
import pathlib
import weakref
import zipfile
import zlib
from collections.abc import Iterable

from brainjax import InputError

_LOCAL_HEADER = 30  # bytes before a member's name (APPNOTE.TXT, 4.3.7)


class Shard:
  """The records of one file, read in any order and from any thread."""

  def __init__(self, path: pathlib.Path):
    """Opens the file.

    Raises:
      InputError: It is missing, or no shard.
    """
    self._path = path
    try:
      with zipfile.ZipFile(path) as archive:
        self._members = archive.infolist()
      self._file = os.open(path, os.O_RDONLY)
    except FileNotFoundError as error:
      raise InputError(
        f"{path}: missing; run the command that made the folder again"
      ) from error
    except (zipfile.BadZipFile, NotImplementedError) as error:
      raise self._damaged(str(error)) from error
    weakref.finalize(self, os.close, self._file)
    self._checked = [False] * len(self._members)

  def read(self, offset: int) -> bytes:
    """Returns the record that was the `offset`-th to be written.

    Raises:
      InputError: It is not what was written, as its checksum tells when it is
        first read.
    """
    if offset >= len(self._members):
      raise self._damaged(f"it has no record {offset}")
    member = self._members[offset]
    # At a place of its own, so that threads do not wait for each other.
    data = os.pread(
      self._file,
      member.file_size,
      member.header_offset + _LOCAL_HEADER + len(member.filename),
    )
    if not self._checked[offset]:
      if zlib.crc32(data) != member.CRC:
        raise self._damaged(f"record {offset} fails its checksum")
      self._checked[offset] = True
    return data

  def _damaged(self, what: str) -> InputError:
    return InputError(
      f"{self._path}: damaged: {what}; remove the file and run the command"
      " that made the folder again"
    )


def write(file: pathlib.Path, records: Iterable[bytes]) -> None:
  """Writes records into a new file, in order.

  Raises:
    OSError: The file cannot be written.
  """
  with zipfile.ZipFile(file, "w") as archive:
    for offset, data in enumerate(records):
      # Its date is the same each time, and so is the file's hash.
      archive.writestr(zipfile.ZipInfo(f"{offset:06d}.safetensors"), data)
