"""Attention in the plane and along the slices, and what it can learn."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from brainjax.models.densenet import PRESETS, DenseNet
from brainjax.models.distance_attention import IN_PLANE, SliceAttention
from models import slow_distance_attention as slow

N, C = 4, 5  # the third slice has no brain, the last one is filler
MAP, IMAGE = (3, 4), (14, 20)
WEIGHT = np.float32([1, 1, 1, 0])
B, S, D = 3, 6, 5


def plane(seed=0):
  """Feature maps, slices whose brains lie off the middle, and weights."""
  rng = np.random.default_rng(seed)
  maps = np.abs(rng.normal(size=(N, *MAP, C))).astype(np.float32)
  slices = np.zeros((N, *IMAGE, 2), np.float32)
  slices[0, 1:9, 5:8, 0] = rng.normal(size=(8, 3))
  slices[0, 7:10, 6:15, 1] = rng.normal(size=(3, 9))
  slices[1, 10:, 13:, 1] = 1
  maps[3], slices[3] = 0, 0
  return maps, slices, WEIGHT


def sequences(seed=0):
  """Embeddings, a mask with a gap, padding and an empty row, positions."""
  rng = np.random.default_rng(seed)
  z = rng.normal(size=(B, S, D)).astype(np.float32)
  mask = np.zeros((B, S), bool)
  mask[0, :5], mask[1, [1, 2, 4]] = True, True
  positions_mm = np.tile(np.cumsum(np.float32([-40, 9, 9, 17, 9, 9])), (B, 1))
  return z, mask, positions_mm


INPUTS = {**dict.fromkeys(IN_PLANE, plane), "slices": sequences}


def build(name):
  return SliceAttention() if name == "slices" else IN_PLANE[name]()


@functools.cache
def initialised(name):
  module = build(name)
  return module, jax.jit(module.init)(jax.random.key(0), *INPUTS[name]())


@functools.cache
def trained(name):
  """The module with parameters that are nowhere zero."""
  module, variables = initialised(name)
  rng = np.random.default_rng(1)
  return module, jax.tree.map(
    lambda leaf: leaf + np.float32(rng.normal(0, 0.5, leaf.shape)), variables
  )


@functools.partial(jax.jit, static_argnames="module")
def forward(module, variables, *inputs):
  return module.apply(variables, *inputs)


@functools.partial(jax.jit, static_argnames="module")
def value_and_gradients(module, variables, x, *others):
  """What comes out, and gradients of its squares by variables and x."""

  def loss(variables, x):
    found = module.apply(variables, x, *others)
    return jnp.square(found[0]).sum(), found

  gradients, found = jax.grad(loss, (0, 1), has_aux=True)(variables, x)
  return found, *gradients


@pytest.fixture(params=sorted(INPUTS))
def name(request):
  return request.param


def test_every_attention_has_a_reference():
  assert slow.REFERENCES.keys() == IN_PLANE.keys()


@pytest.mark.parametrize("name", sorted(IN_PLANE))
def test_in_plane_matches_its_slow_reference(name):
  module, variables = trained(name)
  maps, slices, weight = plane()
  given, weights = forward(module, variables, maps, slices, weight)
  params = jax.tree.map(np.float64, variables["params"])
  for n in range(N - 1):
    expected, *more = slow.REFERENCES[name](
      params, np.float64(maps[n]), slices[n]
    )
    np.testing.assert_allclose(given[n], expected, atol=2e-6)
    found = [weights[key][n] for key in sorted(weights)]
    assert len(found) == len(more)
    for value, wanted in zip(found, more, strict=True):
      np.testing.assert_allclose(value, wanted, atol=1e-5)
  assert all(not value[N - 1].any() for value in (given, *weights.values()))


def test_slices_match_their_slow_reference():
  module, variables = trained("slices")
  z, mask, positions_mm = sequences()
  given, factor = forward(module, variables, z, mask, positions_mm)
  params = jax.tree.map(np.float64, variables["params"])
  for b in range(B - 1):
    expected = slow.slow_slices(
      params, np.float64(z[b]), mask[b], positions_mm[b]
    )
    np.testing.assert_allclose(given[b], expected[0], atol=1e-6)
    np.testing.assert_allclose(factor[b], expected[1], atol=1e-6)
  assert not given[~mask].any() and not factor[~mask].any()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_starts_as_identity(name, dtype):
  module, variables = initialised(name)
  x, second, third = INPUTS[name]()
  x = jnp.asarray(x, dtype)
  given, weights = forward(module, variables, x, second, third)
  valid = second if name == "slices" else third > 0
  assert given.dtype == x.dtype
  np.testing.assert_array_equal(given[valid], x[valid])
  weights = weights if name == "slices" else weights.get("in_plane", valid)
  assert weights.dtype == jnp.float32 or weights is valid
  np.testing.assert_array_equal(weights[valid], np.ones_like(weights[valid]))


def test_computes_in_single_and_returns_half(name):
  module, variables = trained(name)
  x, *others = INPUTS[name]()
  x = jnp.asarray(x, jnp.bfloat16)
  half, _ = forward(module, variables, x, *others)
  single, _ = forward(module, variables, x.astype(jnp.float32), *others)
  np.testing.assert_array_equal(half, single.astype(jnp.bfloat16))


def test_gradients_are_finite_and_reach_every_parameter(name):
  module, variables = trained(name)
  found, *gradients = value_and_gradients(module, variables, *INPUTS[name]())
  for leaf in jax.tree.leaves((found, gradients)):
    assert np.isfinite(leaf).all()
  for leaf in jax.tree.leaves(gradients):
    assert np.abs(leaf).max() > 0


@pytest.mark.parametrize("name", sorted(IN_PLANE))
def test_content_of_filler_changes_no_bit(name):
  module, variables = trained(name)
  maps, slices, weight = plane()
  expected = value_and_gradients(module, variables, maps, slices, weight)
  maps[weight == 0], slices[weight == 0] = np.nan, np.nan
  given = value_and_gradients(module, variables, maps, slices, weight)
  jax.tree.map(np.testing.assert_array_equal, given, expected)


def test_content_of_padding_changes_no_bit():
  module, variables = trained("slices")
  z, mask, positions_mm = sequences()
  expected = value_and_gradients(module, variables, z, mask, positions_mm)
  z[~mask], positions_mm[~mask] = np.nan, np.nan
  given = value_and_gradients(module, variables, z, mask, positions_mm)
  jax.tree.map(np.testing.assert_array_equal, given, expected)


def test_empty_rows_are_zero_and_have_no_gradient(name):
  module, variables = trained(name)
  x, second, third = INPUTS[name]()
  if name == "slices":
    second = np.zeros_like(second)
  else:
    third = np.zeros_like(third)
  for leaf in jax.tree.leaves(
    value_and_gradients(module, variables, x, second, third)
  ):
    np.testing.assert_array_equal(leaf, np.zeros_like(leaf))


@pytest.mark.parametrize("name", sorted(IN_PLANE))
def test_centre_of_attention_in_a_cell_has_a_gradient(name):
  # Of a single cell that is the brain's centre, all distances are 0.
  module, variables = trained(name)
  maps = np.abs(np.random.default_rng(0).normal(size=(1, 1, 1, C)))
  slices, weight = np.ones((1, 8, 8, 1)), np.ones(1)
  for leaf in jax.tree.leaves(
    value_and_gradients(module, variables, np.float32(maps), slices, weight)
  ):
    assert np.isfinite(leaf).all()


@pytest.mark.parametrize("preset", ["tiny", "small", "densenet121"])
def test_attentions_are_of_about_equal_size(preset):
  channels = DenseNet(**PRESETS[preset]).num_features
  maps = jax.ShapeDtypeStruct((1, 4, 4, channels), np.float32)
  slices = jax.ShapeDtypeStruct((1, 128, 128, 1), np.float32)
  weight = jax.ShapeDtypeStruct((1,), np.float32)
  counts = {}
  for name, module in IN_PLANE.items():
    shapes = jax.eval_shape(
      module().init, jax.random.key(0), maps, slices, weight
    )
    counts[name] = sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))
  assert max(counts.values()) < 1.2 * min(counts.values())
  if channels == 1024:
    assert list(counts.values()) == [4110, 4105, 4097, 4115, 4102]


def test_in_plane_is_read_only():
  with pytest.raises(TypeError):
    IN_PLANE["own"] = SliceAttention


@functools.cache
def draw(seed, count):
  """Brains of any place with a lesion; which lie in the inner half of them?"""
  rng = np.random.default_rng(seed)
  slices = np.zeros((count, 16, 16, 2), np.float32)
  label = rng.random(count) < 0.5
  for image, inner in zip(slices, label, strict=True):
    top, left = rng.integers(0, 5, 2)
    image[top : top + 12, left : left + 12, 0] = 1
    reach = rng.uniform(0, 2) if inner else rng.uniform(3.5, 5)
    turn = rng.uniform(0, 2 * np.pi)
    i, j = (
      np.array([top, left])
      + 5.5
      + reach * np.array([np.sin(turn), np.cos(turn)])
    )
    image[round(i), round(j), 1] = 8
  maps = slices.reshape(count, 8, 2, 8, 2, 2).mean((2, 4))
  return (maps, slices, np.ones(count, np.float32)), label


def accuracy_after_training(name):
  """Trains attention, global average pooling and a linear classifier."""
  module = IN_PLANE[name]() if name != "none" else None
  optimizer = optax.adam(3e-2)

  def logits(params, inputs):
    maps = (
      module.apply(params["attention"], *inputs)[0] if module else inputs[0]
    )
    return maps.mean((1, 2)) @ params["kernel"] + params["bias"]

  @jax.jit
  def train(inputs, label):
    attention = module.init(jax.random.key(0), *inputs) if module else {}
    params = {
      "attention": attention,
      "kernel": jnp.zeros(2),
      "bias": jnp.zeros(()),
    }

    def step(state, _):
      params, moments = state

      def loss(params):
        found = logits(params, inputs)
        return optax.sigmoid_binary_cross_entropy(found, label).mean()

      updates, moments = optimizer.update(jax.grad(loss)(params), moments)
      return (optax.apply_updates(params, updates), moments), None

    start = params, optimizer.init(params)
    return jax.lax.scan(step, start, length=150)[0][0]

  params = train(*draw(0, 128))
  inputs, label = draw(1, 256)
  return ((jax.jit(logits)(params, inputs) > 0) == label).mean()


@pytest.mark.slow
def test_learns_where_in_the_brain_and_an_average_does_not():
  assert accuracy_after_training("distance") > 0.95
  assert accuracy_after_training("none") < 0.6
