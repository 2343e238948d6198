"""A picture of every prepared scan, and their page."""

import matplotlib.image
import nibabel as nib
import numpy as np

from brainjax import cli
from brainjax.evaluation import quality
from preparation import tiny_head

PREPARE = (
  *("--workers=1", "--config.preparation.bias_field.method=none"),
  *(f"--config.preparation.{n}=16" for n in ("height", "width")),
  "--config.preparation.num_slices=4",
)


def test_every_scan_has_a_picture_and_only_what_changed_is_drawn(
  tmp_path, capsys
):
  path = tiny_head.write_scans(tmp_path / "c", count=4, with_mask=True)
  (tmp_path / "c" / "p1.nii").write_text("no scan")
  # A brain 20 mm high is suspicious.
  array, _, _ = tiny_head.tiny_head((12.0, 12.0, 12.0), stripped=True)
  nib.save(
    nib.Nifti1Image(array, np.diag([12.0, 12.0, 2.0, 1.0])),
    tmp_path / "c" / "p3.nii",
  )
  text = path.read_text().replace("p3.nii,p3_mask.nii.gz", "p3.nii,")
  path.write_text(text)
  out = tmp_path / "out"
  arguments = ["prepare", str(path), f"--out={out}", "--quality", *PREPARE]
  assert cli.main(arguments) == 0
  assert f"look at all of them: {out}/quality.html" in capsys.readouterr().out
  before = {f: f.stat().st_mtime_ns for f in (out / "quality").iterdir()}
  assert [f.name.split("-")[0] for f in sorted(before)] == ["p0", "p2", "p3"]
  for file in before:
    assert np.ptp(matplotlib.image.imread(file)[..., :3]) > 0.5
  page = (out / "quality.html").read_text()
  shown = [page.index(f"quality/{f.name}") for f in sorted(before)]
  assert shown[2] < shown[0] < shown[1]  # the one with a warning first
  assert "<strong>Warning</strong> the brain spans" in page
  assert "no scan" not in page and "p1.nii" in page
  assert "http" not in page
  # One scan is another now.
  (tmp_path / "c" / "p2.nii").write_bytes(
    (tmp_path / "c" / "p0.nii").read_bytes()
  )
  assert cli.main(arguments) == 0
  after = {f: f.stat().st_mtime_ns for f in (out / "quality").iterdir()}
  same = {f for f in after if before.get(f) == after[f]}
  assert [f.name.split("-")[0] for f in sorted(same)] == ["p0", "p3"]
  assert len(after) == 3


def test_any_id_names_a_file(tmp_path):
  row = {"participant_id": "a/../b c", "session_id": "é:1", "label": ""}
  assert quality._name(row, "0123456789abcdef") == "a_.._b_c_1-0123456789ab.png"
  empty = {"participant_id": "/", "session_id": "", "label": ""}
  assert quality._name(empty, "0" * 64).startswith("scan-")
