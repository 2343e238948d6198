import math

import jax
import jax.numpy as jnp
import pytest
from jax.extend import core

from brainjax.models import cnn, cost, densenet

IMAGENET = (224, 224, 3)


def test_densenet121_costs_what_is_published():
  encoder = densenet.DenseNet(**densenet.PRESETS["densenet121"])
  # Pooled after it, a 1x1 convolution works on four times as many pixels.
  late = [(56, 256, 128), (28, 512, 256), (14, 1024, 512)]
  more = sum(size**2 * a * b for size, a, b in late) * 3 // 4
  classifier = 1024 * 1000
  found = cost.multiply_adds(encoder, IMAGENET) + more + classifier
  assert found / 1e9 == pytest.approx(2.834, abs=5e-4)


@pytest.mark.parametrize(
  ("preset", "shape"),
  [("micro", (32, 32, 1)), ("tiny", (50, 37, 2)), ("small", (64, 64, 1))],
)
def test_counts_the_convolutions_of_the_traced_model(preset, shape):
  encoder = densenet.DenseNet(**densenet.PRESETS[preset])
  traced = jax.make_jaxpr(_forward(encoder))(*_arguments(encoder, shape))
  assert _traced_multiply_adds(traced.jaxpr) == cost.multiply_adds(
    encoder, shape
  )


def test_xla_counts_nearly_as_much():
  # It leaves out taps in the padding, 4 % of a 3x3 kernel on a map of 32x32,
  # and adds the arithmetic of norms, more of it the fewer channels there are.
  encoder, shape = densenet.DenseNet(**densenet.PRESETS["micro"]), (128, 128, 1)
  forward = jax.jit(_forward(encoder)).lower(*_arguments(encoder, shape))
  found = forward.compile().cost_analysis()["flops"]
  assert found == pytest.approx(
    2 * cost.multiply_adds(encoder, shape), rel=0.04
  )


def test_training_costs_thrice_but_for_the_gradient_of_the_slices():
  encoder = densenet.DenseNet(
    growth_rate=2, block_config=(1,), num_init_features=3
  )
  stem, layer = 8 * 8 * 49 * 3, 4 * 4 * (3 * 8 + 9 * 8 * 2)
  assert cost.multiply_adds(encoder, (16, 16, 1)) == stem + layer
  assert cost.training_flops(encoder, (16, 16, 1)) == 2 * (2 * stem + 3 * layer)


def test_bytes_of_densenet121():
  fields = densenet.PRESETS["densenet121"]
  encoder = densenet.DenseNet(**fields, dtype=jnp.bfloat16)
  found = cost.training_bytes(encoder, IMAGENET)
  # 228 MB has been estimated with pooling after the transitions' convolutions.
  assert found / 1e6 == pytest.approx(228, rel=0.05)
  wide = densenet.DenseNet(**fields)
  assert cost.training_bytes(wide, IMAGENET) == 2 * found


def test_bytes_of_one_layer_by_hand():
  encoder = densenet.DenseNet(
    growth_rate=2, block_config=(1,), num_init_features=3
  )
  stem = 2 * 16 * 16 + 8 * (8 * 8 * 3) + 2 * (4 * 4 * 3)
  layer = 5 * (4 * 4 * 3) + 10 * (4 * 4 * 8) + 3 * (4 * 4 * 2)
  end = 6 * (4 * 4 * 5)
  found = cost.training_bytes(encoder, (16, 16, 1))
  assert found == 4 * (stem + layer + end)


def test_a_cnn_by_hand():
  encoder = cnn.CNN((4, 6))
  first, second = 10 * 7 * 9 * 2 * 4, 5 * 4 * 9 * 4 * 6
  shape = (10, 7, 2)  # pooling rounds up
  assert cost.multiply_adds(encoder, shape) == first + second
  assert cost.training_flops(encoder, shape) == 2 * (2 * first + 3 * second)
  numbers = 2 * (10 * 7 * 2) + 8 * (10 * 7 * 4) + 2 * (5 * 4 * 4)
  numbers += 3 * (5 * 4 * 4) + 9 * (5 * 4 * 6) + 2 * (3 * 2 * 6)
  assert cost.training_bytes(encoder, shape) == 4 * numbers
  half = cnn.CNN((4, 6), dtype=jnp.bfloat16)
  assert cost.training_bytes(half, shape) == 2 * numbers


def test_counts_the_convolutions_of_the_traced_cnn():
  encoder, shape = cnn.CNN((16, 32, 64, 128)), (50, 37, 2)
  traced = jax.make_jaxpr(_forward(encoder))(*_arguments(encoder, shape))
  found = _traced_multiply_adds(traced.jaxpr)
  assert found == cost.multiply_adds(encoder, shape)


def _forward(encoder):
  return lambda variables, slices: encoder.apply(
    variables, slices, jnp.ones(1), groups=1, train=False
  )


def _arguments(encoder, shape):
  slices = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
  weight = jax.ShapeDtypeStruct((1,), jnp.float32)
  variables = jax.eval_shape(
    lambda *args: encoder.init(jax.random.key(0), *args, groups=1, train=False),
    slices,
    weight,
  )
  return variables, slices


def _traced_multiply_adds(jaxpr) -> int:
  total = 0
  for equation in jaxpr.eqns:
    total += sum(
      map(_traced_multiply_adds, core.jaxprs_in_params(equation.params))
    )
    if equation.primitive.name not in ("conv_general_dilated", "dot_general"):
      continue
    kernel = equation.invars[1].aval.shape  # outputs are last
    total += equation.outvars[0].aval.size * math.prod(kernel[:-1])
  return total
