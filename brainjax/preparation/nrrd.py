"""NRRD and MetaImage files -> voxels.

They are read here and not by SimpleITK, which damaged ones bring down, and
which passes over voxels of a MetaImage that do not unpack as they should.

Source: teem.sourceforge.net/nrrd/format.html and
  itk.org/Wiki/ITK/MetaIO/Documentation.
Differs: voxels are one real number each, in three axes, raw or deflated, and in
  the file itself or in one beside it.
"""

import io
import math
import pathlib
import re
import types
from collections.abc import Mapping, Sequence
from typing import BinaryIO, NamedTuple

import numpy as np
from zlib_ng import zlib_ng

from brainjax.preparation import limits, nifti
from brainjax.preparation.volume import ScanError

SUFFIXES = (".nrrd", ".mha", ".mhd")
_MAX_LINES = 1000  # of a header
_MAX_LINE = 4096  # bytes
_PIECE = 2**18  # bytes unpacked at once
_SPACES = ("lps", "ras", "las")  # where axes run to, as ITK knows them
_META_TYPES = types.MappingProxyType(
  {
    **{"met_char": "i1", "met_uchar": "u1", "met_short": "i2"},
    **{"met_ushort": "u2", "met_int": "i4", "met_uint": "u4"},
    **{"met_long": "i4", "met_ulong": "u4", "met_long_long": "i8"},
    **{"met_ulong_long": "u8", "met_float": "f4", "met_double": "f8"},
  }
)
_NRRD_TYPES = types.MappingProxyType(
  {
    name: code
    for code, names in (
      ("i1", "signed char|int8|int8_t"),
      ("u1", "uchar|unsigned char|uint8|uint8_t"),
      ("i2", "short|short int|signed short|signed short int|int16|int16_t"),
      ("u2", "ushort|unsigned short|unsigned short int|uint16|uint16_t"),
      ("i4", "int|signed int|int32|int32_t"),
      ("u4", "uint|unsigned int|uint32|uint32_t"),
      ("i8", "longlong|long long|long long int|signed long long"),
      ("i8", "signed long long int|int64|int64_t"),
      ("u8", "ulonglong|unsigned long long|unsigned long long int"),
      ("u8", "uint64|uint64_t"),
      ("f4", "float"),
      ("f8", "double"),
    )
    for name in names.split("|")
  }
)


class _Header(NamedTuple):
  """What a header says.

  Attributes:
    shape: Three axes.
    dtype: Of the voxels.
    affine: f64[4,4], voxel -> millimetres (RAS+).
    file: That holds the voxels.
    start: Byte of it where they begin; -1 if they end with it.
    deflated: Are they?
  """

  shape: tuple[int, ...]
  dtype: np.dtype
  affine: np.ndarray
  file: pathlib.Path
  start: int
  deflated: bool


def read_nrrd(
  file: pathlib.Path, spacing_mm: Sequence[float] | None = None
) -> tuple[np.ndarray, np.ndarray]:
  """Reads a NRRD or MetaImage file, as `nifti.read_nifti` does a NIfTI file."""
  fields, end = _fields(file)
  beside = _voxel_file(file, fields)
  if not beside.is_file():
    raise ScanError(file, f"its voxels are in {beside.name}, which is not here")
  try:
    parse = _nrrd if file.suffix.lower() == ".nrrd" else _metaimage
    with np.errstate(all="ignore"):  # of numbers that are checked below
      header = parse(fields, beside, end if beside == file else 0)
  except KeyError as error:
    raise ScanError(
      file, f"damaged: its header says nothing of {error}"
    ) from error
  except ValueError as error:
    raise ScanError(file, f"damaged, or of another kind: {error}") from error
  shape, affine = header.shape, header.affine
  limits.check_size(file, shape)
  declared = math.prod(shape) * header.dtype.itemsize
  limits.check_unpacked(
    header.file,
    declared + max(header.start, 0),
    zipped=header.deflated,
    what=f"{shape} voxels of {header.dtype}",
  )
  if spacing_mm is not None:
    affine = limits.respaced(affine, shape, np.array(spacing_mm))
  limits.check_affine(file, affine)
  array = nifti.empty_for(affine, shape)
  try:
    with open(header.file, "rb") as stream:
      size = header.file.stat().st_size
      stream.seek(size - declared if header.start < 0 else header.start)
      if not header.deflated:
        nifti.fill(array, stream, header.dtype)
      else:
        unpacked = _Unpacked(stream)
        nifti.fill(array, unpacked, header.dtype)
        nifti.read_to_end(file, unpacked, nifti.SLACK)
        unpacked.check()
  except (EOFError, OSError, nifti.NOT_DEFLATE) as error:
    raise ScanError(file, f"damaged: {error}") from error
  return limits.finite(file, array), affine


def detached(file: pathlib.Path) -> tuple[pathlib.Path, ...]:
  """Returns the file beside a header of NRRD or MetaImage, if it has one."""
  if not file.name.lower().endswith(SUFFIXES):
    return ()
  try:
    voxels = _voxel_file(file, _fields(file)[0])
  except ScanError:  # which reading the file raises again
    return ()
  return (voxels,) if voxels != file and voxels.is_file() else ()


class _Unpacked(io.RawIOBase):
  """What a stream of zlib or gzip holds, as a file to read."""

  def __init__(self, packed: BinaryIO):
    self._packed = packed
    self._unpacker = zlib_ng.decompressobj(wbits=47)  # of either kind

  def readable(self) -> bool:
    return True

  def readinto(self, buffer, /) -> int:
    target = memoryview(buffer).cast("B")
    data = b""
    while not (data or self._unpacker.eof):
      packed = self._unpacker.unconsumed_tail or self._packed.read(_PIECE)
      data = self._unpacker.decompress(packed, len(target))
      if not packed and not data:
        break
    target[: len(data)] = data
    return len(data)

  def check(self) -> None:
    """Raises `EOFError` if the end, and with it the checksum, is not there."""
    if not self._unpacker.eof:
      raise EOFError("what is deflated has no end")


def _fields(file: pathlib.Path) -> tuple[dict[str, str], int]:
  """Returns what a header says, by key without spaces, and where it ends."""
  fields: dict[str, str] = {}
  try:
    with open(file, "rb") as stream:
      for _ in range(_MAX_LINES):
        line = stream.readline(_MAX_LINE).decode("latin-1").strip()
        if not line:
          break
        name, _, said = line.replace("=", ":", 1).partition(":")
        key = name.replace(" ", "").lower()
        fields.setdefault(key, said.strip())
        if key == "elementdatafile":
          break
      return fields, stream.tell()
  except OSError as error:
    raise ScanError(file, f"damaged: {error}") from error


def _voxel_file(file: pathlib.Path, fields: Mapping[str, str]) -> pathlib.Path:
  """Returns the file that a header says holds the voxels.

  Raises:
    ScanError: It lies in another folder, or there are several.
  """
  key = "datafile" if file.suffix.lower() == ".nrrd" else "elementdatafile"
  value = fields.get(key, "LOCAL")
  if value.upper() == "LOCAL":
    return file
  if not value or pathlib.PurePath(value).name != value or " " in value:
    raise ScanError(
      file, f"its voxels are in {value!r}; they must be in one file beside it"
    )
  return file.with_name(value)


def _nrrd(fields: Mapping[str, str], file: pathlib.Path, end: int) -> _Header:
  if int(fields["dimension"]) != 3:
    raise ValueError(f"dimension {fields['dimension']}, expected 3")
  if "spacedirections" in fields:
    vectors = re.findall(r"\(([^()]*)\)", fields["spacedirections"])
    axes = np.array([_numbers(vector, 3, ",") for vector in vectors]).T
    if axes.shape != (3, 3) or "none" in fields["spacedirections"]:
      raise ValueError(f"space directions {fields['spacedirections']!r}")
    lengths = np.linalg.norm(axes, axis=0)
    axes = axes * (1 / lengths) * lengths  # ITK's rounding
  else:
    axes = np.diag(_numbers(fields.get("spacings", "1 1 1"), 3))
  origin = _numbers(fields.get("spaceorigin", "(0,0,0)").strip("()"), 3, ",")
  words = fields.get("space", "LPS").lower().split("-")
  space = "".join(word[:1] for word in words) if words[1:] else words[0]
  if space not in _SPACES:
    raise ValueError(f"space {fields['space']!r}")
  encoding = fields["encoding"].lower()
  if encoding not in ("raw", "gzip", "gz"):
    raise ValueError(f"encoding {encoding!r}; save it as raw or gzip")
  skip = int(fields.get("byteskip", "0"))
  if int(fields.get("lineskip", "0")) or (skip and encoding != "raw"):
    raise ValueError("a skip in front of the voxels; save it without")
  return _Header(
    shape=_shape(fields["sizes"]),
    dtype=_dtype(_NRRD_TYPES, fields["type"], fields.get("endian", "")),
    affine=_affine(space, axes, origin),
    file=file,
    start=-1 if skip < 0 else end + skip,
    deflated=encoding != "raw",
  )


def _metaimage(
  fields: Mapping[str, str], file: pathlib.Path, end: int
) -> _Header:
  if "elementdatafile" not in fields:
    raise ValueError("no ElementDataFile")
  if int(fields["ndims"]) != 3:
    raise ValueError(f"NDims {fields['ndims']}, expected 3")
  if fields.get("elementnumberofchannels", "1") != "1":
    raise ValueError("several numbers a voxel")
  if not _is_true(fields.get("binarydata", "true")):
    raise ValueError("voxels in text; save them as binary data")

  def said(names: Sequence[str], default: str) -> str:
    return next((fields[name] for name in names if name in fields), default)

  # A row is the direction of an axis.
  turn = _numbers(
    said(("transformmatrix", "rotation", "orientation"), "1 0 0 0 1 0 0 0 1"),
    9,
  ).reshape(3, 3)
  spacing = _numbers(said(("elementspacing",), "1 1 1"), 3)
  origin = _numbers(said(("offset", "position", "origin"), "0 0 0"), 3)
  big = said(("binarydatabyteordermsb", "elementbyteordermsb"), "false")
  skip = int(fields.get("headersize", "0"))
  deflated = _is_true(fields.get("compresseddata", "false"))
  if skip and deflated:
    raise ValueError("a HeaderSize in front of what is compressed")
  return _Header(
    shape=_shape(fields["dimsize"]),
    dtype=_dtype(
      _META_TYPES, fields["elementtype"], "big" if _is_true(big) else ""
    ),
    affine=_affine("lps", turn.T * spacing, origin),
    file=file,
    start=-1 if skip < 0 else (skip or end),
    deflated=deflated,
  )


def _is_true(text: str) -> bool:
  return text[:1].lower() in ("t", "1")


def _shape(text: str) -> tuple[int, ...]:
  shape = tuple(int(n) for n in text.split())
  if len(shape) != 3 or min(shape) < 1 or max(shape) > limits.MAX_VOXELS:
    raise ValueError(f"axes of {text!r} voxels")
  return shape


def _numbers(text: str, count: int, separator: str | None = None) -> np.ndarray:
  numbers = np.array([float(part) for part in text.split(separator)])
  if len(numbers) != count:
    raise ValueError(f"{text!r} are not {count} numbers")
  return numbers


def _dtype(codes: Mapping[str, str], name: str, endian: str) -> np.dtype:
  if name.lower() not in codes:
    raise ValueError(f"voxels are {name!r}, expected one real number")
  order = ">" if endian.lower() == "big" else "<"
  return np.dtype(codes[name.lower()]).newbyteorder(order)


def _affine(space: str, axes: np.ndarray, origin: np.ndarray) -> np.ndarray:
  """Returns f64[4,4] to RAS+, of axes f64[3,3] and an origin in a space."""
  affine = np.eye(4)
  affine[:3] = np.column_stack([axes, origin])
  signs = [1.0 if a == b else -1.0 for a, b in zip(space, "ras", strict=True)]
  return np.diag([*signs, 1.0]) @ affine
