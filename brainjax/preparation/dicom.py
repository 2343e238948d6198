"""A folder of DICOM files -> voxels.

The file's array, in the words of `volume.py`, is [column, row, image], with
the images in the order of their positions along their normal, whatever the
files are called.
"""

import dataclasses
import itertools
import pathlib
import tempfile
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pydicom
import SimpleITK as sitk
from pydicom.encaps import encapsulate, get_frame
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.utils import pixel_array
from pydicom.uid import (
  UID,
  JPEGLossless,
  JPEGLosslessSV1,
  SecondaryCaptureImageStorage,
)

from brainjax.cohort import dicom_headers, dicom_series
from brainjax.cohort.dicom_series import Stack
from brainjax.preparation import limits
from brainjax.preparation.volume import ScanError

_MOST_NAMED = 6
_PIXEL_BYTES = 2
_JPEG_LOSSLESS = (JPEGLossless, JPEGLosslessSV1)
_IMAGE_TAGS = (
  *("Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation"),
  *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"),
  "PixelData",
)
Decode = Callable[[pydicom.Dataset, int], np.ndarray]
_UNPACK = "unpack the series (`gdcmconv --raw` or `dcmdjpeg`)"


def read_dicom(
  folder: pathlib.Path,
  selector: str = "",
  spacing_mm: Sequence[float] | None = None,
  *,
  modality: str = "",
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
  """Reads the series of a folder, or of a file of several frames.

  Args:
    folder: The folder, with folders in it or without; or a file.
    selector: Key of a series; "" if there is but one that is a volume.
    spacing_mm: Between columns, rows and images, in place of the header's.
    modality: Of several series, take the one whose description says this.

  Returns:
    f32[columns,rows,images], f64[4,4] voxel -> millimetres (RAS+), and what is
    doubtful, a sentence each.

  Raises:
    ScanError: No series is a volume, several are, or one cannot be read.
  """
  frames, left_out = dicom_headers.read_frames(dicom_headers.files_of(folder))
  lost = (dicom_headers.DAMAGED, dicom_headers.UNREADABLE)
  damaged = [
    file for file, reason in left_out.items() if reason.startswith(lost)
  ]
  if damaged:
    raise ScanError(damaged[0], left_out[damaged[0]])
  stack = _choose(
    folder, dicom_series.stacks_of(frames), left_out, selector, modality
  )
  rows, columns = stack.frames[0].shape
  shape = (columns, rows, len(stack.frames))
  limits.check_size(folder, (columns, rows), limits.MAX_PIXELS)
  limits.check_size(folder, shape)
  files = {frame.file for frame in stack.frames}
  limits.check_bomb(
    folder,
    sum(file.stat().st_size for file in files),
    int(np.prod(shape)) * _PIXEL_BYTES,
  )
  affine = stack.affine
  if spacing_mm is not None:
    affine = limits.respaced(affine, shape, np.array(spacing_mm))
  limits.check_affine(folder, affine)
  array = np.stack([image.T for image in _images(stack)], axis=-1)
  return array, affine, stack.doubts


def _choose(
  folder: pathlib.Path,
  stacks: Sequence[Stack],
  left_out: dict[pathlib.Path, str],
  selector: str,
  modality: str,
) -> Stack:
  """Returns the stack that is meant."""
  if selector:
    named = [stack for stack in stacks if stack.key == selector]
    if not named:
      raise ScanError(folder, f"no series #{selector}; {_listed(stacks)}")
    if named[0].problem:
      raise ScanError(folder, named[0].text)
    return named[0]
  usable = [stack for stack in stacks if not stack.problem]
  if not usable:
    if stacks:
      raise ScanError(folder, f"no series is a volume: {_listed(stacks)}")
    reasons = sorted(set(left_out.values()))[:3]
    because = f" ({len(left_out)} files: {', '.join(reasons)})" * bool(reasons)
    raise ScanError(folder, f"a folder without a DICOM image{because}")
  if len(usable) > 1:
    meant = [s for s in usable if modality and s.modality == modality]
    if len(meant) != 1:
      raise ScanError(
        folder,
        f"{len(meant) or len(usable)} series could be the image; name one as"
        f" {folder.name}#KEY: {_listed(meant or usable)}",
      )
    doubt = (
      f"{len(usable)} series could be the image; {meant[0].text} was taken by"
      " its description"
    )
    return dataclasses.replace(meant[0], doubts=(*meant[0].doubts, doubt))
  return usable[0]


def _listed(stacks: Sequence[Stack]) -> str:
  texts = [stack.text for stack in stacks[:_MOST_NAMED]]
  if len(stacks) > _MOST_NAMED:
    texts.append(f"and {len(stacks) - _MOST_NAMED} more")
  return ", ".join(texts)


def _images(stack: Stack) -> Iterator[np.ndarray]:
  """Yields f32[rows,columns] of each image."""
  for file, frames in itertools.groupby(stack.frames, lambda f: f.file):
    with dicom_headers.quiet():
      try:
        decode = _decoder(file)
        content = pydicom.dcmread(file)
        for frame in frames:
          yield _pixels(file, content, frame, decode)
      except ScanError:
        raise
      except Exception as error:
        # pydicom raises whatever it comes upon in a damaged file.
        name = type(error).__name__
        raise ScanError(file, f"damaged: {name}: {error}") from error


def _decoder(file: pathlib.Path) -> Decode:
  """Returns `(content, frame) -> [rows,columns]` as stored, not scaled."""
  syntax = UID(dicom_headers.transfer_syntax(file))
  if syntax in _JPEG_LOSSLESS:
    return _decode_by_gdcm
  try:
    available = get_decoder(syntax).is_available
  except NotImplementedError:
    available = False
  if not available:
    raise ScanError(
      file, f"its pixels are compressed as {syntax.name}; {_UNPACK}"
    )
  return lambda content, index: pixel_array(content, index=index)


def _decode_by_gdcm(content: pydicom.Dataset, index: int) -> np.ndarray:
  """Decodes what pydicom alone cannot, through SimpleITK.

  It is shown nothing but the image: it would scale the values, or not,
  depending on the kind of object.
  """
  bare = pydicom.Dataset()
  bare.file_meta = content.file_meta
  for name in _IMAGE_TAGS:
    if name in content:
      bare[name] = content[name]
  bare.SOPClassUID = SecondaryCaptureImageStorage
  bare.SOPInstanceUID = "1.2.3"
  if content.get("NumberOfFrames") not in (None, 1):
    bare.PixelData = encapsulate([_frame_bytes(content, index)])
  sitk.ProcessObject.SetGlobalWarningDisplay(False)
  with tempfile.TemporaryDirectory() as folder:
    file = pathlib.Path(folder, "image.dcm")
    bare.save_as(file, enforce_file_format=True)
    return sitk.GetArrayFromImage(sitk.ReadImage(str(file)))[0]


def _frame_bytes(content: pydicom.Dataset, index: int) -> bytes:
  return get_frame(
    content.PixelData, index, number_of_frames=int(content.NumberOfFrames)
  )


def _pixels(
  file: pathlib.Path,
  content: pydicom.Dataset,
  frame: dicom_headers.Frame,
  decode: Decode,
) -> np.ndarray:
  kind = content.get("PhotometricInterpretation")
  if kind != "MONOCHROME2" or content.get("SamplesPerPixel") != 1:
    raise ScanError(file, f"pixels are {kind}, expected MONOCHROME2")
  array = decode(content, frame.index)
  if array.shape != frame.shape:
    raise ScanError(file, f"{array.shape} pixels, expected {frame.shape}")
  slope, intercept = _rescale(content, frame.index)
  with np.errstate(over="ignore", invalid="ignore"):
    scaled = array.astype(np.float32) * np.float32(slope) + np.float32(
      intercept
    )
  return limits.finite(file, scaled)


def _rescale(content: pydicom.Dataset, index: int) -> tuple[float, float]:
  """Returns slope and intercept of a frame."""
  groups = [content]
  for name, place in (
    ("SharedFunctionalGroupsSequence", 0),
    ("PerFrameFunctionalGroupsSequence", index),
  ):
    sequence = content.get(name) or []
    if len(sequence) > place:
      groups += list(
        sequence[place].get("PixelValueTransformationSequence") or []
      )[:1]
  group = groups[-1]
  slope = group.get("RescaleSlope")
  intercept = group.get("RescaleIntercept")
  return (
    1.0 if slope is None else float(slope),
    0.0 if intercept is None else float(intercept),
  )
