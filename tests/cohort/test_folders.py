import pytest

from brainjax import InputError
from brainjax.audit import facts
from brainjax.cohort import manifest
from brainjax.cohort.layouts import LAYOUTS, folders


def make(root, *names):
  for name in names:
    file = root / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch()
  return root


def test_files_and_participants_folders_are_scans(tmp_path):
  root = make(
    tmp_path / "clinic",
    "glioma/p.1.nii.gz",
    "glioma/p2.NII",
    "glioma/notes.json",
    "glioma/p2.nii.bak",
    "normal/p3/anat.nii.gz",
    "normal/p3/anat.json",
    "normal/.DS_Store",
    "__MACOSX/glioma/p1.nii.gz",
    ".cache/p1.nii.gz",
    "README.txt",
  )
  rows, columns = LAYOUTS["folders"](root, modality="t1c")
  manifest.write_manifest(tmp_path / "out" / "m.csv", rows, columns)
  result = manifest.read_manifest(tmp_path / "out" / "m.csv")
  assert columns == ("participant_id", "label", "t1c", "source")
  assert [tuple(row[name] for name in columns) for row in result.rows] == [
    ("p.1", "glioma", "../clinic/glioma/p.1.nii.gz", "clinic"),
    ("p2", "glioma", "../clinic/glioma/p2.NII", "clinic"),
    ("p3", "normal", "../clinic/normal/p3/anat.nii.gz", "clinic"),
  ]


def test_a_relative_root_gives_absolute_paths(tmp_path, monkeypatch):
  make(tmp_path, "normal/p1.nii")
  monkeypatch.chdir(tmp_path)
  ((row,), columns) = folders.read_folders(".")
  assert row["t1"] == str(tmp_path / "normal" / "p1.nii")
  assert row["source"] == tmp_path.name
  assert "t1" in columns


@pytest.mark.parametrize(
  "names, message",
  [
    (("p1.nii.gz", "p2.nii.gz"), "holds p1.nii.gz, p2.nii.gz and no class"),
    (
      [f"glioma/{i}.tif" for i in range(9)],
      r"glioma: no NIfTI file, but 0.tif, 1.tif, 2.tif, ... \(9 in all\)",
    ),
    (("Training/1.png", "Testing/2.png"), "Testing, Training and no class"),
    (
      ("glioma/p1/t1.nii", "glioma/p1/t2.nii"),
      "p1: 2 NIfTI files, among t1.nii, t2.nii; .* must hold one",
    ),
    (("glioma/p1/1.dcm",), "p1: 0 NIfTI files, among 1.dcm"),
    (
      ("glioma/001.nii", "normal/001.nii"),
      "normal/001.nii: participant '001' is .*glioma/001.nii",
    ),
    (("glioma/p1.nii", "glioma/p1.nii.gz"), "participant 'p1'"),
    (("glioma/1.png", "glioma/1.jpg"), "participant 'glioma-1'"),
  ],
)
def test_another_layout_is_refused_with_what_was_found(
  tmp_path, names, message
):
  with pytest.raises(InputError, match=message):
    folders.read_folders(make(tmp_path / "root", *names))


def test_an_empty_or_missing_root_is_refused(tmp_path):
  with pytest.raises(InputError, match="holds nothing and no class folder"):
    folders.read_folders(tmp_path)
  with pytest.raises(InputError, match="no such folder"):
    folders.read_folders(tmp_path / "missing")


def test_an_unknown_modality_is_refused(tmp_path):
  with pytest.raises(InputError, match="modality 'ct': choose one of t1, t1c"):
    folders.read_folders(make(tmp_path, "normal/p1.nii"), modality="ct")


def test_pictures_on_their_own_are_of_unknown_people(tmp_path):
  root = make(
    tmp_path / "kaggle",
    "Training/glioma/Tr-gl_0010.jpg",
    "Training/notumor/Tr-no_0010.jpg",
    "Testing/glioma/Te-gl_0010.JPG",
    "Testing/notumor/p1/MR-10.png",
    "Testing/notumor/p1/MR-9.png",
  )
  rows, columns = LAYOUTS["folders"](root, modality="t1c")
  manifest.write_manifest(root / "m.csv", rows, columns)
  result = manifest.read_manifest(root / "m.csv")
  names = ("participant_id", "label", "t1c", "patient_id_known")
  assert [tuple(row[name] for name in names) for row in result.rows] == [
    ("Te-gl_0010", "glioma", "Testing/glioma/Te-gl_0010.JPG", "false"),
    (
      "p1",
      "notumor",
      "Testing/notumor/p1/MR-9.png;Testing/notumor/p1/MR-10.png",
      "true",
    ),
    ("Tr-gl_0010", "glioma", "Training/glioma/Tr-gl_0010.jpg", "false"),
    ("Tr-no_0010", "notumor", "Training/notumor/Tr-no_0010.jpg", "false"),
  ]


def test_pictures_of_one_name_are_named_after_their_folders(tmp_path):
  names = {
    "Testing/glioma/image(1).jpg": "Testing-glioma-image(1)",
    "Testing/no/p1/1.png": "p1",
    "Training/glioma/image(1).jpg": "Training-glioma-image(1)",
    "Training/no/image(1).jpg": "Training-no-image(1)",
    "Training/no/image(2).jpg": "Training-no-image(2)",
  }
  rows, _ = folders.read_folders(make(tmp_path / "kaggle", *names))
  assert [row["participant_id"] for row in rows] == list(names.values())
  rows, _ = folders.read_folders(
    make(tmp_path / "flat", "glioma/1.png", "no/1.png")
  )
  assert [row["participant_id"] for row in rows] == ["glioma-1", "no-1"]
  # The audit sees the name that the picture had, not what its class added.
  forms = {facts.id_form(r["participant_id"], r["label"]) for r in rows}
  assert forms == {"#1"}


def test_a_folder_of_dicom_files_is_a_scan(tmp_path):
  root = make(tmp_path, "normal/p1/series/IM1", "normal/p1/notes.txt")
  (root / "normal/p1/series/IM1").write_bytes(bytes(128) + b"DICM")
  ((row,), _) = folders.read_folders(root)
  assert row["t1"] == str(root / "normal" / "p1")
