"""`brainjax cohort`, as far as it is more than one layout."""

import csv

import numpy as np
import pytest

from brainjax import cli
from brainjax.cohort import layouts
from brainjax.commands import cohort
from dicom_files import write_series


def cell_of(path, column):
  with open(path, newline="") as file:
    return [row[column] for row in csv.DictReader(file)]


def test_the_command_knows_every_layout():
  assert tuple(layouts.LAYOUTS) == cohort.LAYOUTS


def test_dicom_files_to_a_manifest_and_a_list(tmp_path, capsys):
  array = np.random.default_rng(0).integers(0, 999, (4, 5, 6))
  write_series(tmp_path / "export", array)
  out = tmp_path / "out" / "m.csv"
  options = ["--out", str(out), "--keep-ids"]
  assert cli.main(["cohort", "dicom", str(tmp_path / "export"), *options]) == 0
  printed = capsys.readouterr().out
  assert "1 scans, 1 participants" in printed
  assert str(out.with_name("m_series.csv")) in printed
  assert cell_of(out, "participant_id") == ["MRN-12345"]
  assert cell_of(out, "t1") == ["../export"]
  assert cell_of(out.with_name("m_series.csv"), "cell") == ["../export"]
  assert not out.with_name("m_ids.key").exists()


def test_manifests_are_joined_and_tidied(tmp_path, capsys):
  for name, sex, age in (("a", "male", "41"), ("b", "W", "052Y")):
    (tmp_path / f"{name}.nii").touch()
    (tmp_path / f"{name}.csv").write_text(
      f"participant_id,label,t1,sex,age\n{name},,{name}.nii,{sex},{age}\n"
    )
  both = [str(tmp_path / f"{name}.csv") for name in "ab"]
  out = str(tmp_path / "both.csv")
  assert cli.main(["cohort", "manifest", *both, "--out", out]) == 0
  assert "2 scans, 2 participants" in capsys.readouterr().out
  for column, cells in (
    ("source", ["a", "b"]),
    ("sex", ["M", "F"]),
    ("age", ["41", "52"]),
  ):
    assert cell_of(out, column) == cells


def test_a_manifest_that_cannot_be_written_is_one_line(tmp_path, capsys):
  (tmp_path / "set" / "glioma").mkdir(parents=True)
  (tmp_path / "set" / "glioma" / "p1.nii").touch()
  (tmp_path / "file").touch()
  for out in (tmp_path, tmp_path / "file" / "m.csv"):
    command = ["cohort", "folders", str(tmp_path / "set"), "--out", str(out)]
    assert cli.main(command) == cli.EXIT_INPUT
    (line,) = capsys.readouterr().err.splitlines()
    assert str(tmp_path) in line and "choose another --out" in line


@pytest.mark.parametrize(
  "arguments, message",
  [
    (["bids", "a", "b"], "b: the layout bids takes one ROOT; make a manifest"),
    (["ixi", "a", "--keep-ids"], "--keep-ids: of the layout dicom, not of ixi"),
  ],
)
def test_what_does_not_go_together_is_refused(
  tmp_path, capsys, arguments, message
):
  out = tmp_path / "m.csv"
  assert cli.main(["cohort", *arguments, "--out", str(out)]) == cli.EXIT_INPUT
  assert message in capsys.readouterr().err
  assert not out.exists()
