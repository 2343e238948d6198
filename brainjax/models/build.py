"""Builds a classifier from the plain values of a configuration."""

from collections.abc import Collection, Mapping
from typing import Any

import jax.numpy as jnp

from brainjax.models.classifier import Classifier
from brainjax.models.densenet import PRESETS, DenseNet
from brainjax.models.heads import build_head

DTYPES = ("float32", "bfloat16")
STATISTICS = ("batch", "pack")


def build_classifier(
  *,
  preset: str,
  statistics: str,
  head: Mapping[str, Any],
  dropout: float,
  dtype: str,
  num_classes: int,
) -> Classifier:
  """Builds a classifier; its parameters are f32 whatever `dtype` is.

  Args:
    preset: Name of the encoder, one of `densenet.PRESETS`.
    statistics: "batch" or "pack"; see `Classifier`.
    head: `{"name": ..., field: value, ...}`; see `heads.build_head`.
    dropout: Rate in [0, 1).
    dtype: Of the encoder's computation, "float32" or "bfloat16". The head and
      the classifier, a few percent of the work, compute in f32.
    num_classes: Classes K.

  Raises:
    ValueError: A name is unknown; the message lists the choices. Or a field
      of the head is wrong; see `heads.build_head`.
  """
  _check("encoder preset", preset, PRESETS)
  _check("BatchNorm statistics", statistics, STATISTICS)
  _check("dtype", dtype, DTYPES)
  encoder = DenseNet(**PRESETS[preset], dtype=jnp.dtype(dtype))
  return Classifier(
    encoder=encoder,
    head=build_head(head, input_size=encoder.num_features),
    num_classes=num_classes,
    dropout=dropout,
    statistics=statistics,
  )


def _check(what: str, value: str, choices: Collection[str]) -> None:
  if value not in choices:
    raise ValueError(f"no {what} {value!r}; choose one of {sorted(choices)}")
