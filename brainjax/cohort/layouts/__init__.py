"""How cohorts lie on disk; each layout is read into manifest rows."""

import types
from collections.abc import Callable, Mapping

from brainjax.cohort.joining import read_manifests
from brainjax.cohort.layouts.bids import read_bids
from brainjax.cohort.layouts.brats import read_brats
from brainjax.cohort.layouts.dicom import read_dicom_tree
from brainjax.cohort.layouts.figshare import read_figshare
from brainjax.cohort.layouts.files import Rows
from brainjax.cohort.layouts.folders import read_folders
from brainjax.cohort.layouts.ixi import read_ixi
from brainjax.cohort.layouts.msd import read_msd
from brainjax.cohort.layouts.ucsf import read_ucsf
from brainjax.cohort.layouts.upenn import read_upenn
from brainjax.cohort.phantom import write_phantom_cohort

# Each takes where the cohort is (`manifest`: several files) and its own
# keywords (`dicom`: also where the manifest will be), and returns (rows,
# columns) for `manifest.write_manifest`; paths in the rows are absolute.
LAYOUTS: Mapping[str, Callable[..., tuple[Rows, tuple[str, ...]]]] = (
  types.MappingProxyType(
    {
      "bids": read_bids,
      "brats": read_brats,
      "dicom": read_dicom_tree,
      "figshare": read_figshare,
      "folders": read_folders,
      "ixi": read_ixi,
      "manifest": read_manifests,
      "msd": read_msd,
      "phantom": write_phantom_cohort,
      "ucsf": read_ucsf,
      "upenn": read_upenn,
    }
  )
)
