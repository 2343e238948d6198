import os
import pathlib
import shutil

import nibabel as nib
import numpy as np
import pytest

from brainjax import InputError
from brainjax.cohort import manifest
from brainjax.cohort.layouts import LAYOUTS

GOOD = """participant_id,label,t1,note
p1,normal,a.nii.gz,first
p2,,b.nii.gz,
"""


@pytest.fixture
def folder(tmp_path):
  for name in ("a.nii.gz", "b.nii.gz", "c.nii.gz", "m.nii.gz"):
    (tmp_path / name).touch()
  (tmp_path / "sub").mkdir()
  return tmp_path


def read(folder, text):
  file = folder / "cohort.csv"
  file.write_bytes(text if isinstance(text, bytes) else text.encode())
  return manifest.read_manifest(file)


def test_absent_columns_get_their_defaults_and_others_are_kept(folder):
  result = read(folder, GOOD)
  assert result.path == folder / "cohort.csv"
  assert result.columns == (
    *("participant_id", "label", "t1", "note"),
    *("session_id", "group_id"),
  )
  assert result.modalities == ("t1",)
  assert result.rows == (
    {
      "participant_id": "p1",
      "label": "normal",
      "t1": "a.nii.gz",
      "note": "first",
      "session_id": "",
      "group_id": "p1",
    },
    {
      "participant_id": "p2",
      "label": "",
      "t1": "b.nii.gz",
      "note": "",
      "session_id": "",
      "group_id": "p2",
    },
  )


def test_group_defaults_to_participant_cell_by_cell(folder):
  text = """participant_id,group_id,label,t1
p1,family,normal,a.nii.gz
p2,,normal,b.nii.gz
"""
  result = read(folder, text)
  assert [row["group_id"] for row in result.rows] == ["family", "p2"]
  assert result.columns[-1] == "session_id"


def test_what_a_spreadsheet_writes_is_read(folder):
  text = GOOD.replace("first", '"first,\n second "').replace("p2", " p2 ")
  text = text.replace("\n", "\r\n") + ",,,\r\n"
  result = read(folder, b"\xef\xbb\xbf" + text.encode())
  assert result.columns[0] == "participant_id"
  assert [row["participant_id"] for row in result.rows] == ["p1", "p2"]
  assert result.rows[0]["note"] == "first,\r\n second"


def test_one_modality_of_a_scan_may_be_missing(folder):
  text = """participant_id,label,t1c,flair
p1,glioma,a.nii.gz,
p2,glioma,b.nii.gz,c.nii.gz
"""
  result = read(folder, text)
  assert result.modalities == ("t1c", "flair")
  assert manifest.image_files(result, result.rows[0], "flair") == ()


def test_image_files_are_in_cell_order_beside_the_manifest(folder):
  text = """participant_id,label,t1,mask
p1,glioma,c.nii.gz; a.nii.gz;b.nii.gz;,m.nii.gz
"""
  result = read(folder, text)
  (row,) = result.rows
  assert manifest.image_files(result, row, "t1") == tuple(
    folder / f"{name}.nii.gz" for name in "cab"
  )
  assert manifest.image_files(result, row, "mask") == (folder / "m.nii.gz",)
  assert manifest.image_files(result, row, "t2") == ()


def test_visits_of_one_participant_may_share_a_label_or_lack_it(folder):
  text = """participant_id,session_id,label,t1
p1,1,glioma,a.nii.gz
p1,2,,b.nii.gz
p1,3,glioma,c.nii.gz
"""
  assert [r["label"] for r in read(folder, text).rows] == [
    "glioma",
    "",
    "glioma",
  ]


@pytest.mark.parametrize(
  "cell, value",
  [("0.86;0.86;5.5", (0.86, 0.86, 5.5)), (" 1; 1 ;2", (1.0, 1.0, 2.0))],
)
def test_a_row_may_give_the_true_spacing(folder, cell, value):
  text = f"participant_id,label,t1,spacing_mm\np1,,a.nii.gz,{cell}\n"
  first, second = read(folder, text + "p2,,b.nii.gz,\n").rows
  assert manifest.spacing_mm(first) == value
  assert manifest.spacing_mm(second) is None
  assert manifest.spacing_mm({}) is None


@pytest.mark.parametrize(
  "cell",
  ["1;1", "1;1;1;1", "1", "1;1;", "1;1;0", "1;1;-1", "1;1;nan", "1;1;inf"]
  + ["1x1x1", "1;1;1 mm", "1,0;1,0;5,5", "1,1,1"],
)
def test_any_other_spacing_is_refused(folder, cell):
  text = (
    "participant_id,label,t1,spacing_mm\np1,,a.nii.gz,1;1;1\n"
    f'p2,,b.nii.gz,"{cell}"\n'
  )
  message = f"cohort.csv, line 3, column spacing_mm: '{cell}' is not"
  with pytest.raises(InputError, match=message):
    read(folder, text)


HEADER = "participant_id,session_id,group_id,label,t1,t2,mask,split,fold\n"


@pytest.mark.parametrize(
  "text, message",
  [
    ("", "no scans"),
    (HEADER, "no scans"),
    (GOOD.encode().replace(b"first", b"\xe9"), "line 2: not UTF-8"),
    (GOOD.replace("first", '"first'), "line 2: .*quotes"),
    (GOOD.replace("first", "first,second"), "line 2: 5 cells"),
    (GOOD.replace(",first", ""), "line 2: 3 cells"),
    (GOOD.replace("note", "label"), "line 1: column 'label' stands twice"),
    (
      GOOD.replace("label", "class"),
      "no column label; .*participant_id, class",
    ),
    (GOOD.replace("participant_id", "id"), "no column participant_id"),
    (GOOD.replace("t1", "T1"), "no image column; .*T1"),
    (GOOD.replace("p2", ""), "line 3, column participant_id: empty"),
    (GOOD.replace("b.nii.gz", ""), "line 3, column t1: no image"),
    (
      HEADER + "p1,,,,a.nii.gz,missing.nii,,,\n",
      "line 2, column t2: .*missing.nii does not exist",
    ),
    (
      HEADER + "p1,,,,a.nii.gz,,missing.nii,,\n",
      "line 2, column mask: .*missing.nii does not exist",
    ),
    (
      HEADER + f'p1,,,,"{"a.nii.gz," * 99}",,,,\n',
      "line 2, column t1: .* does not exist",
    ),
    (HEADER + "p1,,,,a.nii.gz,,,val,\n", "line 2, column split: 'val'"),
    (HEADER + "p1,,,,a.nii.gz,,,,1.0\n", "line 2, column fold: '1.0'"),
    (HEADER + "p1,,,,a.nii.gz,,,,-1\n", "line 2, column fold: '-1'"),
    (
      HEADER + 'p1,1,,,a.nii.gz,,,,\np2,1,"\n",,b.nii.gz,,,,\n'
      'p1,1,"\n",,c.nii.gz,,,,\n',
      "line 5, column session_id: .*p1, session '1' is in line 2",
    ),
    (
      HEADER
      + "p1,,,,a.nii.gz;c.nii.gz,,,,\np2,,,,b.nii.gz,sub/../c.nii.gz,,,\n",
      "line 3, column t2: .*c.nii.gz is in line 2",
    ),
    (
      HEADER + "p1,,,,a.nii.gz,a.nii.gz,,,\n",
      "line 2, column t2: .*a.nii.gz is in line 2",
    ),
    (
      HEADER + "p1,1,,glioma,a.nii.gz,,,,\np1,2,,,b.nii.gz,,,,\n"
      "p1,3,,normal,c.nii.gz,,,,\n",
      "line 4, column label: 'normal', but line 2 .*'glioma'",
    ),
    (
      HEADER + "p1,1,g1,,a.nii.gz,,,,\np1,2,,,b.nii.gz,,,,\n",
      "line 3, column group_id: 'p1', but line 2 .*'g1'",
    ),
    (
      HEADER + "p1,,g,,a.nii.gz,,,train,\np2,,g,,b.nii.gz,,,test,\n",
      "line 3, column split: 'test', but line 2 .*group_id 'g'",
    ),
    (
      HEADER + "p1,,g,,a.nii.gz,,,,0\np2,,g,,b.nii.gz,,,,1\n",
      "line 3, column fold: '1', but line 2 .*group_id 'g'",
    ),
  ],
)
def test_an_error_names_file_line_and_column(folder, text, message):
  with pytest.raises(InputError, match=f"cohort.csv.*{message}") as error:
    read(folder, text)
  assert "\n" not in str(error.value)


def test_a_missing_manifest_names_the_command(tmp_path):
  with pytest.raises(InputError, match="no such manifest; `brainjax cohort"):
    manifest.read_manifest(tmp_path / "cohort.csv")


def test_written_paths_are_relative_to_the_manifest(folder):
  # A link to a deeper folder: `..` from it must lead out of that folder.
  (folder / "studies" / "2024").mkdir(parents=True)
  (folder / "link").symlink_to(folder / "studies" / "2024")
  (folder / "scan.nii.gz").symlink_to(folder / "a.nii.gz")
  (folder / "link" / "kept.nii").touch()
  rows = [
    {
      "participant_id": "p1",
      "label": "glioma",
      "t1": f"{folder}/scan.nii.gz;{folder}/b.nii.gz",
      "mask": str(folder / "m.nii.gz"),
      "site": "/a/b",
    },
    {"participant_id": "p2", "label": "normal", "t1": "kept.nii"},
  ]
  file = folder / "link" / "cohort.csv"
  columns = ("participant_id", "label", "t1", "mask", "site")
  manifest.write_manifest(file, rows, columns)
  first, second = manifest.read_manifest(file).rows
  assert first["t1"] == "../../scan.nii.gz;../../b.nii.gz"
  assert first["mask"] == "../../m.nii.gz"
  assert first["site"] == "/a/b"
  assert second["t1"] == "kept.nii"
  assert second["mask"] == ""


def test_what_was_read_is_written_alike(folder):
  first = read(folder, GOOD)
  manifest.write_manifest(folder / "again.csv", first.rows, first.columns)
  second = manifest.read_manifest(folder / "again.csv")
  assert (second.rows, second.columns) == (first.rows, first.columns)


def test_the_folder_of_a_manifest_is_made(folder):
  file = folder / "new" / "deep" / "cohort.csv"
  row = {"participant_id": "p", "label": "", "t1": str(folder / "a.nii.gz")}
  manifest.write_manifest(file, [row], tuple(row))
  result = manifest.read_manifest(file)
  (image,) = manifest.image_files(result, result.rows[0], "t1")
  assert os.path.samefile(image, folder / "a.nii.gz")


def test_a_written_manifest_can_be_put_elsewhere(folder):
  file = folder / "cohort.csv"
  file.write_text(
    "participant_id,label,t1,mask,note\n"
    f"p1,glioma,a.nii.gz; {folder}/b.nii.gz,m.nii.gz,first\n"
    "p2,normal,sub/../c.nii.gz,,\n"
  )
  rows, columns = LAYOUTS["manifest"]([file])
  copy = folder / "sub" / "deeper" / "copy.csv"
  manifest.write_manifest(copy, rows, columns)
  before, after = manifest.read_manifest(file), manifest.read_manifest(copy)
  assert after.columns == before.columns
  for old, new in zip(before.rows, after.rows, strict=True):
    for name in ("t1", "mask"):
      resolved = [
        [image.resolve() for image in manifest.image_files(of, row, name)]
        for of, row in ((before, old), (after, new))
      ]
      assert resolved[0] == resolved[1]
      assert not new.pop(name).startswith("/")
      del old[name]
    assert new == old


def test_a_wrong_manifest_is_not_put_elsewhere(folder):
  file = folder / "cohort.csv"
  file.write_text(GOOD.replace("b.nii.gz", "missing.nii"))
  with pytest.raises(InputError, match="line 3, column t1: .*missing.nii"):
    LAYOUTS["manifest"]([file])


def test_the_manifest_of_real_scans_with_a_false_header(data_root, tmp_path):
  scans = data_root / "gbm_progression" / "01"
  (tmp_path / "01").symlink_to(scans)
  given = pathlib.Path(__file__).parent / "gbm_progression.csv"
  shutil.copy(given, tmp_path / given.name)
  result = manifest.read_manifest(tmp_path / given.name)
  assert result.modalities == ("t1c",)
  visits = [(row["session_id"], row["label"]) for row in result.rows]
  assert visits == [("pre", "glioma"), ("post", "glioma")]
  for row in result.rows:
    (image,) = manifest.image_files(result, row, "t1c")
    (mask,) = manifest.image_files(result, row, "mask")
    shape = nib.load(image).shape
    assert nib.load(mask).shape == shape
    extent = np.multiply(shape, manifest.spacing_mm(row))
    # Of a head and some air; the header makes it 24 mm high.
    assert np.all((extent > 120) & (extent < 260))


@pytest.mark.parametrize("name", ["../p1", "/etc/p1", "a\\b", "..", "a\x07b"])
@pytest.mark.parametrize("column", ["participant_id", "session_id", "group_id"])
def test_an_id_that_is_a_path_is_refused(folder, column, name):
  header = "label,t1,participant_id,session_id,group_id"
  cells = {"participant_id": "p1", "session_id": "s", "group_id": "g"}
  cells[column] = name
  text = f"{header}\n,a.nii.gz,{','.join(cells.values())}\n"
  with pytest.raises(InputError, match=f"line 2, column {column}: .* is a pa"):
    read(folder, text)


def test_a_volume_of_a_file_is_a_cell(folder):
  text = "participant_id,label,t1,t2\np1,,a.nii.gz#0,a.nii.gz#1\n"
  (row,) = read(folder, text).rows
  assert (row["t1"], row["t2"]) == ("a.nii.gz#0", "a.nii.gz#1")
  with pytest.raises(InputError, match="missing.nii#0 does not exist"):
    read(folder, text.replace("a.nii.gz#0", "missing.nii#0"))
