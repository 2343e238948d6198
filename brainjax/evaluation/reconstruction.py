"""How well an auto-encoder draws slices it has not seen, and what for.

It is held against a principal component analysis (PCA) of the training slices
with as many coefficients as its code has numbers; and its embeddings against
as many coefficients, as what a linear probe tells the classes apart by.
"""

import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from sklearn import decomposition

from brainjax import records
from brainjax.evaluation import montage
from brainjax.metrics import statistics
from brainjax.records import RecordSet, unpack_bits
from brainjax.training import processes
from brainjax.training.experiment import Experiment
from brainjax.training.runner import Runner

MAX_PCA_SLICES = 4000  # it is fitted on, evenly spread over the training split
_EXAMPLES = 4  # scans whose reconstruction is kept for the report


def score_reconstruction(
  experiment: Experiment, runner: Runner, split: str
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
  """Scores the reconstructions of a split; keeps some for the report.

  The peak signal-to-noise ratio (PSNR) of a scan is 20 log10(range / root mean
  squared error) over its brain and all slices, in decibels; the range is that
  of the scan's intensities there. A participant's is the mean of the scans'.

  Args:
    experiment: The run's facts.
    runner: Holds the parameters to score.
    split: "train", "validation" or "test".

  Returns:
    `psnr`, `psnr_pca` and their difference `psnr_gain`, each `{"value",
    "low", "high"}` in decibels; `n` participants; `code_size` and
    `pca_coefficients`. And what describes each scan of the training split
    and then of this one, f64[R,D] by name: the means over its slices of the
    `embedding`, and of the first D coefficients of the `pca`.
  """
  record_set, subset = experiment.record_set, experiment.subset(split)
  code_size = runner.code_size
  pca = _fit_pca(record_set, experiment.subset("train"), code_size)
  embedding, coefficients, psnr, psnr_pca = {}, {}, {}, {}
  examples = set(subset[montage.spread(len(subset), _EXAMPLES)].tolist())
  kept = {}
  described = np.unique(np.concatenate([experiment.subset("train"), subset]))
  scored = set(subset.tolist())
  for index, outputs in runner.reconstruct(described):
    record = record_set[index]
    codes = pca.transform(_flat(record))
    embedding[index] = outputs["embedding"].mean(0)
    coefficients[index] = codes.mean(0)[: outputs["embedding"].shape[1]]
    if index not in scored:
      continue
    drawn = outputs["drawn"]
    by_pca = pca.inverse_transform(codes).reshape(drawn.shape)
    psnr[index] = _psnr(record, drawn)
    psnr_pca[index] = _psnr(record, by_pca)
    if index in examples:
      kept[f"{index}"] = drawn
      kept[f"{index}_pca"] = by_pca.astype(np.float32)
  if processes.is_first():
    path = examples_file(experiment.workdir, split)
    with records.replacing(path) as partial, open(partial, "wb") as file:
      np.savez_compressed(file, **kept)
  values = np.array([[psnr[i], psnr_pca[i]] for i in subset])
  rows = [record_set.rows[i] for i in subset]
  scores = _with_intervals(experiment, values, rows)
  scores |= {"code_size": code_size, "pca_coefficients": pca.n_components_}
  features = {
    "embedding": np.stack([embedding[i] for i in described]),
    "pca": np.stack([coefficients[i] for i in described]),
  }
  return scores, features


def examples_file(workdir: pathlib.Path, split: str) -> pathlib.Path:
  """Returns where some reconstructions of a split are kept.

  They are f32[S,H,W,C] by record index, and by record index and "_pca".
  """
  return workdir / f"reconstructions_{split}.npz"


def _fit_pca(
  record_set: RecordSet, subset: np.ndarray, code_size: int
) -> decomposition.PCA:
  lengths = record_set.lengths[subset]
  chosen = montage.spread(int(lengths.sum()), MAX_PCA_SLICES)
  ends = np.cumsum(lengths)
  slices = []
  for index, start, end in zip(subset, ends - lengths, ends, strict=True):
    here = chosen[(chosen >= start) & (chosen < end)] - start
    if len(here):
      slices.append(_flat(record_set[int(index)])[here])
  fitted = np.concatenate(slices)
  size = min(code_size, *fitted.shape)
  return decomposition.PCA(size, svd_solver="full").fit(fitted)


def _flat(record: records.Record) -> np.ndarray:
  return record.intensities().reshape(len(record.slices), -1)


def _psnr(record: records.Record, drawn: np.ndarray) -> float:
  brain = unpack_bits(record.brain_mask, record.slices.shape[2])
  there = brain[..., None] & record.present.astype(bool)
  wanted = record.intensities()[there]
  error = np.mean(np.square(drawn[there] - wanted), dtype=np.float64)
  return 10 * math.log10(max(float(np.ptp(wanted)) ** 2 / error, 1e-12))


def _with_intervals(
  experiment: Experiment,
  values: np.ndarray,
  rows: Sequence[Mapping[str, str]],
) -> dict[str, Any]:
  """Averages f64[T,2] of scans, with intervals by bootstrap over groups."""
  people = sorted({row["participant_id"] for row in rows})
  group_of = {row["participant_id"]: row["group_id"] for row in rows}
  means = np.array(
    [
      np.mean(
        [
          value
          for value, row in zip(values, rows, strict=True)
          if row["participant_id"] == person
        ],
        axis=0,
      )
      for person in people
    ]
  )
  means = np.column_stack([means, means[:, 0] - means[:, 1]])
  counts = statistics.bootstrap_counts(
    np.zeros(len(people), np.int64),
    [group_of[person] for person in people],
    resamples=experiment.config.eval.resamples,
    seed=experiment.config.eval.seed,
  )
  resampled = counts @ means / counts.sum(1, keepdims=True)
  low, high = np.percentile(resampled, [2.5, 97.5], axis=0)
  varies = np.ptp(resampled, axis=0) > 0
  names = ("psnr", "psnr_pca", "psnr_gain")
  return {
    name: {
      "value": float(means[:, i].mean()),
      "low": float(low[i]) if varies[i] else None,
      "high": float(high[i]) if varies[i] else None,
    }
    for i, name in enumerate(names)
  } | {"n": len(people)}
