"""What a page shows of an auto-encoder: its words, its tables, its pictures."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from brainjax.evaluation import exhibits, montage, verdict
from brainjax.evaluation.run_files import Run
from brainjax.records import Record, RecordSet, unpack_bits

PROBES: Mapping[str, str] = {
  "embedding": "embeddings of the auto-encoder",
  "pca": "PCA of the pixels",
}


def headline(scores: Mapping[str, Any], split: str) -> str:
  """Says how well slices are drawn, and whether better than by a PCA."""
  found = scores["reconstruction"]
  gain = found["psnr_gain"]
  compared = "which is not shown to differ from"
  if gain["low"] is not None and gain["low"] > 0:
    compared = "better than"
  elif gain["high"] is not None and gain["high"] < 0:
    compared = "worse than"
  return (
    f"Slices of {found['n']} unseen participants ({split} split) are drawn"
    f" from {found['code_size']} numbers each at"
    f" {decibels(found['psnr'])}, {compared} a PCA with"
    f" {found['pca_coefficients']} coefficients, {decibels(found['psnr_pca'])}."
  )


def decibels(score: Mapping[str, float | None]) -> str:
  """Writes a PSNR with its interval.

  >>> decibels({"value": 21.46, "low": 20.9, "high": 22.04})
  '21.5 dB [20.9, 22.0]'
  """
  text = f"{score['value']:.1f} dB"
  if score["low"] is None or score["high"] is None:
    return text
  return f"{text} [{score['low']:.1f}, {score['high']:.1f}]"


def probe_rows(scores: Mapping[str, Any]) -> list[dict[str, Any]]:
  """Returns `{"name", "scores"}` of each linear probe."""
  return [
    {"name": PROBES[name], "scores": found}
    for name, found in scores.get("feature_probes", {}).items()
  ]


def reconstruction_exhibit(
  run: Run, split: str, record_set: RecordSet
) -> exhibits.Exhibit | None:
  """Shows slices above what was drawn of them; None if nothing was kept.

  Args:
    run: The run.
    split: Of the scans.
    record_set: The images of the run.
  """
  file = run.path / f"reconstructions_{split}.npz"
  if not file.is_file():
    return None
  scans = {int(scan["record_index"]): scan for scan in run.scans}
  shown, captions = [], []
  with open(file, "rb") as opened, np.load(opened, allow_pickle=False) as kept:
    for name in sorted((n for n in kept if n.isdigit()), key=int):
      record, scan = record_set[int(name)], scans[int(name)]
      drawn = kept[name], kept[f"{name}_pca"]
      shown.append(_side_by_side(record, drawn))
      captions.append(
        f"{scan['participant_id']} {scan['session_id']} {scan['class']}".strip()
      )
  found = run.metrics[split]["reconstruction"]
  rows = ("slice", "auto-encoder", "PCA")
  return exhibits.Exhibit(
    "reconstructions.png",
    f"Slices of {len(shown)} scans of the {split} split, spread evenly over"
    f" it, and below each what the auto-encoder and the PCA make of them:"
    f" {'; '.join(captions)}. Over all scans {decibels(found['psnr'])} and"
    f" {decibels(found['psnr_pca'])}.",
    montage.contact_sheet(
      shown,
      captions,
      modalities=rows,
      title=f"{len(shown)} scans of the {split} split",
    ),
  )


def checks(scores: Mapping[str, Any]) -> list[verdict.Check]:
  """Holds the reconstruction and the embeddings against the PCA."""
  found, probes = scores["reconstruction"], scores["feature_probes"]
  gain = found["psnr_gain"]
  low, high = gain["low"], gain["high"]
  text = f"It draws slices {gain['value']:+.1f} dB"
  if low is not None:
    text += f" [{low:+.1f}, {high:+.1f}]"
  text += f" against a PCA with {found['pca_coefficients']} coefficients."
  held = [verdict.Check(low is not None and low > 0, text)]
  if not probes:
    return held
  ours, pca = (
    verdict.score_text(probes[name]["balanced_accuracy"])
    for name in ("embedding", "pca")
  )
  gain = scores["feature_probe_gain"]
  held.append(
    verdict.Check(
      gain["low"] is not None and gain["low"] > 0,
      f"A linear probe of its embeddings has balanced accuracy {ours}, one of"
      f" as many PCA coefficients {pca}, n = {probes['embedding']['n']}; the"
      f" difference is {verdict.score_text(gain)}.",
    )
  )
  return held


def _side_by_side(record: Record, drawn: Sequence[np.ndarray]) -> Record:
  """Returns a record whose channels are the slice and what was drawn of it."""
  channel = montage.first_present(record)
  brain = unpack_bits(record.brain_mask, record.slices.shape[2])
  limits = np.iinfo(record.slices.dtype)
  channels = [record.slices[..., channel]]
  for values in drawn:
    codes = np.round(values[..., channel] / record.scale) + record.zero_code
    codes = np.clip(codes, limits.min, limits.max)
    # Outside the brain nothing was asked of it.
    codes = np.where(brain, codes, record.zero_code)
    channels.append(codes.astype(record.slices.dtype))
  return dataclasses.replace(
    record,
    slices=np.stack(channels, axis=-1),
    present=np.ones(len(channels), np.uint8),
    landmarks=np.repeat(record.landmarks[[channel]], len(channels), axis=0),
    moments=None,
  )
