"""How cohorts lie on disk; each layout is read into manifest rows."""

import os
import types
from collections.abc import Callable, Mapping

from brainjax.cohort import manifest
from brainjax.cohort.layouts.bids import read_bids
from brainjax.cohort.layouts.figshare import read_figshare
from brainjax.cohort.layouts.folders import read_folders
from brainjax.cohort.phantom import write_phantom_cohort

Rows = list[dict[str, str]]


def read_handwritten(
  path: str | os.PathLike[str],
) -> tuple[Rows, tuple[str, ...]]:
  """Reads a manifest that somebody wrote, to be written at another place.

  Raises:
    InputError: Something is wrong with it; names the line and column.
  """
  given = manifest.read_manifest(path)
  rows = []
  for row in given.rows:
    cells = {
      name: ";".join(map(str, manifest.image_files(given, row, name)))
      for name in row.keys() & {*given.modalities, "mask"}
    }
    rows.append(row | cells)
  return rows, given.columns


# Each takes where the cohort is and its own keywords, and returns (rows,
# columns) for `manifest.write_manifest`; paths in the rows are absolute.
LAYOUTS: Mapping[str, Callable[..., tuple[Rows, tuple[str, ...]]]] = (
  types.MappingProxyType(
    {
      "bids": read_bids,
      "figshare": read_figshare,
      "folders": read_folders,
      "manifest": read_handwritten,
      "phantom": write_phantom_cohort,
    }
  )
)
