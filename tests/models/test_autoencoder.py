import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from brainjax.models import autoencoder
from brainjax.models.densenet import DenseNet

SHAPE = (16, 24, 2)
FIELDS = {"code_channels": 3, "widths": (9, 8, 5, 4)}


class TextbookDecoder(nn.Module):
  """The same from flax's own layers."""

  @nn.compact
  def __call__(self, x, train):
    x = nn.Conv(3, (1, 1), use_bias=False, name="code")(x)
    for i, width in enumerate((8, 5, 4), 1):
      size = (len(x), 2 * x.shape[1], 2 * x.shape[2], x.shape[3])
      x = jax.image.resize(x, size, "nearest")
      x = nn.Conv(width, (3, 3), use_bias=False, name=f"conv{i}")(x)
      x = nn.BatchNorm(not train, momentum=0.9, epsilon=1e-5, name=f"norm{i}")(
        x
      )
      x = nn.relu(x)
    x = nn.Conv(2, (3, 3), use_bias=False, name="image")(x)
    bias = self.param("bias", nn.initializers.zeros_init(), (2,))
    return x + bias[None, None, None]


def make_decoder(seed=0, num_slices=4):
  rng = np.random.default_rng(seed)
  maps = jnp.asarray(rng.normal(size=(num_slices, 2, 3, 6)), jnp.float32)
  decoder = autoencoder.Decoder(**FIELDS)
  weight = jnp.ones(num_slices)
  variables = decoder.init(
    jax.random.key(seed), maps, weight, slice_shape=SHAPE, groups=1, train=False
  )
  variables = jax.tree.map(
    lambda leaf: leaf + rng.uniform(0.1, 0.5, leaf.shape).astype(np.float32),
    variables,
  )
  return decoder, variables, maps, weight


@pytest.mark.parametrize("train", [True, False])
def test_decoder_equals_flax_layers(train):
  decoder, variables, maps, weight = make_decoder()
  target = jnp.asarray(np.random.default_rng(1).normal(size=(4, *SHAPE)))

  def ours(params, maps):
    drawn, updated = decoder.apply(
      {**variables, "params": params},
      maps,
      weight,
      slice_shape=SHAPE,
      groups=1,
      train=train,
      mutable=["batch_stats"],
    )
    return jnp.sum(drawn * target), (drawn, updated)

  def textbook(params, maps):
    drawn, updated = TextbookDecoder().apply(
      {**variables, "params": params}, maps, train, mutable=["batch_stats"]
    )
    return jnp.sum(drawn * target), (drawn, updated)

  given = variables["params"], maps
  (_, found), gradients = jax.jit(
    jax.value_and_grad(ours, (0, 1), has_aux=True)
  )(*given)
  (_, wanted), expected = jax.jit(
    jax.value_and_grad(textbook, (0, 1), has_aux=True)
  )(*given)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-4),
    (found, gradients),
    (wanted, expected),
  )


def test_filler_changes_nothing():
  decoder, variables, maps, _ = make_decoder()
  weight = jnp.array([1.0, 1.0, 0.0, 1.0])

  def draw(maps):
    drawn, updated = decoder.apply(
      variables,
      maps,
      weight,
      slice_shape=SHAPE,
      groups=1,
      train=True,
      mutable=["batch_stats"],
    )
    return drawn[jnp.array([0, 1, 3])], updated

  # The encoder's maps of filler are zero.
  once = jax.jit(draw)(maps.at[2].set(0))
  alone = decoder.apply(
    variables,
    maps[weight > 0],
    jnp.ones(3),
    slice_shape=SHAPE,
    groups=1,
    train=True,
    mutable=["batch_stats"],
  )
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6),
    once,
    alone,
  )


def test_a_group_of_filler_alone_is_finite():
  decoder, variables, maps, _ = make_decoder()
  weight = jnp.array([1.0, 1.0, 0.0, 0.0])

  def loss(variables):
    drawn, _ = decoder.apply(
      variables,
      maps * weight[:, None, None, None],
      weight,
      slice_shape=SHAPE,
      groups=2,
      train=True,
      mutable=["batch_stats"],
    )
    return jnp.sum(jnp.square(drawn[:2]))

  value, gradients = jax.value_and_grad(loss)(variables)
  assert np.isfinite(value)
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))


@pytest.mark.parametrize(
  ("slice_shape", "message"),
  [
    ((16, 23, 1), "cannot be drawn"),
    ((40, 60, 1), "use multiples of 16"),
    ((64, 96, 1), "5 are needed"),
  ],
)
def test_what_cannot_be_drawn_is_said(slice_shape, message):
  decoder, variables, maps, weight = make_decoder()
  with pytest.raises(ValueError, match=message):
    decoder.apply(
      variables, maps, weight, slice_shape=slice_shape, groups=1, train=False
    )


@pytest.mark.parametrize("size", [(64, 64), (32, 96), (48, 40)])
@pytest.mark.parametrize("blocks", [(1,), (1, 1, 1, 1)])
def test_size_of_the_last_map(size, blocks):
  encoder = DenseNet(growth_rate=2, block_config=blocks, num_init_features=2)
  maps = jax.eval_shape(
    lambda x, w: encoder.init_with_output(
      jax.random.key(0), x, w, groups=1, train=False, method="feature_maps"
    )[0],
    jnp.zeros((1, *size, 1)),
    jnp.ones(1),
  )
  assert maps["norm5"].shape[1:3] == encoder.map_size(*size)


def test_squared_errors_leave_the_background_out():
  rng = np.random.default_rng(0)
  slices = rng.normal(size=(3, 4, 5, 2)).astype(np.float32)
  slices[rng.random(slices.shape) < 0.3] = 0
  slices[1] = 0
  drawn = rng.normal(size=slices.shape).astype(np.float32)
  found = autoencoder.squared_errors(jnp.asarray(slices), jnp.asarray(drawn))
  for i in range(3):
    brain = slices[i] != 0
    np.testing.assert_allclose(
      found[i],
      [np.square(slices[i] - drawn[i])[brain].sum(), brain.sum()],
      rtol=1e-5,
    )
