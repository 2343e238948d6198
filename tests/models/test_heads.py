"""The contract that every sequence head keeps."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from brainjax.models.heads import HEADS, build_head

B, S, D = 4, 7, 5
FIELDS = {
  "lstm": {"hidden_size": 6, "unroll": 2},
  "gru": {"hidden_size": 6, "unroll": 2},
  "densenet1d": {
    "growth_rate": 3,
    "block_config": (2, 1, 1),
    "num_init_features": 4,
  },
  "mean": {},
  "max": {},
}


def sigmoid(x):
  return 1 / (1 + np.exp(-x))


def slow_lstm(params, z, mask, positions_mm):
  size = len(params["recurrent_kernel"])
  features = np.zeros((len(z), size))
  for b, row in enumerate(z):
    cell = hidden = np.zeros(size)
    for s, inputs in enumerate(row):
      if mask[b, s]:
        gates = inputs @ params["input_kernel"] + params["bias"]
        gates += hidden @ params["recurrent_kernel"]
        i, f, g, o = gates.reshape(4, size)
        cell = sigmoid(f) * cell + sigmoid(i) * np.tanh(g)
        hidden = sigmoid(o) * np.tanh(cell)
    features[b] = hidden
  return features


def slow_gru(params, z, mask, positions_mm):
  size = len(params["recurrent_kernel"])
  w_r, w_u, w_n = np.split(params["input_kernel"], 3, axis=1)
  u_r, u_u, u_n = np.split(params["recurrent_kernel"], 3, axis=1)
  b_r, b_u, b_n = np.split(params["bias"], 3)
  features = np.zeros((len(z), size))
  for b, row in enumerate(z):
    for s, inputs in enumerate(row):
      if mask[b, s]:
        hidden = features[b]
        reset = sigmoid(inputs @ w_r + hidden @ u_r + b_r)
        update = sigmoid(inputs @ w_u + hidden @ u_u + b_u)
        new = hidden @ u_n + params["recurrent_new_bias"]
        new = np.tanh(inputs @ w_n + b_n + reset * new)
        features[b] = (1 - update) * new + update * hidden
  return features


def slow_densenet1d(params, z, mask, positions_mm):
  """Slice by slice and row by row; slices outside the mask read as zeros."""

  def norm(x, name):
    centred = x - x.mean(-1, keepdims=True)
    unit = centred / np.sqrt(np.square(centred).mean(-1, keepdims=True) + 1e-6)
    return np.maximum(unit * params[name]["scale"] + params[name]["bias"], 0)

  def convolve(x, valid, name):
    kernel = params[name]["kernel"]
    result = np.zeros((len(x), kernel.shape[-1]))
    for s in range(len(x)):
      for k in range(3):
        neighbour = s + k - 1
        if 0 <= neighbour < len(x) and valid[neighbour]:
          result[s] += x[neighbour] @ kernel[k]
    return result

  features = []
  blocks = FIELDS["densenet1d"]["block_config"]
  for x, valid in zip(z, mask, strict=True):
    x = convolve(x, valid, "conv0")
    for b, num_layers in enumerate(blocks, 1):
      for i in range(1, num_layers + 1):
        name = f"denseblock{b}_denselayer{i}"
        y = norm(x, f"{name}_norm1") @ params[f"{name}_conv1"]["kernel"]
        y = convolve(norm(y, f"{name}_norm2"), valid, f"{name}_conv2")
        x = np.concatenate([x, y], -1)
      if b < len(blocks):
        x = norm(x, f"transition{b}_norm")
        x = x @ params[f"transition{b}_conv"]["kernel"]
        starts = range(0, len(x), 2)
        pairs = [(x[s : s + 2], valid[s : s + 2]) for s in starts]
        x = np.stack([p[v].sum(0) / max(v.sum(), 1) for p, v in pairs])
        valid = np.array([v.any() for _, v in pairs])
    x = norm(x, "norm_last")[valid]
    features.append(x.sum(0) / max(len(x), 1))
  return np.stack(features)


def slow_max(params, z, mask, positions_mm):
  rows = zip(z, mask, strict=True)
  return np.stack([row[m].max(0) if m.any() else 0 * row[0] for row, m in rows])


def slow_mean(params, z, mask, positions_mm):
  rows = zip(z, mask, strict=True)
  return np.stack([row[m].sum(0) / max(m.sum(), 1) for row, m in rows])


# One plain-numpy reference for each head; a head without one fails.
REFERENCES = {
  "lstm": slow_lstm,
  "gru": slow_gru,
  "densenet1d": slow_densenet1d,
  "mean": slow_mean,
  "max": slow_max,
}


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
  head = build_head({"name": name, **FIELDS[name]})
  init = jax.jit(functools.partial(head.init, train=False))
  variables = init(jax.random.key(0), *sequences())
  rng = np.random.default_rng(1)
  noisy = jax.tree.map(
    lambda leaf: leaf + 0.1 * rng.normal(size=leaf.shape).astype("f"),
    variables,
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


@pytest.fixture(params=sorted(HEADS))
def name(request):
  return request.param


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


def test_build_head_refuses_an_unknown_field():
  with pytest.raises(TypeError, match="hidden"):
    build_head({"name": "lstm", "hidden": 8})


def test_heads_are_read_only():
  with pytest.raises(TypeError):
    HEADS["own"] = nn.Dense
