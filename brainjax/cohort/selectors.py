"""`FILE#SELECTOR`: one volume of what holds several.

Of a NIfTI file with four axes the selector is the volume's index from 0, of a
folder of DICOM files the key of a series.
"""

import os
import pathlib


def split_selector(path: pathlib.Path) -> tuple[pathlib.Path, str]:
  """Returns the file or folder, and the selector; "" if there is none.

  A file that itself has a # in its name is taken for what it is.
  """
  name, mark, selector = path.name.rpartition("#")
  if not mark or not name or os.path.exists(path):
    return path, ""
  return path.with_name(name), selector
