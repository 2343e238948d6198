"""The encoder against a DenseNet as flax is usually written."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from brainjax.models.densenet import PRESETS, DenseNet

SIZE = 16
ENCODER = DenseNet(**PRESETS["micro"])
ONES = np.ones(3, np.float32)


class NormConv(nn.Module):
  """BatchNorm, ReLU and convolution, once or twice, in one scope."""

  features: tuple[int, ...]
  suffixes: tuple[str, ...]

  @nn.compact
  def __call__(self, x, train):
    for i, suffix in enumerate(self.suffixes):
      norm = textbook_norm(train, f"norm{suffix}")
      x = nn.relu(norm(x))
      x = textbook_conv(self.features[i], 1 + 2 * i, f"conv{suffix}")(x)
    return x


class Block(nn.Module):
  growth_rate: int
  num_layers: int

  @nn.compact
  def __call__(self, x, train):
    for i in range(1, self.num_layers + 1):
      layer = NormConv(
        (4 * self.growth_rate, self.growth_rate),
        ("1", "2"),
        name=f"denselayer{i}",
      )
      x = jnp.concatenate([x, layer(x, train)], -1)
    return x


class Textbook(nn.Module):
  growth_rate: int
  block_config: tuple[int, ...]
  num_init_features: int

  @nn.compact
  def __call__(self, x, train):
    x = textbook_conv(self.num_init_features, 7, "conv0", stride=2)(x)
    x = nn.relu(textbook_norm(train, "norm0")(x))
    x = nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
    for b, num_layers in enumerate(self.block_config, 1):
      name = f"denseblock{b}"
      x = Block(self.growth_rate, num_layers, name=name)(x, train)
      if b < len(self.block_config):
        half = (x.shape[-1] // 2,)
        x = NormConv(half, ("",), name=f"transition{b}")(x, train)
        x = nn.avg_pool(x, (2, 2), (2, 2))
    return nn.relu(textbook_norm(train, "norm5")(x)).mean((1, 2))


def textbook_norm(train, name):
  return nn.BatchNorm(
    use_running_average=not train,
    momentum=0.9,
    epsilon=1e-5,
    use_fast_variance=False,
    name=name,
  )


def textbook_conv(features, size, name, stride=1):
  return nn.Conv(
    features,
    (size, size),
    (stride, stride),
    padding=[(size // 2, size // 2)] * 2,
    use_bias=False,
    name=name,
  )


TEXTBOOK = Textbook(**PRESETS["micro"])


def random_slices(num_slices=3, seed=0):
  rng = np.random.default_rng(seed)
  return rng.normal(size=(num_slices, SIZE, SIZE, 1)).astype(np.float32)


@functools.cache
def variables():
  """Variables whose every leaf is random, so that each one matters."""
  init = functools.partial(ENCODER.init, groups=1, train=False)
  shapes = jax.eval_shape(init, jax.random.key(0), random_slices(), ONES)
  rng = np.random.default_rng(1)

  def draw(path, leaf):
    if path[-1].key == "kernel":
      deviation = np.sqrt(2 / np.prod(leaf.shape[:-1]))
      return np.float32(rng.normal(0, deviation, leaf.shape))
    if path[-1].key in ("scale", "var"):
      return np.float32(rng.uniform(0.5, 1.5, leaf.shape))
    return np.float32(rng.normal(0, 0.3, leaf.shape))

  return jax.tree.map_with_path(draw, shapes)


def loss_of(apply):
  """Jits embeddings, new averages, and gradients of a weighted sum."""

  def loss(params, slices, *args):
    given = {**variables(), "params": params}
    z, updates = apply(given, slices, *args, mutable=["batch_stats"])
    towards = np.random.default_rng(2).normal(size=z.shape[-1])
    return (z * np.float32(towards)[None]).sum(), (z, updates["batch_stats"])

  return jax.jit(jax.grad(loss, has_aux=True))


ours = loss_of(functools.partial(ENCODER.apply, groups=1, train=True))
grouped = loss_of(functools.partial(ENCODER.apply, groups=2, train=True))


def assert_close(given, expected, rtol=1e-4, atol=1e-5):
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=rtol, atol=atol),
    given,
    expected,
  )


def test_training_matches_the_textbook():
  slices = random_slices()
  reference = loss_of(functools.partial(TEXTBOOK.apply, train=True))
  expected = reference(variables()["params"], slices)
  assert_close(ours(variables()["params"], slices, ONES), expected)


def test_inference_matches_the_textbook():
  slices = random_slices()
  expected = jax.jit(functools.partial(TEXTBOOK.apply, train=False))(
    variables(), slices
  )
  inference = functools.partial(ENCODER.apply, groups=1, train=False)
  given = jax.jit(inference)(variables(), slices, ONES)
  assert_close(given, expected)


def test_filler_changes_no_bit():
  params = variables()["params"]
  weight = np.array([1, 0, 1, 1, 0, 1], np.float32)
  slices = random_slices(6)
  expected = grouped(params, slices, weight)
  _, (z, _) = expected
  assert (np.asarray(z)[weight == 0] == 0).all()
  slices[weight == 0] = np.nan
  given = grouped(params, slices, weight)
  jax.tree.map(np.testing.assert_array_equal, given, expected)
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(given))


def test_groups_are_separate_calls_and_filler_does_not_count():
  params = variables()["params"]
  slices = random_slices(6)
  weight = np.array([0, 1, 0, 1, 1, 1], np.float32)
  gradient, (z, averages) = grouped(params, slices, weight)
  # A slice repeated has the statistics of the slice alone.
  first, (first_z, first_averages) = ours(params, slices[[1, 1, 1]], ONES)
  second, (second_z, second_averages) = ours(params, slices[3:], ONES)
  assert_close(gradient, jax.tree.map(lambda a, b: a / 3 + b, first, second))
  assert_close(z[1], first_z[0])
  assert_close(z[3:], second_z)
  mean = jax.tree.map(
    lambda a, b: a / 4 + 3 * b / 4, first_averages, second_averages
  )
  assert_close(averages, mean)


def test_step_without_a_valid_slice_leaves_everything_finite():
  params = variables()["params"]
  weight = np.zeros(6, np.float32)
  gradient, (z, averages) = grouped(params, random_slices(6), weight)
  for leaf in jax.tree.leaves((gradient, z)):
    np.testing.assert_array_equal(leaf, np.zeros_like(leaf))
  jax.tree.map(
    np.testing.assert_array_equal, averages, variables()["batch_stats"]
  )


def test_half_precision_follows_single():
  slices = random_slices()
  half = functools.partial(
    ENCODER.clone(dtype=jnp.bfloat16).apply,
    groups=1,
    train=True,
    mutable=["batch_stats"],
  )
  z, updates = jax.jit(half)(variables(), slices, ONES)
  _, expected = ours(variables()["params"], slices, ONES)
  given = z, updates["batch_stats"]
  assert {leaf.dtype for leaf in jax.tree.leaves(given)} == {np.dtype("f4")}
  assert_close(given, expected, rtol=0.1, atol=0.05)


@pytest.mark.parametrize(
  ("preset", "channels", "features", "parameters"),
  [
    ("densenet121", 3, 1024, 6_953_856),
    ("densenet121", 1, 1024, 6_947_584),
    ("small", 1, 512, 1_758_592),
    ("tiny", 1, 93, 140_352),
    ("micro", 1, 20, 9_112),
  ],
)
def test_sizes_of_presets(preset, channels, features, parameters):
  encoder = DenseNet(**PRESETS[preset])
  slices = jnp.zeros((2, 64, 64, channels))
  init = functools.partial(encoder.init_with_output, groups=1, train=False)
  z, given = jax.eval_shape(init, jax.random.key(0), slices, jnp.ones(2))
  assert z.shape == (2, features)
  leaves = jax.tree.leaves(given["params"])
  assert sum(leaf.size for leaf in leaves) == parameters


def test_tree_has_the_names_of_torchvision():
  params = variables()["params"]
  assert set(params) == {
    "conv0",
    "norm0",
    "denseblock1",
    "transition1",
    "denseblock2",
    "norm5",
  }
  layer = params["denseblock1"]["denselayer2"]
  assert set(layer) == {"norm1", "conv1", "norm2", "conv2"}
  assert layer["conv1"]["kernel"].shape == (1, 1, 16, 32)
  assert layer["conv2"]["kernel"].shape == (3, 3, 32, 8)
  assert set(params["transition1"]) == {"norm", "conv"}


def test_initial_values():
  encoder = DenseNet(growth_rate=8, block_config=(1,), num_init_features=8)
  init = functools.partial(encoder.init, groups=1, train=False)
  given = jax.jit(init)(jax.random.key(0), random_slices(), ONES)
  layer = given["params"]["denseblock1"]["denselayer1"]
  for name, fan_in, rel in [("conv1", 8, 0.15), ("conv2", 9 * 32, 0.05)]:
    deviation = np.std(layer[name]["kernel"])
    assert deviation == pytest.approx(np.sqrt(2 / fan_in), rel=rel)
  norm, running = given["params"]["norm5"], given["batch_stats"]["norm5"]
  for leaf, value in [
    (norm["scale"], 1),
    (norm["bias"], 0),
    (running["mean"], 0),
    (running["var"], 1),
  ]:
    np.testing.assert_array_equal(leaf, np.full(16, value))


def test_refuses_groups_that_do_not_divide():
  with pytest.raises(ValueError, match="3 slices do not divide into 2"):
    ENCODER.apply(variables(), random_slices(), ONES, groups=2, train=False)


def test_refuses_slices_that_pooling_would_empty():
  with pytest.raises(ValueError, match="4x16 pixels are too small"):
    ENCODER.apply(
      variables(), random_slices()[:, :4], ONES, groups=1, train=False
    )
