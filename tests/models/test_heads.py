"""The contract that every sequence head keeps."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import helpers
from brainjax.config import HEAD_DEFAULTS
from brainjax.models.heads import (
  HEADS,
  WIDTH_FIELDS,
  build_head,
  count_parameters,
)
from models import (
  slow_convolutional,
  slow_linear_recurrence,
  slow_pooling,
  slow_recurrent,
  slow_transformer,
)

B, S, D = 4, 7, 5
SOURCES = (
  slow_convolutional,
  slow_linear_recurrence,
  slow_pooling,
  slow_recurrent,
  slow_transformer,
)
# A key "lstm:bidirectional" is a variant of the head before the colon.
FIELDS = {key: fields for s in SOURCES for key, fields in s.FIELDS.items()}
REFERENCES = {key: slow for s in SOURCES for key, slow in s.REFERENCES.items()}

EAGER = ("attention", "logsumexp", "lstm")  # of which also the fast tests ask


def sequences(seed=0, length=S):
  """Embeddings, a mask with gaps, padding and an empty row, positions."""
  rng = np.random.default_rng(seed)
  z = rng.normal(size=(B, length, D)).astype(np.float32)
  mask = np.zeros((B, length), bool)
  mask[0, :5] = True
  mask[1, [1, 2, 4]] = True
  mask[2, :1] = True
  positions_mm = np.tile(np.arange(length, dtype=np.float32) * 5, (B, 1))
  return z, mask, positions_mm


@functools.cache
def initialised(name):
  """The head, and variables whose biases are not zero, which hides signs."""
  head = build_head({"name": name.partition(":")[0], **FIELDS[name]})
  init = functools.partial(head.init, train=False)
  if name.partition(":")[0] != "lru":
    return head, helpers.draw_variables(init, *sequences())
  # What decays slowly, as its own init has it, is the harder case.
  rng = np.random.default_rng(1)
  noisy = jax.tree.map(
    lambda leaf: leaf + 0.1 * rng.normal(size=leaf.shape).astype("f"),
    jax.jit(init)(jax.random.key(0), *sequences()),
  )
  return head, noisy


@functools.partial(jax.jit, static_argnames="head")
def forward(head, variables, z, mask, positions_mm):
  return head.apply(variables, z, mask, positions_mm, train=False)


@functools.partial(jax.jit, static_argnames="head")
def value_and_gradients(head, variables, z, mask, positions_mm):
  """Features, and gradients of their sum of squares by variables and z."""

  def loss(variables, z):
    features = head.apply(variables, z, mask, positions_mm, train=False)
    return jnp.square(features).sum(), features

  gradients, features = jax.grad(loss, (0, 1), has_aux=True)(variables, z)
  return features, *gradients


@pytest.fixture(params=sorted(FIELDS))
def name(request):
  return request.param


def test_every_head_has_a_reference():
  assert FIELDS.keys() == REFERENCES.keys()
  assert {key.partition(":")[0] for key in FIELDS} == set(HEADS)


def test_head_matches_its_slow_reference(name):
  head, variables = initialised(name)
  z, mask, positions_mm = sequences()
  features = forward(head, variables, z, mask, positions_mm)
  wide = jax.tree.map(np.float64, variables.get("params", {}))
  expected = REFERENCES[name](wide, np.float64(z), mask, positions_mm)
  assert features.shape == expected.shape
  assert features.dtype == jnp.float32
  np.testing.assert_allclose(features, expected, atol=1e-6)


def test_head_gives_finite_gradients(name):
  head, variables = initialised(name)
  features, by_variables, by_z = value_and_gradients(
    head, variables, *sequences()
  )
  for leaf in jax.tree.leaves((features, by_variables, by_z)):
    assert np.isfinite(leaf).all()
    assert np.abs(leaf).max() > 0


# One by one, the operations of a head take longer to compile than all at once.
@pytest.mark.parametrize(
  "name",
  [
    pytest.param(key, marks=[] if key in EAGER else pytest.mark.slow)
    for key in sorted(FIELDS)
  ],
)
def test_head_gives_the_same_jitted(name):
  head, variables = initialised(name)
  inputs = sequences()
  eager = head.apply(variables, *inputs, train=False)
  jitted = forward(head, variables, *inputs)
  np.testing.assert_allclose(jitted, eager, atol=1e-6)


@pytest.mark.parametrize("garbage", [1e6, np.nan])
def test_content_of_padding_changes_no_bit(name, garbage):
  head, variables = initialised(name)
  z, mask, positions_mm = sequences()
  expected = value_and_gradients(head, variables, z, mask, positions_mm)
  z = np.where(mask[..., None], z, np.float32(garbage))
  positions_mm = np.where(mask, positions_mm, np.float32(garbage))
  given = value_and_gradients(head, variables, z, mask, positions_mm)
  jax.tree.map(np.testing.assert_array_equal, given, expected)


def test_amount_of_padding_changes_only_rounding(name):
  head, variables = initialised(name)
  z, mask, positions_mm = sequences()
  expected = forward(head, variables, z, mask, positions_mm)
  longer = [
    np.pad(values, [(0, 0), (0, 6)] + [(0, 0)] * (values.ndim - 2))
    for values in (z, mask, positions_mm)
  ]
  given = forward(head, variables, *longer)
  np.testing.assert_allclose(given, expected, rtol=1e-6, atol=1e-6)


def test_empty_row_is_finite_and_has_no_gradient(name):
  head, variables = initialised(name)
  z, mask, positions_mm = sequences()
  features, by_variables, by_z = value_and_gradients(
    head, variables, z, np.zeros_like(mask), positions_mm
  )
  assert np.isfinite(features).all()
  for leaf in jax.tree.leaves((by_variables, by_z)):
    np.testing.assert_array_equal(leaf, np.zeros_like(leaf))


def test_head_takes_a_single_slice(name):
  head, variables = initialised(name)
  z, mask, positions_mm = sequences()
  single = z[:, :1], mask[:, :1], positions_mm[:, :1]
  first = z, mask & (np.arange(S) == 0), positions_mm
  np.testing.assert_allclose(
    forward(head, variables, *single),
    forward(head, variables, *first),
    atol=1e-6,
  )


def test_densenet1d_sees_the_order_of_slices():
  head, variables = initialised("densenet1d")
  z, _, positions_mm = sequences()
  mask = np.ones((B, S), bool)
  given = forward(head, variables, z, mask, positions_mm)
  reversed_ = forward(head, variables, z[:, ::-1], mask, positions_mm)
  assert np.abs(given - reversed_).max() > 1e-3


def flax_lstm(params):
  """Parameters of flax's cell that make it the same LSTM."""
  parts = {key: jnp.split(params[key], 4, axis=-1) for key in params}
  cell = {}
  for i, gate in enumerate("ifgo"):
    cell[f"i{gate}"] = {"kernel": parts["input_kernel"][i]}
    cell[f"h{gate}"] = {
      "kernel": parts["recurrent_kernel"][i],
      "bias": parts["bias"][i],
    }
  return {"cell": cell}


def test_lstm_matches_flax_rnn():
  head, variables = initialised("lstm")
  z, _, positions_mm = sequences()
  lengths = np.array([7, 4, 1, 5])
  mask = np.arange(S) < lengths[:, None]
  rnn = nn.RNN(
    nn.OptimizedLSTMCell(FIELDS["lstm"]["hidden_size"]), return_carry=True
  )

  def reference(params, z):
    given = {"params": flax_lstm(params)}
    (_, hidden), _ = rnn.apply(given, z, seq_lengths=lengths)
    return jnp.square(hidden).sum(), hidden

  expected, hidden = jax.jit(jax.grad(reference, (0, 1), has_aux=True))(
    variables["params"], z
  )
  features, by_variables, by_z = value_and_gradients(
    head, variables, z, mask, positions_mm
  )
  np.testing.assert_allclose(features, hidden, atol=1e-6)
  jax.tree.map(
    lambda given, wanted: np.testing.assert_allclose(given, wanted, atol=1e-5),
    (by_variables["params"], by_z),
    expected,
  )


@pytest.mark.parametrize("unroll", [3, 50])
def test_lstm_takes_any_unroll(unroll):
  head, variables = initialised("lstm")
  inputs = sequences()
  expected = forward(head, variables, *inputs)
  given = forward(head.clone(unroll=unroll), variables, *inputs)
  np.testing.assert_allclose(given, expected, atol=1e-6)


def test_lstm_starts_with_orthogonal_gates_that_remember():
  head = build_head({"name": "lstm", **FIELDS["lstm"]})
  init = jax.jit(functools.partial(head.init, train=False))
  params = init(jax.random.key(0), *sequences())["params"]
  for gate in np.split(params["recurrent_kernel"], 4, axis=1):
    np.testing.assert_allclose(gate.T @ gate, np.eye(6), atol=1e-6)
  bias = params["bias"].reshape(4, 6)
  np.testing.assert_array_equal(bias, np.outer([0, 1, 0, 0], np.ones(6)))


def test_build_head_names_the_choices():
  with pytest.raises(ValueError, match=r"no head 'rnn'; .*'lstm', 'max'"):
    build_head({"name": "rnn"})


@pytest.mark.parametrize(
  "fields, message",
  [
    ({"name": "max", "unroll": 8}, r"'max' has no field 'unroll'; .* \[\]"),
    ({"name": "lstm"}, "'lstm' needs a value of its field 'hidden_size'"),
    ({"name": "lstm", "hidden_size": 0}, "hidden_size is 0; at least 1"),
    ({"name": "max", "projection": -1}, "projection is -1; 0"),
  ],
)
def test_build_head_refuses_a_bad_field(fields, message):
  with pytest.raises(ValueError, match=message):
    build_head(fields)


def test_head_without_projection_is_the_head_itself():
  head, variables = initialised("max:projection")
  assert set(variables["params"]) == {"projection", "norm"}
  assert build_head({"name": "max", "projection": 0}) == head.head


def test_every_head_has_defaults():
  assert HEAD_DEFAULTS.keys() == HEADS.keys()
  for name, fields in HEAD_DEFAULTS.items():
    head = build_head({"name": name, **fields})
    has_parameters = count_parameters(head, 4) > 0
    assert has_parameters == (name in WIDTH_FIELDS)


@pytest.mark.parametrize("name", sorted(WIDTH_FIELDS))
def test_budget_finds_the_width(name):
  fields = {"name": name, **FIELDS[name], "projection": 3}
  head, field = build_head(fields), WIDTH_FIELDS[name]
  budget = count_parameters(head, D)
  value = fields[field]
  wider = tuple(9 * v for v in value) if isinstance(value, tuple) else 9 * value
  given = {**fields, field: wider, "budget": budget}
  assert build_head(given, input_size=D) == head


def test_budget_finds_the_nearest_width():
  fields = {"name": "mingru", "hidden_size": 3, "scan": "sequential"}
  per_feature = 2 * (D + 1)
  for budget, size in [(8.4, 8), (8.6, 9), (1.1, 1), (3.2, 3), (200.9, 201)]:
    given = {**fields, "budget": round(budget * per_feature)}
    assert build_head(given, input_size=D).hidden_size == size


def test_budget_out_of_reach_names_the_nearest():
  fields = {"name": "mingru", **FIELDS["mingru"], "projection": 100}
  with pytest.raises(
    ValueError, match="budget is 100, .* 'mingru' can have is 1002 parameters"
  ):
    build_head({**fields, "budget": 100}, input_size=D)
  with pytest.raises(ValueError, match="needs the input_size"):
    build_head({**fields, "budget": 2000})


def test_heads_without_parameters_ignore_a_budget():
  assert build_head({"name": "mean", "budget": 100}) == build_head(
    {"name": "mean"}
  )


def test_heads_are_read_only():
  with pytest.raises(TypeError):
    HEADS["own"] = nn.Dense
