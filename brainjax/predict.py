"""New scans through finished runs: answers, as tables and as pictures.

It takes `model.json` and the best checkpoint of each run, and nothing else of
them; `evaluation/answer.py` says what is asked.

    OUT/predictions.csv   a row a scan
    OUT/<scan>.json       all that is said of one, slice by slice
    OUT/<scan>.png        the same to look at
    OUT/rejected.csv      scans that could not be read, and why
"""

import dataclasses
import json
import os
import pathlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax

from brainjax import InputError, records
from brainjax.cohort.loose import manifest_of_files
from brainjax.cohort.manifest import Manifest, image_files
from brainjax.evaluation import figures
from brainjax.evaluation.answer import Answer, answer_scan
from brainjax.evaluation.prediction_figure import prediction_figure
from brainjax.preparation.region import AXES
from brainjax.preparation.scan import Prepared, prepare_scan
from brainjax.preparation.slices import pixel_to_file_voxel
from brainjax.preparation.volume import ScanError
from brainjax.training import reference, trained
from brainjax.training import workdir as workdir_lib

SCHEMA_VERSION = 1  # of <scan>.json
NOTICE = "Research only, not a medical device."
_IDS = ("participant_id", "session_id")
_KEPT = (*_IDS, "source")
_REJECTED_COLUMNS = (*_IDS, "file", "reason")


@dataclasses.dataclass(frozen=True)
class Summary:
  """What was predicted.

  Attributes:
    predictions: Rows of `predictions.csv`.
    warnings: (scan, sentence) each.
    rejected: Rows of `rejected.csv`.
  """

  predictions: tuple[dict[str, str], ...]
  warnings: tuple[tuple[str, str], ...]
  rejected: tuple[dict[str, str], ...]


def predict(
  workdirs: Sequence[pathlib.Path],
  manifest: Manifest,
  out: pathlib.Path,
  *,
  progress: Callable[[Iterable[Any]], Iterable[Any]] | None = None,
) -> Summary:
  """Predicts every scan of a manifest; labels and masks are not looked at.

  Args:
    workdirs: Of the runs, which answer together.
    manifest: The scans; see `manifest_of_scans`.
    out: Folder of the output; made if missing.
    progress: Wraps the loop over the scans, to show how far it is.

  Raises:
    InputError: A run is not ready, the runs differ, or no scan could be
      predicted; nothing is written then.
  """
  facts = trained.shared_facts(workdirs)
  modalities = facts["modalities"]
  if not set(modalities) & set(manifest.modalities):
    raise InputError(
      f"{manifest.path}: its image columns are"
      f" {', '.join(manifest.modalities)}; the model of {workdirs[0]} takes"
      f" {', '.join(modalities)}"
    )
  if (out / "model.json").exists():
    raise InputError(f"--out={out}: it holds a run; choose another folder")
  runs = [_on_device(trained.load_trained(workdir)) for workdir in workdirs]
  provenance = _provenance(runs)
  # A column that the manifest lacks is a modality that all its scans lack.
  manifest = dataclasses.replace(manifest, modalities=modalities)
  section = trained.preparation_of(facts)

  scans = list(zip(_file_names(manifest.rows), manifest.rows, strict=True))
  predictions, warnings, rejected = [], [], []
  for name, row in progress(scans) if progress else scans:
    try:
      # A mask is of no use here, and should not be the reason of a failure.
      prepared = prepare_scan(manifest, {**row, "mask": ""}, section)
    except ScanError as error:
      ids = {column: row[column] for column in _IDS}
      rejected.append({**ids, "file": error.file, "reason": error.reason})
      continue
    answer = answer_scan(runs, prepared.record)
    cautions = _cautions(runs, prepared)
    kept = {column: row[column] for column in _KEPT if column in row}
    files = {
      column: [os.path.abspath(file) for file in found]
      for column in modalities
      if (found := image_files(manifest, row, column))
    }
    _make_folder(out)
    content = _content(prepared.record, answer, provenance)
    content = {**kept, "files": files, "warnings": cautions, **content}
    text = json.dumps(content, indent=2) + "\n"
    records.write_text(out / f"{name}.json", text)
    figure = prediction_figure(
      prepared.record,
      answer.contributions,
      answer.probabilities,
      modalities=modalities,
      slice_names=_slice_names(prepared.record),
      title=_title(row) + (f", {len(runs)} runs together" * (len(runs) > 1)),
      warnings=cautions,
      notice=NOTICE,
    )
    figures.save_png(figure, out / f"{name}.png")
    warnings += [(name, caution) for caution in cautions]
    predictions.append(
      {
        **kept,
        "predicted_label": answer.label,
        **{
          f"proba_{label}": f"{probability:.9g}"
          for label, probability in answer.probabilities.items()
        },
        **({"called": answer.called[0]} if answer.called else {}),
        "warnings": " | ".join(cautions),
        "scan": name,
      }
    )
  if not predictions:
    raise InputError(
      f"{rejected[0]['file']}: {rejected[0]['reason']}; no scan could be"
      " predicted"
    )
  records.write_csv(out / "predictions.csv", list(predictions[0]), predictions)
  records.write_csv(out / "rejected.csv", _REJECTED_COLUMNS, rejected)
  return Summary(tuple(predictions), tuple(warnings), tuple(rejected))


def manifest_of_scans(
  workdirs: Sequence[pathlib.Path],
  scans: Sequence[pathlib.Path],
  images: Mapping[str, pathlib.Path],
) -> Manifest:
  """Returns a manifest, in memory alone, of scans given by their files.

  Args:
    workdirs: Of the runs.
    scans: Files, each a scan of the model's only modality; or none.
    images: Else the files of one scan, by modality.

  Raises:
    InputError: The model takes other modalities.
  """
  modalities = trained.shared_facts(workdirs)["modalities"]
  taken = f"the model of {workdirs[0]} takes {', '.join(modalities)}"
  for modality, file in images.items():
    if modality not in modalities:
      raise InputError(f"--{modality}={file}: {taken}")
  if scans and len(modalities) > 1:
    options = " ".join(f"--{modality}=FILE" for modality in modalities)
    raise InputError(
      f"{scans[0]}: {taken}; give one scan as {options}, or many with"
      " --manifest=CSV"
    )
  cells = [{modalities[0]: scan} for scan in scans] or [images]
  return manifest_of_files(cells, modalities)


def _on_device(run: trained.Trained) -> trained.Trained:
  return dataclasses.replace(run, variables=jax.device_put(run.variables))


def _provenance(runs: Sequence[trained.Trained]) -> dict[str, Any]:
  return {
    "runs": [
      {
        "workdir": str(run.workdir.resolve()),
        "step": run.step,
        "model_sha256": records.sha256_of(run.workdir / "model.json"),
        "checkpoint_sha256": run.checkpoint_sha256,
      }
      for run in runs
    ],
    "environment": workdir_lib.environment(),
  }


def _cautions(
  runs: Sequence[trained.Trained], prepared: Prepared
) -> tuple[str, ...]:
  """Returns what makes the answer to a scan doubtful."""
  unlike: dict[str, str] = {}
  # The training sets of folds are much the same: the first has the last word.
  for run in reversed(runs):
    if run.facts["reference"] is None:
      unlike[""] = (
        f"nothing is known of the training scans of {run.workdir}, so this"
        " scan could not be held against them"
      )
      continue
    unlike |= reference.unlikeness(
      run.facts["reference"], prepared.record, run.facts["modalities"]
    )
  return (*prepared.warnings, *unlike.values())


def _content(
  record: records.Record, answer: Answer, provenance: Mapping[str, Any]
) -> dict[str, Any]:
  """Returns what `<scan>.json` says besides where the scan is from."""
  positions: list[Any] = [None] * len(record.slices)
  if record.positions_known:
    positions = record.positions_mm.tolist()
  slices = [
    {
      "position_mm": position,
      "file_axis": axis,
      "file_index": index,
      "contribution": contribution,
    }
    for position, (axis, index), contribution in zip(
      positions,
      _file_slices(record),
      answer.contributions.tolist(),
      strict=True,
    )
  ]
  runs = [
    {**run, "probabilities": probabilities}
    for run, probabilities in zip(
      provenance["runs"], answer.of_models, strict=True
    )
  ]
  return {
    "predicted_label": answer.label,
    "probabilities": answer.probabilities,
    "operating_point": answer.called
    and dict(zip(("called", "threshold"), answer.called, strict=True)),
    "slices": slices,
    "runs": runs,
    "environment": provenance["environment"],
    "notice": NOTICE,
    "schema_version": SCHEMA_VERSION,
  }


def _file_slices(record: records.Record) -> list[tuple[int, int]]:
  """Returns axis and index of each slice in the scanner file, both from 0.

  Of a scan laid upon a template, in the template.
  """
  geometry = record.geometry
  if geometry.get("template"):
    axis = AXES[geometry["plane"]].slice
    return [(axis, index) for index in geometry["slice_index"]]
  axis_of_file = [axis for axis, _ in geometry["ras_from_file"]]
  axis = axis_of_file.index(AXES[geometry["plane"]].slice)
  return [
    (axis, round(float(pixel_to_file_voxel(geometry, s, 0, 0)[axis])))
    for s in range(len(record.slices))
  ]


def _slice_names(record: records.Record) -> list[str]:
  """Says where each slice lies, as a viewer of the scanner file does."""
  found = _file_slices(record)
  if not record.positions_known:
    return [f"image {index + 1}" for _, index in found]
  return [
    f"{position:+.0f} mm, {'ijk'[axis]} = {index}"
    for position, (axis, index) in zip(record.positions_mm, found, strict=True)
  ]


def _title(row: Mapping[str, str]) -> str:
  return " ".join(row[column] for column in _IDS if row[column])


def _file_names(rows: Iterable[Mapping[str, str]]) -> list[str]:
  """Names the output of each scan; a file of any system may be called that."""
  names: list[str] = []
  taken: set[str] = set()
  for row in rows:
    stem = re.sub(r"[^A-Za-z0-9._-]+", "_", _title(row)).strip("._-")
    stem = name = stem[:100] or "scan"
    number = 1
    while name.lower() in taken:  # some systems ignore case
      number += 1
      name = f"{stem}-{number}"
    taken.add(name.lower())
    names.append(name)
  return names


def _make_folder(out: pathlib.Path) -> None:
  try:
    out.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise InputError(
      f"--out={out}: {error.strerror}; choose another folder"
    ) from error
