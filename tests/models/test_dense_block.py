"""The dense block against plain autodiff, and what filler may not change."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from brainjax.models import batch_norm
from brainjax.models import dense_block as block

N, H, W, C, GROWTH, LAYERS = 12, 3, 5, 4, 2, 3
WEIGHT = np.array([1, 1, 0, 1, 1, 1, 1, 0, 0, 1, 0.5, 1])


def features(dtype=np.float32):
  x = np.random.default_rng(0).normal(size=(N, H, W, C))
  return (x * (WEIGHT > 0)[:, None, None, None]).astype(dtype)


def make_layers(dtype=np.float32, num_layers=LAYERS):
  rng = np.random.default_rng(1)

  def norm(size):
    return {"scale": rng.random(size) + 0.5, "bias": rng.normal(size=size)}

  def layer(inputs):
    return {
      "norm1": norm(inputs),
      "conv1": {"kernel": rng.normal(size=(1, 1, inputs, 4 * GROWTH))},
      "norm2": norm(4 * GROWTH),
      "conv2": {"kernel": rng.normal(size=(3, 3, 4 * GROWTH, GROWTH))},
    }

  layers = [layer(C + i * GROWTH) for i in range(num_layers)]
  return jax.tree.map(lambda leaf: leaf.astype(dtype), layers)


def textbook(x, layers, weight, *, groups):
  """Concatenates, and lets each norm compute all of its statistics."""
  weights = weight.reshape(groups, -1, 1, 1, 1)

  def normalise(x, norm):
    grouped = x.reshape(groups, -1, *x.shape[1:])
    total = weights.sum((1, 2, 3), keepdims=True) * H * W
    mean = (weights * grouped).sum((1, 2, 3), keepdims=True) / total
    var = (weights * (grouped - mean) ** 2).sum((1, 2, 3), keepdims=True)
    unit = (grouped - mean) / jnp.sqrt(var / total + 1e-5)
    unit = unit.reshape(x.shape)
    scale, bias = (norm[n][None, None, None] for n in ("scale", "bias"))
    valid = (weight > 0)[:, None, None, None]
    statistics = {"mean": mean[:, 0, 0, 0], "var": (var / total)[:, 0, 0, 0]}
    return valid * jax.nn.relu(unit * scale + bias), statistics

  seen = []
  for layer in layers:
    y, first = normalise(x, layer["norm1"])
    y = block.convolve(y, layer["conv1"]["kernel"])
    y, second = normalise(y, layer["norm2"])
    seen.append({"norm1": first, "norm2": second})
    x = jnp.concatenate([x, block.convolve(y, layer["conv2"]["kernel"])], -1)
  return x, seen


def through_the_next_norm(x, statistics, weight):
  """A loss that depends on the features and on their statistics."""
  size = x.shape[-1]
  rng = np.random.default_rng(2)
  norm = {"scale": rng.random(size) + 0.5, "bias": rng.normal(size=size)}
  norm = jax.tree.map(lambda leaf: leaf.astype(x.dtype), norm)
  y = batch_norm.normalise(x, statistics, norm, weight)
  towards = rng.normal(size=(H, W, size)).astype(x.dtype)
  return (y * towards[None]).sum()


@functools.partial(jax.jit, static_argnames=("groups", "residuals"))
def value_and_gradients(x, layers, weight, *, groups, residuals="fast"):
  def loss(x, layers):
    y, statistics, seen = block.dense_block(
      x, layers, weight, groups=groups, residuals=residuals
    )
    return through_the_next_norm(y, statistics, weight), (y, seen)

  return jax.value_and_grad(loss, (0, 1), has_aux=True)(x, layers)


def relative_errors(given, wanted):
  def error(given, wanted):
    given, wanted = np.float64(given), np.float64(wanted)
    return np.abs(given - wanted).max() / np.abs(wanted).max()

  return jax.tree.map(error, given, wanted)


@pytest.mark.parametrize(
  "groups, residuals",
  [
    (2, "fast"),
    (1, "small"),
    pytest.param(1, "fast", marks=pytest.mark.slow),
    pytest.param(2, "small", marks=pytest.mark.slow),
  ],
)
def test_values_and_gradients_are_those_of_the_textbook(groups, residuals):
  with jax.enable_x64(True):
    x, layers = features(np.float64), make_layers(np.float64)

    @jax.jit
    def wanted(x, layers):
      def loss(x, layers):
        y, seen = textbook(x, layers, WEIGHT, groups=groups)
        statistics = batch_norm.batch_statistics(y, WEIGHT, groups=groups)
        return through_the_next_norm(y, statistics, WEIGHT), (y, seen)

      return jax.value_and_grad(loss, (0, 1), has_aux=True)(x, layers)

    given = value_and_gradients(
      x, layers, WEIGHT, groups=groups, residuals=residuals
    )
    assert given[1][0].dtype == np.float64
    errors = relative_errors(given, wanted(x, layers))
  assert max(jax.tree.leaves(errors)) < 1e-10


@pytest.mark.parametrize("residuals", block.RESIDUALS)
def test_single_precision_is_near(residuals):
  single = value_and_gradients(
    features(), make_layers(), np.float32(WEIGHT), groups=2, residuals=residuals
  )
  with jax.enable_x64(True):
    double = value_and_gradients(
      features(np.float64), make_layers(np.float64), WEIGHT, groups=2
    )
  assert max(jax.tree.leaves(relative_errors(single, double))) < 1e-4


def test_half_precision_keeps_statistics_and_gradients_in_single():
  x = jnp.asarray(features(), jnp.bfloat16)
  weight = np.float32(WEIGHT)
  (_, (y, seen)), (d_x, d_layers) = value_and_gradients(
    x, make_layers(), weight, groups=1
  )
  assert y.dtype == d_x.dtype == jnp.bfloat16
  assert {leaf.dtype for leaf in jax.tree.leaves((seen, d_layers))} == {
    np.dtype(np.float32)
  }
  wanted = value_and_gradients(
    x.astype(np.float32), make_layers(), weight, groups=1
  )
  given = ((0, (y, seen)), (d_x, d_layers))
  errors = relative_errors(given[1], wanted[1])
  assert max(jax.tree.leaves(errors)) < 0.2


def test_filler_stays_zero_and_its_amount_changes_only_rounding():
  weight = np.float32([1] * 6 + [0] * 6)
  x = features()
  x[6:] = 0
  given = value_and_gradients(x, make_layers(), weight, groups=1)
  (_, (y, _)), (d_x, _) = given
  assert not np.any(y[6:]) and not np.any(d_x[6:])
  fewer = value_and_gradients(x[:8], make_layers(), weight[:8], groups=1)
  cut = jax.tree.map(
    lambda leaf: leaf[:8] if leaf.shape[:1] == (N,) else leaf, given
  )
  assert max(jax.tree.leaves(relative_errors(cut, fewer))) < 1e-6


def test_empty_group_is_finite():
  weight = np.float32([1] * 6 + [0] * 6)
  x = features() * (weight > 0)[:, None, None, None]
  given = value_and_gradients(np.float32(x), make_layers(), weight, groups=2)
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(given))


def test_devices_share_statistics_by_the_axis_name():
  """shard_map over 2 and 4 devices gives what one device gives."""
  x, layers, weight = features(), make_layers(), np.float32(WEIGHT)
  wanted = value_and_gradients(x, layers, weight, groups=1)
  for devices in (2, 4):
    mesh = jax.make_mesh(
      (devices,), ("data",), axis_types=(jax.sharding.AxisType.Auto,)
    )

    def local(x, layers, weight):
      def loss(x, layers):
        y, statistics, seen = block.dense_block(
          x, layers, weight, groups=1, axis_name="data"
        )
        return through_the_next_norm(y, statistics, weight), (y, seen)

      (value, (y, seen)), (d_x, d_layers) = jax.value_and_grad(
        loss, (0, 1), has_aux=True
      )(x, layers)
      d_layers, value = jax.lax.psum((d_layers, value), "data")
      return (value, (y, seen)), (d_x, d_layers)

    sharded = jax.jit(
      jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(P("data"), P(), P("data")),
        out_specs=((P(), (P("data"), P())), (P("data"), P())),
        check_vma=False,
      )
    )
    errors = relative_errors(sharded(x, layers, weight), wanted)
    assert max(jax.tree.leaves(errors)) < 2e-5


@pytest.mark.parametrize(("size", "stride"), [(1, 1), (3, 1), (7, 2)])
def test_convolve_matches_its_definition(size, stride):
  rng = np.random.default_rng(0)
  x = rng.normal(size=(2, 6, 8, 3))
  kernel = rng.normal(size=(size, size, 3, 2))
  half = size // 2
  padded = np.pad(x, [(0, 0), (half, half), (half, half), (0, 0)])
  expected = np.zeros((2, 6 // stride, 8 // stride, 2))
  for i in range(6 // stride):
    for j in range(8 // stride):
      top, left = i * stride, j * stride
      window = padded[:, top : top + size, left : left + size]
      expected[:, i, j] = np.einsum("nhwi,hwio->no", window, kernel)
  given = block.convolve(jnp.float32(x), jnp.float32(kernel), stride=stride)
  np.testing.assert_allclose(given, expected, atol=1e-4)
