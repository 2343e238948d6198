"""The DenseNet of volumes: masks, groups, and PyTorch's where it is there."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from brainjax.models import densenet3d
from brainjax.models.densenet import PRESETS
from brainjax.models.densenet3d import DenseNet3D

# Two blocks of a layer, quick to compile.
MICRO = DenseNet3D(growth_rate=3, block_config=(1, 1), num_init_features=4)
SMALL = MICRO.clone(residuals="small")
LENGTHS = (6, 3, 1, 0)
R, S, H, C = len(LENGTHS), 6, 16, 2
MASK = np.arange(S) < np.array(LENGTHS)[:, None]


def volumes(seed=0):
  rng = np.random.default_rng(seed)
  return np.float32(rng.normal(size=(R, S, H, H, C)))


@functools.cache
def variables(encoder, channels=C):
  """Random variables, norms with scales and variances near one."""
  init = functools.partial(encoder.init, groups=1, train=False)
  shape = jax.ShapeDtypeStruct((1, 8, 32, 32, channels), jnp.float32)
  mask = jax.ShapeDtypeStruct((1, 8), jnp.bool_)
  shapes = jax.eval_shape(init, jax.random.key(0), shape, mask)
  rng = np.random.default_rng(1)

  def draw(path, leaf):
    centre, spread = path[-1].key in ("scale", "var"), 0.2
    if path[-1].key == "kernel":
      spread = (2 / math.prod(leaf.shape[:-1])) ** 0.5
    return np.float32(rng.normal(centre, spread, leaf.shape))

  return jax.tree.map_with_path(draw, shapes)


def towards(z):
  """Weights, also of the embeddings that are zeros."""
  return np.float32(np.cos(np.arange(math.prod(z.shape)))).reshape(z.shape)


@functools.partial(jax.jit, static_argnames=("encoder", "groups", "train"))
def outcome(encoder, variables, volumes, mask, *, groups=1, train=True):
  """Embeddings, averages, and the gradient of a weighted sum of the first."""

  def loss(params):
    given = variables | {"params": params}
    z, moved = encoder.apply(
      given, volumes, mask, groups=groups, train=train, mutable=["batch_stats"]
    )
    return (z * towards(z)).sum(), (z, moved)

  grads, (z, moved) = jax.grad(loss, has_aux=True)(variables["params"])
  return {"z": z, "moved": moved["batch_stats"], "grads": grads}


def assert_close(found, expected, atol=5e-6):
  def check(path, a, b):
    scale = max(1.0, float(np.abs(b).max()))
    where = jax.tree_util.keystr(path)
    np.testing.assert_allclose(a, b, atol=atol * scale, err_msg=where)

  jax.tree.map_with_path(check, found, expected)


def test_convolution_is_that_of_a_volume():
  rng = np.random.default_rng(0)
  x = np.float32(rng.normal(size=(2, 5, 7, 6, 3)))
  kernel = np.float32(rng.normal(size=(3, 3, 3, 3, 4)))
  whole = densenet3d._Slices(jnp.asarray(x), jnp.ones((2, 5), bool))
  for stride in (1, 2):
    expected = jax.lax.conv_general_dilated(
      x,
      kernel,
      (stride,) * 3,
      [(1, 1)] * 3,
      dimension_numbers=("NDHWC", "DHWIO", "NDHWC"),
    )
    found = densenet3d._convolve(whole, kernel, stride=stride)
    np.testing.assert_allclose(found.values, expected, atol=1e-5)
    assert found.mask.shape == expected.shape[:2] and found.mask.all()


def test_the_last_slice_of_an_odd_number_is_averaged_alone():
  values = jnp.array([1.0, 2.0, 4.0, 0.0]).reshape(1, 4, 1, 1, 1)
  values = jnp.broadcast_to(values, (1, 4, 2, 2, 1))
  mask = jnp.array([[True, True, True, False]])
  found = densenet3d._average_pool(densenet3d._Slices(values, mask))
  np.testing.assert_allclose(found.values.ravel(), [1.5, 4.0])
  assert found.mask.all()


def test_what_lies_beyond_a_scan_changes_nothing_to_the_bit():
  filled = np.where(MASK[..., None, None, None], volumes(), np.nan)
  zeros = np.where(MASK[..., None, None, None], volumes(), 0)
  found, expected = (
    outcome(MICRO, variables(MICRO), v, MASK) for v in (filled, zeros)
  )
  jax.tree.map(np.testing.assert_array_equal, found, expected)
  assert np.isfinite(found["z"]).all()
  np.testing.assert_array_equal(found["z"][-1], 0)
  assert np.abs(found["z"][:-1]).max(1).min() > 0


def test_how_much_lies_beyond_changes_nothing():
  def padded(x, rows, slices):
    return np.pad(x, [(0, rows), (0, slices)] + [(0, 0)] * (x.ndim - 2))

  expected = outcome(MICRO, variables(MICRO), volumes(), MASK)
  found = outcome(
    MICRO, variables(MICRO), padded(volumes(), 2, 5), padded(MASK, 2, 5)
  )
  found["z"] = found["z"][:R]
  np.testing.assert_allclose(found["z"], expected["z"], atol=1e-6)
  assert_close(found, expected)


def test_a_scan_is_what_it_is_alone():
  answer = jax.jit(functools.partial(MICRO.apply, groups=1, train=False))
  expected = answer(variables(MICRO), volumes(), MASK)
  for row, length in ((1, 3), (2, 1)):
    x, mask = volumes()[row : row + 1, :length], np.ones((1, length), bool)
    alone = answer(variables(MICRO), x, mask)
    np.testing.assert_allclose(alone[0], expected[row], atol=1e-6)


@pytest.mark.slow
def test_groups_have_statistics_of_their_own():
  found = outcome(MICRO, variables(MICRO), volumes(), MASK, groups=2)
  apart = [
    outcome(MICRO, variables(MICRO), volumes()[rows], MASK[rows])
    for rows in (slice(0, 2), slice(2, 4))
  ]
  assert_close(found["z"], np.concatenate([one["z"] for one in apart]))
  # Every second slice is left behind the stem: 3 + 2 and 1.
  moved = [one["moved"]["norm0"]["mean"] for one in apart]
  assert_close(found["moved"]["norm0"]["mean"], (5 * moved[0] + moved[1]) / 6)
  together = outcome(MICRO, variables(MICRO), volumes(), MASK)
  assert np.abs(together["z"] - found["z"]).max() > 1e-3


@pytest.mark.slow
def test_saving_memory_changes_no_gradient():
  found, expected = (
    outcome(encoder, variables(MICRO), volumes(), MASK)
    for encoder in (SMALL, MICRO)
  )
  assert_close(found, expected)
  text = jax.make_jaxpr(functools.partial(outcome, SMALL))(
    variables(MICRO), volumes(), MASK
  )
  assert "remat" in str(text) or "checkpoint" in str(text)


def test_slices_that_are_too_small_are_refused():
  with pytest.raises(ValueError, match="4x8 pixels are too small for 2 blocks"):
    MICRO.init(
      jax.random.key(0),
      jnp.zeros((1, 2, 4, 8, 1)),
      jnp.ones((1, 2), bool),
      groups=1,
      train=False,
    )


def to_torch(params, averages):
  """PyTorch's arrays by MONAI's names."""
  leaves = {"scale": "weight", "kernel": "weight", "bias": "bias"}
  leaves |= {"mean": "running_mean", "var": "running_var"}
  found = {}
  for tree in (params, averages):
    for path, leaf in jax.tree.leaves_with_path(tree):
      *modules, name = [entry.key for entry in path]
      if len(modules) > 1 and modules[0].startswith("denseblock"):
        modules.insert(2, "layers")
      leaf = np.asarray(leaf)
      if name == "kernel":
        leaf = leaf.reshape((1,) * (5 - leaf.ndim) + leaf.shape)
        leaf = leaf.transpose(4, 3, 0, 1, 2)  # DHWIO to OIDHW
      found[".".join(["features", *modules, leaves[name]])] = leaf
  return found


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["micro", "tiny"])
def test_answers_and_learns_as_in_monai(preset):
  torch = pytest.importorskip("torch", reason="PyTorch is not installed")
  nets = pytest.importorskip("monai.networks.nets", reason="needs MONAI")
  fields = PRESETS[preset]
  encoder, size = DenseNet3D(**fields), 16 if preset == "micro" else 32
  given = variables(encoder)
  model = nets.DenseNet(
    spatial_dims=3,
    in_channels=C,
    out_channels=3,
    init_features=fields["num_init_features"],
    growth_rate=fields["growth_rate"],
    block_config=fields["block_config"],
  )
  model.class_layers.out = torch.nn.Identity()
  weights = to_torch(given["params"], given["batch_stats"])
  names = {n for n in model.state_dict() if not n.endswith("_tracked")}
  assert names == weights.keys()
  model.load_state_dict(
    {name: torch.tensor(value) for name, value in weights.items()},
    strict=False,
  )
  model.double()
  x = np.random.default_rng(2).normal(size=(2, size, size, size, C))
  mask, image = np.ones((2, size), bool), torch.tensor(x).movedim(-1, 1)
  # The last map of "tiny" is two numbers a channel: no statistics to speak of.
  for train in (False, True) if preset == "micro" else (False,):
    found = outcome(encoder, given, np.float32(x), mask, train=train)
    model.train(train).zero_grad()
    z = model(image)
    np.testing.assert_allclose(found["z"], z.detach(), atol=1e-4)
    (z * torch.tensor(towards(z))).sum().backward()
    expected = {
      name: value.grad.numpy() for name, value in model.named_parameters()
    }
    # In training some are nothing but rounding, for the next norm undoes them.
    least = 1e-3 * max(np.abs(grad).max() for grad in expected.values())
    for name, value in to_torch(found["grads"], {}).items():
      scale = max(np.abs(expected[name]).max(), least)
      np.testing.assert_allclose(
        value, expected[name], atol=1e-3 * scale, err_msg=name
      )


def test_densenet121_is_as_large_as_monais():
  nets = pytest.importorskip("monai.networks.nets", reason="needs MONAI")
  model = nets.DenseNet121(spatial_dims=3, in_channels=1, out_channels=2)
  expected = sum(value.numel() for value in model.features.parameters())
  encoder = DenseNet3D(**PRESETS["densenet121"])
  params = jax.eval_shape(
    functools.partial(encoder.init, groups=1, train=False),
    jax.random.key(0),
    jax.ShapeDtypeStruct((1, 8, 32, 32, 1), jnp.float32),
    jax.ShapeDtypeStruct((1, 8), jnp.bool_),
  )["params"]
  assert sum(leaf.size for leaf in jax.tree.leaves(params)) == expected
