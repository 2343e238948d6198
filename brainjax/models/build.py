"""Builds a classifier from the plain values of a configuration."""

from collections.abc import Collection, Mapping
from typing import Any

import jax.numpy as jnp

from brainjax.models import densenet
from brainjax.models.autoencoder import Decoder
from brainjax.models.classifier import STATISTICS, Classifier
from brainjax.models.cnn import CNN
from brainjax.models.dense_block import RESIDUALS
from brainjax.models.densenet import DenseNet
from brainjax.models.densenet3d import DenseNet3D
from brainjax.models.distance_attention import IN_PLANE, SliceAttention
from brainjax.models.features import Features
from brainjax.models.heads import build_head

DTYPES = ("float32", "bfloat16")
SLICE_AXIS = ("none", "distance")
CNN_PRESET = "cnn2d"
_CNN_WIDTHS = (16, 32, 64, 128)
_VOLUMES = "_3d"  # after the name of a preset: the same layers, in 3-D
PRESETS = (
  *densenet.PRESETS,
  CNN_PRESET,
  *(f"{preset}{_VOLUMES}" for preset in densenet.PRESETS),
)


def build_classifier(
  *,
  preset: str,
  statistics: str,
  head: Mapping[str, Any],
  dropout: float,
  dtype: str,
  num_classes: int,
  decoder: Mapping[str, Any] | None = None,
  in_plane: str = "none",
  slice_axis: str = "none",
  num_features: int | None = None,
  residuals: str = "fast",
  axis_name: str | None = None,
  negative: int | None = None,
) -> Classifier:
  """Builds a classifier; its parameters are f32 whatever `dtype` is.

  Args:
    preset: Name of the encoder, one of `PRESETS`.
    statistics: "batch", "pack" or "frozen"; see `Classifier`.
    head: `{"name": ..., field: value, ...}`; see `heads.build_head`.
    dropout: Rate in [0, 1).
    dtype: Of the encoder's computation, "float32" or "bfloat16". The head and
      the classifier, a few percent of the work, compute in f32.
    num_classes: Classes K.
    decoder: Fields of `autoencoder.Decoder`; None to go without.
    in_plane: Attention to places, one of `IN_PLANE` or "none".
    slice_axis: Attention to slices before the head, "distance" or "none".
    num_features: D, if slices come as features, which need no encoder; None,
      if they come as images.
    residuals: What dense blocks keep for their backward pass, one of
      `dense_block.RESIDUALS`; changes memory and speed alone.
    axis_name: Of a mapped axis (pmap, shard_map) that shares batch statistics,
      unless each pack has its own.
    negative: Index of the class without a tumour, if tumours are screened for
      and then typed; None, if all classes are told apart alike.

  Raises:
    ValueError: A name is unknown; the message lists the choices. Or a field
      of the head is wrong; see `heads.build_head`. Or the encoder does not
      go with what is around it.
  """
  _check("encoder preset", preset, PRESETS)
  _check("BatchNorm statistics", statistics, STATISTICS)
  _check("dtype", dtype, DTYPES)
  _check("residuals", residuals, RESIDUALS)
  _check("in-plane attention", in_plane, ("none", *IN_PLANE))
  _check("attention along the slice axis", slice_axis, SLICE_AXIS)
  # A pack is never spread over such an axis.
  shared = axis_name if statistics == "batch" else None
  if num_features is None:
    encoder = build_encoder(
      preset, dtype=dtype, residuals=residuals, axis_name=shared
    )
  elif in_plane != "none":
    raise ValueError(
      f"in-plane attention {in_plane!r} weighs places of a feature map, and"
      " features of whole slices have none; choose 'none'"
    )
  else:
    encoder = Features(num_features)
  return Classifier(
    encoder=encoder,
    head=build_head(head, input_size=encoder.num_features),
    num_classes=num_classes,
    dropout=dropout,
    statistics=statistics,
    decoder=None if decoder is None else Decoder(**decoder, axis_name=shared),
    in_plane=None if in_plane == "none" else IN_PLANE[in_plane](),
    slice_axis=None if slice_axis == "none" else SliceAttention(),
    negative=negative,
  )


def build_encoder(
  preset: str,
  *,
  dtype: str = "float32",
  residuals: str = "fast",
  axis_name: str | None = None,
) -> DenseNet | DenseNet3D | CNN:
  """Builds the encoder alone; arguments are those of `build_classifier`."""
  if preset == CNN_PRESET:
    return CNN(_CNN_WIDTHS, dtype=jnp.dtype(dtype), axis_name=axis_name)
  network = DenseNet3D if preset.endswith(_VOLUMES) else DenseNet
  return network(
    **densenet.PRESETS[preset.removesuffix(_VOLUMES)],
    dtype=jnp.dtype(dtype),
    residuals=residuals,
    axis_name=axis_name,
  )


def _check(what: str, value: str, choices: Collection[str]) -> None:
  if value not in choices:
    raise ValueError(f"no {what} {value!r}; choose one of {sorted(choices)}")
