"""DICOM files as scanners write them, made from an array and an affine."""

import pathlib

import numpy as np
import pydicom
import SimpleITK as sitk
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

MR = "1.2.840.10008.5.1.4.1.1.4"
ENHANCED_MR = "1.2.840.10008.5.1.4.1.1.4.1"
_LPS_FROM_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def _dataset(sop_class, syntax):
  meta = FileMetaDataset()
  meta.MediaStorageSOPClassUID = sop_class
  meta.MediaStorageSOPInstanceUID = generate_uid()
  meta.TransferSyntaxUID = syntax
  dataset = FileDataset(None, {}, file_meta=meta, preamble=bytes(128))
  dataset.SOPClassUID = sop_class
  dataset.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
  dataset.Modality = "MR"
  dataset.PatientName = "Doe^Jane"
  dataset.PatientID = "MRN-12345"
  dataset.PatientSex = "F"
  dataset.PatientAge = "057Y"
  dataset.PatientBirthDate = "19640229"
  dataset.StudyDate = "20210304"
  dataset.StudyTime = "101112"
  dataset.ImageType = ["ORIGINAL", "PRIMARY", "M", "NORM"]
  dataset.Manufacturer = "SIEMENS"
  dataset.ManufacturerModelName = "Skyra"
  dataset.MagneticFieldStrength = 3
  dataset.SeriesNumber = 4
  dataset.SeriesDescription = "t1_mprage_sag"
  dataset.SamplesPerPixel = 1
  dataset.PhotometricInterpretation = "MONOCHROME2"
  dataset.BitsAllocated = dataset.BitsStored = 16
  dataset.HighBit = 15
  dataset.PixelRepresentation = 0
  return dataset


def _geometry(affine, index):
  """Orientation, position and spacing of image `index`, for DICOM."""
  lps = _LPS_FROM_RAS @ affine
  spacing = np.linalg.norm(lps[:3, :3], axis=0)
  axes = lps[:3, :2] / spacing[:2]
  position = lps[:3] @ [0, 0, index, 1]
  return axes.T.ravel(), position, spacing


def write_series(
  folder: pathlib.Path,
  array: np.ndarray,
  affine: np.ndarray | None = None,
  *,
  seed: int = 0,
  prefix: str = "IM",
  study: str = "1.2.3",
  syntax: str = ExplicitVRLittleEndian,
  **values,
) -> list[pathlib.Path]:
  """Writes u16[columns,rows,images], a file an image, names in no order.

  Returns the files in the order of the images. `values` are further elements.
  """
  folder.mkdir(parents=True, exist_ok=True)
  affine = np.eye(4) if affine is None else affine
  rng = np.random.default_rng(seed)
  series = values.pop("SeriesInstanceUID", generate_uid())
  files = []
  for index, name in enumerate(rng.permutation(array.shape[2])):
    dataset = _dataset(MR, syntax)
    axes, position, spacing = _geometry(affine, index)
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = study, series
    dataset.ImageOrientationPatient = [round(float(x), 7) for x in axes]
    dataset.ImagePositionPatient = [round(float(x), 5) for x in position]
    dataset.PixelSpacing = [round(float(x), 6) for x in spacing[1::-1]]
    dataset.SliceThickness = round(float(spacing[2]), 6)
    dataset.InstanceNumber = int(name)
    dataset.Rows, dataset.Columns = array.shape[1], array.shape[0]
    for element, value in values.items():
      setattr(dataset, element, value)
    dataset.PixelData = array[:, :, index].T.astype("<u2").tobytes()
    file = folder / f"{prefix}{name:04d}"
    dataset.save_as(file, enforce_file_format=True)
    files.append(file)
  return files


def write_enhanced(
  file: pathlib.Path, array: np.ndarray, affine: np.ndarray
) -> None:
  """Writes u16[columns,rows,images] as one file, its frames in no order."""
  dataset = _dataset(ENHANCED_MR, ExplicitVRLittleEndian)
  dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "1.2.3", "1.2.3.4"
  order = np.random.default_rng(0).permutation(array.shape[2])
  dataset.Rows, dataset.Columns = array.shape[1], array.shape[0]
  dataset.NumberOfFrames = len(order)
  axes, _, spacing = _geometry(affine, 0)
  orientation, measures = Dataset(), Dataset()
  orientation.ImageOrientationPatient = [round(float(x), 7) for x in axes]
  measures.PixelSpacing = [round(float(x), 6) for x in spacing[1::-1]]
  measures.SliceThickness = round(float(spacing[2]), 6)
  shared = Dataset()
  shared.PlaneOrientationSequence = [orientation]
  shared.PixelMeasuresSequence = [measures]
  dataset.SharedFunctionalGroupsSequence = [shared]
  frames = []
  for index in order:
    place, value, frame = Dataset(), Dataset(), Dataset()
    position = _geometry(affine, index)[1]
    place.ImagePositionPatient = [round(float(x), 5) for x in position]
    value.RescaleSlope, value.RescaleIntercept = 2, -7
    frame.PlanePositionSequence = [place]
    frame.PixelValueTransformationSequence = [value]
    frames.append(frame)
  dataset.PerFrameFunctionalGroupsSequence = frames
  dataset.PixelData = b"".join(
    array[:, :, i].T.astype("<u2").tobytes() for i in order
  )
  dataset.save_as(file, enforce_file_format=True)


def rewrite(file: pathlib.Path, **values) -> None:
  """Changes elements of a file; None removes one."""
  dataset = pydicom.dcmread(file)
  for element, value in values.items():
    if value is None:
      del dataset[element]
    else:
      setattr(dataset, element, value)
  dataset.save_as(file)


def compress_lossless(file: pathlib.Path) -> None:
  """Lets SimpleITK compress the image as archives do."""
  dataset = pydicom.dcmread(file)
  image = sitk.GetImageFromArray(dataset.pixel_array[None])
  writer = sitk.ImageFileWriter()
  writer.SetFileName(str(file.with_name("compressed.dcm")))
  writer.SetUseCompression(True)
  writer.SetCompressor("JPEG")
  writer.Execute(image)
  compressed = pydicom.dcmread(file.with_name("compressed.dcm"))
  file.with_name("compressed.dcm").unlink()
  dataset.file_meta.TransferSyntaxUID = compressed.file_meta.TransferSyntaxUID
  dataset.PixelData = compressed.PixelData
  dataset.save_as(file)
