"""The classifier: packed slices in, logits of each scan out."""

import functools
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from brainjax.models.build import build_classifier
from brainjax.models.classifier import Classifier
from brainjax.models.densenet3d import DenseNet3D
from brainjax.models.heads import build_head

G, N, B, S = 2, 6, 3, 4
LENGTHS = [[3, 1], [0, 1, 4]]  # slices of the scans of each pack
LSTM = {"name": "lstm", "hidden_size": 4, "unroll": 2}


def classifier(**fields):
  defaults = {
    "preset": "micro",
    "statistics": "pack",
    "head": LSTM,
    "dropout": 0.0,
    "dtype": "float32",
    "num_classes": 3,
  }
  return build_classifier(**(defaults | fields))


def batch(lengths=LENGTHS, num_slices=N, num_rows=B, seed=0):
  """Slices, owner, position and positions_mm of packs with these scans."""
  rng = np.random.default_rng(seed)
  packs = len(lengths)
  owner = np.full((packs, num_slices), num_rows, np.int32)
  position = np.tile(1000 + np.arange(num_slices, dtype=np.int32), (packs, 1))
  for g, pack in enumerate(lengths):
    rows = [row for row, length in enumerate(pack) for _ in range(length)]
    places = [place for length in pack for place in range(length)]
    owner[g, : len(rows)], position[g, : len(rows)] = rows, places
  slices = np.zeros((packs, num_slices, 16, 16, 1), np.float32)
  valid = owner < num_rows
  # Drawn for valid slices alone, so that filler does not move the others.
  slices[valid] = rng.normal(size=(valid.sum(), 16, 16, 1))
  positions_mm = np.where(valid, position, 0).astype(np.float32) * 5
  return slices, owner, position, positions_mm


class Pixels(nn.Module):
  """An encoder that is quick to compile: the first pixels of a slice."""

  def __call__(self, slices, weight, *, groups, train):
    return slices[:, 0, :8, 0] * weight[:, None]


QUICK = Classifier(
  encoder=Pixels(),
  head=build_head(LSTM),
  num_classes=3,
  dropout=0.5,
  statistics="pack",
)


@functools.cache
def variables(model):
  """Random variables, norms with scales and variances near one."""
  init = functools.partial(model.init, num_rows=B, max_length=S, train=False)
  shapes = jax.eval_shape(init, jax.random.key(0), *batch())
  rng = np.random.default_rng(1)

  def draw(path, leaf):
    centre = path[-1].key in ("scale", "var")
    return np.float32(rng.normal(centre, 0.2, leaf.shape))

  return jax.tree.map_with_path(draw, shapes)


def run(model, variables, inputs, *, train, key=0, num_rows=B):
  return model.apply(
    variables,
    *inputs,
    num_rows=num_rows,
    max_length=S,
    train=train,
    mutable=["batch_stats"] if train else False,
    rngs={"dropout": jax.random.key(key)} if train else None,
  )


run_jitted = jax.jit(run, static_argnames=("model", "train", "num_rows"))
train = functools.partial(run_jitted, train=True)
infer = functools.partial(run_jitted, train=False)


def test_matches_one_scan_at_a_time():
  slices, owner, position, positions_mm = inputs = batch()
  params = variables(QUICK)["params"]
  logits = infer(QUICK, variables(QUICK), inputs)
  assert logits.shape == (G, B, 3)

  @jax.jit
  def alone(z, mask):
    positions = jnp.zeros(mask.shape)
    head = {"params": params["head"]}
    features = QUICK.head.apply(head, z, mask, positions, train=False)
    dense = params["classifier"]
    return (features @ dense["kernel"] + dense["bias"][None])[0]

  for g, row in np.ndindex(G, B):
    own = owner[g] == row
    z, mask = np.zeros((1, S, 8), np.float32), np.zeros((1, S), bool)
    z[0, position[g, own]] = slices[g, own, 0, :8, 0]
    mask[0, position[g, own]] = True
    np.testing.assert_allclose(logits[g, row], alone(z, mask), atol=1e-6)


def test_encode_and_classify_are_its_two_halves():
  slices, _, _, positions_mm = batch([[4]], num_slices=S)
  expected = infer(QUICK, variables(QUICK), batch([[4]], num_slices=S))
  z = QUICK.apply(
    variables(QUICK),
    slices[0],
    np.ones(S, bool),
    packs=1,
    train=False,
    method="encode",
  )
  logits = QUICK.apply(
    variables(QUICK),
    z[None],
    np.ones((1, S), bool),
    positions_mm,
    train=False,
    method="classify",
  )
  np.testing.assert_allclose(logits[0], expected[0, 0], atol=1e-6)


def test_parameters_keep_their_names():
  tree = variables(classifier())
  assert set(tree["params"]) == {"encoder", "head", "classifier"}
  assert set(tree["batch_stats"]) == {"encoder"}
  assert set(tree["params"]["classifier"]) == {"kernel", "bias"}


def test_head_gets_positions_in_millimetres_and_a_mask():
  class Positions(nn.Module):
    def __call__(self, z, mask, positions_mm, *, train):
      return jnp.concatenate([positions_mm, mask], -1)

  model = QUICK.clone(head=Positions(), num_classes=2 * S)
  identity = {"kernel": np.eye(2 * S), "bias": np.zeros(2 * S)}
  features = infer(model, {"params": {"classifier": identity}}, batch())
  positions_mm, mask = np.split(np.asarray(features), 2, axis=-1)
  lengths = np.array([[3, 1, 0], [0, 1, 4]])[..., None]
  expected = np.arange(S) < lengths
  np.testing.assert_array_equal(mask, expected)
  np.testing.assert_array_equal(positions_mm, 5 * np.arange(S) * expected)


def test_order_within_a_pack_is_free():
  inputs = batch()
  order = np.random.default_rng(0).permutation(N)
  shuffled = [values[:, order] for values in inputs]
  np.testing.assert_array_equal(
    infer(QUICK, variables(QUICK), shuffled),
    infer(QUICK, variables(QUICK), inputs),
  )


def test_dropout_only_in_training():
  first, again, other = (
    train(QUICK, variables(QUICK), batch(), key=key)[0] for key in (0, 0, 1)
  )
  np.testing.assert_array_equal(first, again)
  assert np.abs(first - other).max() > 1e-3
  certain, _ = train(QUICK.clone(dropout=0.0), variables(QUICK), batch())
  inferred = infer(QUICK, variables(QUICK), batch())
  np.testing.assert_allclose(inferred, certain, atol=1e-6)


def test_gradient_of_the_scatter_is_a_gather():
  def loss(slices):
    inputs = (slices, *batch()[1:])
    return infer(QUICK, variables(QUICK), inputs).sum()

  text = str(jax.make_jaxpr(jax.grad(loss))(batch()[0]))
  assert "gather" in text
  assert "scatter-add" not in text


def test_content_of_filler_changes_no_bit():
  model = classifier()
  params = variables(model)["params"]

  @jax.jit
  def value_and_gradient(params, inputs):
    def loss(params):
      given = {**variables(model), "params": params}
      logits, updates = run(model, given, inputs, train=True)
      return jnp.square(logits).sum(), (logits, updates)

    return jax.grad(loss, has_aux=True)(params)

  slices, owner, position, positions_mm = inputs = batch()
  expected = value_and_gradient(params, inputs)
  filler = owner == B
  assert filler.any()
  slices, positions_mm = slices.copy(), positions_mm.copy()
  slices[filler], positions_mm[filler] = np.nan, np.nan
  garbage = slices, owner, position, positions_mm
  given = value_and_gradient(params, garbage)
  jax.tree.map(np.testing.assert_array_equal, given, expected)
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(given))


def test_amount_of_filler_changes_only_rounding():
  model = classifier()
  given, _ = train(model, variables(model), batch(num_slices=N + 3))
  expected, _ = train(model, variables(model), batch())
  np.testing.assert_allclose(given, expected, rtol=1e-6, atol=1e-6)


def test_pack_statistics_are_of_each_pack():
  model = classifier(statistics="pack")
  inputs = batch()
  together, _ = train(model, variables(model), inputs)
  alone, _ = train(model, variables(model), [v[1:] for v in inputs])
  np.testing.assert_allclose(together[1], alone[0], atol=1e-5)


def test_batch_statistics_are_of_all_packs():
  model = classifier(statistics="batch")
  slices, owner, position, positions_mm = batch()
  together, updates = train(model, variables(model), batch())
  # The same scans in one pack: rows of the second follow those of the first.
  rows = np.where(owner == B, G * B, owner + B * np.arange(G)[:, None])
  place = np.where(owner == B, 1000 + np.arange(G * N).reshape(G, N), position)
  merged = [
    values.reshape(1, G * N, *values.shape[2:])
    for values in (slices, rows, place, positions_mm)
  ]
  single, expected = train(model, variables(model), merged, num_rows=G * B)
  np.testing.assert_allclose(together.reshape(single.shape), single, atol=1e-5)
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, atol=1e-6),
    updates,
    expected,
  )


COLLECTIVE = re.compile(
  r" (all-gather|all-reduce|all-to-all|collective-\w+|reduce-scatter)"
  r"(?:-start)?\("
)
EIGHT_PACKS = batch([[2, 1], [1], [3], [2], [1, 1], [1], [2], [3]])


def run_on_eight_devices(model, function):
  """Runs (variables, inputs) with a pack a device; also what they exchange."""
  mesh = jax.make_mesh(
    (8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,)
  )
  everywhere = jax.NamedSharding(mesh, jax.P())
  shardings = (everywhere, jax.NamedSharding(mesh, jax.P("data")))
  jitted = jax.jit(function, in_shardings=shardings)
  compiled = jitted.lower(variables(model), EIGHT_PACKS).compile()
  arguments = jax.device_put((variables(model), EIGHT_PACKS), shardings)
  return set(COLLECTIVE.findall(compiled.as_text())), compiled(*arguments)


@pytest.mark.parametrize("statistics", ["batch", "pack"])
def test_devices_exchange_statistics_alone(statistics):
  model = classifier(statistics=statistics)
  collectives, given = run_on_eight_devices(
    model, functools.partial(run, model, train=True)
  )
  assert collectives == {"all-reduce"}
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, atol=1e-5),
    given,
    train(model, variables(model), EIGHT_PACKS),
  )


def test_pack_statistics_need_no_exchange_but_for_running_averages():
  model = classifier(statistics="pack", dropout=0.5)
  collectives, _ = run_on_eight_devices(
    model, lambda *args: run(model, *args, train=True)[0]
  )
  assert collectives == set()


def of_volumes(statistics="pack"):
  """A classifier of volumes, of few layers."""
  encoder = DenseNet3D(growth_rate=3, block_config=(1,), num_init_features=4)
  return QUICK.clone(
    encoder=encoder,
    head=build_head({"name": "mean"}),
    statistics=statistics,
    dropout=0.0,
  )


def test_a_volume_is_made_of_the_slices_of_its_scan():
  model = of_volumes()
  slices, owner, position, _ = inputs = batch()
  logits = infer(model, variables(model), inputs)
  params = variables(model)["params"]
  dense = params["classifier"]

  @jax.jit
  def alone(volume, mask):
    given = {name: tree["encoder"] for name, tree in variables(model).items()}
    z = model.encoder.apply(given, volume, mask, groups=1, train=False)
    return (z @ dense["kernel"] + dense["bias"][None])[0]

  for g, row in np.ndindex(G, B):
    own = owner[g] == row
    volume, mask = np.zeros((1, S, 16, 16, 1), np.float32), np.zeros((1, S))
    volume[0, position[g, own]] = slices[g, own]
    mask[0, position[g, own]] = 1
    expected = alone(volume, mask > 0) if own.any() else dense["bias"]
    np.testing.assert_allclose(logits[g, row], expected, atol=1e-5)


def test_filler_of_volumes_changes_nothing_to_the_bit():
  model = of_volumes()
  slices, owner, *others = batch()
  filled = np.where((owner < B)[..., None, None, None], slices, np.nan)
  expected = train(model, variables(model), (slices, owner, *others))
  found = train(model, variables(model), (filled, owner, *others))
  jax.tree.map(np.testing.assert_array_equal, found, expected)
  assert np.isfinite(found[0]).all()


@pytest.mark.slow
def test_packs_of_volumes_share_statistics_or_have_their_own():
  both = batch()
  first = tuple(value[:1] for value in both)
  own, shared = of_volumes("pack"), of_volumes("batch")
  given = variables(own)
  alone, _ = train(own, given, first)
  together, _ = train(own, given, both)
  np.testing.assert_allclose(together[:1], alone, atol=1e-5)
  assert np.abs(train(shared, given, both)[0][:1] - alone).max() > 1e-3


def test_an_empty_row_of_volumes_has_no_gradient():
  model = of_volumes()
  slices, owner, position, positions_mm = batch()
  nobody = np.full_like(owner, B)
  away = 1000 + np.tile(np.arange(N, dtype=np.int32), (G, 1))

  def loss(params):
    given = variables(model) | {"params": params}
    logits, _ = train(model, given, (slices, nobody, away, positions_mm))
    return jnp.sum(logits**2), logits

  grads, logits = jax.grad(loss, has_aux=True)(variables(model)["params"])
  assert np.isfinite(logits).all()
  leaves = jax.tree.leaves(grads["encoder"])
  assert leaves and not any(np.any(leaf) for leaf in leaves)
