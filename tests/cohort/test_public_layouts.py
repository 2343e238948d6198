"""Each public set, by exactly the names of its release."""

import json
import pathlib
import shutil

import pytest

from brainjax import InputError
from brainjax.cohort import demographics, manifest
from brainjax.cohort.layouts import LAYOUTS


def make(root, *names):
  for name in names:
    file = root / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch()
  return root


def read(root, layout, **options):
  """Rows as later commands see them, with paths relative to the root."""
  rows, columns = LAYOUTS[layout](root, **options)
  demographics.normalise(rows)
  manifest.write_manifest(root / "manifest.csv", rows, columns)
  return manifest.read_manifest(root / "manifest.csv").rows


def cells(rows, *names):
  return [tuple(row.get(name) for name in names) for row in rows]


IXI_TABLE = """IXI_ID,"SEX_ID (1=m, 2=f)",HEIGHT,WEIGHT,ETHNIC_ID,AGE
2,2,164,58,1,35.80013689
12,1,175,70,1,38.78
13,1,182,70,1,
15,1,1,1,1,20
15,2,1,1,1,20
"""
IXI = (
  "IXI-T1/IXI002-Guys-0828-T1.nii.gz",
  "IXI-T2/IXI002-Guys-0828-T2.nii.gz",
  "IXI-PD/IXI002-Guys-0828-PD.nii.gz",
  "IXI-MRA/IXI002-Guys-0828-MRA.nii.gz",
  "IXI-DTI/IXI002-Guys-0828-DTI-00.nii.gz",
  "IXI-T1/IXI012-HH-1211-T1.nii.gz",
  "IXI-T1/IXI013-HH-1212-T1.nii.gz",
  "IXI-T2/IXI015-IOP-0903-T2.nii.gz",
)


def test_ixi(tmp_path):
  root = make(tmp_path, *IXI)
  (root / "IXI.csv").write_text(IXI_TABLE)
  rows = read(root, "ixi")
  names = ("participant_id", "session_id", "site", "scanner", "age", "sex")
  assert cells(rows, *names) == [
    ("IXI002", "0828", "Guys", "Philips 1.5T", "35.8", "F"),
    ("IXI012", "1211", "HH", "Philips 3T", "38.78", "M"),
    ("IXI013", "1212", "HH", "Philips 3T", "", "M"),
    ("IXI015", "0903", "IOP", "GE 1.5T", "20", ""),  # the table says both
  ]
  assert cells(rows, "t1", "t2", "pd")[0] == (IXI[0], IXI[1], IXI[2])
  assert cells(rows, "t1", "t2", "pd")[3] == ("", IXI[7], "")
  assert set(cells(rows, "label", "source")) == {("normal", "IXI")}


def test_the_table_of_ixi_as_it_is_published(tmp_path):
  root = make(tmp_path, *IXI)
  assert not read(root, "ixi")[0].keys() & {"age", "sex"}
  workbook = pathlib.Path(__file__).with_name("ixi.xls")
  shutil.copy(workbook, root / "IXI.xls")
  published = read(root, "ixi")
  (root / "IXI.csv").write_text(IXI_TABLE)
  assert published == read(root, "ixi")


def test_a_damaged_table_of_ixi_is_refused(tmp_path):
  root = make(tmp_path, *IXI)
  workbook = pathlib.Path(__file__).with_name("ixi.xls").read_bytes()
  for content in (b"", workbook[:900], workbook[:3000], b"IXI_ID,AGE"):
    (root / "IXI.xls").write_bytes(content)
    with pytest.raises(InputError, match="IXI.xls: no Excel 97 workbook"):
      LAYOUTS["ixi"](root)


def brats_case(folder, case, *kinds, ending=".nii.gz"):
  joint = "-" if case.startswith("BraTS-") else "_"
  return [f"{folder}{case}/{case}{joint}{kind}{ending}" for kind in kinds]


OLD = ("t1", "t1ce", "t2", "flair", "seg")
NEW = ("t1n", "t1c", "t2w", "t2f", "seg")


def test_brats_to_2021(tmp_path):
  case_2021 = brats_case("", "BraTS2021_00000", *OLD)
  case_18 = brats_case("HGG/", "Brats18_CBICA_AAB_1", *OLD)
  case_20 = brats_case("", "BraTS20_Training_001", *OLD, ending=".nii")
  odd = brats_case("", "BraTS20_Training_355", *OLD[:4], ending=".nii")
  odd.append("BraTS20_Training_355/W39_1998.09.19_Segm.nii")
  root = make(
    tmp_path,
    *(*case_2021, *case_18, *case_20, *odd),
    *brats_case("LGG/", "BraTS19_TCIA09_141_1", *OLD[:4]),
  )
  (root / "name_mapping.csv").write_text(
    "Grade,BraTS_2017_subject_ID,BraTS_2019_subject_ID,BraTS_2020_subject_ID\n"
    "HGG,Brats17_CBICA_AAB_1,BraTS19_CBICA_AAB_1,BraTS20_Training_001\n"
  )
  rows = read(root, "brats")
  assert cells(rows, "participant_id", "group_id", "source", "grade") == [
    ("BraTS19_TCIA09_141_1", "BraTS_TCIA09_141", "BraTS2019", "LGG"),
    ("BraTS2021_00000", "BraTS-GLI-00000", "BraTS2021", ""),
    # One person under two names.
    ("BraTS20_Training_001", "BraTS_CBICA_AAB", "BraTS2020", "HGG"),
    ("BraTS20_Training_355", "BraTS20_Training_355", "BraTS2020", ""),
    ("Brats18_CBICA_AAB_1", "BraTS_CBICA_AAB", "BraTS2018", "HGG"),
  ]
  images = ("t1", "t1c", "t2", "flair", "mask")
  assert cells(rows, *images)[1] == tuple(case_2021)
  assert cells(rows, *images)[3] == tuple(odd)
  assert cells(rows, "mask", "mask_values")[0] == ("", "")
  assert rows[1]["mask_values"] == "1=NCR;2=ED;4=ET"
  assert {row["label"] for row in rows} == {"glioma"}


def test_brats_from_2023(tmp_path):
  gli = "ASNR-MICCAI-BraTS2023-GLI-Challenge-TrainingData/"
  ssa = "BraTS-Africa/51_OtherNeoplasms/"
  first = brats_case(gli, "BraTS-GLI-00005-000", *NEW)
  root = make(
    tmp_path,
    *first,
    *brats_case(gli, "BraTS-GLI-00005-001", *NEW),
    *brats_case("MEN/", "BraTS-MEN-00004-000", *NEW),
    *brats_case("MET/", "BraTS-MET-00002-000", "t1c", "seg"),
    *brats_case("PED/", "BraTS-PED-00001-000", *NEW[:4]),
    *brats_case(ssa, "BraTS-SSA-00002-000", *NEW),
    *brats_case("BraTS-Africa/95_Glioma/", "BraTS-SSA-00008-000", *NEW),
    "MEN-RT/BraTS-MEN-RT-0000-1/BraTS-MEN-RT-0000-1_t1c.nii.gz",
    "MEN-RT/BraTS-MEN-RT-0000-1/BraTS-MEN-RT-0000-1_gtv.nii.gz",
  )
  rows = read(root, "brats")
  assert cells(rows, "participant_id", "session_id", "label", "source") == [
    ("BraTS-GLI-00005", "000", "glioma", "BraTS-GLI"),
    ("BraTS-GLI-00005", "001", "glioma", "BraTS-GLI"),
    ("BraTS-MEN-00004", "000", "meningioma", "BraTS-MEN"),
    ("BraTS-MEN-RT-0000", "1", "meningioma", "BraTS-MEN-RT"),
    ("BraTS-MET-00002", "000", "metastasis", "BraTS-MET"),
    ("BraTS-PED-00001", "000", "glioma", "BraTS-PED"),
    ("BraTS-SSA-00002", "000", "other neoplasm", "BraTS-SSA"),
    ("BraTS-SSA-00008", "000", "glioma", "BraTS-SSA"),
  ]
  images = ("t1", "t1c", "t2", "flair", "mask")
  assert cells(rows, *images)[0] == tuple(first)
  assert [bool(cell) for cell in cells(rows, *images)[4]] == [0, 1, 0, 0, 1]
  assert cells(rows, "mask", "mask_values")[5] == ("", "")
  assert rows[0]["mask_values"] == "1=NETC;2=SNFH;3=ET;4=RC"


def test_one_case_of_brats_in_two_places_is_refused(tmp_path):
  root = make(
    tmp_path,
    *brats_case("a/", "BraTS2021_00000", *OLD),
    *brats_case("b/", "BraTS2021_00000", *OLD),
  )
  with pytest.raises(InputError, match="b/.*is .*a/.* already; remove one"):
    LAYOUTS["brats"](root)


MSD = {
  "name": "BRATS",
  "modality": {"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"},
  "labels": {
    "0": "background",
    "1": "edema",
    "2": "non-enhancing tumor",
    "3": "enhancing tumour",
  },
  "training": [
    {
      "image": "./imagesTr/BRATS_457.nii.gz",
      "label": "./labelsTr/BRATS_457.nii.gz",
    }
  ],
  "test": ["./imagesTs/BRATS_485.nii.gz"],
}


def msd(root, **changes):
  make(
    root,
    *("imagesTr/BRATS_457.nii.gz", "labelsTr/BRATS_457.nii.gz"),
    "imagesTs/BRATS_485.nii.gz",
  )
  (root / "dataset.json").write_text(json.dumps(MSD | changes))
  return root


def test_msd(tmp_path):
  rows = read(msd(tmp_path), "msd")
  image = "imagesTr/BRATS_457.nii.gz"
  names = ("participant_id", "flair", "t1", "t1c", "t2", "mask")
  assert cells(rows, *names) == [
    (
      "BRATS_457",
      *(f"{image}#{index}" for index in range(4)),
      "labelsTr/BRATS_457.nii.gz",
    ),
    (
      "BRATS_485",
      *(f"imagesTs/BRATS_485.nii.gz#{index}" for index in range(4)),
      "",
    ),
  ]
  values = "1=edema;2=non-enhancing tumor;3=enhancing tumour"
  assert cells(rows, "label", "source", "mask_values") == [
    ("glioma", "MSD", values),
    ("glioma", "MSD", ""),
  ]


@pytest.mark.parametrize(
  "changes, message",
  [
    ({"modality": {"0": "CT"}}, "modality '0' is 'CT'; .* flair, t1w, t1gd"),
    ({"modality": {"0": "T1w", "1": "T1w"}}, "modality '1' is 'T1w'"),
    ({"training": {}}, "no training in it"),
    ({"training": ["a"]}, "'a' is no case"),
    ({"training": MSD["training"] * 2}, "BRATS_457 stands in it twice"),
    ({"training": [{"image": 3, "label": 4}]}, "is no case"),
    ({"test": ["./imagesTs/BRATS_9.nii.gz"]}, "BRATS_9.nii.gz is not there"),
    ({"test": ["../../secret.nii.gz"]}, "lies outside"),
    ({"test": ["/etc/hostname"]}, "lies outside"),
  ],
)
def test_another_dataset_json_is_refused(tmp_path, changes, message):
  with pytest.raises(InputError, match=f"dataset.json: .*{message}") as error:
    LAYOUTS["msd"](msd(tmp_path, **changes))
  assert "\n" not in str(error.value)


def test_ucsf(tmp_path):
  def case(name, *kinds):
    return [f"UCSF-PDGM-v3/{name}_nifti/{name}_{kind}.nii.gz" for kind in kinds]

  kinds = ("T1", "T1c", "T2", "FLAIR", "SWI", "DWI", "ADC")
  first = case("UCSF-PDGM-0004", *kinds, "tumor_segmentation")
  root = make(
    tmp_path,
    *first,
    *case("UCSF-PDGM-0004", "T1_bias", "T1c_bias", "ASL", "DTI_eddy_FA"),
    *case("UCSF-PDGM-0004", "brain_segmentation", "brain_parenchyma_seg"),
    *case("UCSF-PDGM-0138", "T1c"),
    *case("UCSF-PDGM-0138_FU006d", "T1c"),
  )
  (root / "UCSF-PDGM-metadata_v2.csv").write_text("ID\n")
  (root / "UCSF-PDGM-metadata_v5.csv").write_text(
    "ID,Sex,Age at MRI,WHO CNS Grade,MGMT status,IDH,BraTS21 ID\n"
    "UCSF-PDGM-004,M,66,4,negative,wildtype,BraTS2021_00097\n"
    "UCSF-PDGM-138,F,41,2,unknown,mutated (NOS),\n"
  )
  rows = read(root, "ucsf")
  names = ("participant_id", "session_id", "group_id", "age", "sex", "mgmt")
  assert cells(rows, *names) == [
    ("UCSF-PDGM-0004", "", "BraTS-GLI-00097", "66", "M", "negative"),
    ("UCSF-PDGM-0138", "", "UCSF-PDGM-0138", "41", "F", ""),
    ("UCSF-PDGM-0138", "FU006d", "UCSF-PDGM-0138", "", "", ""),
  ]
  columns = ("t1", "t1c", "t2", "flair", "swi", "dwi", "adc", "mask")
  assert cells(rows, *columns)[0] == tuple(first)


UPENN = "NIfTI-files/"


def upenn(root):
  case = "UPENN-GBM-00001_11"
  return make(
    root,
    *(
      f"{UPENN}images_structural/{case}/{case}_{kind}.nii.gz"
      for kind in ("T1", "T1GD", "T2", "FLAIR")
    ),
    *(
      f"{UPENN}images_structural_unstripped/{case}/{case}_{kind}_unstripped"
      ".nii.gz"
      for kind in ("T1", "T1GD", "T2", "FLAIR")
    ),
    f"{UPENN}images_segm/{case}_segm.nii.gz",
    f"{UPENN}automated_segm/{case}_automated_approx_segm.nii.gz",
    f"{UPENN}images_DTI/{case}/{case}_DTI_FA.nii.gz",
    f"{UPENN}images_structural/UPENN-GBM-00001_21/UPENN-GBM-00001_21_T2.nii.gz",
    f"{UPENN}automated_segm/UPENN-GBM-00001_21_automated_approx_segm.nii.gz",
  )


def test_upenn(tmp_path):
  root = upenn(tmp_path)
  (root / "UPENN-GBM_clinical_info_v2.1.csv").write_text(
    "ID,Gender,Age_at_scan_years,IDH1,MGMT\n"
    "UPENN-GBM-00001_11,F,58.56,Wildtype,Not Available\n"
  )
  rows = read(root, "upenn")
  names = ("participant_id", "session_id", "age", "sex", "idh", "mask_by")
  assert cells(rows, *names) == [
    ("UPENN-GBM-00001", "11", "58.56", "F", "Wildtype", "expert"),
    ("UPENN-GBM-00001", "21", "", "", "", "automated"),
  ]
  folder = f"{UPENN}images_structural/UPENN-GBM-00001_11/UPENN-GBM-00001_11_"
  assert rows[0]["t1c"] == f"{folder}T1GD.nii.gz"
  assert rows[0]["mask"].endswith("_11_segm.nii.gz")
  (row,) = read(root, "upenn", unstripped=True)
  assert pathlib.Path(row["t1c"]).name.endswith("_11_T1GD_unstripped.nii.gz")


@pytest.mark.parametrize(
  "layout, expected",
  [
    ("ixi", r"IXI<id>-<Guys"),
    ("brats", r"BraTS2021_00000_t1ce"),
    ("msd", r"dataset\.json"),
    ("ucsf", r"UCSF-PDGM-<number>"),
    ("upenn", r"UPENN-GBM-<number>"),
  ],
)
def test_another_layout_is_refused_with_what_was_found(
  tmp_path, layout, expected
):
  root = make(tmp_path / "set", "sub-1/anat/sub-1_T1w.nii", "README")
  pattern = f"set: .*README, sub-1.*expected .*{expected}"
  with pytest.raises(InputError, match=pattern) as error:
    LAYOUTS[layout](root)
  assert "\n" not in str(error.value)
  with pytest.raises(InputError, match=f"no such folder; .*{expected}"):
    LAYOUTS[layout](tmp_path / "missing")


def test_tables_of_another_set_are_named(tmp_path):
  root = make(tmp_path, "UCSF-PDGM-0004_T1.nii.gz")
  table = root / "UCSF-PDGM-metadata_v2.csv"
  table.write_text("a,b\n1,2\n")
  with pytest.raises(InputError, match=r"_v2\.csv: no column ID, but a, b"):
    LAYOUTS["ucsf"](root)
  table.write_bytes("ID".encode("utf-16"))
  with pytest.raises(InputError, match=r"_v2\.csv: no CSV in UTF-8"):
    LAYOUTS["ucsf"](root)


def test_a_person_without_a_finite_number_is_refused(tmp_path):
  root = make(tmp_path, "IXI002-Guys-0828-T1.nii.gz")
  for number in ("inf", "nan", "x"):
    (root / "IXI.csv").write_text(f"IXI_ID,AGE\n2,30\n{number},40\n")
    if number == "nan":  # as an empty cell
      assert cells(read(root, "ixi"), "age") == [("30",)]
      continue
    with pytest.raises(InputError, match=f"IXI_ID '{number}' is no number"):
      LAYOUTS["ixi"](root)


@pytest.mark.parametrize(
  "layout, mask",
  [
    ("brats", "BraTS2021_00001_seg.nii.gz"),
    ("ucsf", "UCSF-PDGM-0005_tumor_segmentation.nii.gz"),
  ],
)
def test_a_mask_alone_is_refused(tmp_path, layout, mask):
  root = make(tmp_path, "BraTS2021_00000_t1.nii", "UCSF-PDGM-0004_T1.nii", mask)
  with pytest.raises(InputError, match=f"{mask}: a mask, but .* no image"):
    LAYOUTS[layout](root)


def test_a_circle_of_folders_is_not_followed(tmp_path):
  root = make(tmp_path, "IXI002-Guys-0828-T1.nii.gz")
  (root / "again").symlink_to(root, target_is_directory=True)
  (root / "IXI003-Guys-0828-T1.nii.gz").symlink_to("IXI003-Guys-0828-T1.nii.gz")
  assert len(LAYOUTS["ixi"](root)[0]) == 1
