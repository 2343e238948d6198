"""Public cohort layouts, each read into manifest rows."""

import types
from collections.abc import Callable, Mapping

from brainjax.cohort.layouts.figshare import read_figshare
from brainjax.cohort.layouts.folders import read_folders

# Each takes the root folder and its own keywords, and returns (rows, columns)
# for `manifest.write_manifest`; paths in the rows are absolute.
LAYOUTS: Mapping[
  str, Callable[..., tuple[list[dict[str, str]], tuple[str, ...]]]
] = types.MappingProxyType({"folders": read_folders, "figshare": read_figshare})
