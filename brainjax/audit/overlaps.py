"""Public sets that are known to hold the same people under other names."""

import re
from typing import NamedTuple


class Overlap(NamedTuple):
  """Two sets that share people.

  Attributes:
    names: Of the sets.
    patterns: Found in the `participant_id` or the `source` of their rows.
    text: What they share.
    reference: Who says so.
  """

  names: tuple[str, str]
  patterns: tuple[re.Pattern[str], re.Pattern[str]]
  text: str
  reference: str


def _known(first: str, second: str, text: str, reference: str) -> Overlap:
  names = (first, second)
  patterns = tuple(re.compile(_SETS[name], re.IGNORECASE) for name in names)
  return Overlap(names, (patterns[0], patterns[1]), text, reference)


_SETS = {
  "BraTS 2016 to 2018": r"brats[_-]?(20)?1[678]",
  "BraTS 2021": r"brats[_-]?(20)?21",
  "BraTS 2023 glioma": r"brats-gli",
  "CPTAC-GBM": r"cptac|^c3[ln]-",
  "IXI": r"^ixi",
  "IvyGAP": r"ivy[_-]?gap",
  "Kaggle brain-tumour JPEGs": r"kaggle|nickparvar|sartaj|br35h",
  "MSD Task01": r"msd|task01|^brats_\d{3}$",
  "RSNA-MICCAI 2021": r"rsna",
  "SynthStrip": r"synthstrip",
  "TCGA-GBM and TCGA-LGG": r"^tcga-",
  "UCSF-PDGM": r"ucsf-pdgm",
  "figshare (Cheng)": r"figshare|cheng",
}
_BRATS_2021 = "Baid et al. 2021, arXiv:2107.02314"
OVERLAPS = (
  _known(
    "UCSF-PDGM",
    "BraTS 2021",
    "Many patients are in both; the metadata of UCSF-PDGM name them in the"
    " column `BraTS21 ID`",
    "metadata of UCSF-PDGM v5, The Cancer Imaging Archive",
  ),
  _known(
    "UCSF-PDGM",
    "BraTS 2023 glioma",
    "The glioma cases of 2023 are those of 2021, which share patients with it",
    "metadata of UCSF-PDGM v5, The Cancer Imaging Archive",
  ),
  _known(
    "BraTS 2021",
    "BraTS 2023 glioma",
    "The glioma cases of 2023 are those of 2021 under other names",
    _BRATS_2021,
  ),
  _known(
    "MSD Task01",
    "BraTS 2016 to 2018",
    "Task01 is BraTS 2016 and 2017, renamed on purpose",
    "Simpson et al. 2019, arXiv:1902.09063",
  ),
  _known(
    "RSNA-MICCAI 2021",
    "BraTS 2021",
    "They are the same patients, in DICOM and in NIfTI",
    _BRATS_2021,
  ),
  _known(
    "TCGA-GBM and TCGA-LGG",
    "BraTS 2021",
    "BraTS includes cases of these collections",
    _BRATS_2021,
  ),
  _known(
    "CPTAC-GBM", "BraTS 2021", "BraTS includes cases of CPTAC", _BRATS_2021
  ),
  _known("IvyGAP", "BraTS 2021", "BraTS includes cases of IvyGAP", _BRATS_2021),
  _known(
    "figshare (Cheng)",
    "Kaggle brain-tumour JPEGs",
    "The set of 7,023 JPEGs is made of the figshare slices, SARTAJ and Br35H,"
    " without patient ids",
    "hdl:11572/488191",
  ),
  _known(
    "SynthStrip",
    "IXI",
    "SynthStrip's evaluation set holds heads of IXI",
    "Hoopes et al. 2022, doi:10.1016/j.neuroimage.2022.119474",
  ),
)
