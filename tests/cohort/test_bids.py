import json

import pytest

from brainjax import InputError
from brainjax.cohort import manifest
from brainjax.cohort.layouts import LAYOUTS, bids


def make(root, *names, **tables):
  """Makes empty images, and `participants` or `sub-*_sessions` tables."""
  for name in names:
    file = root / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch()
  for name, text in tables.items():
    name = name.replace("sub_", "sub-")
    folder = root / name.removesuffix("_sessions") if "sub-" in name else root
    (folder / f"{name}.tsv").write_text(text.replace(" ", "\t"))
  return root


def read(root, **options):
  """Rows as later commands see them, with paths relative to the root."""
  rows, columns = LAYOUTS["bids"](root, **options)
  manifest.write_manifest(root / "manifest.csv", rows, columns)
  result = manifest.read_manifest(root / "manifest.csv")
  assert result.columns == columns
  return result.rows


def test_a_session_is_a_row_and_a_suffix_a_column(tmp_path):
  root = make(
    tmp_path / "clinic",
    "sub-02/anat/sub-02_PDw.nii",
    "sub-01/ses-b/anat/sub-01_ses-b_ce-gadolinium_T1w.nii.gz",
    "sub-01/ses-a/anat/sub-01_ses-a_T1w.nii.gz",
    "sub-01/ses-a/anat/sub-01_ses-a_T1w.json",
    "sub-01/ses-a/anat/sub-01_ses-a_acq-high_run-1_T2w.nii.gz",
    "sub-01/ses-a/anat/sub-01_ses-a_FLAIR.nii.gz",
    "sub-01/ses-a/anat/sub-01_ses-a_T2starw.nii.gz",
    "sub-01/ses-a/anat/sub-01_ses-a_T1w_brain.nii.gz",
    "sub-01/ses-a/anat/.sub-01_ses-a_T1w.nii.gz",
    "sub-01/ses-a/dwi/sub-01_ses-a_T1w.nii.gz",
    "sub-03/func/sub-03_bold.nii.gz",
    "derivatives/sub-04/anat/sub-04_T1w.nii.gz",
    "sourcedata/sub-05/anat/sub-05_T1w.nii.gz",
    ".git/sub-06/anat/sub-06_T1w.nii.gz",
    "sub-07.txt",
  )
  a = "sub-01/ses-a/anat/sub-01_ses-a"
  b = "sub-01/ses-b/anat/sub-01_ses-b"
  same = {"label": "", "source": "clinic"}
  first = same | {"participant_id": "sub-01", "group_id": "sub-01"}
  none = dict.fromkeys(("t1", "t1c", "t2", "flair", "pd"), "")
  assert read(root) == (
    first
    | none
    | {
      "session_id": "ses-a",
      "t1": f"{a}_T1w.nii.gz",
      "t2": f"{a}_acq-high_run-1_T2w.nii.gz",
      "flair": f"{a}_FLAIR.nii.gz",
    },
    first
    | none
    | {"session_id": "ses-b", "t1c": f"{b}_ce-gadolinium_T1w.nii.gz"},
    same
    | none
    | {
      "participant_id": "sub-02",
      "group_id": "sub-02",
      "session_id": "",
      "pd": "sub-02/anat/sub-02_PDw.nii",
    },
  )


IMAGES = [f"sub-0{i}/anat/sub-0{i}_T1w.nii.gz" for i in (1, 2, 3)]


def test_what_participants_tsv_says_of_them(tmp_path):
  table = """participant_id Gender AGE Site diagnosis group
sub-01 F 50 n/a glioma a
02 N/A n/a north normal b
sub-09 M 9 south normal c
"""
  rows = read(make(tmp_path, *IMAGES, participants=table))
  assert [row["label"] for row in rows] == ["", "", ""]
  rows = read(tmp_path, label_column="diagnosis")
  names = ("participant_id", "label", "sex", "age", "site")
  assert [tuple(row[name] for name in names) for row in rows] == [
    ("sub-01", "glioma", "F", "50", ""),
    ("sub-02", "normal", "", "", "north"),
    ("sub-03", "", "", "", ""),
  ]


def test_sex_goes_before_gender_and_absent_facts_have_no_column(tmp_path):
  table = "participant_id gender sex\nsub-01 woman F\nsub-02 man n/a\n"
  rows = read(make(tmp_path, *IMAGES, participants=table))
  assert [row["sex"] for row in rows] == ["F", "man", ""]
  assert not rows[0].keys() & {"age", "site"}


def test_a_filled_cell_of_a_session_wins(tmp_path):
  root = make(
    tmp_path,
    *(f"sub-01/ses-{s}/anat/sub-01_ses-{s}_T1w.nii.gz" for s in "abc"),
    participants="participant_id age diagnosis\nsub-01 50 glioma\n",
    sub_01_sessions="session_id age diagnosis\nses-a 51 n/a\nb n/a glioma\n",
  )
  rows = read(root, label_column="diagnosis")
  assert [row["age"] for row in rows] == ["51", "50", "50"]
  assert {row["label"] for row in rows} == {"glioma"}
  rows, _ = bids.read_bids(
    make(root, sub_01_sessions="session_id diagnosis\nses-a normal\n"),
    label_column="diagnosis",
  )
  assert [row["label"] for row in rows] == ["normal", "glioma", "glioma"]


def test_a_label_may_be_in_the_sessions_table_alone(tmp_path):
  root = make(
    tmp_path,
    "sub-01/ses-a/anat/sub-01_ses-a_T1w.nii.gz",
    sub_01_sessions="session_id grade\nses-a IV\n",
  )
  assert [row["label"] for row in read(root, label_column="grade")] == ["IV"]


@pytest.mark.parametrize(
  "names, taken",
  [
    (("run-10_T1w", "run-2_T1w", "run-3_T1w"), "run-2_T1w"),
    (("run-2_T1w", "T1w"), "T1w"),
    (("acq-x_run-2_T1w", "acq-x_run-1_T1w"), "acq-x_run-1_T1w"),
    (("part-mag_T1w", "part-phase_T1w"), "part-mag_T1w"),
    (("run-2_T1w", "run-1_part-imag_T1w", "part-real_T1w"), "run-2_T1w"),
  ],
)
def test_the_lowest_run_and_the_magnitude_are_taken(tmp_path, names, taken):
  root = make(tmp_path, *(f"sub-1/anat/sub-1_{name}.nii.gz" for name in names))
  (row,) = read(root)
  assert row["t1"] == f"sub-1/anat/sub-1_{taken}.nii.gz"


@pytest.mark.parametrize(
  "column, names",
  [
    ("t1", ("acq-a_T1w.nii.gz", "acq-b_T1w.nii.gz")),
    ("t1", ("T1w.nii.gz", "rec-norm_T1w.nii.gz")),
    ("t1", ("acq-a_run-1_T1w.nii.gz", "run-2_T1w.nii.gz")),
    ("t2", ("echo-1_T2w.nii.gz", "echo-2_T2w.nii.gz")),
    ("t1c", ("ce-a_T1w.nii.gz", "ce-b_T1w.nii.gz")),
    ("flair", ("FLAIR.nii", "FLAIR.nii.gz")),
    ("pd", ("run-01_PDw.nii.gz", "run-1_PDw.nii.gz")),
  ],
)
def test_any_other_choice_is_left_to_the_user(tmp_path, column, names):
  root = make(tmp_path, *(f"sub-1/anat/sub-1_{name}" for name in names))
  with pytest.raises(
    InputError, match=f"the {column} of this session"
  ) as error:
    bids.read_bids(root)
  assert all(f"sub-1_{name}" in str(error.value) for name in names)


def test_the_source_is_the_name_of_the_dataset(tmp_path):
  root = make(tmp_path / "ds", *IMAGES)
  file = root / "dataset_description.json"
  for name, source in ((" Two\n words", "Two words"), ("", "ds")):
    file.write_text(json.dumps({"Name": name, "DatasetType": "raw"}))
    assert {row["source"] for row in read(root)} == {source}


def test_a_tree_of_derivatives_is_read_with_the_tables_of_its_dataset(
  tmp_path,
):
  name = "sub-01/anat/sub-01_space-{}_desc-{}_T1w.nii.gz"
  root = make(
    tmp_path / "derivatives" / "fmriprep",
    name.format("MNI152", "preproc"),
    name.format("T1w", "preproc"),
    name.format("T1w", "brain"),
  )
  make(tmp_path, participants="participant_id dx age\nsub-01 glioma 61\n")
  with pytest.raises(
    InputError, match="--choose=desc-brain or desc-preproc or space-MNI152 or"
  ):
    bids.read_bids(root)
  choose = "desc-preproc,space-T1w"
  (row,) = read(root, label_column="dx", choose=choose)
  assert row["t1"] == name.format("T1w", "preproc")
  assert (row["label"], row["age"]) == ("glioma", "61")
  assert row["source"] == "fmriprep"
  make(root, participants="participant_id dx\nsub-01 normal\n")
  (row,) = read(root, label_column="dx", choose=choose)
  assert row["label"] == "normal"


def test_a_choice_falls_where_there_is_one(tmp_path):
  root = make(
    tmp_path,
    "sub-1/anat/sub-1_acq-a_T1w.nii",
    "sub-1/anat/sub-1_acq-b_T1w.nii",
    "sub-1/anat/sub-1_acq-c_T2w.nii",
  )
  (row,) = read(root, choose="acq-b")
  assert row["t1"].endswith("acq-b_T1w.nii")
  assert row["t2"].endswith("acq-c_T2w.nii")
  with pytest.raises(InputError, match="choose=acq-a or acq-b, take one"):
    bids.read_bids(root, choose="acq-c")
  with pytest.raises(InputError, match="--choose=high: write entities as in"):
    bids.read_bids(root, choose="high")


@pytest.mark.parametrize(
  "names, message",
  [
    ((), "holds nothing and no sub-\\* folder; expected sub-<id>/"),
    (("T1/a.nii",), "holds T1 and no sub-\\* folder"),
    (("sub-1/func/sub-1_bold.nii",), "1 sub-\\* folders, but no image in an"),
    (("sub-1/anat/sub-2_T1w.nii",), "sub-2_T1w.nii: no name of BIDS .* sub-1"),
    (("sub-1/anat/T1w.nii",), "/T1w.nii: no name of BIDS"),
    (("sub-1/anat/sub-1_brain_T1w.nii",), "brain_T1w.nii: no name of BIDS"),
    (("sub-1/anat/sub-1_acq-a_acq-b_T1w.nii",), "acq-b_T1w.nii: no name of"),
    (("sub-1/anat/sub-1_run-x_T1w.nii",), "run-x_T1w.nii: no name of BIDS"),
    (("sub-1/anat/sub-1_ses-a_T1w.nii",), "ses-a_T1w.nii: no name of BIDS"),
    (("sub-1/ses-a/anat/sub-1_T1w.nii",), "expected sub-1_ses-a\\[_<key>"),
    (("sub-1/anat/sub-1_T1w.nii/x",), "T1w.nii: a link to nothing, or a fold"),
  ],
)
def test_another_layout_is_refused_with_what_was_found(
  tmp_path, names, message
):
  with pytest.raises(InputError, match=message) as error:
    bids.read_bids(make(tmp_path, *names))
  assert "\n" not in str(error.value)


@pytest.mark.parametrize(
  "table, message",
  [
    ("", ": no column participant_id, but nothing"),
    ("id age\nsub-01 5\n", "no column participant_id, but id, age"),
    ("participant_id,age\nsub-01,5\n", "but participant_id,age; .* by tabs"),
    ("participant_id age\nsub-01\n", "line 2: 1 cells, but .* names 2 columns"),
    ("participant_id\nsub-01\n01\n", "line 3: participant_id '01' is empty or"),
    ("participant_id\nn/a\n", "line 2: participant_id '' is empty or"),
    ('participant_id\n"sub-01\n', "no tab-separated values in UTF-8"),
    ("participant_id age\nsub-01 5\n", "no column 'x' .* participant_id, age"),
    ("participant_id x\n1 5\n", "none of its participants \\(sub-1, .*sub-01"),
  ],
)
def test_an_error_names_the_table(tmp_path, table, message):
  root = make(tmp_path, *IMAGES, participants=table)
  with pytest.raises(InputError, match=f"participants.tsv.*{message}") as error:
    bids.read_bids(root, label_column="x")
  assert "\n" not in str(error.value)


def test_other_damaged_files_are_named(tmp_path):
  root = make(tmp_path, *IMAGES)
  with pytest.raises(InputError, match="participants.tsv: .*'x' .*; no table"):
    bids.read_bids(root, label_column="x")
  (root / "participants.tsv").write_bytes("participant_id".encode("utf-16"))
  with pytest.raises(InputError, match="participants.tsv: .* UTF-8"):
    bids.read_bids(root)
  for text in ("{", "[]"):
    (root / "dataset_description.json").write_text(text)
    with pytest.raises(InputError, match="description.json: not (a )?JSON"):
      bids.read_bids(root)
  with pytest.raises(InputError, match="no such folder"):
    bids.read_bids(tmp_path / "missing")


def test_an_image_that_was_not_fetched_is_named(tmp_path):
  root = make(tmp_path, *IMAGES)
  (root / IMAGES[1]).unlink()
  (root / IMAGES[1]).symlink_to("../.git/annex/key")
  with pytest.raises(InputError, match="sub-02_T1w.nii.gz: .*datalad get"):
    bids.read_bids(root)


def test_the_real_set(data_root):
  rows, columns = bids.read_bids(data_root / "bids", label_column="group")
  assert {"t1", "age", "sex"} < set(columns)
  names = ("participant_id", "label", "sex", "age")
  assert [tuple(row[name] for name in names) for row in rows] == [
    ("sub-52", "control", "m", "32"),
    ("sub-53", "control", "f", "44"),
  ]
  assert rows[0]["source"].startswith("Resting state with closed eyes for")
  with pytest.raises(InputError, match="'grade' .* ICD-10, MADRS"):
    bids.read_bids(data_root / "bids", label_column="grade")
