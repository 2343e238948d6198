"""Weights of torchvision's DenseNets for the slice encoder.

timm's and MONAI's are the same networks under other names, and so are files
of earlier versions of torchvision.
"""

import functools
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from brainjax.models import torch_files
from brainjax.models.densenet import PRESETS, DenseNet

_SUFFIXES = (".safetensors", ".npz", ".pth", ".pt")
_LEAVES = {
  "kernel": "weight",
  "scale": "weight",
  "bias": "bias",
  "mean": "running_mean",
  "var": "running_var",
}
# `denselayer1.norm.1.` of old torchvision, `denselayer1.layers.norm1.` of
# MONAI.
_OTHER_NAME = re.compile(r"(denselayer\d+)\.(?:layers\.)?(norm|conv)\.?([12])")
_STEM = "conv0.weight"


def load_encoder(
  path: pathlib.Path, encoder: nn.Module, slice_shape: tuple[int, ...]
) -> dict[str, Any]:
  """Reads the variables of an encoder from a file of PyTorch's.

  Args:
    path: See `read_weights`.
    encoder: A `DenseNet`.
    slice_shape: H, W and C of its slices.

  Returns:
    `{"params", "batch_stats"}`; see `import_densenet`.

  Raises:
    OSError: The file may not be read.
    ValueError: It does not fit. The message does not name it.
  """
  if not isinstance(encoder, DenseNet):
    raise ValueError(
      "its weights are of a 2-D DenseNet, which the encoder is not; start it"
      " from scratch, or from a run of its own kind"
    )
  shapes: Any = jax.eval_shape(
    functools.partial(encoder.init, groups=1, train=False),
    jax.random.key(0),
    jax.ShapeDtypeStruct((1, *slice_shape), np.float32),
    jax.ShapeDtypeStruct((1,), np.float32),
  )
  return import_densenet(read_weights(path), shapes)


def read_weights(path: pathlib.Path) -> dict[str, np.ndarray]:
  """Reads a file of weights; nothing in it is ever run.

  Args:
    path: `.safetensors`, `.npz`, or a `state_dict` as `.pth` or `.pt`.

  Returns:
    Arrays by the names that the file has for them.

  Raises:
    OSError: The file may not be read.
    ValueError: It is absent, of another kind, damaged, or holds more than
      weights. The message does not name it.
  """
  if path.suffix not in _SUFFIXES:
    raise ValueError(
      f"cannot read {path.suffix or 'a file without a suffix'}; give one of"
      f" {', '.join(_SUFFIXES)}"
    )
  if not path.is_file():
    raise ValueError("no such file")
  try:
    if path.suffix == ".safetensors":
      # Here, because an image for accelerators may lack it.
      import safetensors.numpy

      return safetensors.numpy.load_file(path)
    if path.suffix == ".npz":
      # np.load leaves a file that it cannot read open.
      with open(path, "rb") as file:
        return dict(np.load(file, allow_pickle=False))
    return torch_files.read_arrays(path)
  except (OSError, torch_files.RefusedError):
    raise
  except Exception as error:  # whatever the parsers meet in damaged bytes
    raise ValueError(
      f"damaged, or not a {path.suffix} file ({error!r})"
    ) from error


def import_densenet(
  weights: Mapping[str, np.ndarray], shapes: Mapping[str, Any]
) -> dict[str, Any]:
  """Turns weights of PyTorch into variables of our `DenseNet`.

  Whatever stands before `conv0.weight` stands before all names and is
  dropped; so is the file's classifier.

  If the network was made for another number of input channels I than ours, C,
  the first kernel becomes C copies of its sum over I, divided by C: channels
  that all hold one grey picture x are answered as I copies of x were. For
  ImageNet weights this takes the z-score of the brain in the place of the
  normalised colours, (x - mean_c) / std_c. Their three std_c lie within 3 %
  and a z-score's grey unit is arbitrary, so no factor is folded in. With
  C = I the kernel is taken as it is, channel by channel.

  Args:
    weights: Arrays by name, as `read_weights` returns them.
    shapes: `{"params", "batch_stats"}` of the encoder: its variables, or the
      `jax.ShapeDtypeStruct` of each.

  Returns:
    The tree of `shapes`, as NumPy arrays of its types.

  Raises:
    ValueError: It is not a DenseNet or another one, names are missing or left
      over, or a shape or a value is wrong.

  Source: torchvision `models/densenet.py`; timm `adapt_input_conv` sums over
    the input channels for C = 1.
  """
  wanted = {
    _name_of(path): _torch_shape(leaf)
    for path, leaf in jax.tree.leaves_with_path(shapes)
  }
  named = _own_names(weights)
  _check_names(named, wanted)
  for name, shape in wanted.items():
    found = named[name].shape
    if name == _STEM and len(found) == 4:
      shape = (shape[0], found[1], *shape[2:])
    if found != shape:
      raise ValueError(f"{name} has shape {found}, not {shape}")
    if not np.isfinite(named[name]).all():
      raise ValueError(f"{name} holds values that are not finite")

  def convert(path, leaf):
    name = _name_of(path)
    value = named[name].astype(leaf.dtype)
    if value.ndim == 4:
      value = value.transpose(2, 3, 1, 0)  # OIHW to HWIO
    if value.shape != leaf.shape:
      channels = leaf.shape[2]
      grey = value.sum(2, keepdims=True) / channels
      value = np.repeat(grey, channels, axis=2)
    return np.ascontiguousarray(value)

  return jax.tree.map_with_path(convert, shapes)


def _name_of(path: tuple[Any, ...]) -> str:
  _, *modules, leaf = [entry.key for entry in path]
  return ".".join([*modules, _LEAVES[leaf]])


def _torch_shape(leaf: Any) -> tuple[int, ...]:
  shape = tuple(leaf.shape)
  return (*shape[:-3:-1], *shape[:-2]) if len(shape) == 4 else shape


def _own_names(weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Returns the arrays of the one DenseNet among them, by our names."""
  prefixes = [
    name.removesuffix(_STEM)
    for name in weights
    if f".{name}".endswith(f".{_STEM}")
  ]
  if not prefixes:
    raise ValueError(
      f"not a DenseNet: {_STEM} is not among its {len(weights)} names"
      f" {sorted(weights)[:3]}, ..."
    )
  if len(prefixes) > 1:
    raise ValueError(
      f"holds {len(prefixes)} DenseNets, below {sorted(prefixes)}; save one"
    )
  return {
    _OTHER_NAME.sub(r"\1.\2\3", name.removeprefix(prefixes[0])): array
    for name, array in weights.items()
    if name.startswith(prefixes[0])
  }


def _check_names(
  named: Mapping[str, np.ndarray], wanted: Mapping[str, tuple[int, ...]]
) -> None:
  shapes = {name: array.shape for name, array in named.items()}
  found, expected = _preset_of(shapes), _preset_of(wanted)
  if found and found != expected:
    raise ValueError(
      f"weights of {found}, not of {expected or 'this encoder'}; set the"
      f" encoder's preset to {found}"
    )
  missing = [name for name in wanted if name not in named]
  if missing:
    raise ValueError(
      f"{len(missing)} of {len(wanted)} names are missing, the first is"
      f" {missing[0]}"
    )
  left = [
    name
    for name in named
    if name.startswith(("denseblock", "transition"))
    and not name.endswith(".num_batches_tracked")
    and name not in wanted
  ]
  if left:
    raise ValueError(
      f"the encoder has no layer for {len(left)} of its names, the first is"
      f" {left[0]}"
    )


def _preset_of(shapes: Mapping[str, tuple[int, ...]]) -> str | None:
  """Names the preset that has this stem and these layers."""
  layers = {
    tuple(name.split(".")[:2]) for name in shapes if ".denselayer" in name
  }
  for preset, fields in PRESETS.items():
    if shapes[_STEM][:1] == (fields["num_init_features"],) and layers == {
      (f"denseblock{b}", f"denselayer{i}")
      for b, count in enumerate(fields["block_config"], 1)
      for i in range(1, count + 1)
    }:
      return preset
  return None
