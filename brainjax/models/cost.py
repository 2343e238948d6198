"""What the slice encoder costs a slice, by hand and before anything runs.

Heads, attention and the decoder are not counted.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax.numpy as jnp

from brainjax.models.cnn import CNN
from brainjax.models.densenet import DenseNet


class _Layer(NamedTuple):
  """A dense layer: 1x1 to the bottleneck, 3x3 to what it appends."""

  area: int  # pixels of the map
  inputs: int  # channels, as the others
  bottleneck: int
  growth: int


class _End(NamedTuple):
  """The end of a block: a transition, or the last norm. Or a layer of a CNN."""

  area: int
  inputs: int
  area_out: int  # after the pooling; 0 = the last norm
  outputs: int


def multiply_adds(encoder: DenseNet | CNN, slice_shape: Sequence[int]) -> int:
  """Counts the multiply-adds of the forward pass of a slice.

  Only convolutions are counted, with the taps of theirs that lie in the
  padding, as is usual. Transitions pool before they convolve, which makes it
  2.60 G for DenseNet-121 and 224x224x3, instead of 2.83 G.

  Args:
    encoder: The encoder.
    slice_shape: H, W and C.

  >>> encoder = DenseNet(32, (6, 12, 24, 16), 64)
  >>> round(multiply_adds(encoder, (224, 224, 3)) / 1e9, 3)
  2.602
  """
  if isinstance(encoder, CNN):
    return sum(
      layer.area * 9 * layer.inputs * layer.outputs
      for layer in _layers_of_cnn(encoder, slice_shape)
    )
  total = _stem(encoder, slice_shape)
  for part in _parts(encoder, slice_shape):
    if isinstance(part, _Layer):
      a_pixel = part.bottleneck * (part.inputs + 9 * part.growth)
      total += part.area * a_pixel
    else:
      total += part.area_out * part.inputs * part.outputs
  return total


def training_flops(encoder: DenseNet | CNN, slice_shape: Sequence[int]) -> int:
  """Counts the floating-point operations of training on a slice.

  Two a multiply-add; the gradients of a convolution for its kernel and for its
  input each cost as much as itself, but the stem's input needs none. What is
  computed again to save memory (`residuals`, `chunk_slices`) is not counted.
  Arguments are those of `multiply_adds`.
  """
  forward = multiply_adds(encoder, slice_shape)
  return 2 * (3 * forward - _stem(encoder, slice_shape))


def training_bytes(encoder: DenseNet | CNN, slice_shape: Sequence[int]) -> int:
  """Counts the bytes that training on a slice must move at least.

  A floor for what works convolution by convolution: norms, ReLUs and most of
  the pooling happen on the way into or out of one, features are appended in
  place, and kernels cost nothing, being shared by the slices. In times that an
  array is read or written:

      of        array            forward  backward
      stem      slices           1        1  kernel
                maps             2        6  pooling 2, norm 3, kernel 1
                pooled maps      1        1
      layer     inputs           1        4  kernel 1, ReLU 1, gradient 2
                bottleneck       2        8  kernel 1, ReLU 1, gradient 1,
                                             norm 3, 1x1 convolution 2
                appended         1        2
      block     outputs          1        6  kernel 1, ReLU 1, gradient 1,
                                             norm 3
                transition       1        2

  The norms before the layers of a block need no pass each: what the means take
  from a gradient is linear in the features, and taken once, at the block's end.
  The last norm has no kernel, thus a pass less. DenseNet-121 takes 219 MB of
  bfloat16 at 224x224x3.

  A layer of a CNN is as the stem, but for the gradient by its inputs: it reads
  the maps once more, and writes the inputs once, in all but the first.

  Arguments are those of `multiply_adds`.

  Source: Jung et al. 2019, arXiv:1807.01702, for norms without a pass.
  """
  size = jnp.dtype(encoder.dtype).itemsize
  if isinstance(encoder, CNN):
    numbers = 0
    for i, layer in enumerate(_layers_of_cnn(encoder, slice_shape)):
      inputs, maps = layer.area * layer.inputs, layer.area * layer.outputs
      numbers += 2 * inputs + 8 * maps + 2 * layer.area_out * layer.outputs
      numbers += (inputs + maps) * (i > 0)
    return numbers * size
  height, width, channels = slice_shape
  stem, pooled = _stem_areas(height, width)
  features = encoder.num_init_features
  numbers = 2 * height * width * channels + features * (8 * stem + 2 * pooled)
  for part in _parts(encoder, slice_shape):
    if isinstance(part, _Layer):
      a_pixel = 5 * part.inputs + 10 * part.bottleneck + 3 * part.growth
      numbers += part.area * a_pixel
    else:
      passes = 7 if part.area_out else 6
      numbers += passes * part.area * part.inputs
      numbers += 3 * part.area_out * part.outputs
  return numbers * size


def _layers_of_cnn(encoder: CNN, slice_shape: Sequence[int]) -> Iterator[_End]:
  """Yields each convolution with its pooling, which rounds up."""
  height, width, inputs = slice_shape
  for outputs in encoder.widths:
    area = height * width
    height, width = -(-height // 2), -(-width // 2)
    yield _End(area, inputs, height * width, outputs)
    inputs = outputs


def _stem(encoder: DenseNet | CNN, slice_shape: Sequence[int]) -> int:
  """Multiply-adds of the first convolution."""
  if isinstance(encoder, CNN):
    first = next(_layers_of_cnn(encoder, slice_shape))
    return first.area * 9 * first.inputs * first.outputs
  height, width, channels = slice_shape
  area, _ = _stem_areas(height, width)
  return area * 7 * 7 * channels * encoder.num_init_features


def _stem_areas(height: int, width: int) -> tuple[int, int]:
  """Pixels behind the first convolution, and behind the max-pooling."""
  areas = []
  for _ in range(2):  # both round up
    height, width = -(-height // 2), -(-width // 2)
    areas.append(height * width)
  return areas[0], areas[1]


def _parts(
  encoder: DenseNet, slice_shape: Sequence[int]
) -> Iterator[_Layer | _End]:
  """Yields what follows the stem, in order."""
  height, width = -(-slice_shape[0] // 4), -(-slice_shape[1] // 4)
  growth, features = encoder.growth_rate, encoder.num_init_features
  for b, num_layers in enumerate(encoder.block_config, 1):
    area = height * width
    for _ in range(num_layers):
      yield _Layer(area, features, 4 * growth, growth)
      features += growth
    if b == len(encoder.block_config):
      yield _End(area, features, 0, 0)
      return
    height, width = height // 2, width // 2
    yield _End(area, features, height * width, features // 2)
    features //= 2
