import gzip

import nibabel as nib
import numpy as np
import pytest

from brainjax.cohort import manifest, summary


def save(path, spacing_mm):
  affine = np.diag([-spacing_mm[0], spacing_mm[1], spacing_mm[2], 1.0])
  nib.save(nib.Nifti1Image(np.zeros((2, 2, 2), np.uint8), affine), path)


def summarise(folder, columns, *lines):
  file = folder / "manifest.csv"
  file.write_text("\n".join((columns, *lines)) + "\n")
  counts = summary.summarise(manifest.read_manifest(file))
  return [tuple(count) for count in counts]


def test_scans_participants_and_groups_are_counted_apart(tmp_path):
  for name in "abcde":
    save(tmp_path / f"{name}.nii", (1, 1, 1))
  assert summarise(
    tmp_path,
    "participant_id,session_id,group_id,label,t1,source,site",
    "p1,1,g1,glioma,a.nii,one,",
    "p1,2,g1,glioma,b.nii,one,",
    "p2,,g1,glioma,c.nii,two,",
    "p3,,,normal,d.nii,two,",
    "p4,,,,e.nii,,",
  ) == [
    ("", "all", 5, 4, 3),
    ("class", "glioma", 3, 2, 1),
    ("class", "(unknown)", 1, 1, 1),
    ("class", "normal", 1, 1, 1),
    ("source", "one", 2, 1, 1),
    ("source", "two", 2, 2, 2),
    ("source", "(unknown)", 1, 1, 1),
    ("spacing", "1.00 x 1.00 x 1.00 mm", 5, 4, 3),
  ]


def test_modalities_are_counted_if_there_are_several(tmp_path):
  for name in "abcd":
    save(tmp_path / f"{name}.nii", (1, 1, 1))
  counts = summarise(
    tmp_path,
    "participant_id,label,t1c,flair",
    "p1,,a.nii,b.nii",
    "p2,,,c.nii",
    "p3,,,d.nii",
  )
  assert [count[:4] for count in counts if count[0] == "modality"] == [
    ("modality", "flair", 3, 3),
    ("modality", "t1c", 1, 1),
  ]


def test_the_spacing_is_that_of_the_first_image_unless_given(tmp_path):
  save(tmp_path / "a.nii.gz", (0.8594, 0.8594, 5.999))
  save(tmp_path / "b.nii", (2, 2, 2))
  save(tmp_path / "c.nii", (1, 1, 1))
  (tmp_path / "d.nii").write_bytes(b"")
  (tmp_path / "e.nii.gz").write_text("no image")
  (tmp_path / "f.png").touch()
  (tmp_path / "g.png").touch()
  (tmp_path / "series").mkdir()
  counts = summarise(
    tmp_path,
    "participant_id,label,t1,t2,spacing_mm",
    "p1,,a.nii.gz,b.nii,",
    "p2,,,c.nii,0.86;.86;6",
    "p3,,d.nii,,",
    "p4,,e.nii.gz,,",
    "p5,,f.png;g.png,,",
    "p6,,series,,",
  )
  assert [count[1:3] for count in counts if count[0] == "spacing"] == [
    ("0.86 x 0.86 x 6.00 mm", 2),
    ("unreadable", 2),
    ("2-D images", 1),
    ("DICOM series", 1),
  ]


@pytest.mark.parametrize(
  "offset, values",
  [
    (40, np.int16([9])),  # number of axes
    (70, np.int16([999])),  # type of the voxels
    (252, np.array([1, 0] + [0, 0x40A0] * 3, np.uint16)),  # no quaternion
  ],
)
def test_a_damaged_header_does_not_end_the_summary(tmp_path, offset, values):
  save(tmp_path / "a.nii", (1, 1, 1))
  data = bytearray((tmp_path / "a.nii").read_bytes())
  data[offset : offset + values.nbytes] = values.tobytes()
  (tmp_path / "a.nii").write_bytes(data)
  counts = summarise(tmp_path, "participant_id,label,t1", "p1,,a.nii")
  assert counts[-1] == ("spacing", "unreadable", 1, 1, 1)


def spacings(folder, cells):
  (folder / "a").mkdir()
  lines = []
  for i, cell in enumerate(cells):
    (folder / f"{i}.nii").touch()
    lines.append(f"p{i},,{i}.nii,{cell}")
  columns = "participant_id,label,t1,spacing_mm"
  counts = summarise(folder, columns, *lines, "x,,a,")
  return [count[1:3] for count in counts if count[0] == "spacing"]


def test_six_spacings_are_listed(tmp_path):
  found = spacings(tmp_path, [f"1;1;1.0{i}" for i in range(6)])
  assert found == [
    *((f"1.00 x 1.00 x 1.0{i} mm", 1) for i in range(6)),
    ("DICOM series", 1),
  ]


def test_more_spacings_are_rounded(tmp_path):
  assert spacings(tmp_path, [f"1;1;1.0{i}" for i in range(9)]) == [
    ("1.0 x 1.0 x 1.0 mm", 5),
    ("1.0 x 1.0 x 1.1 mm", 4),
    ("DICOM series", 1),
  ]


def test_rare_spacings_are_summed_up(tmp_path):
  cells = [f"1;1;{i}" for i in range(1, 10)] + ["1;1;9", "1;1;8"]
  assert spacings(tmp_path, cells) == [
    ("1.0 x 1.0 x 8.0 mm", 2),
    ("1.0 x 1.0 x 9.0 mm", 2),
    ("1.0 x 1.0 x 1.0 mm", 1),
    ("1.0 x 1.0 x 2.0 mm", 1),
    ("1.0 x 1.0 x 3.0 mm", 1),
    ("4 others", 4),
    ("DICOM series", 1),
  ]


def test_no_more_than_the_header_is_read(tmp_path):
  save(tmp_path / "a.nii", (1, 2, 3))
  data = bytearray((tmp_path / "a.nii").read_bytes())
  data[108:112] = np.float32(1e9).tobytes()  # where the voxels begin
  data[348:360] = np.int32([1, 10**9, 6]).tobytes()  # an extension before them
  (tmp_path / "a.nii.gz").write_bytes(gzip.compress(bytes(data)))
  counts = summarise(tmp_path, "participant_id,label,t1", "p1,,a.nii.gz")
  assert counts[-1][1] == "1.00 x 2.00 x 3.00 mm"
  image = nib.Nifti2Image(np.ones((2, 2, 2)), np.diag([4, 5, 6, 1]))
  nib.save(image, tmp_path / "b.nii")
  counts = summarise(tmp_path, "participant_id,label,t1", "p1,,b.nii")
  assert counts[-1][1] == "4.00 x 5.00 x 6.00 mm"
