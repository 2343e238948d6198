"""DICOM headers -> images of one frame each, with what places them in space.

Nothing that names a person or a day goes further than this: no patient's name,
no date, and no UID, for scanners write dates into them. UIDs are kept as
hashes; the PatientID and the moment of the study only while a cohort is read.
"""

import contextlib
import dataclasses
import hashlib
import math
import os
import pathlib
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pydicom
import pydicom.config
from pydicom.dataset import Dataset
from pydicom.filereader import read_file_meta_info
from pydicom.multival import MultiValue

SUFFIXES = (".dcm", ".ima")
DAMAGED, UNREADABLE = "damaged", "not readable"  # what such reasons begin with
_DEFLATED = "1.2.840.10008.1.2.1.99"
_TAGS = (
  *("SpecificCharacterSet", "SOPInstanceUID", "Modality", "Rows", "Columns"),
  *("PatientName", "PatientID", "IssuerOfPatientID", "PatientSex"),
  *("PatientAge", "StudyInstanceUID", "StudyDate", "StudyTime"),
  *("SeriesInstanceUID", "SeriesNumber", "SeriesDescription", "ProtocolName"),
  *("ImageType", "ContrastBolusAgent", "EchoTime", "InversionTime"),
  *("AcquisitionNumber", "TemporalPositionIdentifier", "DiffusionBValue"),
  *("Manufacturer", "ManufacturerModelName", "MagneticFieldStrength"),
  *("PixelSpacing", "SliceThickness", "NumberOfFrames"),
  *("ImageOrientationPatient", "ImagePositionPatient"),
  *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
)
_HEADER_ALONE: dict[str, Any] = {
  "stop_before_pixels": True,
  "specific_tags": list(_TAGS),
}
# Tells images at one place apart; of several frames, in these groups of tags.
_VARYING = {
  "EchoTime": "",
  "InversionTime": "",
  "AcquisitionNumber": "",
  "TemporalPositionIdentifier": "",
  "DiffusionBValue": "MRDiffusionSequence",
  "EffectiveEchoTime": "MREchoSequence",
  "TemporalPositionIndex": "FrameContentSequence",
  "FrameType": "MRImageFrameTypeSequence",
}
_NUMBERS = re.compile(r"\d{6,}|\d{1,4}[-./]\d{1,2}[-./]\d{1,4}")
_MAX_FRAMES = 2**14


class NoImageError(ValueError):
  """A DICOM file that gives no image of a scan, and why."""


@dataclasses.dataclass(frozen=True, eq=False)
class Frame:
  """One image of a DICOM file, without its pixels.

  Attributes:
    file: The file.
    index: Of the frame, from 0.
    uid, series, study: Hashes of the UIDs of image, series and study.
    person: PatientID and its issuer, to be hashed; "" if there is none.
    moment: Date and time of the study, for nothing but the order.
    facts: `number`, `description`, `contrast`, `type`, `sex`, `age` and
      `scanner` of the series, without names and dates.
    varies: Echo, b-value, time, ... of the image.
    shape: Rows and columns.
    spacing_mm: Between rows, and between columns.
    thickness_mm: Of the slice; NaN if it is not said.
    orientation: f64[2,3] (LPS+), along a row and along a column.
    position_mm: f64[3] (LPS+), the centre of the first pixel.
  """

  file: pathlib.Path
  index: int
  uid: str
  series: str
  study: str
  person: str
  moment: str
  facts: dict[str, str]
  varies: tuple[str, ...]
  shape: tuple[int, int]
  spacing_mm: tuple[float, float]
  thickness_mm: float
  orientation: np.ndarray
  position_mm: np.ndarray


def files_of(folder: pathlib.Path) -> Iterator[pathlib.Path]:
  """Yields the DICOM files under a folder, sorted, or the file itself.

  Links to folders are not followed, so a circle of them does no harm. Files
  and folders that may not be read are yielded too: to read them says so.
  """
  if not folder.is_dir():
    yield folder
  closed: list[str] = []
  for place, folders, names in os.walk(
    folder, onerror=lambda error: closed.append(error.filename)
  ):
    folders.sort()
    for name in sorted(names):
      file = pathlib.Path(place, name)
      if name != "DICOMDIR" and file.is_file() and _may_be_dicom(file):
        yield file
  yield from map(pathlib.Path, closed)


def _may_be_dicom(file: pathlib.Path) -> bool:
  try:
    return has_magic(file)
  except OSError:
    return True


def has_magic(file: pathlib.Path) -> bool:
  """Whether a file says that it is one of DICOM."""
  with open(file, "rb") as stream:
    return stream.read(132)[128:] == b"DICM"


@contextlib.contextmanager
def quiet() -> Iterator[None]:
  """While it lasts, pydicom does not comment on what it reads."""
  before = pydicom.config.settings.reading_validation_mode
  pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
  try:
    with warnings.catch_warnings():
      warnings.simplefilter("ignore")
      yield
  finally:
    pydicom.config.settings.reading_validation_mode = before


def read_frames(
  files: Iterable[pathlib.Path],
  look: Callable[[pathlib.Path, Dataset], None] | None = None,
) -> tuple[list[Frame], dict[pathlib.Path, str]]:
  """Reads headers.

  Args:
    files: The files.
    look: Is shown each header that can be read, of an image or not.

  Returns:
    The images that have a place in space, and for each file that gives none
    the reason.
  """
  frames: list[Frame] = []
  left_out: dict[pathlib.Path, str] = {}
  for file in files:
    try:
      with quiet():
        transfer_syntax(file)
        header = pydicom.dcmread(file, **_HEADER_ALONE)
        if look:
          look(file, header)
        frames += _frames_of(file, header)
    except NoImageError as error:
      left_out[file] = str(error)
    except OSError as error:
      # Its own words hold the path.
      left_out[file] = f"{UNREADABLE}: {error.strerror or error}"
    except Exception as error:
      # pydicom raises whatever it comes upon in a damaged file.
      left_out[file] = f"{DAMAGED}: {type(error).__name__}: {error}"
  return frames, left_out


def transfer_syntax(file: pathlib.Path) -> str:
  """Returns the UID of how the rest of a file is written.

  Raises:
    NoImageError: It is no DICOM file, or deflated as a whole.
  """
  if not has_magic(file):
    raise NoImageError("no DICOM file")
  syntax = str(read_file_meta_info(file).get("TransferSyntaxUID", ""))
  if syntax == _DEFLATED:  # its header unpacks to any size
    raise NoImageError("deflated as a whole; unpack it (`dcmconv +te`)")
  return syntax


def _frames_of(file: pathlib.Path, header: Dataset) -> list[Frame]:
  kind = _text(header, "Modality")
  if kind and kind != "MR":
    raise NoImageError(f"{kind}, not MR")
  if "Rows" not in header or "Columns" not in header:
    raise NoImageError("no image")
  image_type = _text(header, "ImageType")
  if "MOSAIC" in image_type.upper():
    raise NoImageError("a mosaic of slices")
  count = int(header.get("NumberOfFrames") or 1)
  if not 1 <= count <= _MAX_FRAMES:
    raise NoImageError(f"{count} frames")
  shared = _first(header, "SharedFunctionalGroupsSequence")
  each = header.get("PerFrameFunctionalGroupsSequence") or []
  if count > 1 and len(each) != count:
    raise NoImageError(f"{count} frames, but {len(each)} have a position")
  uid, series, study = (
    _hash(_text(header, name))
    for name in ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID")
  )
  if not _text(header, "SOPInstanceUID"):
    uid = _hash(str(file))  # or all such images would be copies of one
  facts = _facts(header, image_type)
  person = _text(header, "PatientID")
  if person:
    person += "\n" + _text(header, "IssuerOfPatientID")
  frames = []
  for index in range(count):
    groups = [header, shared] + ([each[index]] if each else [])
    rows, columns = (int(header[name].value) for name in ("Rows", "Columns"))
    spacing = _numbers(groups, "PixelMeasuresSequence", "PixelSpacing", 2)
    thickness = _numbers(groups, "PixelMeasuresSequence", "SliceThickness", 1)
    orientation = _numbers(
      groups, "PlaneOrientationSequence", "ImageOrientationPatient", 6
    )
    position = _numbers(
      groups, "PlanePositionSequence", "ImagePositionPatient", 3
    )
    if spacing is None or orientation is None or position is None:
      raise NoImageError("no place in space, such as of a picture of a screen")
    frames.append(
      Frame(
        file=file,
        index=index,
        uid=f"{uid}.{index}",
        series=series,
        study=study,
        person=person,
        moment=_text(header, "StudyDate") + _text(header, "StudyTime"),
        facts=facts,
        varies=(image_type, *_varying(groups)),
        shape=(rows, columns),
        spacing_mm=(spacing[0], spacing[1]),
        thickness_mm=math.nan if thickness is None else float(thickness[0]),
        orientation=_checked_orientation(orientation),
        position_mm=position,
      )
    )
  return frames


def _facts(header: Dataset, image_type: str) -> dict[str, str]:
  """Returns what may be known of a series."""
  names = re.findall(r"\w{3,}", _text(header, "PatientName").casefold())
  names += re.findall(r"\w{3,}", _text(header, "PatientID").casefold())

  def plain(text: str) -> str:
    words = re.split(r"(\W|_)", _NUMBERS.sub("?", text))
    return "".join("?" if w.casefold() in names else w for w in words)

  field = _text(header, "MagneticFieldStrength")
  maker = _text(header, "Manufacturer"), _text(header, "ManufacturerModelName")
  description = _text(header, "SeriesDescription")
  return {
    "number": _text(header, "SeriesNumber"),
    "description": plain(description or _text(header, "ProtocolName")),
    "contrast": _text(header, "ContrastBolusAgent"),
    "type": image_type,
    "sex": _text(header, "PatientSex"),
    "age": _text(header, "PatientAge"),
    "scanner": " ".join(filter(None, (*maker, field and f"{float(field):g}T"))),
  }


def _varying(groups: Sequence[Dataset]) -> list[str]:
  """Returns what may tell an image from others at its place."""
  return [
    text
    for name, sequence in _VARYING.items()
    for group in groups
    if (text := _text(_first(group, sequence) if sequence else group, name))
  ]


def _first(group: Dataset, sequence: str) -> Dataset:
  return next(iter(group.get(sequence) or ()), Dataset())


def _text(group: Dataset, name: str) -> str:
  """Returns a value as one line; "" if there is none."""
  value = group.get(name)
  if value is None:
    return ""
  if isinstance(value, (list, tuple, MultiValue)):
    value = "\\".join(map(str, value))
  return " ".join(str(value).split())


def _numbers(
  groups: Sequence[Dataset], sequence: str, name: str, count: int
) -> np.ndarray | None:
  """Returns f64[count], from the last group that has them; None if none has."""
  for group in reversed(groups):
    for place in (_first(group, sequence), group):
      value: Any = place.get(name)
      if value is not None and value != "":
        numbers = np.array(value, np.float64).reshape(-1)
        if len(numbers) != count or not np.isfinite(numbers).all():
          raise NoImageError(f"{name} is {_text(place, name)!r}")
        return numbers
  return None


def _checked_orientation(numbers: np.ndarray) -> np.ndarray:
  axes = numbers.reshape(2, 3)
  if not np.allclose(axes @ axes.T, np.eye(2), atol=0.02):
    raise NoImageError(f"ImageOrientationPatient is no rotation: {numbers}")
  return axes / np.linalg.norm(axes, axis=1, keepdims=True)


def _hash(uid: str) -> str:
  return hashlib.sha256(uid.encode()).hexdigest()[:16]
