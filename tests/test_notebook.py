"""The notebook runs from top to bottom, and was saved as it ran."""

import pathlib
import subprocess
import sys

import nbformat
import pytest

NOTEBOOK = pathlib.Path(__file__).parent.parent / "notebooks/walkthrough.ipynb"

# In a process of its own: its libraries warn of each other.
EXECUTE = """
import sys
import nbclient
import nbformat

notebook = nbformat.read(sys.argv[1], as_version=4)
nbclient.NotebookClient(notebook, timeout=900, kernel_name="python3").execute()
nbformat.write(notebook, sys.argv[2])
"""


def code_cells(path):
  notebook = nbformat.read(path, as_version=4)
  return [cell for cell in notebook.cells if cell.cell_type == "code"]


def printed(cells):
  return "".join(
    output.get("text", "") for cell in cells for output in cell.outputs
  )


@pytest.mark.slow
def test_notebook_runs(tmp_path):
  out = tmp_path / "ran.ipynb"
  subprocess.run(
    [sys.executable, "-c", EXECUTE, str(NOTEBOOK), str(out)],
    check=True,
    cwd=tmp_path,
  )
  text = printed(code_cells(out))
  assert "On the test split the model" in text
  assert "report: report.html" in text


def test_notebook_was_saved_with_its_output():
  cells = code_cells(NOTEBOOK)
  assert [cell.execution_count for cell in cells] == list(
    range(1, len(cells) + 1)
  )
  pictures = [
    o
    for cell in cells
    for o in cell.outputs
    if "image/png" in o.get("data", {})
  ]
  assert len(pictures) == 3
  assert NOTEBOOK.stat().st_size < 1_500_000
  kinds = {o.output_type for cell in cells for o in cell.outputs}
  assert "error" not in kinds
