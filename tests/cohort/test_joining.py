import pytest

from brainjax import InputError
from brainjax.cohort import joining, manifest

COLUMNS = "participant_id,label,t1,group_id,source"


def write(path, *lines, columns=COLUMNS):
  path.parent.mkdir(exist_ok=True)
  for name in ("a.nii", "b.nii"):
    (path.parent / name).touch()
  path.write_text("\n".join([columns, *lines]) + "\n")
  return path


def test_manifests_become_one_and_keep_their_sources(tmp_path):
  first = write(tmp_path / "x" / "clinic.csv", "p1,normal,a.nii,,")
  second = write(
    tmp_path / "y" / "public.csv",
    "q1,glioma,a.nii,,BraTS,3",
    "q2,glioma,b.nii,,,",
    columns=f"{COLUMNS},grade",
  )
  rows, columns = joining.read_manifests([first, second])
  assert columns == (*COLUMNS.split(","), "session_id", "grade")
  manifest.write_manifest(tmp_path / "all.csv", rows, columns)
  result = manifest.read_manifest(tmp_path / "all.csv")
  names = ("participant_id", "t1", "source", "grade")
  assert [tuple(row[name] for name in names) for row in result.rows] == [
    ("p1", "x/a.nii", "clinic", ""),
    ("q1", "y/a.nii", "BraTS", "3"),
    ("q2", "y/b.nii", "public", ""),
  ]


def test_one_manifest_alone_gets_no_source(tmp_path):
  columns = "participant_id,label,t1"
  path = write(tmp_path / "x" / "m.csv", "p1,,a.nii", columns=columns)
  rows, found = joining.read_manifests([path])
  assert "source" not in found and "source" not in rows[0]


def test_a_participant_of_two_manifests_is_refused_or_gets_a_prefix(tmp_path):
  first = write(
    tmp_path / "x" / "A.csv", "1,normal,a.nii,,", "2,,b.nii,shared,"
  )
  second = write(
    tmp_path / "y" / "B.csv", "1,glioma,a.nii,,", "3,,b.nii,shared,"
  )
  with pytest.raises(
    InputError, match=r"B\.csv: participant '1' is in .*A\.csv .*--prefix-ids"
  ):
    joining.read_manifests([first, second])
  rows, _ = joining.read_manifests([first, second], prefix_ids=True)
  assert [(row["participant_id"], row["group_id"]) for row in rows] == [
    ("A-1", "A-1"),
    ("A-2", "shared"),
    ("B-1", "B-1"),
    ("B-3", "shared"),  # a group may go through several sets
  ]


def test_a_prefix_leaves_the_members_of_a_group_together(tmp_path):
  first = write(tmp_path / "x" / "A.csv", "1,,a.nii,1,", "1B,,b.nii,1,")
  second = write(tmp_path / "y" / "B.csv", "9,,a.nii,1,", "8,,b.nii,8,")
  rows, _ = joining.read_manifests([first, second], prefix_ids=True)
  assert [row["group_id"] for row in rows] == ["1", "1", "1", "B-8"]


def test_a_prefix_needs_a_source(tmp_path):
  path = write(tmp_path / "x" / "m.csv", "p1,,a.nii,,")
  with pytest.raises(InputError, match="--prefix-ids: participant 'p1' has no"):
    joining.read_manifests([path], prefix_ids=True)
